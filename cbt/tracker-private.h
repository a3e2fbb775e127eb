/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of a tracker: tracker.c (opening and closing), tracker-change.c; and for its tests. */
#pragma once

#include <cbt/bitmap-file-private.h>
#include <cbt/region-trim.h>
#include <cbt/tracker.h>

struct CbtTracker {
  /* constant after creation */
  const CbtFileOps *ops;
  char *directory;
  char *witness_directory; /* NULL: no witnesses */
  int lock_fd;
  int image_fd; /* the caller's */
  CbtUuid disk_id;
  CbtDiskIdentity opened;   /* the image when it was opened */
  CbtBitmapUse use;         /* its log may be NULL; changed by a resize */
  gboolean log_is_doubtful; /* at open there was none that could be used, or a bitmap beside it could not */
  gint recorded;            /* atomic; whether anything was recorded, or resized */
  gboolean idle;            /* nothing ever will be */
  /* changed while nobody records */
  CbtBitmapFile *files[CBT_TRACKER_MAX_BITMAPS];
  guint n_files;
  /* of the thread that changes bitmaps */
  CbtTrackerPause pause; /* NULL: nobody records */
  gpointer pause_data;
  CbtRegionTrim *trim; /* the last one, which may have ended; NULL: none */
};

/* cbt_tracker_open() as if BOOT were this boot of the host. */
CbtTracker *cbt_tracker_open_in_boot(const CbtFileOps *ops, const char *directory,
                                     const char *witness_directory, int image_fd, const CbtUuid *disk_id,
                                     const CbtBoot *boot, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NULL if there is none. */
CbtRegionLog *cbt_tracker_region_log(CbtTracker *tracker);
/* Waits for the end of the trim that is under way, if any. */
void cbt_tracker_wait_for_trim(CbtTracker *tracker);

/* The file of bitmap NAME of TRACKER (transfer full). */
char *cbt_tracker_path_of(const CbtTracker *tracker, const char *name);
gboolean cbt_tracker_sync_directory(const CbtTracker *tracker, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NULL if it cannot be had, which is no reason not to serve the disk. */
CbtRegionLog *cbt_tracker_make_log(const CbtTracker *tracker, guint64 size, gboolean flag_all);
