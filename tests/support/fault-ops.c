/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/fault-ops.h>

#include <errno.h>

/* Counts the call; TRUE with errno set if it is one that fails. */
static gboolean
fails(const CbtFileOps *ops)
{
  CbtFaultOps *faults = ops->user;
  guint n = __atomic_add_fetch(&faults->n_calls, 1, __ATOMIC_RELAXED);
  if (faults->fail_at == 0 || n < faults->fail_at)
    return FALSE;
  if (n > faults->fail_at && (faults->flags & CBT_FAULT_FOR_EVER) == 0)
    return FALSE;
  __atomic_add_fetch(&faults->n_failed, 1, __ATOMIC_RELAXED);
  errno = faults->errsv;
  return TRUE;
}

static const CbtFileOps *
real(void)
{
  return cbt_file_ops_default();
}

static int
fault_open(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  return fails(ops) ? -1 : real()->open(real(), path, flags, mode);
}

static int
fault_close(const CbtFileOps *ops, int fd)
{
  int result = real()->close(real(), fd);
  return fails(ops) ? -1 : result;
}

static ssize_t
fault_pread(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  return fails(ops) ? -1 : real()->pread(real(), fd, buffer, length, offset);
}

static ssize_t
fault_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  CbtFaultOps *faults = ops->user;
  if (fails(ops)) {
    int errsv = errno;
    if ((faults->flags & CBT_FAULT_TORN) != 0 && real()->pwrite(real(), fd, buffer, length / 2, offset) < 0)
      return -1;
    errno = errsv;
    return -1;
  }
  if (faults->longest_write != 0)
    length = MIN(length, faults->longest_write);
  return real()->pwrite(real(), fd, buffer, length, offset);
}

static int
fault_ftruncate(const CbtFileOps *ops, int fd, off_t length)
{
  return fails(ops) ? -1 : real()->ftruncate(real(), fd, length);
}

static int
fault_fdatasync(const CbtFileOps *ops, int fd)
{
  return fails(ops) ? -1 : real()->fdatasync(real(), fd);
}

static int
fault_rename(const CbtFileOps *ops, const char *from, const char *to)
{
  return fails(ops) ? -1 : real()->rename(real(), from, to);
}

static int
fault_unlink(const CbtFileOps *ops, const char *path)
{
  return fails(ops) ? -1 : real()->unlink(real(), path);
}

static int
fault_fsync_dir(const CbtFileOps *ops, const char *path)
{
  return fails(ops) ? -1 : real()->fsync_dir(real(), path);
}

void
cbt_fault_ops_init(CbtFaultOps *faults)
{
  *faults = (CbtFaultOps){.ops = {.open = fault_open,
                                  .close = fault_close,
                                  .pread = fault_pread,
                                  .pwrite = fault_pwrite,
                                  .ftruncate = fault_ftruncate,
                                  .fdatasync = fault_fdatasync,
                                  .rename = fault_rename,
                                  .unlink = fault_unlink,
                                  .fsync_dir = fault_fsync_dir,
                                  .user = faults}};
}

void
cbt_fault_ops_arm(CbtFaultOps *faults, guint n, int errsv, CbtFaultFlags flags)
{
  faults->n_calls = 0;
  faults->n_failed = 0;
  faults->fail_at = n;
  faults->errsv = errsv;
  faults->flags = flags;
}

gboolean
cbt_fault_ops_disarm(CbtFaultOps *faults)
{
  faults->fail_at = 0;
  return faults->n_failed != 0;
}
