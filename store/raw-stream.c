/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk is cut into pieces of a fixed size. A buffer remembers which of its clusters are not zero, so that
 * long stretches of zeros cost nothing but their writing.
 */
#include <store/raw-stream.h>

#include <common/bytes.h>
#include <store/manifest-private.h>
#include <store/ordered-writer.h>

#define PIECE_CLUSTERS 32u
#define PIECE_SIZE     (PIECE_CLUSTERS * CBT_CLUSTER_SIZE)

typedef struct {
  Store *store; /* constant, as manifest and options */
  const StoreManifest *manifest;
  const StoreOutputOptions *options;
  StoreOutput *output; /* of whoever has the turn */
} RawStream;

typedef struct {
  const RawStream *stream;
  StoreWorker *worker;
  guint64 first_cluster; /* of the piece in hand */
  StoreChunkId ids[PIECE_CLUSTERS];
  gboolean has_data[PIECE_CLUSTERS]; /* in data */
  guint8 *data;                      /* PIECE_SIZE */
} StreamThread;

static gboolean
keep_id(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  StreamThread *thread = user_data;
  thread->ids[cluster - thread->first_cluster] = *id;
  return TRUE;
}

static gboolean
fill_cluster(StreamThread *thread, guint i, GError **error)
{
  guint8 *data = thread->data + i * CBT_CLUSTER_SIZE;
  gboolean zero = store_chunk_id_is_zero(&thread->ids[i]);
  if (zero && thread->has_data[i])
    memset(data, 0, CBT_CLUSTER_SIZE);
  thread->has_data[i] = !zero;
  return zero || store_manifest_get_cluster(thread->worker, &thread->ids[i], data,
                                            (thread->first_cluster + i) * CBT_CLUSTER_SIZE, error);
}

static gboolean
make_piece(gpointer data, guint64 number, GError **error)
{
  StreamThread *thread = data;
  thread->first_cluster = number * PIECE_CLUSTERS;
  memset(thread->ids, 0, sizeof thread->ids);
  if (!store_manifest_walk(thread->worker, thread->stream->manifest, thread->first_cluster, PIECE_CLUSTERS,
                           keep_id, thread, error))
    return FALSE;
  for (guint i = 0; i < PIECE_CLUSTERS; i++)
    if (!fill_cluster(thread, i, error))
      return FALSE;
  return TRUE;
}

static gboolean
write_piece(gpointer data, guint64 number, GError **error)
{
  const StreamThread *thread = data;
  const RawStream *stream = thread->stream;
  guint64 length = MIN(PIECE_SIZE, stream->manifest->size - number * PIECE_SIZE);
  if (!store_output_write(stream->output, thread->data, length, error))
    return FALSE;
  if (stream->options->progress)
    stream->options->progress(stream->options->user_data, length);
  return TRUE;
}

static gpointer
thread_new(gpointer user_data, GError **error G_GNUC_UNUSED)
{
  StreamThread *thread = g_new0(StreamThread, 1);
  thread->stream = user_data;
  thread->worker = store_worker_new(thread->stream->store);
  thread->data = g_malloc0(PIECE_SIZE);
  return thread;
}

static void
thread_free(gpointer data)
{
  StreamThread *thread = data;
  store_worker_free(thread->worker);
  g_free(thread->data);
  g_free(thread);
}

gboolean
store_raw_stream_write(Store *store, const StoreManifest *manifest, StoreOutput *output,
                       const StoreOutputOptions *options, GError **error)
{
  static const StoreOrderedFuncs funcs = {thread_new, thread_free, make_piece, write_piece};
  RawStream stream = {store, manifest, options, output};
  return store_ordered_write(&funcs, &stream, cbt_div_up(manifest->size, PIECE_SIZE), options->n_threads,
                             options->cancellable, error);
}
