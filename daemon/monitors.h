/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Conversations with the QEMUs of live vms. A monitor serves one client at a time, and ours are several: a backup,
 * requests about bitmaps, a timer. They take turns here, each for the few commands that belong together, so that nobody
 * else finds the monitor taken for long.
 *
 * Threads: any but the main one, as a conversation waits.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <cbt/qemu/qmp.h>
#include <common/uuid.h>

typedef struct Monitors Monitors;

#define MONITOR_TIMEOUT_MS 5000u /* of each command, and of a connection */

/* PREFIX begins the name of all that this store makes in a QEMU. */
Monitors *monitors_new(const char *prefix);
void monitors_free(Monitors *monitors);
const char *monitors_prefix(const Monitors *monitors);
/* What the names of a disk's bitmaps begin with (transfer full): the image of another disk has none of them, whatever its
 * device is called. */
char *monitors_bitmap_prefix(const Monitors *monitors, const CbtUuid *disk_id);

/* Waits for its turn and connects to SOCKET_PATH. Errors of qmp_open(). CANCELLABLE may be NULL. */
Qmp *monitors_open(Monitors *monitors, const char *socket_path, GCancellable *cancellable,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Lets the next one have it. */
void monitors_close(Monitors *monitors, Qmp *qmp);
