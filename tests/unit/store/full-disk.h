/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File operations of a disk that takes no byte more while it is said to be full. */
#pragma once

#include <common/file-ops.h>
#include <errno.h>

typedef struct {
  CbtFileOps table; /* first */
  gint is_full;     /* atomic */
} FullDisk;

static ssize_t
full_disk_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  const CbtFileOps *inner = cbt_file_ops_default();
  if (!g_atomic_int_get(&((const FullDisk *) ops)->is_full))
    return inner->pwrite(inner, fd, buffer, length, offset);
  /* The first half fits. */
  if (length > 1 && inner->pwrite(inner, fd, buffer, length / 2, offset) < 0)
    return -1;
  errno = ENOSPC;
  return -1;
}

static void
full_disk_init(FullDisk *disk)
{
  *disk = (FullDisk){.table = *cbt_file_ops_default()};
  disk->table.pwrite = full_disk_pwrite;
}
