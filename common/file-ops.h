/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file operations that durability rests on, as a small table, so that tests can fail call n, shorten a
 * write, or drop what was never synced. Production code uses cbt_file_ops_default().
 *
 * Functions return what the system call returns, with errno. Paths are absolute or relative to the working
 * directory. Only the operations that write durable state go through the table; plain reads may too.
 */
#pragma once

#include <glib.h>
#include <sys/stat.h>
#include <sys/types.h>

typedef struct CbtFileOps CbtFileOps;

/* A time of a file in nanoseconds since 1970. */
static inline gint64
cbt_timespec_ns(const struct timespec *time)
{
  return (gint64) time->tv_sec * 1000000000 + time->tv_nsec;
}

struct CbtFileOps {
  int (*open)(const CbtFileOps *ops, const char *path, int flags, mode_t mode); /* O_CLOEXEC is added */
  int (*close)(const CbtFileOps *ops, int fd);
  ssize_t (*pread)(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset);
  ssize_t (*pwrite)(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset);
  int (*ftruncate)(const CbtFileOps *ops, int fd, off_t length);
  int (*fdatasync)(const CbtFileOps *ops, int fd);
  int (*rename)(const CbtFileOps *ops, const char *from, const char *to);
  int (*unlink)(const CbtFileOps *ops, const char *path);
  int (*fsync_dir)(const CbtFileOps *ops, const char *path);
  void *user; /* of whoever made the table */
};

const CbtFileOps *cbt_file_ops_default(void);

/* Reads exactly LENGTH bytes at OFFSET. Returns the bytes read, fewer only at the end of the file; -1 with
 * errno. */
gssize cbt_file_pread_full(const CbtFileOps *ops, int fd, void *buffer, gsize length, guint64 offset);
/* Writes all LENGTH bytes at OFFSET. FALSE with errno set. */
gboolean cbt_file_pwrite_full(const CbtFileOps *ops, int fd, const void *buffer, gsize length,
                              guint64 offset);

/* The same with the default table. */
static inline gssize
cbt_pread_full(int fd, void *buffer, gsize length, guint64 offset)
{
  return cbt_file_pread_full(cbt_file_ops_default(), fd, buffer, length, offset);
}

static inline gboolean
cbt_pwrite_full(int fd, const void *buffer, gsize length, guint64 offset)
{
  return cbt_file_pwrite_full(cbt_file_ops_default(), fd, buffer, length, offset);
}

/* Writes all LENGTH bytes to FD where it stands: pipes and other streams. FALSE with errno set. */
gboolean cbt_write_full(int fd, const void *data, gsize length);
/* After LENGTH bytes were appended to FD at OFFSET: lets the kernel write what came so far to the disk, some MiB at a
 * time, so that a sync at the end finds little to do. Only ever a hint. */
void cbt_file_begin_writeback(int fd, guint64 offset, gsize length);

/*
 * Replaces PATH by LENGTH bytes of DATA so that after a crash there is the old file or the new one: temporary
 * file beside it, fdatasync, rename, fsync of the directory. Errors carry CBT_ERROR codes and name PATH; the
 * temporary file is removed.
 */
gboolean cbt_file_replace(const CbtFileOps *ops, const char *path, const void *data, gsize length,
                          mode_t mode, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * Reads the whole of PATH, at most LIMIT bytes (CBT_ERROR_TOO_LARGE above), into a NUL-terminated buffer
 * (transfer full); *length without the NUL.
 */
char *cbt_file_read(const CbtFileOps *ops, const char *path, gsize limit, gsize *length,
                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
