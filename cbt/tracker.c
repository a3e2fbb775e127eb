/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The folder of one disk: NAME.bitmap for each bitmap, `lock` held with flock() as long as the tracker lives.
 *
 * A file that cannot be used is renamed to NAME.bitmap.bad (an older one is replaced), then a new
 * inconsistent file takes its name. A crash between the two leaves no file: the name is then unknown, which
 * also means a full backup. NAME.bitmap.tmp is a file that was never finished; it is removed when the folder
 * is opened.
 *
 * regions.log is the write-ahead region log. It is there while the tracker is open and after a crash. It is
 * made or taken over before the first bitmap is opened, and each bitmap's header names it before anything is
 * recorded. At open all its regions are flagged, or none, as the files say: none if nothing that was ever
 * written could still be lost: all bitmaps closed clean, which syncs the image, or another boot, when there
 * is nothing in the page cache. All if that is not so and there was no log. Closing removes it after the last
 * bitmap is clean. Without a log (it could not be made, or it broke) the bitmaps work all the same, but a
 * power cut makes them inconsistent.
 *
 * The log is trimmed after abdicate and reclaim, from an instant on at which nobody records; see
 * cbt/region-trim.h.
 */
#include <cbt/tracker-private.h>

#include <cbt/block-mark.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>

#define SUFFIX           ".bitmap"
#define SUFFIX_TEMPORARY ".bitmap.tmp"

gboolean
cbt_disk_identity_from_fd(int fd, const CbtUuid *disk_id, CbtDiskIdentity *identity, GError **error)
{
  struct stat st;
  guint64 size = 0;
  memset(identity, 0, sizeof *identity);
  identity->disk_id = *disk_id;
  if (fstat(fd, &st) != 0 || (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) != 0)) {
    cbt_set_error_errno(error, errno, "cannot examine the disk image");
    return FALSE;
  }
  if (S_ISBLK(st.st_mode)) {
    identity->size = size;
    identity->device = st.st_rdev;
  } else if (S_ISREG(st.st_mode)) {
    identity->size = (guint64) st.st_size;
    identity->device = st.st_dev;
    identity->inode = st.st_ino;
    identity->mtime_ns = cbt_timespec_ns(&st.st_mtim);
    identity->ctime_ns = cbt_timespec_ns(&st.st_ctim);
  } else {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                  "the disk image is neither a regular file nor a block device");
    return FALSE;
  }
  return TRUE;
}

gboolean
cbt_tracker_get_identity(const CbtTracker *tracker, CbtDiskIdentity *identity, GError **error)
{
  return cbt_disk_identity_from_fd(tracker->image_fd, &tracker->disk_id, identity, error);
}

char *
cbt_tracker_bitmap_path(const char *directory, const char *name)
{
  return g_strconcat(directory, "/", name, SUFFIX, NULL);
}

char *
cbt_tracker_path_of(const CbtTracker *tracker, const char *name)
{
  return cbt_tracker_bitmap_path(tracker->directory, name);
}

gboolean
cbt_tracker_sync_directory(const CbtTracker *tracker, GError **error)
{
  if (tracker->ops->fsync_dir(tracker->ops, tracker->directory) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot sync %s", tracker->directory);
  return FALSE;
}

static gboolean
take_lock(CbtTracker *tracker, GError **error)
{
  if (g_mkdir_with_parents(tracker->directory, 0700) != 0) {
    cbt_set_error_errno(error, errno, "cannot create %s", tracker->directory);
    return FALSE;
  }
  g_autofree char *path = g_build_filename(tracker->directory, "lock", NULL);
  tracker->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (tracker->lock_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return FALSE;
  }
  if (flock(tracker->lock_fd, LOCK_EX | LOCK_NB) == 0)
    return TRUE;
  if (errno == EWOULDBLOCK)
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "another process has the bitmaps in %s open",
                  tracker->directory);
  else
    cbt_set_error_errno(error, errno, "cannot lock %s", path);
  return FALSE;
}

/* The granularity that the file at PATH was made with, or the default. */
static guint64
peek_granularity(const CbtTracker *tracker, const char *path)
{
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  CbtBitmapHeader header;
  guint slot;
  if (fd < 0 || !cbt_bitmap_file_load_header(tracker->ops, fd, path, &header, &slot, NULL))
    return CBT_GRANULARITY_DEFAULT;
  return header.granularity;
}

