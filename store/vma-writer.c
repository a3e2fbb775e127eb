/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All clusters of all disks are numbered through; extent k holds those from 58 k on. Threads take the next
 * extent, fill it, and write it when it is its turn. The first failure stops all of them.
 */
#include <store/vma-writer.h>

#include <common/bytes.h>
#include <common/error.h>
#include <pthread.h>
#include <stdatomic.h>

typedef struct {
  const StoreVmaHeader *header; /* constant, up to n_extents */
  const StoreVmaContents *contents;
  StoreVmaSink *sink;
  GCancellable *cancellable;
  guint64 n_clusters;
  guint64 n_extents;
  atomic_ullong next_extent; /* to be filled */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  guint64 turn; /* the extent to be written next; under lock, as error */
  GError *error;
} Write;

static guint64
device_clusters(const StoreVmaDevice *device)
{
  return cbt_div_up(device->size, STORE_VMA_CLUSTER_SIZE);
}

/* Adds clusters [FIRST, END) of the numbering through all disks. */
static gboolean
fill_extent(const Write *write, gpointer thread, guint64 first, guint64 end, StoreVmaExtent *extent,
            GError **error)
{
  guint64 base = 0;
  store_vma_extent_clear(extent);
  for (guint i = 0; i < write->header->devices->len && first < end; i++) {
    const StoreVmaDevice *device = write->header->devices->pdata[i];
    guint64 limit = MIN(end, base + device_clusters(device));
    if (first < limit) {
      if (!write->contents->add(thread, device, first - base, (guint) (limit - first), extent, error))
        return FALSE;
      first = limit;
    }
    base += device_clusters(device);
  }
  return TRUE;
}

/* FALSE if the others have failed meanwhile. */
static gboolean
wait_for_turn(Write *write, guint64 number)
{
  pthread_mutex_lock(&write->lock);
  while (write->turn != number && !write->error)
    pthread_cond_wait(&write->changed, &write->lock);
  gboolean ok = !write->error;
  pthread_mutex_unlock(&write->lock);
  return ok;
}

static void
pass_turn(Write *write)
{
  pthread_mutex_lock(&write->lock);
  write->turn++;
  pthread_cond_broadcast(&write->changed);
  pthread_mutex_unlock(&write->lock);
}

static void
fail(Write *write, GError *error)
{
  pthread_mutex_lock(&write->lock);
  if (!write->error)
    write->error = g_steal_pointer(&error);
  pthread_cond_broadcast(&write->changed);
  pthread_mutex_unlock(&write->lock);
  g_clear_error(&error);
}

static gboolean
check_going_on(const Write *write, GError **error)
{
  if (!g_cancellable_is_cancelled(write->cancellable))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return FALSE;
}

static gboolean
make_extent(Write *write, gpointer thread, guint64 number, StoreVmaExtent *extent, GError **error)
{
  guint64 first = number * STORE_VMA_EXTENT_CLUSTERS;
  guint64 end = MIN(first + STORE_VMA_EXTENT_CLUSTERS, write->n_clusters);
  if (!check_going_on(write, error) || !fill_extent(write, thread, first, end, extent, error))
    return FALSE;
  store_vma_extent_encode(extent, &write->header->uuid);
  if (!wait_for_turn(write, number))
    return FALSE;
  if (!store_vma_sink_write(write->sink, extent->buffer, extent->length, error))
    return FALSE;
  if (write->contents->progress)
    write->contents->progress(write->contents->user_data, (end - first) * STORE_VMA_CLUSTER_SIZE);
  pass_turn(write);
  return TRUE;
}

static void *
write_thread(void *data)
{
  Write *write = data;
  GError *error = NULL;
  gpointer thread = write->contents->thread_new(write->contents->user_data, &error);
  g_autoptr(StoreVmaExtent) extent = store_vma_extent_new();
  guint64 number;
  while (thread && (number = atomic_fetch_add(&write->next_extent, 1)) < write->n_extents &&
         make_extent(write, thread, number, extent, &error))
    continue;
  if (error)
    fail(write, error);
  if (thread)
    write->contents->thread_free(thread);
  return NULL;
}

static void
run_threads(Write *write, guint n_threads)
{
  n_threads = (guint) MAX(1, MIN(n_threads, write->n_extents));
  g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);
  guint n_started = 0;
  while (n_started < n_threads && pthread_create(&threads[n_started], NULL, write_thread, write) == 0)
    n_started++;
  if (n_started == 0)
    write_thread(write);
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

gboolean
store_vma_write(const StoreVmaHeader *header, const StoreVmaContents *contents, StoreVmaSink *sink,
                guint n_threads, GCancellable *cancellable, GError **error)
{
  gsize length;
  g_autofree guint8 *data = store_vma_header_encode(header, &length, error);
  if (!data || !store_vma_sink_write(sink, data, length, error))
    return FALSE;
  Write write = {.header = header, .contents = contents, .sink = sink, .cancellable = cancellable};
  for (guint i = 0; i < header->devices->len; i++)
    write.n_clusters += device_clusters(header->devices->pdata[i]);
  write.n_extents = cbt_div_up(write.n_clusters, STORE_VMA_EXTENT_CLUSTERS);
  pthread_mutex_init(&write.lock, NULL);
  pthread_cond_init(&write.changed, NULL);
  run_threads(&write, n_threads);
  pthread_cond_destroy(&write.changed);
  pthread_mutex_destroy(&write.lock);
  if (write.error) {
    g_propagate_error(error, write.error);
    return FALSE;
  }
  return store_vma_sink_finish(sink, error);
}
