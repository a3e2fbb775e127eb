/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Creating, opening, checking and closing bitmap files. Transitions, and the order of writes, are in
 * bitmap-transition.c; bytes of the header in bitmap-header.c.
 *
 * A file is made under a temporary name, its blocks allocated, its header durable, and then renamed. While it
 * is open for recording its header says "unclean, boot B". What the next open makes of that:
 *
 *   clean                  the disk must be the one that was stamped, unchanged since
 *   unclean, this boot     the recording process died; the kernel kept every page, so the bits are exact, if
 * the witness (cbt/witness.h) vouches that they are the ones
 *   unclean, other boot    pages may be lost: what the disk's region log flags is dirty, if it is the log
 * that the header names; else inconsistent. A disabled bitmap's bits are durable
 *
 * Summaries are made anew from the words at each open for recording, whatever a dead process left.
 */
#include <cbt/bitmap-file-private.h>

#include <cbt/block-mark.h>
#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#define MAP_START ((guint64) CBT_BITMAP_N_SLOTS * CBT_BITMAP_PAGE)

static gint64
clock_ns(clockid_t clock)
{
  struct timespec now;
  return clock_gettime(clock, &now) == 0 ? (gint64) now.tv_sec * 1000000000 + now.tv_nsec : 0;
}

CbtBoot
cbt_boot_now(void)
{
  CbtBoot boot = {.started_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME)};
  gsize length;
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, &length, NULL) ||
      !cbt_uuid_parse(g_strstrip(text), &boot.id))
    boot.id = (CbtUuid){{0}};
  return boot;
}

void
cbt_bitmap_copy_text(char *field, gsize size, const char *text)
{
  g_autofree char *valid = g_utf8_make_valid(text != NULL ? text : "", -1);
  gsize length = strlen(valid);
  if (length >= size) {
    const char *cut = g_utf8_find_prev_char(valid, valid + size);
    length = cut != NULL ? (gsize) (cut - valid) : 0;
  }
  memset(field, 0, size);
  memcpy(field, valid, length);
}

static CbtBitmapFile *
file_new(const CbtFileOps *ops, const char *path, int fd, gboolean writable)
{
  CbtBitmapFile *file = g_new0(CbtBitmapFile, 1);
  file->ops = ops;
  file->path = g_strdup(path);
  file->fd = fd;
  file->writable = writable;
  return file;
}

void
cbt_bitmap_file_abandon(CbtBitmapFile *file)
{
  if (file == NULL)
    return;
  for (guint i = 0; i < 2; i++)
    cbt_bitmap_free(file->bits[i]);
  if (file->map != NULL)
    munmap(file->map, file->map_length);
  if (file->fd >= 0)
    file->ops->close(file->ops, file->fd);
  if (file->temporary != NULL)
    file->ops->unlink(file->ops, file->temporary);
  cbt_witness_free(file->witness);
  g_free(file->temporary);
  g_free(file->path);
  g_free(file);
}

/* Maps the arrays; header and fd are set. */
static gboolean
map_arrays(CbtBitmapFile *file, GError **error)
{
  const CbtDiskIdentity *disk = &file->header.disk;
  cbt_bitmap_layout_init(&file->layout, disk->size, file->header.granularity);
  file->map_length = file->layout.file_size - MAP_START;
  int protection = PROT_READ | (file->writable ? PROT_WRITE : 0);
  void *map = mmap(NULL, file->map_length, protection, MAP_SHARED, file->fd, (off_t) MAP_START);
  if (map == MAP_FAILED) {
    cbt_set_error_errno(error, errno, "cannot map %s", file->path);
    return FALSE;
  }
  file->map = map;
  for (guint i = 0; i < 2; i++) {
    void *words = file->map + (file->layout.words[i] - MAP_START);
    void *summary = file->map + (file->layout.summary[i] - MAP_START);
    file->bits[i] = cbt_bitmap_new_over(disk->size, file->header.granularity, words, summary);
  }
  return TRUE;
}

