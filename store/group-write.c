/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression is outside of any lock; taking a place in the packs and pointing the index to it are one step
 * under the append lock; copying the bytes there is outside again.
 *
 * Between the time at which a chunk was taken up and that step the index may have changed: packs were read
 * into it that had the chunk, or somebody healed it. Then the record that it names is read and compared.
 * That needs the disk under the append lock, and hardly ever happens.
 *
 * The compression: frames of up to 4 MiB let zstd find what is alike beyond a cluster, and a minimal match of
 * five bytes in a table of 2^16 finds more of it than the level's own parameters, which are for shorter
 * sources: see docs/benchmarks.md.
 */
#include <store/group-write.h>

#include <common/error.h>
#include <string.h>
#include <store/worker-private.h>

/* ---- compression ---- */

typedef struct {
  ZSTD_cParameter parameter;
  int value;
} Parameter;

/* For level 1, the default. */
static const Parameter parameters[] = {
    {ZSTD_c_strategy, ZSTD_fast},
    {ZSTD_c_windowLog, 22},
    {ZSTD_c_hashLog, 16},
    {ZSTD_c_minMatch, 5},
};

static ZSTD_CCtx *
compressor_new(int level)
{
  ZSTD_CCtx *compressor = ZSTD_createCCtx();
  g_assert(compressor);
  ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, level);
  /* The record has the length and a checksum already. */
  ZSTD_CCtx_setParameter(compressor, ZSTD_c_checksumFlag, 0);
  for (guint i = 0; level == 1 && i < G_N_ELEMENTS(parameters); i++)
    ZSTD_CCtx_setParameter(compressor, parameters[i].parameter, parameters[i].value);
  return compressor;
}

/* The payload of DRAFT in the worker's buffer, and its length; 0 if it does not save enough. */
static gsize
compress(StoreWorker *worker, const StoreGroupDraft *draft)
{
  const StoreOptions *options = &worker->store->options;
  gsize ids = draft->n * sizeof *draft->ids;
  if (!worker->group) {
    worker->group_compressor = compressor_new(options->zstd_level ? options->zstd_level : 1);
    worker->group = g_malloc(STORE_GROUP_PAYLOAD_MAX);
  }
  memcpy(worker->group, draft->ids, ids);
  size_t n =
      ZSTD_compress2(worker->group_compressor, worker->group + ids, store_group_payload_max(draft->n) - ids,
                     draft->contents, (gsize) draft->n * STORE_CHUNK_LENGTH_MAX);
  return ZSTD_isError(n) ? 0 : ids + n;
}

/* ---- the index ---- */

typedef enum { TAKE_OURS, KEEP_THEIRS, FAIL } Verdict;

static Verdict
fail_collision(const StoreChunkId *id, GError **error)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  cbt_set_error(error, CBT_ERROR_CORRUPT,
                "The index had lost an entry. Restart the daemon, and run the backup again.",
                "chunk %s was taken for new, but the packs have another content of that name",
                store_chunk_id_format(id, text));
  return FAIL;
}

/* What becomes of chunk I, whose entry is NOW (all-zero: none). append_lock is held. */
static Verdict
judge(StoreWorker *worker, const StoreGroupDraft *draft, guint i, const StoreLocation *now, GError **error)
{
  StoreRecordInfo info;
  const guint8 *content;
  if (now->pack == 0 || store_locations_are_equal(now, &draft->seen[i]))
    return TAKE_OURS;
  if (!draft->contents)
    return KEEP_THEIRS;
  const guint8 *ours = draft->contents + (gsize) i * STORE_CHUNK_LENGTH_MAX;
  if (store_worker_read(worker, &draft->ids[i], now, &info, worker->content, &content, NULL) != RECORD_GOOD)
    return TAKE_OURS;
  if (info.length == STORE_CHUNK_LENGTH_MAX && memcmp(content, ours, info.length) == 0)
    return KEEP_THEIRS;
  StoreChunkId digest = store_digest(worker->store, content, info.length);
  return memcmp(digest.bytes, draft->ids[i].bytes, ORDINAL) == 0 ? fail_collision(&draft->ids[i], error)
                                                                 : TAKE_OURS;
}

