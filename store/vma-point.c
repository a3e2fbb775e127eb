/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/vma-point.h>

#include <common/bytes.h>
#include <common/error.h>

typedef struct {
  Store *store;
  const StorePoint *point;
  void (*progress)(gpointer user_data, guint64 bytes);
  gpointer user_data;
} PointContents;

typedef struct {
  const StorePoint *point;
  StoreWorker *worker;
  guint64 first; /* cluster that ids begin at */
  StoreChunkId ids[STORE_VMA_EXTENT_CLUSTERS];
} PointThread;

static gboolean
get_config(StoreWorker *worker, StoreVmaHeader *header, const StorePointConfig *config, GError **error)
{
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  gsize length = 0;
  if (config->size > 0 && !store_get(worker, &config->id, data, &length, error)) {
    g_prefix_error(error, "configuration file '%s': ", config->name);
    return FALSE;
  }
  store_vma_header_add_config(header, config->name, data, length);
  return TRUE;
}

StoreVmaHeader *
store_vma_point_header(StoreWorker *worker, const StorePoint *point, GError **error)
{
  g_autoptr(StoreVmaHeader) header = store_vma_header_new();
  header->uuid = point->uuid;
  header->time = point->time / G_USEC_PER_SEC;
  for (guint i = 0; i < point->configs->len; i++)
    if (!get_config(worker, header, point->configs->pdata[i], error))
      return NULL;
  for (guint i = 0; i < point->disks->len; i++) {
    const StorePointDisk *disk = point->disks->pdata[i];
    if (store_vma_header_add_device(header, disk->name, disk->manifest.size) != 0)
      continue;
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "a VMA archive holds at most %u disks",
                  STORE_VMA_DEVICE_MAX);
    return NULL;
  }
  return g_steal_pointer(&header);
}

static gpointer
thread_new(gpointer user_data, GError **error G_GNUC_UNUSED)
{
  const PointContents *contents = user_data;
  PointThread *thread = g_new0(PointThread, 1);
  thread->point = contents->point;
  thread->worker = store_worker_new(contents->store);
  return thread;
}

static void
thread_free(gpointer data)
{
  PointThread *thread = data;
  store_worker_free(thread->worker);
  g_free(thread);
}

static gboolean
keep_id(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  PointThread *thread = user_data;
  thread->ids[cluster - thread->first] = *id;
  return TRUE;
}

static gboolean
add_cluster(PointThread *thread, const StoreVmaDevice *device, guint64 number, StoreVmaExtent *extent,
            GError **error)
{
  const StoreChunkId *id = &thread->ids[number - thread->first];
  gsize length;
  if (store_chunk_id_is_zero(id)) {
    store_vma_extent_add_zero(extent, device->id, (guint32) number);
    return TRUE;
  }
  if (!store_get(thread->worker, id, store_vma_extent_reserve(extent), &length, error)) {
    g_prefix_error(error, "disk '%s' at offset %" G_GUINT64_FORMAT ": ", device->name,
                   number * CBT_CLUSTER_SIZE);
    return FALSE;
  }
  if (length != CBT_CLUSTER_SIZE) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "disk '%s' at offset %" G_GUINT64_FORMAT ": its chunk has %zu bytes", device->name,
                  number * CBT_CLUSTER_SIZE, length);
    return FALSE;
  }
  store_vma_extent_add(extent, device->id, (guint32) number);
  return TRUE;
}

static gboolean
add_clusters(gpointer data, const StoreVmaDevice *device, guint64 first, guint n, StoreVmaExtent *extent,
             GError **error)
{
  PointThread *thread = data;
  const StorePointDisk *disk = thread->point->disks->pdata[device->id - 1];
  thread->first = first;
  memset(thread->ids, 0, sizeof thread->ids);
  if (!store_manifest_walk(thread->worker, &disk->manifest, first, n, keep_id, thread, error))
    return FALSE;
  for (guint64 number = first; number < first + n; number++)
    if (!add_cluster(thread, device, number, extent, error))
      return FALSE;
  return TRUE;
}

static void
report(gpointer data, guint64 bytes)
{
  const PointContents *contents = data;
  contents->progress(contents->user_data, bytes);
}

gboolean
store_vma_write_point(Store *store, const StorePoint *point, StoreVmaSink *sink, guint n_threads,
                      void (*progress)(gpointer user_data, guint64 bytes), gpointer user_data,
                      GCancellable *cancellable, GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  g_autoptr(StoreVmaHeader) header = store_vma_point_header(worker, point, error);
  PointContents point_contents = {store, point, progress, user_data};
  StoreVmaContents contents = {thread_new, thread_free, add_clusters, progress ? report : NULL,
                               &point_contents};
  return header && store_vma_write(header, &contents, sink, n_threads, cancellable, error);
}