/* Zeros up to SIZE where the file system cannot allocate without writing. */
static gboolean
write_zeros(CbtBitmapFile *file, guint64 size)
{
  gsize step = 1 << 20;
  g_autofree guint8 *zeros = g_malloc0(step);
  for (guint64 at = 0; at < size; at += step)
    if (!cbt_file_pwrite_full(file->ops, file->fd, zeros, MIN(step, size - at), at))
      return FALSE;
  return TRUE;
}

static gboolean
allocate(CbtBitmapFile *file, GError **error)
{
  CbtBitmapLayout layout;
  cbt_bitmap_layout_init(&layout, file->header.disk.size, file->header.granularity);
  gboolean ok = file->ops->ftruncate(file->ops, file->fd, (off_t) layout.file_size) == 0;
  if (ok && fallocate(file->fd, 0, 0, (off_t) layout.file_size) != 0)
    ok = errno == EOPNOTSUPP && write_zeros(file, layout.file_size);
  if (!ok)
    cbt_set_error_errno(error, errno, "cannot allocate %" G_GUINT64_FORMAT " bytes for %s", layout.file_size,
                        file->path);
  return ok;
}

CbtBitmapFile *
cbt_bitmap_file_prepare(const CbtFileOps *ops, const char *path, const CbtBitmapHeader *header,
                        GError **error)
{
  g_autofree char *temporary = g_strconcat(path, ".tmp", NULL);
  ops->unlink(ops, temporary); /* what a crash left */
  int fd = ops->open(ops, temporary, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot create %s", temporary);
    return NULL;
  }
  g_autoptr(CbtBitmapFile) file = file_new(ops, path, fd, TRUE);
  file->temporary = g_steal_pointer(&temporary);
  file->header = *header;
  file->header.file_id = cbt_uuid_generate();
  file->header.sequence = 0;
  file->header.clean = FALSE;
  file->slot = 1;
  if (!allocate(file, error) || !map_arrays(file, error))
    return NULL;
  return g_steal_pointer(&file);
}

gboolean
cbt_bitmap_file_publish(CbtBitmapFile *file, GError **error)
{
  if (!cbt_bitmap_file_sync(file, error) || !cbt_bitmap_file_write_header(file, &file->header, error))
    return FALSE;
  if (file->ops->rename(file->ops, file->temporary, file->path) != 0) {
    cbt_set_error_errno(error, errno, "cannot rename %s", file->temporary);
    return FALSE;
  }
  g_clear_pointer(&file->temporary, g_free);
  cbt_bitmap_file_update_recording(file);
  return TRUE;
}

static guint64
n_recorded(const CbtBitmapFile *file)
{
  return file->recording != NULL ? cbt_bitmap_n_dirty(file->recording) : 0;
}

void
cbt_bitmap_file_begin_witness(CbtBitmapFile *file, const CbtBitmapUse *use)
{
  if (file->witness == NULL && use->witness_directory != NULL)
    file->witness = cbt_witness_open(use->witness_directory, &file->header.disk.disk_id, file->path);
  cbt_witness_begin(file->witness, &file->header.file_id, file->header.sequence, n_recorded(file));
}

void
cbt_bitmap_file_note_witness(CbtBitmapFile *file)
{
  if (file->witness != NULL)
    cbt_witness_note(file->witness, file->header.sequence, n_recorded(file));
}

static gboolean
check_new(const char *path, const char *name, guint64 granularity, const CbtDiskIdentity *disk,
          GError **error)
{
  if (!cbt_name_check("bitmap", name, error))
    return FALSE;
  if (!cbt_granularity_is_valid(granularity)) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Use a power of two from 4K to 16M.",
                  "granularity %" G_GUINT64_FORMAT " is not valid", granularity);
    return FALSE;
  }
  if (disk->size == 0 || disk->size > CBT_DISK_SIZE_MAX) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a disk of %" G_GUINT64_FORMAT " bytes cannot be tracked",
                  disk->size);
    return FALSE;
  }
  if (access(path, F_OK) == 0) {
    cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "bitmap '%s' exists already", name);
    return FALSE;
  }
  return TRUE;
}

CbtBitmapFile *
cbt_bitmap_file_create(const CbtFileOps *ops, const char *path, const char *name, guint64 granularity,
                       const CbtDiskIdentity *disk, GError **error)
{
  CbtBitmapUse use = {.boot = cbt_boot_now()};
  return cbt_bitmap_file_create_for(ops, path, name, granularity, disk, &use, error);
}

