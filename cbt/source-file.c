/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A raw image file or a block device as a source.
 *
 * The path is whatever the user typed, so it is opened with O_NONBLOCK: a FIFO without a writer would hang
 * the caller otherwise. The flag is taken off again as soon as it is known that this is a disk, because
 * io_uring answers EAGAIN instead of waiting on a descriptor that has it.
 *
 * There are two descriptors of the same open image: one through the page cache, and one with O_DIRECT that is
 * opened through /proc/self/fd, so that it is the same inode even if the path was replaced in between.
 *
 * Holes come from SEEK_DATA and SEEK_HOLE. Where there is no answer (block devices, file systems without
 * support) everything is data, which costs time and never loses anything.
 */
#include <cbt/source.h>

#include <cbt/block-mark.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SECTOR_SIZE 512

typedef struct {
  CbtSource base;
  char *path;
  int fd;
  int direct_fd; /* -1: refused */
  struct stat opened;
  gint64 opened_mark; /* of a block device */
} FileSource;

static gboolean
is_disk(mode_t mode)
{
  return S_ISREG(mode) || S_ISBLK(mode);
}

static void
set_kind_error(GError **error, const char *path, mode_t mode)
{
  const char *kind = S_ISDIR(mode)    ? "a directory"
                     : S_ISFIFO(mode) ? "a FIFO"
                     : S_ISSOCK(mode) ? "a socket"
                     : S_ISCHR(mode)  ? "a character device"
                                      : "of an unknown kind";
  cbt_set_error(error, CBT_ERROR_INVALID, "Name a raw image file or a block device.",
                "%s is %s, not a disk image", path, kind);
}

static const char *
open_hint(int errsv)
{
  switch (errsv) {
  case ENOENT:
    return "Check the path of the disk image.";
  case EACCES:
  case EPERM:
    return "Run as a user who may read the image, or change its permissions.";
  default:
    return NULL;
  }
}

static int
open_image(const char *path, GError **error)
{
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd >= 0)
    return fd;
  int errsv = errno;
  struct stat st;
  if (stat(path, &st) == 0 && !is_disk(st.st_mode))
    set_kind_error(error, path,
                   st.st_mode); /* a socket cannot be opened at all, and ENXIO would explain nothing */
  else
    cbt_set_error(error, cbt_error_code_from_errno(errsv), open_hint(errsv), "cannot open disk image %s: %s",
                  path, g_strerror(errsv));
  return -1;
}

/* Size of the open image FD in bytes. FALSE with errno. */
static gboolean
get_size(int fd, const struct stat *st, guint64 *size)
{
  *size = (guint64) st->st_size;
  return !S_ISBLK(st->st_mode) || ioctl(fd, BLKGETSIZE64, size) == 0;
}

static gboolean
check_size(const char *path, guint64 size, GError **error)
{
  if (size == 0) {
    cbt_set_error(error, CBT_ERROR_INVALID,
                  "Check that this is the right image and that its device is attached.",
                  "disk image %s is empty", path);
    return FALSE;
  }
  if (size % SECTOR_SIZE != 0) {
    cbt_set_error(error, CBT_ERROR_INVALID,
                  "Only raw images are read here; extend a raw image with 'truncate -s %512'.",
                  "disk image %s has %" G_GUINT64_FORMAT " bytes, which is no multiple of 512", path, size);
    return FALSE;
  }
  if (size > CBT_DISK_SIZE_MAX) {
    cbt_set_error(error, CBT_ERROR_INVALID, "The largest disk is 1 PiB.",
                  "disk image %s has %" G_GUINT64_FORMAT " bytes, which is too large", path, size);
    return FALSE;
  }
  return TRUE;
}

/* Checks what FD is, fills in size and condition, and makes FD wait again. */
static gboolean
inspect(FileSource *file, GError **error)
{
  if (fstat(file->fd, &file->opened) != 0) {
    cbt_set_error_errno(error, errno, "cannot examine disk image %s", file->path);
    return FALSE;
  }
  if (!is_disk(file->opened.st_mode)) {
    set_kind_error(error, file->path, file->opened.st_mode);
    return FALSE;
  }
  int flags = fcntl(file->fd, F_GETFL);
  if (flags < 0 || fcntl(file->fd, F_SETFL, flags & ~O_NONBLOCK) != 0 ||
      !get_size(file->fd, &file->opened, &file->base.size)) {
    cbt_set_error_errno(error, errno, "cannot examine disk image %s", file->path);
    return FALSE;
  }
  if (S_ISBLK(file->opened.st_mode))
    file->opened_mark = cbt_block_mark_get(file->fd);
  /* Blocks enough are in flight; readahead would only bring what lies between them. */
  posix_fadvise(file->fd, 0, 0, POSIX_FADV_RANDOM);
  return check_size(file->path, file->base.size, error);
}

