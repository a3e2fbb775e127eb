/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading records and getting chunks.
 *
 * Groups are decompressed into the store's cache of them (group-cache.h), and copied out of it chunk by
 * chunk.
 *
 * A get that does not find what the index promises lets the packs be read into it, once; while they are taken
 * out it searches them for its one chunk.
 */
#include <store/worker-private.h>

#include <common/bytes.h>
#include <common/error.h>

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
  if (info->encoding == STORE_ENCODING_RAW)
    return payload_length == info->length;
  *content = into;
  return ZSTD_decompressDCtx(worker->decompressor, into, STORE_CHUNK_LENGTH_MAX, payload, payload_length) ==
         info->length;
}

static RecordState
fail_to_unpack(const StoreLocation *location, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "pack %08x has a payload that does not decompress at %u",
                location->pack, location->offset);
  return RECORD_DAMAGED;
}

gboolean
store_worker_unpack_group(StoreWorker *worker, guint n, const guint8 *payload, gsize payload_length,
                          guint8 *contents)
{
  gsize length = (gsize) n * STORE_CHUNK_LENGTH_MAX, ids = (gsize) n * STORE_CHUNK_ID_SIZE;
  return ZSTD_decompressDCtx(worker->decompressor, contents, length, payload + ids, payload_length - ids) ==
         length;
}

static gboolean
load_group(StoreWorker *worker, const StoreLocation *location, StoreCachedGroup *group, GError **error)
{
  StoreRecordInfo info;
  gsize length;
  const guint8 *payload =
      store_pack_read_group(worker->store->packs, location, &info, worker->group_record, &length, error);
  if (!payload)
    return FALSE;
  group->n = store_group_count(info.length);
  memcpy(group->ids, payload, (gsize) group->n * STORE_CHUNK_ID_SIZE);
  return store_worker_unpack_group(worker, group->n, payload, length, group->contents) ||
         fail_to_unpack(location, error) == RECORD_GOOD;
}

/* Gives GROUP back. */
static RecordState
copy_from_group(StoreWorker *worker, StoreCachedGroup *group, const StoreChunkId *id, StoreRecordInfo *info,
                void *into, const guint8 **content)
{
  int i = store_group_find(group->ids, group->n, id);
  if (i >= 0) {
    *info = store_group_chunk(group->ids, (guint) i);
    *content = memcpy(into, group->contents + (gsize) i * STORE_CHUNK_LENGTH_MAX, STORE_CHUNK_LENGTH_MAX);
  }
  store_group_cache_release(worker->store->groups, group);
  return i >= 0 ? RECORD_GOOD : RECORD_OTHER;
}

static RecordState
read_group(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location, StoreRecordInfo *info,
           void *into, const guint8 **content, GError **error)
{
  gboolean is_new;
  StoreCachedGroup *group = store_group_cache_begin(worker->store->groups, location, &is_new);
  if (is_new) {
    gboolean is_good = load_group(worker, location, group, error);
    store_group_cache_settle(worker->store->groups, group, is_good);
    if (!is_good)
      return RECORD_DAMAGED;
  }
  return copy_from_group(worker, group, id, info, into, content);
}

RecordState
store_worker_read(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location,
                  StoreRecordInfo *info, void *into, const guint8 **content, GError **error)
{
  const guint8 *payload;
  gsize payload_length;
  StoreCachedGroup *group = store_group_cache_get(worker->store->groups, location);
  if (group)
    return copy_from_group(worker, group, id, info, into, content);
  if (!store_pack_read(worker->store->packs, location, info, worker->record, &payload, &payload_length,
                       error))
    return RECORD_DAMAGED;
  if (info->encoding == STORE_ENCODING_GROUP)
    return read_group(worker, id, location, info, into, content, error);
  if (!store_chunk_id_equal(&info->id, id))
    return RECORD_OTHER;
  if (unpack(worker, info, payload, payload_length, into, content))
    return RECORD_GOOD;
  return fail_to_unpack(location, error);
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
  while (store_index_lookup(worker->store->index, id, location) &&
         !store_locations_are_equal(location, &tried)) {
    g_clear_error(error);
    state = store_worker_read(worker, id, location, info, into, content, error);
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
  if (store_staging_get(worker->store->staging, id, buffer)) {
    *length = STORE_CHUNK_LENGTH_MAX;
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

gboolean
store_get_at(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location, void *buffer,
             gsize *length)
{
  StoreRecordInfo info;
  const guint8 *content;
  if (store_worker_read(worker, id, location, &info, buffer, &content, NULL) != RECORD_GOOD)
    return FALSE;
  StoreChunkId digest = store_digest(worker->store, content, info.length);
  if (memcmp(digest.bytes, id->bytes, ORDINAL) != 0)
    return FALSE;
  if (content != buffer)
    memcpy(buffer, content, info.length);
  *length = info.length;
  return TRUE;
}