/* Puts an inconsistent bitmap in the place of the file at PATH. */
static CbtBitmapFile *
replace_bad(CbtTracker *tracker, const char *name, const char *path, const CbtDiskIdentity *disk,
            const GError *cause, GError **error)
{
  g_autofree char *bad = g_strconcat(path, ".bad", NULL);
  g_autofree char *reason = cbt_error_message(cause);
  CbtBitmapHeader header = {
      .state = CBT_BITMAP_INCONSISTENT, .granularity = peek_granularity(tracker, path), .disk = *disk};
  header.boot_id = tracker->use.boot.id;
  if (tracker->use.log != NULL)
    header.log_id = *cbt_region_log_id(tracker->use.log);
  cbt_bitmap_copy_text(header.name, sizeof header.name, name);
  cbt_bitmap_copy_text(header.reason, sizeof header.reason, reason);
  g_autoptr(CbtBitmapFile) file = cbt_bitmap_file_prepare(tracker->ops, path, &header, error);
  if (file == NULL)
    return NULL;
  if (tracker->ops->rename(tracker->ops, path, bad) != 0) {
    cbt_set_error_errno(error, errno, "cannot rename %s", path);
    return NULL;
  }
  if (!cbt_bitmap_file_publish(file, error) || !cbt_tracker_sync_directory(tracker, error))
    return NULL;
  cbt_bitmap_file_begin_witness(file, &tracker->use);
  g_message("bitmap '%s' is set aside as %s: %s", name, bad, reason);
  return g_steal_pointer(&file);
}

/* The file of NAME as it is, if it really holds that bitmap. */
static CbtBitmapFile *
open_named(CbtTracker *tracker, const char *name, const char *path, const CbtDiskIdentity *disk,
           GError **error)
{
  g_autoptr(CbtBitmapFile) file = cbt_bitmap_file_open_for(tracker->ops, path, disk, &tracker->use, error);
  if (file != NULL && strcmp(file->header.name, name) != 0) {
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "the file holds bitmap '%s'", file->header.name);
    return NULL;
  }
  return g_steal_pointer(&file);
}

static gboolean
open_one(CbtTracker *tracker, const char *name, const CbtDiskIdentity *disk, GError **error)
{
  if (tracker->n_files == CBT_TRACKER_MAX_BITMAPS) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, "Remove the bitmap files that nobody needs.",
                  "%s has more than %d bitmaps", tracker->directory, CBT_TRACKER_MAX_BITMAPS);
    return FALSE;
  }
  g_autofree char *path = cbt_tracker_path_of(tracker, name);
  g_autoptr(GError) local = NULL;
  CbtBitmapFile *file = open_named(tracker, name, path, disk, &local);
  if (file == NULL) {
    CbtErrorCode code = cbt_error_code(local);
    if (code != CBT_ERROR_CORRUPT && code != CBT_ERROR_INCONSISTENT && code != CBT_ERROR_UNSUPPORTED) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    tracker->log_is_doubtful = TRUE;
    file = replace_bad(tracker, name, path, disk, local, error);
  }
  if (file == NULL)
    return FALSE;
  tracker->files[tracker->n_files++] = file;
  return TRUE;
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
  return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Sorted names of the bitmap files; removes what was never finished. */
static GPtrArray *
list_names(const CbtTracker *tracker, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(GDir) directory = g_dir_open(tracker->directory, 0, &local);
  if (directory == NULL) {
    cbt_set_error(error, CBT_ERROR_IO, NULL, "cannot list %s: %s", tracker->directory, local->message);
    return NULL;
  }
  GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
  for (const char *entry = g_dir_read_name(directory); entry != NULL; entry = g_dir_read_name(directory)) {
    if (g_str_has_suffix(entry, SUFFIX_TEMPORARY)) {
      g_autofree char *path = g_build_filename(tracker->directory, entry, NULL);
      tracker->ops->unlink(tracker->ops, path);
    } else if (g_str_has_suffix(entry, SUFFIX)) {
      g_autofree char *name = g_strndup(entry, strlen(entry) - strlen(SUFFIX));
      if (cbt_name_is_valid(name))
        g_ptr_array_add(names, g_steal_pointer(&name));
    }
  }
  g_ptr_array_sort(names, compare_names);
  return names;
}

