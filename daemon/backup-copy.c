/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One disk through the pipeline: this thread reads (io_uring), workers settle, hash, compress and store each
 * block, and whoever finds the next block in order done sets its clusters in the manifest.
 *
 * Blocks come back from the workers in any order; the manifest wants ascending clusters. A ring holds what is
 * done but not yet in turn: a buffer goes back to the reader only when its block was set, so that the ring is
 * as long as there are buffers, and memory is bounded by them. A failure stops everybody; the first one is
 * kept.
 */
#include <daemon/backup-private.h>

#include <cbt/reader.h>
#include <common/bytes.h>
#include <daemon/backup-extents.h>
#include <daemon/backup-flush.h>
#include <daemon/backup-queue.h>

#define MAX_BLOCK_CLUSTERS 64
#define RUN_BLOCKS_MAX     16 /* of 256 KiB: a group of the store */
/* What a guest has just written stands in the page cache; more than this would flood it. */
#define CACHED_BYTES_MAX (G_GUINT64_CONSTANT(1) << 30)

typedef struct {
  CbtReadBlock *block; /* NULL: not done yet */
  StoreChunkId ids[MAX_BLOCK_CLUSTERS];
} DoneBlock;

typedef struct {
  BackupDisk *disk; /* constant, up to n_slots */
  CbtReader *reader;
  BackupExtents *extents;
  StoreWorker *manifest_worker; /* used under order */
  guint n_slots;

  BackupQueue *queue;

  pthread_mutex_t order; /* the manifest, in order */
  StoreManifestBuilder *builder;
  BackupArchivePart *zeros; /* of the archive */
  DoneBlock *slots;         /* ring by sequence */
  guint64 next_sequence;
  StoreTally tally;           /* of blocks and manifest pages */
  guint64 block_stored_bytes; /* the blocks' share of it, which the job's progress has already */

  pthread_mutex_t error_lock;
  GError *error;
} Pipeline;

static void
pipeline_fail(Pipeline *pipeline, GError *error)
{
  pthread_mutex_lock(&pipeline->error_lock);
  if (!pipeline->error)
    pipeline->error = g_steal_pointer(&error);
  pthread_mutex_unlock(&pipeline->error_lock);
  g_clear_error(&error);
  g_cancellable_cancel(pipeline->disk->backup->stop);
}

static gboolean
is_stopped(Pipeline *pipeline)
{
  return g_cancellable_is_cancelled(pipeline->disk->backup->stop);
}

static guint
block_clusters(const CbtReadBlock *block)
{
  return (guint) cbt_div_up(block->length, CBT_CLUSTER_SIZE);
}

/* ---- the manifest, in order; all under pipeline->order
 * -------------------------------------------------------- */

static gboolean
set_zeros_before(Pipeline *pipeline, guint64 offset, GError **error)
{
  const StoreChunkId zero_id = {{0}};
  CbtExtent zero;
  while (backup_extents_take_zero(pipeline->extents, offset, &zero)) {
    pipeline->tally.zero_bytes += zero.length;
    backup_archive_part_add_zeros(pipeline->zeros, &zero);
    if (!pipeline->disk->changes_only)
      continue; /* what is not set is zero anyhow */
    guint64 end = cbt_div_up(zero.offset + zero.length, CBT_CLUSTER_SIZE);
    for (guint64 cluster = zero.offset / CBT_CLUSTER_SIZE; cluster < end; cluster++)
      if (!store_manifest_builder_set(pipeline->builder, cluster, &zero_id, error))
        return FALSE;
    atomic_fetch_add(&pipeline->disk->progress->transferred, zero.length);
  }
  return TRUE;
}

static gboolean
set_block(Pipeline *pipeline, const DoneBlock *done, GError **error)
{
  guint64 first = done->block->offset / CBT_CLUSTER_SIZE;
  if (!set_zeros_before(pipeline, done->block->offset, error))
    return FALSE;
  for (guint i = 0; i < block_clusters(done->block); i++)
    if (!store_manifest_builder_set(pipeline->builder, first + i, &done->ids[i], error))
      return FALSE;
  return TRUE;
}

