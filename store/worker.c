/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting and getting chunks.
 *
 * A put first searches: it goes through the ordinals of its digest until one has its very bytes (reused), or
 * is free. It compresses outside of any lock, then appends under the append lock, but only if the index still
 * says what the search saw; else somebody was faster, and it searches again.
 *
 * A stored copy that turns out damaged is replaced under the same id only if its digest has no other ordinal:
 * once contents are known to collide, damaged bytes may have been the other content, and the good bytes get
 * an ordinal of their own.
 *
 * A get that does not find what the index promises lets the packs be read into it, once; while they are taken
 * out it searches them for its one chunk.
 */
#include <store/store-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/pack-format.h>
#include <zstd.h>

#define ORDINAL     (STORE_CHUNK_ID_SIZE - 1)
#define ORDINAL_MAX 255u

struct StoreWorker {
  Store *store;
  StorePins *pins;   /* (nullable) of the point that is put for */
  gboolean compares; /* bytes on a dedup hit */
  ZSTD_CCtx *compressor;
  ZSTD_DCtx *decompressor;
  guint8 *record;     /* STORE_PACK_READ_SIZE: what a pack was read into */
  guint8 *compressed; /* STORE_CHUNK_LENGTH_MAX */
  guint8 *content;    /* STORE_CHUNK_LENGTH_MAX: a stored chunk to compare with */
};

StoreWorker *
store_worker_new(Store *store)
{
  StoreWorker *worker = g_new0(StoreWorker, 1);
  int level = store->options.zstd_level ? store->options.zstd_level : 1;
  worker->store = store;
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
  ZSTD_freeCCtx(worker->compressor);
  ZSTD_freeDCtx(worker->decompressor);
  g_free(worker->record);
  g_free(worker->compressed);
  g_free(worker->content);
  g_free(worker);
}

/* --- reading a record --- */

/*
 * The content of a record in *content: within the worker's record buffer, or decompressed into INTO. FALSE if
 * the payload is no frame of the length that the record says.
 */
static gboolean
unpack(StoreWorker *worker, const StoreRecordInfo *info, const guint8 *payload, gsize payload_length,
       void *into, const guint8 **content)
{
  *content = payload;
  if (!info->zstd)
    return payload_length == info->length;
  *content = into;
  return ZSTD_decompressDCtx(worker->decompressor, into, STORE_CHUNK_LENGTH_MAX, payload, payload_length) ==
         info->length;
}

typedef enum {
  RECORD_GOOD,
  RECORD_OTHER,   /* of another chunk: the index entry is stale */
  RECORD_DAMAGED, /* or cannot be read; the error says which */
} RecordState;