CbtRegionLog *
cbt_tracker_make_log(const CbtTracker *tracker, guint64 size, gboolean flag_all)
{
  g_autoptr(GError) error = NULL;
  CbtRegionLog *log =
      cbt_region_log_create(tracker->ops, tracker->directory, &tracker->disk_id, size, flag_all, &error);
  if (log == NULL)
    g_message("without a region log a power cut makes the bitmaps inconsistent: %s", error->message);
  return log;
}

/* Whether each of the bitmap files NAMES says that it was closed clean. */
static gboolean
peek_clean(const CbtTracker *tracker, const GPtrArray *names)
{
  for (guint i = 0; i < names->len; i++) {
    g_autofree char *path = cbt_tracker_path_of(tracker, g_ptr_array_index(names, i));
    CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    CbtBitmapHeader header;
    guint slot;
    if (fd < 0 || !cbt_bitmap_file_load_header(tracker->ops, fd, path, &header, &slot, NULL) || !header.clean)
      return FALSE;
  }
  return names->len > 0;
}

static CbtRegionLog *
take_log(CbtTracker *tracker, const GPtrArray *names, guint64 size)
{
  g_autoptr(GError) error = NULL;
  CbtRegionLog *log = cbt_region_log_load(tracker->ops, tracker->directory, &tracker->disk_id, size, &error);
  if (log != NULL)
    return log;
  if (cbt_error_code(error) != CBT_ERROR_NOT_FOUND)
    g_message("the region log in %s is replaced: %s", tracker->directory, error->message);
  tracker->log_is_doubtful = TRUE;
  return cbt_tracker_make_log(tracker, size, !peek_clean(tracker, names));
}

/* At open, when all bitmaps were synced just now, and before anything is recorded. */
static void
settle_log(CbtTracker *tracker)
{
  gboolean settled = tracker->n_files > 0 && tracker->use.log != NULL;
  for (guint i = 0; settled && i < tracker->n_files; i++)
    settled = tracker->files[i]->settled;
  gboolean ok = TRUE;
  if (settled)
    ok = cbt_region_log_finish_trim(tracker->use.log, NULL);
  else if (tracker->use.log != NULL && tracker->log_is_doubtful)
    ok = cbt_region_log_flag_all(tracker->use.log, NULL);
  if (!ok)
    g_debug("%s: the region log broke at once", tracker->directory);
}

/* The identity with what tells of writes, of an image that was synced: the modification time must be the one
 * that a power cut leaves, and a device's mark lacks what is in the page cache. */
static gboolean
get_stamp(const CbtTracker *tracker, CbtDiskIdentity *disk, GError **error)
{
  if (fsync(tracker->image_fd) != 0)
    g_debug("%s: cannot sync the image: %s", tracker->directory, g_strerror(errno));
  if (!cbt_tracker_get_identity(tracker, disk, error))
    return FALSE;
  if (disk->inode == 0)
    disk->mtime_ns = cbt_block_mark_get(tracker->image_fd);
  return TRUE;
}

static gboolean
open_all(CbtTracker *tracker, GError **error)
{
  CbtDiskIdentity disk;
  if (!get_stamp(tracker, &disk, error))
    return FALSE;
  if (disk.size == 0 || disk.size > CBT_DISK_SIZE_MAX) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a disk of %" G_GUINT64_FORMAT " bytes cannot be tracked",
                  disk.size);
    return FALSE;
  }
  tracker->opened = disk;
  g_autoptr(GPtrArray) names = list_names(tracker, error);
  if (names == NULL)
    return FALSE;
  tracker->use.log = take_log(tracker, names, disk.size);
  for (guint i = 0; i < names->len; i++)
    if (!open_one(tracker, g_ptr_array_index(names, i), &disk, error))
      return FALSE;
  settle_log(tracker);
  return TRUE;
}

CbtTracker *
cbt_tracker_open(const CbtFileOps *ops, const char *directory, const char *witness_directory, int image_fd,
                 const CbtUuid *disk_id, GError **error)
{
  CbtBoot boot = cbt_boot_now();
  return cbt_tracker_open_in_boot(ops, directory, witness_directory, image_fd, disk_id, &boot, error);
}

