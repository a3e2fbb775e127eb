/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changes the bitmaps of an open tracker: adding, removing, moving on, merging, and a resize of the
 * disk. While a guest is served, changes are recorded beside all of it but the resize, and are held for
 * moments only.
 */
#include <cbt/tracker-private.h>

#include <common/error.h>
#include <errno.h>

/* n_files if there is none. */
static guint
find_index(const CbtTracker *tracker, const char *name)
{
  guint i = 0;
  while (i < tracker->n_files && strcmp(tracker->files[i]->header.name, name) != 0)
    i++;
  return i;
}

CbtBitmapFile *
cbt_tracker_find(CbtTracker *tracker, const char *name, GError **error)
{
  guint i = find_index(tracker, name);
  if (i < tracker->n_files)
    return tracker->files[i];
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "there is no bitmap '%s'", name);
  return NULL;
}

void
cbt_tracker_set_pause(CbtTracker *tracker, CbtTrackerPause pause, gpointer user_data)
{
  tracker->pause = pause;
  tracker->pause_data = user_data;
}

static gboolean
run_paused(const CbtTracker *tracker, CbtTrackerFunc func, gpointer data, GError **error)
{
  if (tracker->pause != NULL)
    return tracker->pause(tracker->pause_data, func, data, error);
  func(data);
  return TRUE;
}

typedef struct {
  CbtTracker *tracker;
  CbtBitmapFile *file;
} Listing;

static void
list_file(gpointer data)
{
  Listing *listing = data;
  CbtTracker *tracker = listing->tracker;
  tracker->files[tracker->n_files++] = listing->file;
}

static void
unlist_file(gpointer data)
{
  Listing *listing = data;
  CbtTracker *tracker = listing->tracker;
  guint i = find_index(tracker, listing->file->header.name);
  tracker->n_files--;
  memmove(&tracker->files[i], &tracker->files[i + 1], (tracker->n_files - i) * sizeof tracker->files[0]);
}

gboolean
cbt_tracker_add(CbtTracker *tracker, const char *name, guint64 granularity, GError **error)
{
  CbtDiskIdentity disk;
  if (!cbt_name_check("bitmap", name, error) || !cbt_tracker_get_identity(tracker, &disk, error))
    return FALSE;
  if (tracker->n_files == CBT_TRACKER_MAX_BITMAPS) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, "Remove a bitmap that nobody needs.",
                  "a disk has at most %d bitmaps", CBT_TRACKER_MAX_BITMAPS);
    return FALSE;
  }
  g_autofree char *path = cbt_tracker_path_of(tracker, name);
  CbtBitmapFile *file =
      cbt_bitmap_file_create_for(tracker->ops, path, name, granularity, &disk, &tracker->use, error);
  if (file == NULL)
    return FALSE;
  Listing listing = {tracker, file};
  if (!run_paused(tracker, list_file, &listing, error)) {
    tracker->ops->unlink(tracker->ops, path);
    cbt_witness_remove(g_steal_pointer(&file->witness));
    cbt_bitmap_file_abandon(file);
    return FALSE;
  }
  return !tracker->idle || cbt_bitmap_file_stamp(file, &tracker->opened, error);
}

/* STATE if FILE is frozen: OPERATION would take the bits away from under a backup. */
static gboolean
check_not_frozen(const CbtBitmapFile *file, const char *operation, GError **error)
{
  if (file->header.state != CBT_BITMAP_FROZEN)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, "Wait for the backup, or cancel it.",
                "bitmap '%s' is frozen for a backup: cannot %s", file->header.name, operation);
  return FALSE;
}

gboolean
cbt_tracker_remove(CbtTracker *tracker, const char *name, GError **error)
{
  CbtBitmapFile *file = cbt_tracker_find(tracker, name, error);
  if (file == NULL || !check_not_frozen(file, "remove it", error))
    return FALSE;
  if (tracker->ops->unlink(tracker->ops, file->path) != 0 && errno != ENOENT) {
    cbt_set_error_errno(error, errno, "cannot remove %s", file->path);
    return FALSE;
  }
  Listing listing = {tracker, file};
  if (!run_paused(tracker, unlist_file, &listing, error))
    return FALSE;
  cbt_witness_remove(g_steal_pointer(&file->witness));
  cbt_bitmap_file_abandon(file);
  return cbt_tracker_sync_directory(tracker, error);
}