CbtBitmapFile *
cbt_bitmap_file_create_for(const CbtFileOps *ops, const char *path, const char *name, guint64 granularity,
                           const CbtDiskIdentity *disk, const CbtBitmapUse *use, GError **error)
{
  if (!check_new(path, name, granularity, disk, error))
    return NULL;
  CbtBitmapHeader header = {
      .state = CBT_BITMAP_ACTIVE, .granularity = granularity, .disk = *disk, .boot_id = use->boot.id};
  if (use->log != NULL)
    header.log_id = *cbt_region_log_id(use->log);
  cbt_bitmap_copy_text(header.name, sizeof header.name, name);
  cbt_bitmap_copy_text(header.reason, sizeof header.reason, "no backup yet");
  g_autoptr(CbtBitmapFile) file = cbt_bitmap_file_prepare(ops, path, &header, error);
  if (file == NULL)
    return NULL;
  cbt_bitmap_file_begin_witness(file, use);
  if (!cbt_bitmap_file_publish(file, error))
    return NULL;
  g_autofree char *directory = g_path_get_dirname(path);
  if (ops->fsync_dir(ops, directory) != 0) {
    cbt_set_error_errno(error, errno, "cannot sync %s", directory);
    ops->unlink(ops, path);
    return NULL;
  }
  return g_steal_pointer(&file);
}

/* Messages about contents become the reason of a bitmap, which has little room: they name the file without
 * its folder. */
static gboolean
too_short(const char *path, GError **error)
{
  g_autofree char *file = g_path_get_basename(path);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s is too short", file);
  return FALSE;
}

gboolean
cbt_bitmap_file_load_header(const CbtFileOps *ops, int fd, const char *path, CbtBitmapHeader *header,
                            guint *slot, GError **error)
{
  guint8 pages[CBT_BITMAP_N_SLOTS * CBT_BITMAP_PAGE];
  struct stat st;
  gssize n = cbt_file_pread_full(ops, fd, pages, sizeof pages, 0);
  if (n < 0 || fstat(fd, &st) != 0) {
    cbt_set_error_errno(error, errno, "cannot read %s", path);
    return FALSE;
  }
  if ((gsize) n < sizeof pages)
    return too_short(path, error);
  if (!cbt_bitmap_header_choose(pages, header, slot, error)) {
    g_autofree char *file = g_path_get_basename(path);
    g_prefix_error(error, "%s: ", file);
    return FALSE;
  }
  CbtBitmapLayout layout;
  cbt_bitmap_layout_init(&layout, header->disk.size, header->granularity);
  return (guint64) st.st_size >= layout.file_size || too_short(path, error);
}

/* An image file's times against those that were stamped; NULL, or what differs. */
static const char *
find_file_change(const CbtDiskIdentity *known, const CbtDiskIdentity *disk)
{
  if (known->mtime_ns != disk->mtime_ns)
    return "the image was written while it was not tracked (its modification time changed)";
  if (known->ctime_ns != disk->ctime_ns)
    return "the image may have been written while it was not tracked: its modification time is as before, "
           "but "
           "not its change time (chmod, chown, mv and ln alter that, too)";
  return NULL;
}

/* Writes to a device are counted from the boot on: behind one, none may have been made yet. That tells
 * nothing of an older copy of the bitmap file; a copy is younger than the boot. */
static const char *
find_device_change(const CbtDiskIdentity *known, const CbtDiskIdentity *disk, gboolean same_boot,
                   gboolean is_from_this_boot)
{
  if (same_boot ? known->mtime_ns != disk->mtime_ns : !cbt_block_mark_is_unwritten(disk->mtime_ns))
    return "the device was written while it was not tracked (its count of writes changed)";
  if (!same_boot && is_from_this_boot)
    return "the bitmap file was put there, or altered, since the host started";
  return NULL;
}

/* The reason why the bits cannot be those of DISK as it is now, or NULL (transfer full). IS_FROM_THIS_BOOT:
 * somebody made or altered the file in this boot. */
