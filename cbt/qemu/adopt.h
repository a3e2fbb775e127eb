/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Somebody made an external snapshot of a disk: it writes to an overlay now, and our bitmap is left in an image below,
 * which stands still. What changed since the bitmap's base is what that bitmap marks, and what the overlays above it hold:
 * where they hold nothing, the disk reads what the image below has. So the bitmap is made anew on the overlay, of both.
 *
 * Why nothing falls between: a bitmap without a base records on the overlay before its allocation is read, and is merged
 * with the rest. The bitmap that has the base in its name is made in the same transaction, so that it is never there without
 * all of its bits, wherever this ends.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <cbt/qemu/steps.h>
#include <common/uuid.h>

typedef struct {
  const char *prefix;        /* of all that is made in QEMU meanwhile, see cbt/qemu/steps.h */
  const char *bitmap_prefix; /* of the bitmap's name in QEMU, see cbt/qemu/bitmaps.h */
  const char *bitmap;
  const CbtUuid *base;    /* that the bitmap below must have */
  const char *socket_dir; /* is there */
  guint timeout_ms;       /* of each command, and without progress of what is read */
  GCancellable *cancellable; /* or NULL */
  QemuStepFunc step;      /* or NULL */
  gpointer user_data;
} QemuAdoptRequest;

/*
 * DISK has a bitmap of that name without a base, which records; it is replaced. On failure that one is there still, or (if
 * QEMU did not answer) perhaps the good one; and nothing else but what QEMU refused to give back.
 * UNSUPPORTED for a disk with an iothread, which QEMU's NBD server could end QEMU with, and for a QEMU or a chain that do not
 * tell enough; NOT_FOUND if no image below has the bitmap; INCONSISTENT if it is not good for BASE; STATE if the chain, or a
 * job on it, changed meanwhile; errors of qmp_call() and qemu_nbd_map_read_depth().
 */
gboolean qemu_adopt_bitmap(Qmp *qmp, const QemuDisk *disk, const QemuAdoptRequest *request,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