static int
open_direct(int fd)
{
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
  return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

static void
file_close(CbtSource *source)
{
  FileSource *file = (FileSource *) source;
  cbt_clear_fd(&file->fd);
  cbt_clear_fd(&file->direct_fd);
  g_free(file->path);
  g_free(file);
}

/* Sets *end to where the run at OFFSET ends. FALSE with errno. */
static gboolean
seek_run(const FileSource *file, guint64 offset, guint64 *end, gboolean *hole)
{
  off_t data = lseek(file->fd, (off_t) offset, SEEK_DATA);
  if (data < 0 && errno != ENXIO)
    return FALSE;
  *hole = data < 0 || (guint64) data > offset;
  *end = data < 0 ? file->base.size : (guint64) data;
  if (*hole)
    return TRUE;
  off_t next_hole = lseek(file->fd, (off_t) offset, SEEK_HOLE);
  if (next_hole < 0 && errno != ENXIO)
    return FALSE;
  /* No end behind the offset: the data went while we looked. Reading the rest of the range is right in any
   * case. */
  *end = next_hole > (off_t) offset ? (guint64) next_hole : file->base.size;
  return TRUE;
}

static gboolean
file_next_extent(CbtSource *source, guint64 offset, guint64 length, CbtExtent *extent, gboolean *hole,
                 GError **error)
{
  FileSource *file = (FileSource *) source;
  guint64 end = offset + length;
  *hole = FALSE;
  if (S_ISREG(file->opened.st_mode) && !seek_run(file, offset, &end, hole)) {
    if (errno != EINVAL && errno != EOPNOTSUPP) {
      cbt_set_error_errno(error, errno, "cannot look for holes in %s at offset %" G_GUINT64_FORMAT,
                          file->path, offset);
      return FALSE;
    }
    end = offset + length;
    *hole = FALSE;
  }
  *extent = (CbtExtent){.offset = offset, .length = MIN(length, end - offset)};
  return TRUE;
}

static int
file_get_fd(CbtSource *source, gboolean direct)
{
  const FileSource *file = (const FileSource *) source;
  return direct ? file->direct_fd : file->fd;
}

/* Whether the path leads to another image by now. */
static gboolean
was_replaced(const FileSource *file)
{
  struct stat st;
  if (stat(file->path, &st) != 0 || (st.st_mode & S_IFMT) != (file->opened.st_mode & S_IFMT))
    return TRUE;
  if (S_ISBLK(st.st_mode))
    return st.st_rdev != file->opened.st_rdev;
  return st.st_dev != file->opened.st_dev || st.st_ino != file->opened.st_ino;
}

/*
 * Not the change time: a chmod or a new link would count as a foreign write.
 */
static gboolean
file_check_changed(CbtSource *source, gboolean *changed, GError **error)
{
  const FileSource *file = (const FileSource *) source;
  struct stat now;
  guint64 size;
  if (fsync(file->fd) != 0)
    g_debug("%s: cannot sync the image: %s", file->path, g_strerror(errno));
  if (fstat(file->fd, &now) != 0 || !get_size(file->fd, &now, &size)) {
    cbt_set_error_errno(error, errno, "cannot examine disk image %s", file->path);
    return FALSE;
  }
  *changed = size != source->size || was_replaced(file);
  if (S_ISREG(now.st_mode))
    *changed |= now.st_mtim.tv_sec != file->opened.st_mtim.tv_sec ||
                now.st_mtim.tv_nsec != file->opened.st_mtim.tv_nsec;
  else
    *changed |= cbt_block_mark_get(file->fd) != file->opened_mark;
  return TRUE;
}

static const CbtSourceClass file_class = {
    .type = "file",
    .close = file_close,
    .next_extent = file_next_extent,
    .get_fd = file_get_fd,
    .check_changed = file_check_changed,
};

static const CbtSourceClass block_class = {
    .type = "block",
    .close = file_close,
    .next_extent = file_next_extent,
    .get_fd = file_get_fd,
    .check_changed = file_check_changed,
};

CbtSource *
cbt_source_open_file(const char *path, GError **error)
{
  int fd = open_image(path, error);
  if (fd < 0)
    return NULL;
  FileSource *file = g_new0(FileSource, 1);
  file->base.klass = &file_class;
  file->path = g_strdup(path);
  file->fd = fd;
  file->direct_fd = -1;
  g_autoptr(CbtSource) source = &file->base;
  if (!inspect(file, error))
    return NULL;
  if (S_ISBLK(file->opened.st_mode))
    source->klass = &block_class;
  file->direct_fd = open_direct(fd);
  return g_steal_pointer(&source);
}