/* One record for chunks [FIRST, FIRST + N) of the draft. */
typedef struct {
  StoreGroupDraft *draft;
  guint first, n;
  StoreRecordInfo info;
  const void *payload;
  gsize payload_length;
} Record;

/* append_lock is held, as for the next one. */
static gboolean
judge_all(StoreWorker *worker, const Record *record, Verdict verdicts[STORE_GROUP_CHUNKS_MAX], GError **error)
{
  for (guint i = 0; i < record->n; i++) {
    StoreLocation now;
    if (!store_index_lookup(worker->store->index, &record->draft->ids[record->first + i], &now))
      now = (StoreLocation){0};
    if ((verdicts[i] = judge(worker, record->draft, record->first + i, &now, error)) == FAIL)
      return FALSE;
  }
  return TRUE;
}

static gboolean
point_index(StoreWorker *worker, const Record *record, const Verdict verdicts[STORE_GROUP_CHUNKS_MAX],
            const StoreLocation *location, GError **error)
{
  for (guint i = 0; i < record->n; i++) {
    StoreLocation share = *location;
    if (record->info.encoding == STORE_ENCODING_GROUP)
      share.length = store_group_share((guint32) record->payload_length, record->n, i);
    if (verdicts[i] == KEEP_THEIRS)
      continue;
    if (!store_index_insert(worker->store->index, &record->draft->ids[record->first + i], &share, error))
      return FALSE;
    record->draft->seen[record->first + i] = share;
  }
  return TRUE;
}

static gboolean
append(StoreWorker *worker, const Record *record, guint64 *bytes, GError **error)
{
  Store *store = worker->store;
  StorePackSlot slot;
  Verdict verdicts[STORE_GROUP_CHUNKS_MAX];
  pthread_mutex_lock(&store->append_lock);
  gboolean has_place =
      judge_all(worker, record, verdicts, error) &&
      store_pack_reserve(store->packs, &record->info, record->payload, record->payload_length, &slot, error);
  gboolean ok = has_place && point_index(worker, record, verdicts, &slot.location, error);
  pthread_mutex_unlock(&store->append_lock);
  if (has_place)
    store_pack_fill(store->packs, &slot);
  if (ok)
    *bytes += store_record_span((guint32) record->payload_length);
  return ok;
}

/* ---- records ---- */

gboolean
store_group_copy(StoreWorker *worker, StoreGroupDraft *draft, const guint8 *payload, gsize payload_length,
                 guint64 *bytes, GError **error)
{
  Record record = {draft, 0, draft->n, store_group_info(draft->n), payload, payload_length};
  *bytes = 0;
  return store_raise_version(worker->store, error) && append(worker, &record, bytes, error);
}

/* What does not compress together hardly does so one by one. */
static gboolean
write_plain(StoreWorker *worker, StoreGroupDraft *draft, guint64 *bytes, GError **error)
{
  for (guint i = 0; i < draft->n; i++) {
    const guint8 *content = draft->contents + (gsize) i * STORE_CHUNK_LENGTH_MAX;
    StorePacked packed = {
        {.type = STORE_CHUNK_DATA, .length = STORE_CHUNK_LENGTH_MAX}, content, STORE_CHUNK_LENGTH_MAX};
    if (draft->n == 1)
      packed = store_worker_pack(worker, STORE_CHUNK_DATA, content, STORE_CHUNK_LENGTH_MAX);
    packed.info.id = draft->ids[i];
    Record record = {draft, i, 1, packed.info, packed.payload, packed.payload_length};
    if (!append(worker, &record, bytes, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
store_group_write(StoreWorker *worker, StoreGroupDraft *draft, guint64 *bytes, GError **error)
{
  gsize length = draft->n >= STORE_GROUP_CHUNKS_MIN ? compress(worker, draft) : 0;
  *bytes = 0;
  return length > 0 ? store_group_copy(worker, draft, worker->group, length, bytes, error)
                    : write_plain(worker, draft, bytes, error);
}