static char *
find_mismatch(const CbtBitmapHeader *header, const CbtDiskIdentity *disk, gboolean same_boot,
              gboolean is_from_this_boot)
{
  const CbtDiskIdentity *known = &header->disk;
  gboolean is_file = disk->inode != 0;
  if (!cbt_uuid_equal(&known->disk_id, &disk->disk_id))
    return g_strdup("the bitmap is of another disk");
  if (known->size != disk->size)
    return g_strdup_printf("the size of the disk changed from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
                           " bytes while it was not tracked",
                           known->size, disk->size);
  if (known->inode != disk->inode)
    return g_strdup("the image is another file than before (its inode changed)");
  /* A device number names the same device for one boot only. */
  if (is_file && same_boot && known->device != disk->device)
    return g_strdup("the image is on another file system than before (its device changed)");
  /* The bits of an inconsistent one mean nothing anyhow, and it has its reason. */
  if (!header->clean || header->state == CBT_BITMAP_INCONSISTENT)
    return NULL;
  return g_strdup(is_file ? find_file_change(known, disk)
                          : find_device_change(known, disk, same_boot, is_from_this_boot));
}

/* What a power cut may have taken from the bits of this header, the flags of USE's log give back. */
static gboolean
is_covered(const CbtBitmapHeader *header, const CbtBitmapUse *use)
{
  return use->log != NULL && cbt_uuid_equal(&header->log_id, cbt_region_log_id(use->log));
}

static gboolean
was_written_in_boot(const CbtDiskIdentity *disk, const CbtBoot *boot)
{
  return disk->inode != 0 ? MAX(disk->mtime_ns, disk->ctime_ns) >= boot->started_ns
                          : !cbt_block_mark_is_unwritten(disk->mtime_ns);
}

/* The reason why the bits cannot be used after the host went down over them, or NULL. Between a cut and the
 * next open nothing is stamped that a foreign write could be told by, or an older copy of the files put back,
 * but both are later than the boot. */
static const char *
find_loss(const CbtBitmapFile *file, const CbtDiskIdentity *disk, const CbtBitmapUse *use)
{
  if (!is_covered(&file->header, use))
    return "the host went down while the disk was in use";
  if (was_written_in_boot(disk, &use->boot))
    return "the image was written after the host went down with the disk in use";
  if (file->is_from_this_boot)
    return "the bitmap file was put there, or altered, after the host went down with the disk in use";
  return NULL;
}

static void
lose_bits(CbtBitmapHeader *header, const char *reason)
{
  header->state = CBT_BITMAP_INCONSISTENT;
  header->generation++;
  header->inconsistent_base = FALSE;
  header->base = header->pending = (CbtUuid){{0}};
  cbt_bitmap_copy_text(header->reason, sizeof header->reason, reason);
}

/* Of a frozen bitmap both arrays may have lost bits: the parent's need not have been durable at the freeze.
 */
static void
mark_flagged(CbtBitmapFile *file, CbtRegionLog *log)
{
  cbt_region_log_mark(log, file->bits[file->header.parent]);
  if (file->header.state == CBT_BITMAP_FROZEN)
    cbt_region_log_mark(log, file->bits[1 - file->header.parent]);
}

/* Takes the file into use: from here on it is unclean, and USE's log is what covers it. */
static gboolean
begin_use(CbtBitmapFile *file, const CbtDiskIdentity *disk, const CbtBitmapUse *use, gboolean same_boot,
          GError **error)
{
  CbtBitmapHeader next = file->header;
  gboolean cut = !next.clean && !same_boot && next.state != CBT_BITMAP_DISABLED;
  const char *loss = cut ? find_loss(file, disk, use) : NULL;
  file->settled = next.clean || !same_boot;
  /* Pages that the kernel holds for clean after a failed sync of the process before us are not on the disk.
   */
  file->sync_failed = !next.clean;
  next.clean = FALSE;
  next.boot_id = use->boot.id;
  next.log_id = use->log != NULL ? *cbt_region_log_id(use->log) : (CbtUuid){{0}};
  if (loss != NULL)
    lose_bits(&next, loss);
  else if (cut)
    mark_flagged(file, use->log);
  /* Vouched for before the header says that it is in use: a process killed in between leaves a file that is
   * believed. */
  cbt_bitmap_file_update_recording(file);
  cbt_bitmap_file_begin_witness(file, use);
  /* The first sync makes sure that the arrays, and the chosen slot, are durable before the header says that
   * they are of this boot. */
  if (!cbt_bitmap_file_sync(file, error) || !cbt_bitmap_file_write_header(file, &next, error))
    return FALSE;
  cbt_bitmap_file_update_recording(file);
  return TRUE;
}

