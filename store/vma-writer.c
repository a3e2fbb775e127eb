/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All clusters of all disks are numbered through; extent k holds those from 58 k on, and is piece k of the
 * ordered writer.
 */
#include <store/vma-writer.h>

#include <common/bytes.h>
#include <store/ordered-writer.h>

typedef struct {
  const StoreVmaHeader *header; /* constant */
  const StoreVmaContents *contents;
  StoreVmaSink *sink; /* of whoever has the turn */
  guint64 n_clusters; /* constant */
} Write;

typedef struct {
  const Write *write;
  gpointer contents; /* the contents' state of this thread */
  StoreVmaExtent *extent;
} WriteThread;

static guint64
device_clusters(const StoreVmaDevice *device)
{
  return cbt_div_up(device->size, STORE_VMA_CLUSTER_SIZE);
}

static guint64
first_cluster(guint64 number)
{
  return number * STORE_VMA_EXTENT_CLUSTERS;
}

static guint64
end_cluster(const Write *write, guint64 number)
{
  return MIN(first_cluster(number) + STORE_VMA_EXTENT_CLUSTERS, write->n_clusters);
}

/* Adds clusters [FIRST, END) of the numbering through all disks. */
static gboolean
fill_extent(const WriteThread *thread, guint64 first, guint64 end, GError **error)
{
  const Write *write = thread->write;
  guint64 base = 0;
  store_vma_extent_clear(thread->extent);
  for (guint i = 0; i < write->header->devices->len && first < end; i++) {
    const StoreVmaDevice *device = write->header->devices->pdata[i];
    guint64 limit = MIN(end, base + device_clusters(device));
    if (first < limit) {
      if (!write->contents->add(thread->contents, device, first - base, (guint) (limit - first),
                                thread->extent, error))
        return FALSE;
      first = limit;
    }
    base += device_clusters(device);
  }
  return TRUE;
}

static gboolean
make_extent(gpointer data, guint64 number, GError **error)
{
  WriteThread *thread = data;
  if (!fill_extent(thread, first_cluster(number), end_cluster(thread->write, number), error))
    return FALSE;
  store_vma_extent_encode(thread->extent, &thread->write->header->uuid);
  return TRUE;
}

static gboolean
write_extent(gpointer data, guint64 number, GError **error)
{
  const WriteThread *thread = data;
  const Write *write = thread->write;
  if (!store_vma_sink_write(write->sink, thread->extent->buffer, thread->extent->length, error))
    return FALSE;
  if (write->contents->progress)
    write->contents->progress(write->contents->user_data,
                              (end_cluster(write, number) - first_cluster(number)) * STORE_VMA_CLUSTER_SIZE);
  return TRUE;
}

static gpointer
thread_new(gpointer user_data, GError **error)
{
  const Write *write = user_data;
  gpointer contents = write->contents->thread_new(write->contents->user_data, error);
  if (!contents)
    return NULL;
  WriteThread *thread = g_new0(WriteThread, 1);
  thread->write = write;
  thread->contents = contents;
  thread->extent = store_vma_extent_new();
  return thread;
}

static void
thread_free(gpointer data)
{
  WriteThread *thread = data;
  thread->write->contents->thread_free(thread->contents);
  store_vma_extent_free(thread->extent);
  g_free(thread);
}

gboolean
store_vma_write(const StoreVmaHeader *header, const StoreVmaContents *contents, StoreVmaSink *sink,
                guint n_threads, GCancellable *cancellable, GError **error)
{
  static const StoreOrderedFuncs funcs = {thread_new, thread_free, make_extent, write_extent};
  gsize length;
  g_autofree guint8 *data = store_vma_header_encode(header, &length, error);
  if (!data || !store_vma_sink_write(sink, data, length, error))
    return FALSE;
  Write write = {.header = header, .contents = contents, .sink = sink};
  for (guint i = 0; i < header->devices->len; i++)
    write.n_clusters += device_clusters(header->devices->pdata[i]);
  guint64 n_extents = cbt_div_up(write.n_clusters, STORE_VMA_EXTENT_CLUSTERS);
  return store_ordered_write(&funcs, &write, n_extents, MAX(n_threads, 1), cancellable, error) &&
         store_vma_sink_finish(sink, error);
}