/* Sets all blocks that are next in turn, and gives their buffers back. */
static gboolean
set_blocks_in_turn(Pipeline *pipeline, GError **error)
{
  gboolean ok = TRUE;
  for (;;) {
    DoneBlock *slot = &pipeline->slots[pipeline->next_sequence % pipeline->n_slots];
    if (!slot->block)
      return ok;
    if (ok && !is_stopped(pipeline))
      ok = set_block(pipeline, slot, error);
    cbt_reader_release(pipeline->reader, g_steal_pointer(&slot->block));
    pipeline->next_sequence++;
  }
}

static void
block_done(Pipeline *pipeline, CbtReadBlock *block, const StoreChunkId *ids, const StoreTally *tally)
{
  GError *error = NULL;
  pthread_mutex_lock(&pipeline->order);
  DoneBlock *slot = &pipeline->slots[block->sequence % pipeline->n_slots];
  g_assert(!slot->block);
  slot->block = block;
  memcpy(slot->ids, ids, block_clusters(block) * sizeof *ids);
  pipeline->tally.zero_bytes += tally->zero_bytes;
  pipeline->tally.reused_bytes += tally->reused_bytes;
  pipeline->tally.new_bytes += tally->new_bytes;
  pipeline->tally.stored_bytes += tally->stored_bytes;
  pipeline->block_stored_bytes += tally->stored_bytes;
  gboolean ok = set_blocks_in_turn(pipeline, &error);
  pthread_mutex_unlock(&pipeline->order);
  if (!ok)
    pipeline_fail(pipeline, error);
}

/* ---- workers
 * -------------------------------------------------------------------------------------------------- */

static gboolean
store_block(Pipeline *pipeline, StoreWorker *worker, BackupArchivePart *archive, const CbtReadBlock *block,
            StoreChunkId *ids, StoreTally *tally, GError **error)
{
  CbtSession *session = pipeline->disk->session;
  if (session && !cbt_session_settle(session, block->offset, block->length, block->data, NULL, error))
    return FALSE;
  for (guint i = 0; i < block_clusters(block); i++) {
    StorePutOutcome outcome;
    const guint8 *cluster = block->data + i * CBT_CLUSTER_SIZE;
    if (!store_put(worker, STORE_CHUNK_DATA, cluster, CBT_CLUSTER_SIZE, &ids[i], &outcome, tally, error))
      return FALSE;
    backup_archive_part_add(archive, block->offset / CBT_CLUSTER_SIZE + i, cluster);
  }
  return TRUE;
}

static void
count_block(Pipeline *pipeline, const CbtReadBlock *block, const StoreTally *tally)
{
  Job *job = pipeline->disk->backup->job;
  atomic_fetch_add(&pipeline->disk->progress->transferred, block->length);
  atomic_fetch_add(&job->reused, tally->reused_bytes);
  atomic_fetch_add(&job->stored, tally->stored_bytes);
  backup_flush_note(pipeline->disk->backup->flush, tally->stored_bytes);
}

/* What the worker has put and not written yet. */
static void
flush_worker(Pipeline *pipeline, StoreWorker *worker)
{
  StoreTally tally = {0};
  GError *error = NULL;
  if (is_stopped(pipeline))
    return;
  if (!store_worker_flush(worker, &tally, &error))
    pipeline_fail(pipeline, error);
  atomic_fetch_add(&pipeline->disk->backup->job->stored, tally.stored_bytes);
  pthread_mutex_lock(&pipeline->order);
  pipeline->tally.stored_bytes += tally.stored_bytes;
  pipeline->block_stored_bytes += tally.stored_bytes;
  pthread_mutex_unlock(&pipeline->order);
}

