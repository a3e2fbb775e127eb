/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting chunks. Getting them is in worker-read.c.
 *
 * A put first searches: it goes through the ordinals of its digest until one has its very bytes (reused), or
 * is free. What is pending (staging.h) is looked at before the index. Then, under the append lock, a new
 * cluster goes into the worker's group, and what is no cluster is appended, compressed before; but only if
 * the index still says what the search saw, and the chunk is not pending; else somebody was faster, and it
 * searches again.
 *
 * A stored copy that turns out damaged is replaced under the same id only if its digest has no other ordinal:
 * once contents are known to collide, damaged bytes may have been the other content, and the good bytes get
 * an ordinal of their own.
 */
#include <store/worker-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/pack-format.h>

#define ORDINAL_MAX 255u

StoreWorker *
store_worker_new(Store *store)
{
  StoreWorker *worker = g_new0(StoreWorker, 1);
  int level = store->options.zstd_level ? store->options.zstd_level : 1;
  worker->store = store;
  g_atomic_int_inc(&store->n_workers);
  worker->compares = store->options.dedup_verify;
  worker->compressor = ZSTD_createCCtx();
  worker->decompressor = ZSTD_createDCtx();
  g_assert(worker->compressor && worker->decompressor);
  ZSTD_CCtx_setParameter(worker->compressor, ZSTD_c_compressionLevel, level);
  /* The record has the length and a checksum already. */
  ZSTD_CCtx_setParameter(worker->compressor, ZSTD_c_checksumFlag, 0);
  worker->record = g_malloc(STORE_PACK_READ_SIZE);
  worker->compressed = g_malloc(STORE_CHUNK_LENGTH_MAX);
  worker->content = g_malloc(STORE_CHUNK_LENGTH_MAX);
  worker->group_record = g_byte_array_new();
  return worker;
}

void
store_worker_set_pins(StoreWorker *worker, StorePins *pins)
{
  worker->pins = pins;
}

void
store_worker_free(StoreWorker *worker)
{
  if (!worker)
    return;
  store_staging_leave(worker);
  if (g_atomic_int_dec_and_test(&worker->store->n_workers))
    store_group_cache_clear(worker->store->groups);
  ZSTD_freeCCtx(worker->compressor);
  ZSTD_freeCCtx(worker->group_compressor);
  g_free(worker->group);
  g_free(worker->spare);
  ZSTD_freeDCtx(worker->decompressor);
  g_free(worker->record);
  g_free(worker->compressed);
  g_free(worker->content);
  g_byte_array_unref(worker->group_record);
  g_free(worker);
}

void
store_worker_compare(StoreWorker *worker)
{
  worker->compares = TRUE;
}

/* --- put: the search --- */

typedef enum {
  MATCH_FREE, /* no entry, or a stale one */
  MATCH_EQUAL,
  MATCH_DIFFERENT, /* another content of the same digest */
  MATCH_DAMAGED,
} Match;

typedef struct {
  StoreChunkId id;
  StoreLocation seen; /* what the index said; all-zero: nothing */
  Match match;        /* EQUAL: reuse; FREE: append; DAMAGED: append, it heals */
} Search;

/* Without dedup-verify a header that fits is believed. */
static Match
match_by_header(StoreWorker *worker, const Search *search, gsize length)
{
  StoreRecordInfo info;
  if (!store_pack_read_info(worker->store->packs, &search->seen, &search->id, &info, NULL))
    return MATCH_DAMAGED;
  if (!store_chunk_id_equal(&info.id, &search->id))
    return MATCH_FREE;
  return info.length == length ? MATCH_EQUAL : MATCH_DIFFERENT;
}