static RecordState
read_record(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location, StoreRecordInfo *info,
            void *into, const guint8 **content, GError **error)
{
  const guint8 *payload;
  gsize payload_length;
  if (!store_pack_read(worker->store->packs, location, info, worker->record, &payload, &payload_length,
                       error))
    return RECORD_DAMAGED;
  if (!store_chunk_id_equal(&info->id, id))
    return RECORD_OTHER;
  if (unpack(worker, info, payload, payload_length, into, content))
    return RECORD_GOOD;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "pack %08x has a payload that does not decompress at %u",
                location->pack, location->offset);
  return RECORD_DAMAGED;
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
  if (!store_pack_read_info(worker->store->packs, &search->seen, &info, NULL))
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
  switch (read_record(worker, &search->id, &search->seen, &info, worker->content, &content, NULL)) {
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
  search->seen = (StoreLocation){0};
  if (!store_index_lookup(worker->store->index, &search->id, &search->seen))
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

typedef struct {
  StoreRecordInfo info;
  const void *payload;
  gsize payload_length;
} Packed;

/* Compresses into the worker's buffer; what saves less than a sixteenth stays as it is. */
static Packed
compress(StoreWorker *worker, StoreChunkType type, const void *data, gsize length)
{
  Packed packed = {{.type = type, .length = (guint32) length}, data, length};
  gsize worthwhile = length - length / 16 - 1;
  if (length < 64)
    return packed;
  size_t n = ZSTD_compress2(worker->compressor, worker->compressed, worthwhile, data, length);
  if (ZSTD_isError(n))
    return packed;
  packed.info.zstd = TRUE;
  packed.payload = worker->compressed;
  packed.payload_length = n;
  return packed;
}

typedef enum { APPEND_DONE, APPEND_RETRY, APPEND_FAILED } AppendResult;

static gboolean
locations_are_equal(const StoreLocation *a, const StoreLocation *b)
{
  return a->pack == b->pack && a->offset == b->offset;
}

static AppendResult
append_locked(Store *store, const Search *search, const Packed *packed, GError **error)
{
  StoreLocation now = {0};
  StoreLocation location;
  if (!store_index_lookup(store->index, &search->id, &now))
    now = (StoreLocation){0};
  if (!locations_are_equal(&now, &search->seen))
    return APPEND_RETRY;
  if (!store_pack_append(store->packs, &packed->info, packed->payload, packed->payload_length, &location,
                         error) ||
      !store_index_insert(store->index, &search->id, &location, error))
    return APPEND_FAILED;
  return APPEND_DONE;
}

static AppendResult
append(StoreWorker *worker, const Search *search, Packed *packed, GError **error)
{
  Store *store = worker->store;
  packed->info.id = search->id;
  pthread_mutex_lock(&store->append_lock);
  AppendResult result = append_locked(store, search, packed, error);
  pthread_mutex_unlock(&store->append_lock);
  store_pack_start_writeback(store->packs);
  return result;
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
count_put(StoreTally *tally, StoreChunkType type, StorePutOutcome outcome, gsize length, const Packed *packed)
{
  if (!tally)
    return;
  if (outcome == STORE_PUT_STORED || outcome == STORE_PUT_HEALED)
    tally->stored_bytes += store_record_span((guint32) packed->payload_length);
  if (type != STORE_CHUNK_DATA)
    return;
  guint64 *bytes = outcome == STORE_PUT_ZERO     ? &tally->zero_bytes
                   : outcome == STORE_PUT_REUSED ? &tally->reused_bytes
                                                 : &tally->new_bytes;
  *bytes += length;
}

/* Finds or appends; *packed is filled when something had to be appended. */
static gboolean
find_or_append(StoreWorker *worker, StoreChunkType type, const void *data, gsize length, Search *search,
               Packed *packed, GError **error)
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
    if (!packed->payload)
      *packed = compress(worker, type, data, length);
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
  Packed packed = {0};
  StorePutOutcome result = STORE_PUT_ZERO;
  if (type != STORE_CHUNK_DATA || !cbt_is_zero(data, length)) {
    if (!find_or_append(worker, type, data, length, &search, &packed, error))
      return FALSE;
    result = outcome_of(search.match);
  }
  *id = search.id;
  if (outcome)
    *outcome = result;
  count_put(tally, type, result, length, &packed);
  return TRUE;
}

/* --- get --- */

static gboolean
fail_damaged(const StoreChunkId *id, const StoreLocation *location, const GError *cause, GError **error)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  gboolean is_io = cause && g_error_matches(cause, CBT_ERROR, CBT_ERROR_IO);
  cbt_set_error(error, is_io ? CBT_ERROR_IO : CBT_ERROR_CORRUPT,
                "A full backup of a disk that still has this data stores it again.",
                "chunk %s in pack %08x at offset %u is damaged%s%s", store_chunk_id_format(id, text),
                location->pack, location->offset, cause ? ": " : "", cause ? cause->message : "");
  return FALSE;
}

/* The record that the index names, looked up once more if it was moved meanwhile. */
static RecordState
read_indexed(StoreWorker *worker, const StoreChunkId *id, StoreLocation *location, StoreRecordInfo *info,
             void *into, const guint8 **content, GError **error)
{
  RecordState state = RECORD_OTHER;
  StoreLocation tried = {0};
  while (store_index_lookup(worker->store->index, id, location) && !locations_are_equal(location, &tried)) {
    g_clear_error(error);
    state = read_record(worker, id, location, info, into, content, error);
    if (state == RECORD_GOOD)
      break;
    tried = *location;
  }
  return state;
}