CbtTracker *
cbt_tracker_open_in_boot(const CbtFileOps *ops, const char *directory, const char *witness_directory,
                         int image_fd, const CbtUuid *disk_id, const CbtBoot *boot, GError **error)
{
  g_autoptr(CbtTracker) tracker = g_new0(CbtTracker, 1);
  tracker->ops = ops;
  tracker->directory = g_strdup(directory);
  tracker->lock_fd = -1;
  tracker->image_fd = image_fd;
  tracker->disk_id = *disk_id;
  tracker->use.boot = *boot;
  tracker->use.witness_directory = tracker->witness_directory = g_strdup(witness_directory);
  if (!take_lock(tracker, error))
    return NULL;
  if (open_all(tracker, error))
    return g_steal_pointer(&tracker);
  /* Nothing was recorded: those that did open go back to clean. The others still need the log. */
  g_clear_pointer(&tracker->use.log, cbt_region_log_free);
  if (!cbt_tracker_close(g_steal_pointer(&tracker), NULL))
    g_debug("%s: not all bitmaps closed clean", directory);
  return NULL;
}

CbtRegionLog *
cbt_tracker_region_log(CbtTracker *tracker)
{
  return tracker->use.log;
}

void
cbt_tracker_wait_for_trim(CbtTracker *tracker)
{
  cbt_region_trim_join(g_steal_pointer(&tracker->trim));
}

gboolean
cbt_tracker_set_idle(CbtTracker *tracker, GError **error)
{
  tracker->idle = TRUE;
  for (guint i = 0; i < tracker->n_files; i++)
    if (!cbt_bitmap_file_stamp(tracker->files[i], &tracker->opened, error))
      return FALSE;
  return TRUE;
}

static void
tracker_free(CbtTracker *tracker)
{
  cbt_region_log_free(tracker->use.log);
  cbt_clear_fd(&tracker->lock_fd);
  g_free(tracker->directory);
  g_free(tracker->witness_directory);
  g_free(tracker);
}

gboolean
cbt_tracker_close(CbtTracker *tracker, GError **error)
{
  CbtDiskIdentity disk;
  cbt_tracker_wait_for_trim(tracker);
  if (!get_stamp(tracker, &disk, error)) {
    cbt_tracker_abandon(tracker);
    return FALSE;
  }
  /* With nothing recorded no tracked write was made: if the times moved all the same, the next open shall see
   * it. */
  if (!__atomic_load_n(&tracker->recorded, __ATOMIC_RELAXED)) {
    disk.mtime_ns = tracker->opened.mtime_ns;
    disk.ctime_ns = tracker->opened.ctime_ns;
  }
  gboolean ok = TRUE;
  for (guint i = 0; i < tracker->n_files; i++)
    ok = cbt_bitmap_file_close(tracker->files[i], &disk, ok ? error : NULL) && ok;
  if (ok)
    cbt_region_log_remove(g_steal_pointer(&tracker->use.log));
  tracker_free(tracker);
  return ok;
}

void
cbt_tracker_abandon(CbtTracker *tracker)
{
  if (tracker == NULL)
    return;
  cbt_tracker_wait_for_trim(tracker);
  for (guint i = 0; i < tracker->n_files; i++)
    cbt_bitmap_file_abandon(tracker->files[i]);
  tracker_free(tracker);
}

void
cbt_tracker_open_range(CbtTracker *tracker, guint64 offset, guint64 length)
{
  if (tracker->use.log != NULL)
    cbt_region_log_open_range(tracker->use.log, offset, length);
}

gboolean
cbt_tracker_is_range_open(const CbtTracker *tracker, guint64 offset, guint64 length)
{
  return tracker->use.log == NULL || cbt_region_log_is_open(tracker->use.log, offset, length);
}

void
cbt_tracker_record(CbtTracker *tracker, guint64 offset, guint64 length)
{
  g_assert(!tracker->idle);
  if (!__atomic_load_n(&tracker->recorded, __ATOMIC_RELAXED))
    __atomic_store_n(&tracker->recorded, TRUE, __ATOMIC_RELAXED);
  for (guint i = 0; i < tracker->n_files; i++)
    cbt_bitmap_file_record(tracker->files[i], offset, length);
}

guint
cbt_tracker_n_bitmaps(const CbtTracker *tracker)
{
  return tracker->n_files;
}

void
cbt_tracker_info(const CbtTracker *tracker, guint index, CbtBitmapInfo *info)
{
  g_assert(index < tracker->n_files);
  cbt_bitmap_file_info(tracker->files[index], info);
}