static CbtBitmapFile *
open_and_load(const CbtFileOps *ops, const char *path, gboolean writable, GError **error)
{
  int fd = ops->open(ops, path, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK, 0);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return NULL;
  }
  g_autoptr(CbtBitmapFile) file = file_new(ops, path, fd, writable);
  if (!cbt_bitmap_file_load_header(ops, fd, path, &file->header, &file->slot, error))
    return NULL;
  return g_steal_pointer(&file);
}

/* Before anything in it is touched. */
static void
look_at_age(CbtBitmapFile *file, const CbtBoot *boot)
{
  struct stat st;
  file->is_from_this_boot = fstat(file->fd, &st) != 0 || cbt_timespec_ns(&st.st_ctim) >= boot->started_ns;
}

/* The bits of a process that was killed in this boot are exact, if these are its bits. */
static gboolean
check_witness(CbtBitmapFile *file, const CbtBitmapUse *use, gboolean same_boot, GError **error)
{
  const CbtBitmapHeader *header = &file->header;
  if (use->witness_directory == NULL)
    return TRUE;
  file->witness = cbt_witness_open(use->witness_directory, &header->disk.disk_id, file->path);
  if (header->clean || !same_boot || header->state == CBT_BITMAP_INCONSISTENT)
    return TRUE;
  cbt_bitmap_file_update_recording(file);
  const char *doubt = cbt_witness_doubt(file->witness, &header->file_id, header->sequence, n_recorded(file));
  if (doubt == NULL)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "%s", doubt);
  return FALSE;
}

CbtBitmapFile *
cbt_bitmap_file_open(const CbtFileOps *ops, const char *path, const CbtDiskIdentity *disk, GError **error)
{
  CbtBitmapUse use = {.boot = cbt_boot_now()};
  return cbt_bitmap_file_open_for(ops, path, disk, &use, error);
}

CbtBitmapFile *
cbt_bitmap_file_open_for(const CbtFileOps *ops, const char *path, const CbtDiskIdentity *disk,
                         const CbtBitmapUse *use, GError **error)
{
  g_autoptr(CbtBitmapFile) file = open_and_load(ops, path, TRUE, error);
  if (file == NULL)
    return NULL;
  look_at_age(file, &use->boot);
  gboolean same_boot =
      !cbt_uuid_is_nil(&use->boot.id) && cbt_uuid_equal(&use->boot.id, &file->header.boot_id);
  g_autofree char *mismatch = find_mismatch(&file->header, disk, same_boot, file->is_from_this_boot);
  if (mismatch != NULL) {
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "%s", mismatch);
    return NULL;
  }
  if (!map_arrays(file, error))
    return NULL;
  for (guint i = 0; i < 2; i++)
    cbt_bitmap_rebuild_summary(file->bits[i]);
  if (!check_witness(file, use, same_boot, error) || !begin_use(file, disk, use, same_boot, error))
    return NULL;
  return g_steal_pointer(&file);
}

CbtBitmapFile *
cbt_bitmap_file_open_readonly(const char *path, GError **error)
{
  g_autoptr(CbtBitmapFile) file = NULL;
  /* The owner may rewrite a slot just while it is read; both at once take more than one transition. */
  for (guint attempt = 0; file == NULL && attempt < 3; attempt++) {
    g_clear_error(error);
    file = open_and_load(cbt_file_ops_default(), path, FALSE, error);
  }
  if (file == NULL || !map_arrays(file, error))
    return NULL;
  return g_steal_pointer(&file);
}