static Match
match_by_content(StoreWorker *worker, const Search *search, const void *data, gsize length)
{
  StoreRecordInfo info;
  const guint8 *content;
  switch (store_worker_read(worker, &search->id, &search->seen, &info, worker->content, &content, NULL)) {
  case RECORD_GOOD:
    break;
  case RECORD_OTHER:
    return MATCH_FREE;
  case RECORD_DAMAGED:
    return MATCH_DAMAGED;
  }
  if (info.length == length && memcmp(content, data, length) == 0)
    return MATCH_EQUAL;
  /* A sound record whose bytes do not have its digest is not what it says it is. */
  StoreChunkId digest = store_digest(worker->store, content, info.length);
  return memcmp(digest.bytes, search->id.bytes, ORDINAL) == 0 ? MATCH_DIFFERENT : MATCH_DAMAGED;
}

static void
search_ordinal(StoreWorker *worker, Search *search, const void *data, gsize length)
{
  gboolean is_equal;
  search->seen = (StoreLocation){0};
  if (store_staging_compare(worker->store->staging, &search->id, data, length, &is_equal))
    search->match = is_equal ? MATCH_EQUAL : MATCH_DIFFERENT;
  else if (!store_index_lookup(worker->store->index, &search->id, &search->seen))
    search->match = MATCH_FREE;
  else if (worker->compares)
    search->match = match_by_content(worker, search, data, length);
  else
    search->match = match_by_header(worker, search, length);
}

/* FALSE if all ordinals are taken by other contents. */
static gboolean
search_chunk(StoreWorker *worker, const void *data, gsize length, Search *search)
{
  Search damaged = {.match = MATCH_FREE};
  search->id = store_digest(worker->store, data, length);
  guint first = search->id.bytes[ORDINAL];
  if (worker->pins)
    store_pins_add(worker->pins, &search->id);
  for (guint ordinal = first; ordinal <= ORDINAL_MAX; ordinal++) {
    search->id.bytes[ORDINAL] = (guint8) ordinal;
    search_ordinal(worker, search, data, length);
    if (search->match == MATCH_DAMAGED && ordinal == first)
      damaged = *search;
    if (search->match == MATCH_EQUAL)
      return TRUE;
    if (search->match == MATCH_FREE) {
      if (damaged.match == MATCH_DAMAGED && ordinal == first + 1)
        *search = damaged;
      return TRUE;
    }
  }
  return FALSE;
}

/* --- put: the append --- */

StorePacked
store_worker_pack(StoreWorker *worker, StoreChunkType type, const void *data, gsize length)
{
  StorePacked packed = {{.type = type, .length = (guint32) length}, data, length};
  gsize worthwhile = length - length / 16 - 1;
  if (length < 64)
    return packed;
  size_t n = ZSTD_compress2(worker->compressor, worker->compressed, worthwhile, data, length);
  if (ZSTD_isError(n))
    return packed;
  packed.info.encoding = STORE_ENCODING_ZSTD;
  packed.payload = worker->compressed;
  packed.payload_length = n;
  return packed;
}

typedef enum { APPEND_DONE, APPEND_RETRY, APPEND_FAILED } AppendResult;

/* Whether nobody was faster than the search; append_lock is held. */
static gboolean
is_as_seen(Store *store, const Search *search)
{
  StoreLocation now = {0};
  if (!store_index_lookup(store->index, &search->id, &now))
    now = (StoreLocation){0};
  return store_locations_are_equal(&now, &search->seen) && !store_staging_has(store->staging, &search->id);
}

static AppendResult
append_locked(Store *store, const Search *search, const StorePacked *packed, GError **error)
{
  StoreLocation location;
  if (!is_as_seen(store, search))
    return APPEND_RETRY;
  if (!store_pack_append(store->packs, &packed->info, packed->payload, packed->payload_length, &location,
                         error) ||
      !store_index_insert(store->index, &search->id, &location, error))
    return APPEND_FAILED;
  return APPEND_DONE;
}

static AppendResult
append(StoreWorker *worker, const Search *search, StorePacked *packed, GError **error)
{
  Store *store = worker->store;
  packed->info.id = search->id;
  pthread_mutex_lock(&store->append_lock);
  AppendResult result = append_locked(store, search, packed, error);
  pthread_mutex_unlock(&store->append_lock);
  return result;
}

