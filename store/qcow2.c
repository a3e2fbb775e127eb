/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file's pieces, made by several threads and written in order: clusters of metadata, some at a time; then
 * the L2 tables, one by one; then the data, a slice of the disk at a time. Offsets are known from the plan,
 * so each piece is made without knowing the others.
 */
#include <store/qcow2-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/manifest-private.h>
#include <store/ordered-writer.h>

typedef struct {
  const StoreQcow2 *image; /* constant, as all up to n_metadata */
  const StoreOutputOptions *options;
  guint64 n_metadata;  /* pieces of metadata: the first ones */
  StoreOutput *output; /* of whoever has the turn */
} Write;

typedef struct {
  const Write *write;
  StoreWorker *worker;
  guint8 *buffer; /* STORE_QCOW2_SLICE_SIZE */
  gsize length;   /* of the piece in it */
} WriteThread;

static void
make_metadata(WriteThread *thread, guint64 number)
{
  const StoreQcow2 *image = thread->write->image;
  guint64 first = number * STORE_QCOW2_SLICE_CLUSTERS;
  guint64 end = MIN(first + STORE_QCOW2_SLICE_CLUSTERS, image->l2);
  for (guint64 i = first; i < end; i++)
    store_qcow2_encode_metadata(image, i, thread->buffer + (i - first) * STORE_QCOW2_CLUSTER_SIZE);
  thread->length = (end - first) * STORE_QCOW2_CLUSTER_SIZE;
}

/* ---- L2 tables ---- */

typedef struct {
  guint8 *table;
  guint64 offset; /* of the next data cluster in the file */
} FillL2;

static gboolean
fill_entry(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  FillL2 *fill = user_data;
  guint8 *entry = fill->table + cluster % STORE_QCOW2_N_ENTRIES * STORE_QCOW2_ENTRY_SIZE;
  if (store_chunk_id_is_zero(id)) {
    cbt_put_be64(entry, STORE_QCOW2_ZERO);
    return TRUE;
  }
  cbt_put_be64(entry, fill->offset | STORE_QCOW2_COPIED);
  fill->offset += STORE_QCOW2_CLUSTER_SIZE;
  return TRUE;
}

static gboolean
make_l2(WriteThread *thread, guint64 number, GError **error)
{
  const StoreQcow2 *image = thread->write->image;
  const StoreQcow2Region *region = store_qcow2_region(image, number);
  FillL2 fill = {thread->buffer, (image->data + region->first_data) * STORE_QCOW2_CLUSTER_SIZE};
  memset(thread->buffer, 0, STORE_QCOW2_CLUSTER_SIZE);
  thread->length = STORE_QCOW2_CLUSTER_SIZE;
  return store_qcow2_changes(image, thread->worker, region->index * STORE_QCOW2_N_ENTRIES,
                             STORE_QCOW2_N_ENTRIES, fill_entry, &fill, error);
}

/* ---- data ---- */

/* The last region that begins at SLICE or before: those without data begin where the next one does. */
static const StoreQcow2Region *
find_region_of_slice(const StoreQcow2 *image, guint64 slice)
{
  guint64 low = 0, high = image->regions->len;
  while (high - low > 1) {
    guint64 middle = (low + high) / 2;
    if (store_qcow2_region(image, middle)->first_slice <= slice)
      low = middle;
    else
      high = middle;
  }
  return store_qcow2_region(image, low);
}

/* The first cluster of the disk in slice NUMBER of those with data. */
static guint64
first_cluster_of_slice(const StoreQcow2 *image, guint64 number)
{
  const StoreQcow2Region *region = find_region_of_slice(image, number);
  guint64 left = number - region->first_slice;
  guint slice = 0;
  for (;; slice++)
    if ((region->slices[slice / 64] >> (slice % 64)) & 1 && left-- == 0)
      break;
  return region->index * STORE_QCOW2_N_ENTRIES + slice * STORE_QCOW2_SLICE_CLUSTERS;
}

typedef struct {
  guint n;
  guint64 clusters[STORE_QCOW2_SLICE_CLUSTERS];
  StoreChunkId ids[STORE_QCOW2_SLICE_CLUSTERS];
} Slice;

static gboolean
keep_data(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  Slice *slice = user_data;
  if (store_chunk_id_is_zero(id))
    return TRUE;
  slice->clusters[slice->n] = cluster;
  slice->ids[slice->n++] = *id;
  return TRUE;
}

static gboolean
make_data(WriteThread *thread, guint64 number, GError **error)
{
  const StoreQcow2 *image = thread->write->image;
  Slice slice = {0};
  thread->length = 0;
  if (!store_qcow2_changes(image, thread->worker, first_cluster_of_slice(image, number),
                           STORE_QCOW2_SLICE_CLUSTERS, keep_data, &slice, error))
    return FALSE;
  for (guint i = 0; i < slice.n; i++) {
    if (!store_manifest_get_cluster(thread->worker, &slice.ids[i], thread->buffer + thread->length,
                                    slice.clusters[i] * CBT_CLUSTER_SIZE, error))
      return FALSE;
    thread->length += STORE_QCOW2_CLUSTER_SIZE;
  }
  return TRUE;
}

/* ---- all of it ---- */

static gboolean
make_piece(gpointer data, guint64 number, GError **error)
{
  WriteThread *thread = data;
  const Write *write = thread->write;
  if (number < write->n_metadata) {
    make_metadata(thread, number);
    return TRUE;
  }
  number -= write->n_metadata;
  if (number < write->image->regions->len)
    return make_l2(thread, number, error);
  return make_data(thread, number - write->image->regions->len, error);
}

static gboolean
write_piece(gpointer data, guint64 number G_GNUC_UNUSED, GError **error)
{
  const WriteThread *thread = data;
  const Write *write = thread->write;
  if (!store_output_write(write->output, thread->buffer, thread->length, error))
    return FALSE;
  if (write->options->progress)
    write->options->progress(write->options->user_data, thread->length);
  return TRUE;
}

static gpointer
thread_new(gpointer user_data, GError **error G_GNUC_UNUSED)
{
  WriteThread *thread = g_new0(WriteThread, 1);
  thread->write = user_data;
  thread->worker = store_worker_new(thread->write->image->store);
  thread->buffer = g_malloc(STORE_QCOW2_SLICE_SIZE);
  return thread;
}

static void
thread_free(gpointer data)
{
  WriteThread *thread = data;
  store_worker_free(thread->worker);
  g_free(thread->buffer);
  g_free(thread);
}

gboolean
store_qcow2_write(StoreQcow2 *image, StoreOutput *output, const StoreOutputOptions *options, GError **error)
{
  static const StoreOrderedFuncs funcs = {thread_new, thread_free, make_piece, write_piece};
  guint64 start = output->written;
  Write write = {.image = image, .options = options, .output = output};
  write.n_metadata = cbt_div_up(image->l2, STORE_QCOW2_SLICE_CLUSTERS);
  if (!store_ordered_write(&funcs, &write, write.n_metadata + image->regions->len + image->n_slices,
                           options->n_threads, options->cancellable, error))
    return FALSE;
  g_assert(output->written - start == store_qcow2_length(image));
  return TRUE;
}