gboolean
cbt_bitmap_file_stamp(CbtBitmapFile *file, const CbtDiskIdentity *disk, GError **error)
{
  CbtBitmapHeader next = file->header;
  if (disk->size != next.disk.size || !cbt_uuid_equal(&disk->disk_id, &next.disk.disk_id)) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL,
                  "bitmap '%s' is for a disk of %" G_GUINT64_FORMAT
                  " bytes, but the disk has %" G_GUINT64_FORMAT,
                  next.name, next.disk.size, disk->size);
    return FALSE;
  }
  next.disk = *disk;
  next.clean = TRUE;
  next.log_id = (CbtUuid){{0}};
  return cbt_bitmap_file_sync(file, error) && cbt_bitmap_file_write_header(file, &next, error);
}

gboolean
cbt_bitmap_file_close(CbtBitmapFile *file, const CbtDiskIdentity *disk, GError **error)
{
  gboolean ok = !file->writable || cbt_bitmap_file_stamp(file, disk, error);
  if (ok)
    cbt_witness_remove(g_steal_pointer(&file->witness));
  cbt_bitmap_file_abandon(file);
  return ok;
}

const CbtBitmap *
cbt_bitmap_file_parent(const CbtBitmapFile *file)
{
  return file->bits[file->header.parent];
}

const CbtBitmap *
cbt_bitmap_file_successor(const CbtBitmapFile *file)
{
  return file->header.state == CBT_BITMAP_FROZEN ? file->bits[1 - file->header.parent] : NULL;
}

void
cbt_bitmap_file_info(const CbtBitmapFile *file, CbtBitmapInfo *info)
{
  const CbtBitmapHeader *header = &file->header;
  const CbtBitmap *successor = cbt_bitmap_file_successor(file);
  memset(info, 0, sizeof *info);
  memcpy(info->name, header->name, sizeof info->name);
  memcpy(info->reason, header->reason, sizeof info->reason);
  info->state = header->state;
  info->has_successor = successor != NULL;
  info->granularity = header->granularity;
  info->size = header->disk.size;
  info->count = cbt_bitmap_count(cbt_bitmap_file_parent(file));
  info->successor_count = successor != NULL ? cbt_bitmap_count(successor) : 0;
  info->generation = header->generation;
  info->base = header->base;
  info->pending = header->pending;
}

void
cbt_bitmap_file_record(CbtBitmapFile *file, guint64 offset, guint64 length)
{
  if (G_UNLIKELY(file->also != NULL))
    cbt_bitmap_set(file->also, offset, length);
  guint64 n = file->recording != NULL ? cbt_bitmap_set(file->recording, offset, length) : 0;
  if (n != 0 && file->witness != NULL)
    cbt_witness_add(file->witness, n);
}

gboolean
cbt_bitmap_file_merge_bits(CbtBitmapFile *file, const CbtBitmapFile *src, GError **error)
{
  const CbtBitmapFile *const both[] = {file, src};
  for (guint i = 0; i < G_N_ELEMENTS(both); i++)
    if (both[i]->header.state == CBT_BITMAP_INCONSISTENT) {
      cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' is inconsistent: its bits cannot be merged",
                    both[i]->header.name);
      return FALSE;
    }
  if (!file->writable || file->header.disk.size != src->header.disk.size) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' cannot take in '%s': %s", file->header.name,
                  src->header.name, file->writable ? "their disks differ in size" : "it is open read-only");
    return FALSE;
  }
  CbtBitmap *targets[] = {file->recording != NULL ? file->recording : file->bits[file->header.parent],
                          file->also};
  const CbtBitmap *sources[] = {cbt_bitmap_file_parent(src), cbt_bitmap_file_successor(src)};
  for (guint t = 0; t < G_N_ELEMENTS(targets); t++)
    for (guint i = 0; i < G_N_ELEMENTS(sources); i++)
      if (targets[t] != NULL && sources[i] != NULL)
        cbt_bitmap_merge(targets[t], sources[i]);
  cbt_bitmap_file_note_witness(file);
  return TRUE;
}

gboolean
cbt_bitmap_file_merge(CbtBitmapFile *file, const CbtBitmapFile *src, GError **error)
{
  return cbt_bitmap_file_merge_bits(file, src, error) && cbt_bitmap_file_sync(file, error);
}