/* A log that broke, and could not be made invalid, must not be believed: the headers stop naming it. */
static void
disown_log(CbtTracker *tracker)
{
  gboolean is_invalid = FALSE;
  if (tracker->use.log == NULL || !cbt_region_log_is_broken(tracker->use.log, &is_invalid) || is_invalid)
    return;
  for (guint i = 0; i < tracker->n_files; i++) {
    CbtBitmapFile *file = tracker->files[i];
    CbtBitmapHeader next = file->header;
    g_autoptr(GError) error = NULL;
    next.log_id = (CbtUuid){{0}};
    if (!cbt_uuid_is_nil(&file->header.log_id) && !cbt_bitmap_file_write_header(file, &next, &error))
      g_message("%s", error->message);
  }
}

/* Whether a sync of all bitmap files would say the truth: not if the kernel forgot what one of them lacks. */
static gboolean
can_trim(CbtTracker *tracker)
{
  CbtRegionLog *log = tracker->use.log;
  if (log == NULL || cbt_region_log_is_broken(log, NULL) || cbt_region_log_count(log) == 0)
    return FALSE;
  for (guint i = 0; i < tracker->n_files; i++)
    if (tracker->files[i]->sync_failed)
      return FALSE;
  return tracker->trim == NULL || cbt_region_trim_is_done(tracker->trim);
}

static void
start_trim(CbtTracker *tracker)
{
  int fds[1 + CBT_TRACKER_MAX_BITMAPS] = {tracker->image_fd};
  if (!can_trim(tracker))
    return;
  cbt_tracker_wait_for_trim(tracker);
  for (guint i = 0; i < tracker->n_files; i++)
    fds[1 + i] = tracker->files[i]->fd;
  tracker->trim = cbt_region_trim_start(tracker->ops, tracker->use.log, fds, 1 + tracker->n_files);
}

typedef struct {
  CbtTracker *tracker;
  CbtBitmapTransition transition;
  GError **error;
} Change;

static void
begin_change(gpointer data)
{
  Change *change = data;
  cbt_bitmap_transition_begin(&change->transition);
}

static void
finish_change(gpointer data)
{
  Change *change = data;
  const CbtBitmapTransition *transition = &change->transition;
  cbt_bitmap_transition_finish(transition);
  if (transition->is_done &&
      (transition->event == CBT_BITMAP_ABDICATE || transition->event == CBT_BITMAP_RECLAIM))
    start_trim(change->tracker);
}

static void
freeze(gpointer data)
{
  Change *change = data;
  begin_change(change);
  if (!cbt_bitmap_transition_commit(&change->transition, change->error))
    g_debug("the freeze failed");
  finish_change(change);
}

/* FALSE with *error set if it was not done. What is done but not finished needs no more than the next begin;
 * only the bits that a clear shall take away are still there. */
static gboolean
carry_out(Change *change)
{
  const CbtTracker *tracker = change->tracker;
  CbtBitmapTransition *transition = &change->transition;
  g_autoptr(GError) unfinished = NULL;
  if (transition->event == CBT_BITMAP_CREATE_SUCCESSOR)
    return run_paused(tracker, freeze, change, change->error) && transition->is_done;
  if (transition->event != CBT_BITMAP_ABDICATE && !run_paused(tracker, begin_change, change, change->error))
    return FALSE;
  gboolean ok = cbt_bitmap_transition_commit(transition, change->error);
  if (run_paused(tracker, finish_change, change, &unfinished)) {
    cbt_bitmap_transition_tidy(transition);
    return ok;
  }
  g_debug("%s", unfinished->message);
  if (ok && transition->event == CBT_BITMAP_CLEAR) {
    g_propagate_error(change->error, g_steal_pointer(&unfinished));
    return FALSE;
  }
  return ok;
}

gboolean
cbt_tracker_apply(CbtTracker *tracker, const char *name, CbtBitmapEvent event, const CbtUuid *pending,
                  const char *reason, GError **error)
{
  CbtBitmapFile *file = cbt_tracker_find(tracker, name, error);
  Change change = {.tracker = tracker, .error = error};
  disown_log(tracker);
  return file != NULL &&
         cbt_bitmap_transition_plan(&change.transition, file, event, pending, reason, error) &&
         carry_out(&change);
}

void
cbt_tracker_settle(CbtTracker *tracker)
{
  for (guint i = 0; i < tracker->n_files; i++) {
    g_autoptr(GError) error = NULL;
    if (!cbt_bitmap_file_settle(tracker->files[i], &error))
      g_message("%s", error->message);
  }
}

