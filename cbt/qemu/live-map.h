/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changed on a disk of a running QEMU up to now, without a point in time: which clusters a bitmap marks, and which
 * of them have data. For who asks what a backup would read; the bytes go on changing.
 *
 * QEMU tells that over NBD alone: its server is started for the moment that it takes. So it is BUSY while a backup is
 * under way, whose things it must not take away, or somebody else uses that server.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <cbt/qemu/qmp.h>
#include <cbt/source.h>

typedef struct {
  const char *prefix;         /* of all that is made in QEMU, see cbt/qemu/steps.h */
  const char *socket_dir;     /* is there */
  const char *const *bitmaps; /* QEMU's names, ended by NULL: what any of them marks; NULL: what is allocated */
  guint timeout_ms;           /* of each command */
} QemuLiveMapRequest;

/*
 * A source (cbt/qemu/nbd-source.h) of which only the map is of use: nothing is left in QEMU. UNSUPPORTED where QEMU's
 * server could end QEMU (a disk with an iothread); BUSY; errors of qmp_call() and qemu_nbd_source_open().
 */
CbtSource *qemu_live_map_read(Qmp *qmp, const QemuDisk *disk, const QemuLiveMapRequest *request,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Removes the bitmap that a process which died in it left on DISK. */
gboolean qemu_live_map_clear(Qmp *qmp, const QemuDisk *disk, const char *prefix, guint timeout_ms,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
