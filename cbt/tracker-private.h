/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of a tracker, for its tests. */
#pragma once

#include <cbt/bitmap-file-private.h>
#include <cbt/tracker.h>

/* cbt_tracker_open() as if BOOT were this boot of the host. */
CbtTracker *cbt_tracker_open_in_boot(const CbtFileOps *ops, const char *directory, const char *witness_directory,
                                     int image_fd, const CbtUuid *disk_id, const CbtBoot *boot,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NULL if there is none. */
CbtRegionLog *cbt_tracker_region_log(CbtTracker *tracker);
/* Waits for the end of the trim that is under way, if any. */
void cbt_tracker_wait_for_trim(CbtTracker *tracker);