static void *
worker_thread(void *data)
{
  Pipeline *pipeline = data;
  guint64 run = G_MAXUINT64;
  g_autoptr(StoreWorker) worker = store_worker_new(pipeline->disk->backup->daemon->store);
  BackupArchivePart *archive = backup_archive_part_new(pipeline->disk);
  store_worker_set_pins(worker, pipeline->disk->backup->pins);
  CbtReadBlock *block;
  while ((block = backup_queue_take(pipeline->queue, &run)) != NULL) {
    StoreChunkId ids[MAX_BLOCK_CLUSTERS] = {0};
    StoreTally tally = {0};
    GError *error = NULL;
    if (!is_stopped(pipeline) &&
        (!store_block(pipeline, worker, archive, block, ids, &tally, &error) ||
         !store_reserve_note(pipeline->disk->backup->daemon->store_reserve, tally.new_bytes, &error)))
      pipeline_fail(pipeline, error);
    count_block(pipeline, block, &tally);
    block_done(pipeline, block, ids, &tally);
  }
  flush_worker(pipeline, worker);
  backup_archive_part_free(archive);
  return NULL;
}

/* ---- reading
 * -------------------------------------------------------------------------------------------------- */

/* END would find it out as well, but only when all was read for nothing. */
static void
check_export(Pipeline *pipeline)
{
  GError *error = NULL;
  if (is_stopped(pipeline) || !disk_ref_is_lost(pipeline->disk->ref))
    return;
  cbt_set_error(&error, CBT_ERROR_UNREACHABLE, "Run the backup again.",
                "the export of the disk ended during the backup");
  pipeline_fail(pipeline, error);
}

static void
deliver_block(gpointer data, CbtReadBlock *block)
{
  Pipeline *pipeline = data;
  check_export(pipeline);
  pipeline->disk->dirty += block->length;
  backup_queue_push(pipeline->queue, block);
}

static gint64
pace(gpointer data, guint32 length)
{
  return throttle_take(data, length);
}

static gboolean
next_extent(gpointer data, CbtExtent *extent, GError **error)
{
  Pipeline *pipeline = data;
  return backup_extents_next(pipeline->extents, extent, error);
}

static void
read_disk(Pipeline *pipeline)
{
  GError *error = NULL;
  if (!cbt_reader_run(pipeline->reader, next_extent, deliver_block, pipeline, pipeline->disk->backup->stop,
                      &error))
    pipeline_fail(pipeline, error);
  backup_queue_end(pipeline->queue);
}

