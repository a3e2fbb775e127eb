/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a block device has in place of a modification time: a mark of how much was written to it.
 *
 * The kernel counts the writes of each device from the boot on, or from when it is attached. A write to a
 * whole device is not counted for its partitions. Any thread.
 */
#pragma once

#include <glib.h>

/* The mark of the block device that is open as FD. Two that are equal in one boot: nothing was written
 * between. What is in the page cache counts when it is written out, so sync first. Where the kernel does not
 * count, no two are equal. */
gint64 cbt_block_mark_get(int fd);
/* TRUE if nothing was written yet when MARK was taken, since the boot or since the device was attached. */
gboolean cbt_block_mark_is_unwritten(gint64 mark);