typedef struct {
  CbtBitmapFile *into, *from;
  gboolean is_done;
  GError **error;
} Merge;

static void
merge_bits(gpointer data)
{
  Merge *merge = data;
  merge->is_done = cbt_bitmap_file_merge_bits(merge->into, merge->from, merge->error);
}

gboolean
cbt_tracker_merge(CbtTracker *tracker, const char *target, const char *source, GError **error)
{
  Merge merge = {.into = cbt_tracker_find(tracker, target, error), .error = error};
  merge.from = merge.into != NULL ? cbt_tracker_find(tracker, source, error) : NULL;
  return merge.from != NULL && run_paused(tracker, merge_bits, &merge, error) && merge.is_done &&
         cbt_bitmap_file_sync(merge.into, error);
}

static void
copy_bits(CbtBitmap *to, const CbtBitmap *from)
{
  CbtExtent extent;
  for (guint64 at = 0; cbt_bitmap_next_dirty(from, at, G_MAXUINT64, &extent);
       at = extent.offset + extent.length)
    cbt_bitmap_set(to, extent.offset, extent.length);
  if (cbt_bitmap_size(to) > cbt_bitmap_size(from))
    cbt_bitmap_set(to, cbt_bitmap_size(from), cbt_bitmap_size(to) - cbt_bitmap_size(from));
}

/* An unpublished file like OLD, for a disk of SIZE bytes. */
static CbtBitmapFile *
prepare_resized(CbtTracker *tracker, CbtBitmapFile *old, guint64 size, GError **error)
{
  CbtBitmapHeader header = old->header;
  header.disk.size = size;
  header.generation++;
  header.log_id = (CbtUuid){{0}};
  CbtBitmapFile *file = cbt_bitmap_file_prepare(tracker->ops, old->path, &header, error);
  if (file != NULL)
    copy_bits(file->bits[header.parent], cbt_bitmap_file_parent(old));
  return file;
}

static gboolean
check_resize(const CbtTracker *tracker, guint64 size, GError **error)
{
  if (size == 0 || size > CBT_DISK_SIZE_MAX) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a disk of %" G_GUINT64_FORMAT " bytes cannot be tracked",
                  size);
    return FALSE;
  }
  for (guint i = 0; i < tracker->n_files; i++)
    if (!check_not_frozen(tracker->files[i], "resize the disk", error))
      return FALSE;
  return TRUE;
}

/* The old log is of the old size. What covers the resized bitmaps is a new one, which their headers name as
 * soon as they are published: until then a power cut makes them inconsistent. */
static gboolean
replace_log(CbtTracker *tracker, guint64 size, GError **error)
{
  cbt_tracker_wait_for_trim(tracker);
  cbt_region_log_free(tracker->use.log);
  tracker->use.log = cbt_tracker_make_log(tracker, size, TRUE);
  for (guint i = 0; tracker->use.log != NULL && i < tracker->n_files; i++) {
    CbtBitmapHeader next = tracker->files[i]->header;
    next.log_id = *cbt_region_log_id(tracker->use.log);
    if (!cbt_bitmap_file_write_header(tracker->files[i], &next, error))
      return FALSE;
  }
  return TRUE;
}

/*
 * All new files are made before the first one takes its place, so that want of space changes nothing. A crash
 * between two renames leaves some of the old size; their next open finds the size wrong.
 */
gboolean
cbt_tracker_resize(CbtTracker *tracker, guint64 size, GError **error)
{
  CbtBitmapFile *resized[CBT_TRACKER_MAX_BITMAPS] = {NULL};
  gboolean ok = check_resize(tracker, size, error);
  for (guint i = 0; ok && i < tracker->n_files; i++) {
    resized[i] = prepare_resized(tracker, tracker->files[i], size, error);
    ok = resized[i] != NULL;
  }
  for (guint i = 0; ok && i < tracker->n_files; i++) {
    ok = cbt_bitmap_file_publish(resized[i], error);
    if (ok) {
      tracker->recorded = TRUE;
      cbt_bitmap_file_abandon(tracker->files[i]);
      tracker->files[i] = g_steal_pointer(&resized[i]);
      cbt_bitmap_file_begin_witness(tracker->files[i], &tracker->use);
    }
  }
  for (guint i = 0; i < CBT_TRACKER_MAX_BITMAPS; i++)
    cbt_bitmap_file_abandon(resized[i]);
  return ok && replace_log(tracker, size, error) && cbt_tracker_sync_directory(tracker, error);
}