static void
run_pipeline(Pipeline *pipeline, guint n_workers)
{
  g_autofree pthread_t *threads = g_new0(pthread_t, n_workers);
  guint n_started = 0;
  pipeline->queue = backup_queue_new(CLAMP(pipeline->n_slots / (2 * n_workers), 1, RUN_BLOCKS_MAX));
  while (n_started < n_workers && pthread_create(&threads[n_started], NULL, worker_thread, pipeline) == 0)
    n_started++;
  if (n_started > 0) {
    read_disk(pipeline);
  } else {
    GError *error = NULL;
    cbt_set_error(&error, CBT_ERROR_FAILED, NULL, "cannot start a thread");
    pipeline_fail(pipeline, error);
  }
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

/* ---- the disk
 * ------------------------------------------------------------------------------------------------- */

static gboolean
pipeline_open(Pipeline *pipeline, BackupDisk *disk, GError **error)
{
  Store *store = disk->backup->daemon->store;
  CbtReaderOptions options = CBT_READER_OPTIONS_DEFAULT;
  options.n_blocks = MAX(8, options.n_blocks / disk->backup->disks->len);
  options.direct = !disk->changes_only || disk->progress->dirty > CACHED_BYTES_MAX;
  g_assert(options.block_size / CBT_CLUSTER_SIZE <= MAX_BLOCK_CLUSTERS);

  pipeline->disk = disk;
  pipeline->n_slots = options.n_blocks;
  pipeline->slots = g_new0(DoneBlock, options.n_blocks);
  pthread_mutex_init(&pipeline->order, NULL);
  pthread_mutex_init(&pipeline->error_lock, NULL);
  pipeline->extents = backup_extents_new(disk->source, disk->changes, disk->session);
  pipeline->manifest_worker = store_worker_new(store);
  store_worker_set_pins(pipeline->manifest_worker, disk->backup->pins);
  pipeline->zeros = backup_archive_part_new(disk);
  pipeline->builder =
      store_manifest_builder_new(pipeline->manifest_worker, disk->changes_only ? &disk->base : NULL,
                                 disk->size, &pipeline->tally, error);
  if (pipeline->builder)
    pipeline->reader = cbt_reader_new(disk->source, &options, error);
  if (pipeline->reader)
    cbt_reader_set_pace(pipeline->reader, pace, &disk->backup->throttle);
  if (pipeline->reader && disk->session)
    cbt_reader_set_nowait(pipeline->reader);
  return pipeline->reader != NULL;
}

/* Behind a block that could not be read, others wait for their turn in vain. */
static void
release_waiting_blocks(Pipeline *pipeline)
{
  for (guint i = 0; i < pipeline->n_slots; i++)
    if (pipeline->slots[i].block)
      cbt_reader_release(pipeline->reader, g_steal_pointer(&pipeline->slots[i].block));
}

static void
pipeline_close(Pipeline *pipeline)
{
  release_waiting_blocks(pipeline);
  g_clear_pointer(&pipeline->zeros, backup_archive_part_free);
  g_clear_pointer(&pipeline->reader, cbt_reader_free);
  g_clear_pointer(&pipeline->builder, store_manifest_builder_free);
  g_clear_pointer(&pipeline->manifest_worker, store_worker_free);
  g_clear_pointer(&pipeline->extents, backup_extents_free);
  pthread_mutex_destroy(&pipeline->order);
  pthread_mutex_destroy(&pipeline->error_lock);
  backup_queue_free(pipeline->queue);
  g_free(pipeline->slots);
}

/* A disk that is not exported has nobody who tracks it; who wrote to it meanwhile has torn the point. */
static gboolean
check_untouched(BackupDisk *disk, GError **error)
{
  gboolean changed = FALSE;
  if (disk->session)
    return cbt_session_check(disk->session, error);
  if (!cbt_source_check_changed(disk->source, &changed, error))
    return FALSE;
  if (!changed)
    return TRUE;
  g_autofree char *hint =
      g_strdup_printf("Back up running guests through an export: cbt-backup export start %s",
                      disk->backup->request->vm->name);
  cbt_set_error(error, CBT_ERROR_STATE, hint, "%s was written by another program during the backup",
                disk->disk->path);
  return FALSE;
}

static gboolean
finish_disk(Pipeline *pipeline, GError **error)
{
  BackupDisk *disk = pipeline->disk;
  Job *job = disk->backup->job;
  atomic_fetch_add(&job->bytes_read, cbt_reader_bytes_read(pipeline->reader));
  atomic_fetch_add(&job->n_reads, cbt_reader_n_reads(pipeline->reader));
  if (pipeline->error) {
    g_propagate_error(error, g_steal_pointer(&pipeline->error));
    return FALSE;
  }
  if (!job_check(job, error) || !check_untouched(disk, error))
    return FALSE;
  if (!set_zeros_before(pipeline, G_MAXUINT64, error) ||
      !store_manifest_builder_finish(pipeline->builder, &disk->result, error))
    return FALSE;
  disk->tally = pipeline->tally;
  atomic_fetch_add(&job->stored, pipeline->tally.stored_bytes - pipeline->block_stored_bytes);
  atomic_fetch_add(&job->zero_bytes, pipeline->tally.zero_bytes);
  return TRUE;
}

/* What an incremental has to look at is known beforehand; for a whole disk the allocated size is a good
 * guess. */
static void
announce_dirty(BackupDisk *disk)
{
  struct stat st;
  int fd = cbt_source_fd(disk->source, FALSE);
  if (disk->changes)
    disk->progress->dirty = cbt_bitmap_count(disk->changes);
  else if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
    disk->progress->dirty = MIN((guint64) st.st_blocks * 512, disk->size);
  else
    disk->progress->dirty = disk->size;
}

gboolean
backup_copy_disk(BackupDisk *disk, GError **error)
{
  Pipeline pipeline = {0};
  announce_dirty(disk);
  gboolean ok = pipeline_open(&pipeline, disk, error);
  if (ok) {
    run_pipeline(&pipeline, disk->backup->daemon->config->workers);
    ok = finish_disk(&pipeline, error);
  }
  if (disk->changes)
    disk->dirty = disk->progress->dirty;
  disk->progress->dirty = disk->dirty;
  g_clear_error(&pipeline.error);
  pipeline_close(&pipeline);
  return ok;
}
