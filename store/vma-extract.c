/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A few extents go round between the reading thread and the writing ones: free ones wait in one queue, full
 * ones in another. Within an extent, blocks that lie behind each other both in the archive and on the disk
 * are written at once.
 */
#include <store/vma-extract.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

typedef struct {
  const StoreVmaHeader *header; /* constant, as targets */
  const StoreVmaTarget *targets;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  GQueue free; /* of StoreVmaExtent; under lock, as all below */
  GQueue full;
  gboolean reading_done;
  GError *error;
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

static void
fail_locked(Extract *extract, GError *error)
{
  if (!extract->error)
    extract->error = error;
  else
    g_clear_error(&error);
}

/* NULL when there will be no more. Under lock. */
static StoreVmaExtent *
take_full_locked(Extract *extract)
{
  while (g_queue_is_empty(&extract->full) && !extract->reading_done && !extract->error)
    pthread_cond_wait(&extract->changed, &extract->lock);
  return extract->error ? NULL : g_queue_pop_head(&extract->full);
}

static void *
write_thread(void *data)
{
  Extract *extract = data;
  StoreVmaExtent *extent;
  pthread_mutex_lock(&extract->lock);
  while ((extent = take_full_locked(extract)) != NULL) {
    GError *error = NULL;
    pthread_mutex_unlock(&extract->lock);
    gboolean ok = write_extent(extract, extent, &error);
    pthread_mutex_lock(&extract->lock);
    if (!ok)
      fail_locked(extract, error);
    g_queue_push_tail(&extract->free, extent);
    pthread_cond_broadcast(&extract->changed);
  }
  pthread_mutex_unlock(&extract->lock);
  return NULL;
}

/* NULL when something failed. */
static StoreVmaExtent *
take_free(Extract *extract)
{
  pthread_mutex_lock(&extract->lock);
  while (g_queue_is_empty(&extract->free) && !extract->error)
    pthread_cond_wait(&extract->changed, &extract->lock);
  StoreVmaExtent *extent = extract->error ? NULL : g_queue_pop_head(&extract->free);
  pthread_mutex_unlock(&extract->lock);
  return extent;
}

static void
read_all(Extract *extract, StoreVmaReader *reader)
{
  StoreVmaExtent *extent;
  while ((extent = take_free(extract)) != NULL) {
    GError *error = NULL;
    gboolean more = store_vma_reader_next(reader, extent, &error);
    gboolean ended = !more && (error || !store_vma_reader_check_complete(reader, &error) || TRUE);
    pthread_mutex_lock(&extract->lock);
    g_queue_push_tail(more ? &extract->full : &extract->free, extent);
    if (error)
      fail_locked(extract, error);
    extract->reading_done = ended;
    pthread_cond_broadcast(&extract->changed);
    pthread_mutex_unlock(&extract->lock);
    if (ended)
      return;
  }
}

static void
run_threads(Extract *extract, StoreVmaReader *reader, guint n_threads)
{
  g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);
  guint n_started = 0;
  while (n_started < n_threads && pthread_create(&threads[n_started], NULL, write_thread, extract) == 0)
    n_started++;
  if (n_started > 0)
    read_all(extract, reader);
  else
    cbt_set_error(&extract->error, CBT_ERROR_FAILED, NULL, "cannot start a thread");
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

gboolean
store_vma_extract(StoreVmaReader *reader, const StoreVmaTarget targets[STORE_VMA_DEVICE_MAX + 1],
                  guint n_threads, GError **error)
{
  Extract extract = {.header = store_vma_reader_header(reader), .targets = targets};
  n_threads = MAX(n_threads, 1);
  pthread_mutex_init(&extract.lock, NULL);
  pthread_cond_init(&extract.changed, NULL);
  for (guint i = 0; i < n_threads + 2; i++)
    g_queue_push_tail(&extract.free, store_vma_extent_new());
  run_threads(&extract, reader, n_threads);
  g_queue_clear_full(&extract.free, (GDestroyNotify) store_vma_extent_free);
  g_queue_clear_full(&extract.full, (GDestroyNotify) store_vma_extent_free);
  pthread_cond_destroy(&extract.changed);
  pthread_mutex_destroy(&extract.lock);
  if (extract.error)
    g_propagate_error(error, extract.error);
  return extract.error == NULL;
}
