/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All bitmaps of one disk, and who may change them.
 *
 * A tracker owns the folder of a disk's bitmap files under an exclusive lock: either the export process that
 * serves the disk has it, or the daemon while the disk is not exported. Files that cannot be used (damaged,
 * of another disk, changed behind it) are set aside as NAME.bitmap.bad and replaced by an inconsistent one
 * with the reason, so that the disk goes on being tracked and the next backup reads again.
 *
 * Before a range is changed its regions are opened (cbt_tracker_open_range()) and then, where a trim cannot
 * come in between any more, checked (cbt_tracker_is_range_open()); then it is recorded, then changed. See
 * cbt/region-log.h. The tracker trims the log by itself, in the background, when a freeze has ended.
 *
 * Threads: cbt_tracker_record(), cbt_tracker_open_range() and cbt_tracker_is_range_open() from any number at
 * once; one thread beside them may call what changes bitmaps, if a pause was set (cbt_tracker_set_pause());
 * without one nobody may record meanwhile. Resize needs that nobody opens ranges either.
 */
#pragma once

#include <cbt/bitmap-file.h>

#define CBT_TRACKER_MAX_BITMAPS 32

typedef struct CbtTracker CbtTracker;

/* Identity of the open image FD; DISK_ID is the registered id. INVALID if FD is neither file nor block
 * device. */
gboolean cbt_disk_identity_from_fd(int fd, const CbtUuid *disk_id, CbtDiskIdentity *identity,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Opens all *.bitmap of DIRECTORY, which is created when missing. WITNESS_DIRECTORY is where their witnesses
 * stand (cbt/witness.h), or NULL: then an older copy of DIRECTORY, put back after a kill, is not noticed.
 * IMAGE_FD is the disk's image, for its identity at open and at close (transfer none, must outlive the
 * tracker). BUSY if another process has the folder. */
CbtTracker *cbt_tracker_open(const CbtFileOps *ops, const char *directory, const char *witness_directory,
                             int image_fd, const CbtUuid *disk_id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Says that nothing will be recorded here, as where no guest is served: all files count as clean at once, so
 * that a write by others is noticed although this process may die. cbt_tracker_record() must not be called
 * any more. */
gboolean cbt_tracker_set_idle(CbtTracker *tracker, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Closes all files clean and frees TRACKER, also on failure. */
gboolean cbt_tracker_close(CbtTracker *tracker, GError **error);
/* Frees as a crash would. */
void cbt_tracker_abandon(CbtTracker *tracker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtTracker, cbt_tracker_abandon)

/* Identity of the image as it is now. IO, INVALID. */
gboolean cbt_tracker_get_identity(const CbtTracker *tracker, CbtDiskIdentity *identity,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The file of bitmap NAME in DIRECTORY (transfer full). */
char *cbt_tracker_bitmap_path(const char *directory, const char *name);

/* Makes durable that the range may be written; may wait for a flush of the region log, never for anything
 * else. */
void cbt_tracker_open_range(CbtTracker *tracker, guint64 offset, guint64 length);
gboolean cbt_tracker_is_range_open(const CbtTracker *tracker, guint64 offset, guint64 length);
/* Marks the range dirty in every bitmap that records. */
void cbt_tracker_record(CbtTracker *tracker, guint64 offset, guint64 length);

guint cbt_tracker_n_bitmaps(const CbtTracker *tracker);
void cbt_tracker_info(const CbtTracker *tracker, guint index, CbtBitmapInfo *info);
/* (transfer none); NOT_FOUND names the bitmap. */
CbtBitmapFile *cbt_tracker_find(CbtTracker *tracker, const char *name,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * Runs FUNC(DATA) at an instant at which nobody records, and returns TRUE; FALSE with an error if it was not
 * run. FUNC waits for no storage.
 */
typedef void (*CbtTrackerFunc)(gpointer data);
typedef gboolean (*CbtTrackerPause)(gpointer user_data, CbtTrackerFunc func, gpointer data, GError **error);
/* From now on changes are recorded while bitmaps are added, removed, merged and moved on, and PAUSE is what
 * holds them for the moments that need it. NULL: nobody records meanwhile. */
void cbt_tracker_set_pause(CbtTracker *tracker, CbtTrackerPause pause, gpointer user_data);

/* A new bitmap, active and clean, without base. EXISTS, INVALID, NO_SPACE. */
gboolean cbt_tracker_add(CbtTracker *tracker, const char *name, guint64 granularity,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Deletes it; STATE while frozen. */
gboolean cbt_tracker_remove(CbtTracker *tracker, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* cbt_bitmap_file_apply() on the bitmap NAME. */
gboolean cbt_tracker_apply(CbtTracker *tracker, const char *name, CbtBitmapEvent event,
                           const CbtUuid *pending, const char *reason,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes the headers of freezes durable. A freeze does not wait for that: the guest does, meanwhile. Failure
 * is left to whatever comes next; the region log covers it. Changes may be recorded. */
void cbt_tracker_settle(CbtTracker *tracker);
/* TARGET |= SOURCE; granularities may differ. */
gboolean cbt_tracker_merge(CbtTracker *tracker, const char *target, const char *source,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The disk is now SIZE bytes: bitmaps are made anew in that size, what is new in the disk is dirty, what went
 * is dropped. STATE while one is frozen. */
gboolean cbt_tracker_resize(CbtTracker *tracker, guint64 size, GError **error) G_GNUC_WARN_UNUSED_RESULT;