/* Puts a cluster into the worker's group. */
static AppendResult
stage(StoreWorker *worker, const Search *search, const void *data, GError **error)
{
  Store *store = worker->store;
  if (!store_staging_prepare(worker, error))
    return APPEND_FAILED;
  pthread_mutex_lock(&store->append_lock);
  AppendResult result = is_as_seen(store, search) ? APPEND_DONE : APPEND_RETRY;
  if (result == APPEND_DONE)
    store_staging_add(worker, &search->id, &search->seen, data);
  pthread_mutex_unlock(&store->append_lock);
  gboolean is_full = result == APPEND_DONE && store_staging_fill(worker);
  return !is_full || store_staging_write(worker, error) ? result : APPEND_FAILED;
}

/* --- put --- */

static StorePutOutcome
outcome_of(Match match)
{
  return match == MATCH_EQUAL     ? STORE_PUT_REUSED
         : match == MATCH_DAMAGED ? STORE_PUT_HEALED
                                  : STORE_PUT_STORED;
}

static void
count_put(StoreWorker *worker, StoreTally *tally, StoreChunkType type, StorePutOutcome outcome, gsize length,
          const StorePacked *packed)
{
  if (!tally)
    return;
  tally->stored_bytes += __atomic_exchange_n(&worker->stored_bytes, 0, __ATOMIC_RELAXED);
  if (packed->payload)
    tally->stored_bytes += store_record_span((guint32) packed->payload_length);
  if (type != STORE_CHUNK_DATA)
    return;
  guint64 *bytes = outcome == STORE_PUT_ZERO     ? &tally->zero_bytes
                   : outcome == STORE_PUT_REUSED ? &tally->reused_bytes
                                                 : &tally->new_bytes;
  *bytes += length;
}

/* Finds, stages or appends; *packed is filled when something had to be appended. */
static gboolean
find_or_append(StoreWorker *worker, StoreChunkType type, const void *data, gsize length, Search *search,
               StorePacked *packed, GError **error)
{
  AppendResult result = APPEND_RETRY;
  while (result == APPEND_RETRY) {
    if (!search_chunk(worker, data, length, search)) {
      char text[STORE_CHUNK_ID_TEXT_SIZE];
      cbt_set_error(error, CBT_ERROR_FAILED, NULL, "too many contents have the digest of chunk %s",
                    store_chunk_id_format(&search->id, text));
      return FALSE;
    }
    if (search->match == MATCH_EQUAL)
      return TRUE;
    if (type == STORE_CHUNK_DATA && worker->store->options.group_clusters > 1) {
      result = stage(worker, search, data, error);
      continue;
    }
    if (!packed->payload)
      *packed = store_worker_pack(worker, type, data, length);
    result = append(worker, search, packed, error);
  }
  return result == APPEND_DONE;
}

gboolean
store_put(StoreWorker *worker, StoreChunkType type, const void *data, gsize length, StoreChunkId *id,
          StorePutOutcome *outcome, StoreTally *tally, GError **error)
{
  g_assert(length > 0 && length <= STORE_CHUNK_LENGTH_MAX);
  g_assert(type != STORE_CHUNK_DATA || length == CBT_CLUSTER_SIZE);
  Search search = {0};
  StorePacked packed = {0};
  StorePutOutcome result = STORE_PUT_ZERO;
  if (type != STORE_CHUNK_DATA || !cbt_is_zero(data, length)) {
    if (!find_or_append(worker, type, data, length, &search, &packed, error))
      return FALSE;
    result = outcome_of(search.match);
  }
  *id = search.id;
  if (outcome)
    *outcome = result;
  count_put(worker, tally, type, result, length, &packed);
  return TRUE;
}

gboolean
store_worker_flush(StoreWorker *worker, StoreTally *tally, GError **error)
{
  gboolean ok = store_staging_write(worker, error);
  if (tally)
    tally->stored_bytes += __atomic_exchange_n(&worker->stored_bytes, 0, __ATOMIC_RELAXED);
  return ok;
}