/* NOT_FOUND if the index has no entry, or a stale one. */
static gboolean
get_once(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length, GError **error)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  g_autoptr(GError) cause = NULL;
  StoreLocation location;
  StoreRecordInfo info;
  const guint8 *content;
  RecordState state = read_indexed(worker, id, &location, &info, buffer, &content, &cause);
  if (state == RECORD_OTHER) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "chunk %s is not in the store",
                  store_chunk_id_format(id, text));
    return FALSE;
  }
  if (state == RECORD_DAMAGED)
    return fail_damaged(id, &location, cause, error);
  StoreChunkId digest = store_digest(worker->store, content, info.length);
  if (memcmp(digest.bytes, id->bytes, ORDINAL) != 0)
    return fail_damaged(id, &location, NULL, error);
  if (content != buffer)
    memcpy(buffer, content, info.length);
  *length = info.length;
  return TRUE;
}

gboolean
store_has_digest(StoreWorker *worker, const StoreChunkId *id, const void *cluster)
{
  if (store_chunk_id_is_zero(id))
    return cbt_is_zero(cluster, CBT_CLUSTER_SIZE);
  StoreChunkId digest = store_digest(worker->store, cluster, CBT_CLUSTER_SIZE);
  return memcmp(digest.bytes, id->bytes, ORDINAL) == 0;
}

/* A search of the packs for one chunk, which leaves the index alone. */
typedef struct {
  StoreWorker *worker;
  const StoreChunkId *id;
  void *buffer;
  gsize *length;
  gboolean is_found;
} PackSearch;

static gboolean
try_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  PackSearch *search = user_data;
  search->is_found = store_chunk_id_equal(&info->id, search->id) &&
                     store_get_at(search->worker, search->id, location, search->buffer, search->length);
  return !search->is_found;
}

/*
 * For the time in which packs are taken out, and may not be read into the index. One that goes meanwhile is
 * passed over: what is wanted of it was copied first, and the index knows where.
 */
static gboolean
search_packs(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length)
{
  StorePackSet *packs = worker->store->packs;
  PackSearch search = {worker, id, buffer, length, FALSE};
  g_autoptr(GArray) numbers = store_pack_list(packs, NULL);
  for (guint i = 0; numbers && i < numbers->len && !search.is_found; i++) {
    StoreLocation from = {.pack = g_array_index(numbers, guint32, i)};
    if (!store_pack_scan_one(packs, &from, try_record, &search, NULL))
      g_debug("pack %08x was not searched", from.pack);
  }
  return search.is_found;
}

gboolean
store_get(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length, GError **error)
{
  if (store_chunk_id_is_zero(id)) {
    memset(buffer, 0, CBT_CLUSTER_SIZE);
    *length = CBT_CLUSTER_SIZE;
    return TRUE;
  }
  gint seen = g_atomic_int_get(&worker->store->was_rebuilt);
  g_autoptr(GError) local = NULL;
  if (get_once(worker, id, buffer, length, &local))
    return TRUE;
  if (seen) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  return (!store_rebuild_index(worker->store, seen) && search_packs(worker, id, buffer, length)) ||
         get_once(worker, id, buffer, length, error);
}

/* ---- for repairs ---- */

void
store_worker_compare(StoreWorker *worker)
{
  worker->compares = TRUE;
}

gboolean
store_get_at(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location, void *buffer,
             gsize *length)
{
  StoreRecordInfo info;
  const guint8 *content;
  if (read_record(worker, id, location, &info, buffer, &content, NULL) != RECORD_GOOD)
    return FALSE;
  StoreChunkId digest = store_digest(worker->store, content, info.length);
  if (memcmp(digest.bytes, id->bytes, ORDINAL) != 0)
    return FALSE;
  if (content != buffer)
    memcpy(buffer, content, info.length);
  *length = info.length;
  return TRUE;
}
