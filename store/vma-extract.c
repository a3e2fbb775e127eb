/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Within an extent, blocks that lie behind each other both in the archive and on the disk are written at
 * once. */
#include <store/vma-extract.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <store/vma-pump.h>

typedef struct {
  const StoreVmaHeader *header;
  const StoreVmaTarget *targets;
} Extract;

/* A run of blocks on its way to a target. */
typedef struct {
  guint8 device; /* 0: no run */
  guint64 offset;
  guint64 length;
  const guint8 *data; /* NULL: zeros */
} Run;

static gboolean
write_zeros(int fd, guint64 offset, guint64 length)
{
  static const guint8 zeros[STORE_VMA_CLUSTER_SIZE];
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) length) == 0)
    return TRUE;
  for (guint64 done = 0; done < length; done += sizeof zeros)
    if (!cbt_pwrite_full(fd, zeros, MIN(sizeof zeros, length - done), offset + done))
      return FALSE;
  return TRUE;
}

static gboolean
flush_run(const Extract *extract, Run *run, GError **error)
{
  Run now = *run;
  *run = (Run){0};
  const StoreVmaTarget *target = &extract->targets[now.device];
  if (now.device == 0 || target->fd < 0 || (!now.data && !target->write_zeros))
    return TRUE;
  const StoreVmaDevice *device = store_vma_header_find_device(extract->header, now.device);
  guint64 length = MIN(now.length, device->size - now.offset);
  if (now.data ? cbt_pwrite_full(target->fd, now.data, length, now.offset)
               : write_zeros(target->fd, now.offset, length))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write disk '%s' at offset %" G_GUINT64_FORMAT, device->name,
                      now.offset);
  return FALSE;
}

static gboolean
add_to_run(const Extract *extract, Run *run, guint8 device, guint64 offset, const guint8 *data,
           GError **error)
{
  gboolean follows = run->device == device && run->offset + run->length == offset && !run->data == !data &&
                     (!data || run->data + run->length == data);
  if (!follows) {
    if (!flush_run(extract, run, error))
      return FALSE;
    *run = (Run){device, offset, 0, data};
  }
  run->length += STORE_VMA_BLOCK_SIZE;
  return TRUE;
}

static gboolean
write_extent(const Extract *extract, const StoreVmaExtent *extent, GError **error)
{
  Run run = {0};
  for (guint i = 0; i < extent->n_clusters; i++) {
    const StoreVmaCluster *cluster = &extent->clusters[i];
    const StoreVmaDevice *device = store_vma_header_find_device(extract->header, cluster->device);
    guint64 start = (guint64) cluster->number * STORE_VMA_CLUSTER_SIZE;
    const guint8 *blocks = cluster->blocks;
    for (guint64 at = 0; at < MIN(STORE_VMA_CLUSTER_SIZE, device->size - start); at += STORE_VMA_BLOCK_SIZE) {
      gboolean there = (cluster->mask >> (at / STORE_VMA_BLOCK_SIZE)) & 1;
      if (!add_to_run(extract, &run, cluster->device, start + at, there ? blocks : NULL, error))
        return FALSE;
      blocks += there ? STORE_VMA_BLOCK_SIZE : 0;
    }
  }
  return flush_run(extract, &run, error);
}

static gboolean
take_extent(gpointer extract, const StoreVmaExtent *extent, GError **error)
{
  return write_extent(extract, extent, error);
}

gboolean
store_vma_extract(StoreVmaReader *reader, const StoreVmaTarget targets[STORE_VMA_DEVICE_MAX + 1],
                  guint n_threads, GError **error)
{
  Extract extract = {store_vma_reader_header(reader), targets};
  StoreVmaTaker taker = {.take = take_extent, .user_data = &extract};
  return store_vma_pump(reader, &taker, n_threads, error);
}
