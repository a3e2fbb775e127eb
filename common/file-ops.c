/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/file-ops.h>

#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Where most of a large file would else wait in the page cache for its sync: making a 4 GiB archive took two
 * thirds of the time with it. */
#define WRITEBACK_STEP (G_GUINT64_CONSTANT(8) << 20) /* bytes */

static int
default_open(const CbtFileOps *ops G_GNUC_UNUSED, const char *path, int flags, mode_t mode)
{
  return open(path, flags | O_CLOEXEC, mode);
}

static int
default_close(const CbtFileOps *ops G_GNUC_UNUSED, int fd)
{
  return close(fd);
}

static ssize_t
default_pread(const CbtFileOps *ops G_GNUC_UNUSED, int fd, void *buffer, size_t length, off_t offset)
{
  return pread(fd, buffer, length, offset);
}

static ssize_t
default_pwrite(const CbtFileOps *ops G_GNUC_UNUSED, int fd, const void *buffer, size_t length, off_t offset)
{
  return pwrite(fd, buffer, length, offset);
}

static int
default_ftruncate(const CbtFileOps *ops G_GNUC_UNUSED, int fd, off_t length)
{
  return ftruncate(fd, length);
}

static int
default_fdatasync(const CbtFileOps *ops G_GNUC_UNUSED, int fd)
{
  return fdatasync(fd);
}

static int
default_rename(const CbtFileOps *ops G_GNUC_UNUSED, const char *from, const char *to)
{
  return rename(from, to);
}

static int
default_unlink(const CbtFileOps *ops G_GNUC_UNUSED, const char *path)
{
  return unlink(path);
}

static int
default_fsync_dir(const CbtFileOps *ops G_GNUC_UNUSED, const char *path)
{
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  int result = fsync(fd);
  int errsv = errno;
  close(fd);
  errno = errsv;
  return result;
}

const CbtFileOps *
cbt_file_ops_default(void)
{
  static const CbtFileOps ops = {
      .open = default_open,
      .close = default_close,
      .pread = default_pread,
      .pwrite = default_pwrite,
      .ftruncate = default_ftruncate,
      .fdatasync = default_fdatasync,
      .rename = default_rename,
      .unlink = default_unlink,
      .fsync_dir = default_fsync_dir,
  };
  return &ops;
}

gssize
cbt_file_pread_full(const CbtFileOps *ops, int fd, void *buffer, gsize length, guint64 offset)
{
  gsize done = 0;
  while (done < length) {
    ssize_t n = ops->pread(ops, fd, (char *) buffer + done, length - done, (off_t) (offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    done += (gsize) n;
  }
  return (gssize) done;
}

gboolean
cbt_file_pwrite_full(const CbtFileOps *ops, int fd, const void *buffer, gsize length, guint64 offset)
{
  gsize done = 0;
  while (done < length) {
    ssize_t n = ops->pwrite(ops, fd, (const char *) buffer + done, length - done, (off_t) (offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return FALSE;
    done += (gsize) n;
  }
  return TRUE;
}

gboolean
cbt_write_full(int fd, const void *data, gsize length)
{
  while (length > 0) {
    ssize_t n = write(fd, data, length);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return FALSE;
    data = (const char *) data + n;
    length -= (gsize) n;
  }
  return TRUE;
}

static gboolean
write_new_file(const CbtFileOps *ops, const char *path, const void *data, gsize length, mode_t mode)
{
  int fd = ops->open(ops, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
  if (fd < 0)
    return FALSE;
  gboolean ok = cbt_file_pwrite_full(ops, fd, data, length, 0) && ops->fdatasync(ops, fd) == 0;
  int errsv = errno;
  if (ops->close(ops, fd) != 0 && ok)
    return FALSE;
  errno = errsv;
  return ok;
}

gboolean
cbt_file_replace(const CbtFileOps *ops, const char *path, const void *data, gsize length, mode_t mode,
                 GError **error)
{
  g_autofree char *temporary = g_strconcat(path, ".tmp", NULL);
  g_autofree char *directory = g_path_get_dirname(path);
  if (write_new_file(ops, temporary, data, length, mode) && ops->rename(ops, temporary, path) == 0 &&
      ops->fsync_dir(ops, directory) == 0)
    return TRUE;
  int errsv = errno;
  ops->unlink(ops, temporary);
  cbt_set_error_errno(error, errsv, "cannot write %s", path);
  return FALSE;
}

static char *
read_open_file(const CbtFileOps *ops, int fd, const char *path, gsize limit, gsize *length, GError **error)
{
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%s is not a regular file", path);
    return NULL;
  }
  if ((guint64) st.st_size > limit) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "%s has %" G_GINT64_FORMAT " bytes, more than %zu", path,
                  (gint64) st.st_size, limit);
    return NULL;
  }
  g_autofree char *data = g_try_malloc((gsize) st.st_size + 1);
  if (!data) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "no memory for the %" G_GINT64_FORMAT " bytes of %s",
                  (gint64) st.st_size, path);
    return NULL;
  }
  gssize n = cbt_file_pread_full(ops, fd, data, (gsize) st.st_size, 0);
  if (n < 0) {
    cbt_set_error_errno(error, errno, "cannot read %s", path);
    return NULL;
  }
  data[n] = '\0';
  *length = (gsize) n;
  return g_steal_pointer(&data);
}

char *
cbt_file_read(const CbtFileOps *ops, const char *path, gsize limit, gsize *length, GError **error)
{
  int fd = ops->open(ops, path, O_RDONLY | O_NONBLOCK, 0);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return NULL;
  }
  char *data = read_open_file(ops, fd, path, limit, length, error);
  ops->close(ops, fd);
  return data;
}

void
cbt_file_begin_writeback(int fd, guint64 offset, gsize length)
{
  guint64 first = offset / WRITEBACK_STEP * WRITEBACK_STEP;
  guint64 end = (offset + length) / WRITEBACK_STEP * WRITEBACK_STEP;
  if (end > first)
    sync_file_range(fd, (off_t) first, (off_t) (end - first), SYNC_FILE_RANGE_WRITE);
}
