/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marking counts, pack by pack, the bytes that are live where the index says that they stand. A pack that is
 * larger than that has dead bytes, and may be taken out: each of its records is either dead, then its entry
 * leaves the index; or copied to the end of the packs, and the index pointed there. When the copies are
 * durable, the pack is unlinked.
 *
 * A record of a wanted chunk is passed over only if the index names another, sound one: after a power cut the
 * index may point to a copy that never came to the disk. That other one need not be durable yet (a collection
 * that failed or was killed copied it, or a backup that could not read the first), so its pack goes after a
 * flush, too. A pack in which a live record cannot be read stays.
 *
 * Why nothing is lost to a put that reuses a chunk meanwhile: store/pins.c. Why readers do not fail: a chunk
 * that was moved is looked up again (worker.c). Packs that hold chunks of points under way are left alone
 * altogether, for these look dead.
 *
 * Appending is held up for one record at a time, and by a flush of at most COPY_BATCH bytes.
 */
#include <store/gc.h>

#include <common/error.h>
#include <common/size.h>
#include <store/group-write.h>
#include <store/mark.h>
#include <store/worker-private.h>
#include <string.h>

#define COPY_BATCH  (G_GUINT64_CONSTANT(32) << 20)
#define ROOM_BESIDE (G_GUINT64_CONSTANT(1) << 20) /* what a file system takes for itself */

/* What is live of one pack, as marked. */
typedef struct {
  guint32 number;
  guint32 n_live;
  guint64 live; /* bytes of records */
  guint64 size; /* of the file */
} Pack;

struct StoreGc {
  Store *store;
  const StoreGcOptions *options;
  StoreMark *mark;
  guint32 first_pack; /* from this number on packs are left alone */
  GHashTable *packs;  /* number to Pack, those with live chunks */
  StoreGcResult result;

  /* sweeping */
  guint8 *buffer;        /* STORE_PACK_READ_SIZE */
  StoreWorker *worker;   /* for groups */
  StoreGroupDraft draft; /* chunks of groups that were not live as a whole, not yet copied; contents are made
                            when needed */
  guint8 *contents;      /* (nullable) STORE_GROUP_SIZE_MAX: of the group that they are taken from */
  GByteArray *group_record; /* of the group that is settled */
  StorePackGroup last_seen; /* of those that were copied before */
  GArray *emptied;          /* of guint32: they go at the next flush */
  guint64 batch;            /* bytes copied since */
  guint64 done, total;      /* bytes of the packs that are taken out */
};

/* ---- marking ---- */

static Pack *
pack_of(StoreGc *gc, guint32 number)
{
  Pack *pack = g_hash_table_lookup(gc->packs, GUINT_TO_POINTER(number));
  if (pack)
    return pack;
  pack = g_new0(Pack, 1);
  pack->number = number;
  g_hash_table_insert(gc->packs, GUINT_TO_POINTER(number), pack);
  return pack;
}

static void
note_live(const StoreChunkId *id G_GNUC_UNUSED, const StoreLocation *location, gpointer user_data)
{
  StoreGc *gc = user_data;
  gc->result.n_chunks++;
  if (!location) {
    gc->result.n_missing++;
    return;
  }
  Pack *pack = pack_of(gc, location->pack);
  pack->n_live++;
  pack->live += location->length;
  gc->result.live_bytes += location->length;
}

StoreGc *
store_gc_begin(Store *store, const StoreGcOptions *options, GError **error)
{
  static const StoreGcOptions none = {0};
  guint32 first_pack;
  if (!store_pins_begin_collection(store, &first_pack)) {
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "garbage is being collected already");
    return NULL;
  }
  StoreGc *gc = g_new0(StoreGc, 1);
  gc->store = store;
  gc->first_pack = first_pack;
  gc->packs = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  gc->emptied = g_array_new(FALSE, FALSE, sizeof(guint32));
  gc->buffer = g_malloc(STORE_PACK_READ_SIZE);
  gc->group_record = g_byte_array_new();
  gc->worker = store_worker_new(store);
  gc->options = options ? options : &none;
  gc->mark = store_mark_new(store, gc->options->cancellable);
  store_mark_set_listener(gc->mark, note_live, gc);
  return gc;
}

void
store_gc_end(StoreGc *gc)
{
  store_pins_end_collection(gc->store);
  store_mark_free(gc->mark);
  store_worker_free(gc->worker);
  g_free(gc->draft.contents);
  g_free(gc->contents);
  g_hash_table_unref(gc->packs);
  g_array_unref(gc->emptied);
  g_free(gc->buffer);
  g_byte_array_unref(gc->group_record);
  g_free(gc);
}

gboolean
store_gc_mark(StoreGc *gc, const GPtrArray *points, GError **error)
{
  return store_mark_add(gc->mark, points, error);
}

/* ---- choosing ---- */

/* Bytes of a sealed pack that are not for live chunks. */
static guint64
dead_bytes(const Pack *pack)
{
  guint64 needed = STORE_PACK_HEADER_SIZE + pack->live + pack->n_live * (guint64) STORE_TABLE_ENTRY_SIZE +
                   STORE_FOOTER_SIZE;
  return pack->size > needed ? pack->size - needed : 0;
}

/* The thinnest first; of equally thin ones the older. */
static int
compare_thinness(const void *a, const void *b)
{
  const Pack *x = a, *y = b;
  unsigned __int128 left = (unsigned __int128) dead_bytes(x) * y->size;
  unsigned __int128 right = (unsigned __int128) dead_bytes(y) * x->size;
  if (left != right)
    return left > right ? -1 : 1;
  return (x->number > y->number) - (x->number < y->number);
}

/* All sealed packs that may be taken out, and the bytes of all. */
static GArray *
list_packs(StoreGc *gc, guint64 *all_bytes, GError **error)
{
  g_autoptr(GArray) numbers = store_pack_list(gc->store->packs, error);
  guint32 end = MIN(gc->first_pack, store_pack_end(gc->store->packs).pack);
  GArray *packs = numbers ? g_array_new(FALSE, FALSE, sizeof(Pack)) : NULL;
  *all_bytes = 0;
  for (guint i = 0; numbers && i < numbers->len; i++) {
    guint32 number = g_array_index(numbers, guint32, i);
    const Pack *marked = g_hash_table_lookup(gc->packs, GUINT_TO_POINTER(number));
    Pack pack = marked ? *marked : (Pack){.number = number};
    if (!store_pack_size(gc->store->packs, number, &pack.size, error)) {
      g_array_unref(packs);
      return NULL;
    }
    *all_bytes += pack.size;
    if (number < end)
      g_array_append_val(packs, pack);
  }
  return packs;
}

/* The packs to take out, in the order in which it is done. */
static GArray *
choose(StoreGc *gc, GError **error)
{
  guint64 all = 0, dead = 0, copied = 0;
  GArray *packs = list_packs(gc, &all, error);
  if (!packs)
    return NULL;
  for (guint i = 0; i < packs->len; i++)
    dead += dead_bytes(&g_array_index(packs, Pack, i));
  g_array_sort(packs, compare_thinness);
  guint n = 0;
  for (; n < packs->len; n++) {
    const Pack *pack = &g_array_index(packs, Pack, n);
    gboolean is_cheap = copied + pack->live <= STORE_GC_COPY_ALWAYS;
    if (dead_bytes(pack) == 0 || (!is_cheap && dead <= all / 100 * STORE_GC_WASTE_PERCENT))
      break;
    copied += pack->live;
    dead -= dead_bytes(pack);
    gc->total += pack->size;
  }
  g_array_set_size(packs, n);
  return packs;
}

/* ---- taking one pack out ---- */

/* Or a chunk of a group. */
typedef struct {
  StoreChunkId id;
  StoreLocation location;
  gboolean is_grouped;
} Record;

static gboolean
collect_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer records)
{
  Record record = {info->id, *location, info->encoding == STORE_ENCODING_GROUP};
  g_array_append_val((GArray *) records, record);
  return TRUE;
}

static gboolean
is_at(const StoreLocation *a, const StoreLocation *b)
{
  return a->pack == b->pack && a->offset == b->offset;
}

static gboolean
read_sound(StoreGc *gc, const StoreChunkId *id, const StoreLocation *location, StoreRecordInfo *info,
           const guint8 **payload, gsize *payload_length)
{
  return store_pack_read(gc->store->packs, location, info, gc->buffer, payload, payload_length, NULL) &&
         store_chunk_id_equal(&info->id, id);
}

/* What is known of a pack whose records are settled. */
typedef struct {
  guint32 n_met;      /* live records that the index has here */
  gboolean keeps;     /* something that is wanted could not be saved */
  gboolean is_copied; /* something of it stands elsewhere, and that may not be durable */
} Emptying;

/* Takes the entry of a chunk that is not marked out of the index. FALSE if it is pinned, and stays.
 * append_lock is held. */
static gboolean
retire_locked(StoreGc *gc, const Record *record, Emptying *emptying)
{
  Store *store = gc->store;
  StoreLocation now;
  gboolean is_pinned = FALSE;
  if (!store_index_lookup(store->index, &record->id, &now)) {
    /* Nobody had it. */
  } else if (!is_at(&now, &record->location)) {
    emptying->is_copied |= store_pins_contain(store, &record->id);
  } else {
    gboolean was_there = store_index_remove(store->index, &record->id);
    g_assert(was_there);
    if (store_pins_contain(store, &record->id)) {
      /* Its slot is still there, so that no room is needed. */
      is_pinned = TRUE;
      if (!store_index_insert(store->index, &record->id, &now, NULL))
        g_assert_not_reached();
    }
  }
  return !is_pinned;
}

static gboolean
retire(StoreGc *gc, const Record *record, Emptying *emptying)
{
  pthread_mutex_lock(&gc->store->append_lock);
  gboolean is_gone = retire_locked(gc, record, emptying);
  pthread_mutex_unlock(&gc->store->append_lock);
  return is_gone;
}

/* Copies a record to the end, unless the index names another place than EXPECTED by now. */
static gboolean
copy_record(StoreGc *gc, const StoreRecordInfo *info, const guint8 *payload, gsize length,
            const StoreLocation *expected, GError **error)
{
  Store *store = gc->store;
  StoreLocation now = {0}, copy;
  gboolean ok = TRUE;
  pthread_mutex_lock(&store->append_lock);
  if (!store_index_lookup(store->index, &info->id, &now))
    now = (StoreLocation){0};
  if (is_at(&now, expected)) {
    ok = store_pack_append(store->packs, info, payload, length, &copy, error) &&
         store_index_insert(store->index, &info->id, &copy, error);
    gc->batch += ok ? store_record_span((guint32) length) : 0;
  }
  pthread_mutex_unlock(&store->append_lock);
  return ok;
}

/* Whether RECORD has to be saved: it is wanted, and stands nowhere else. *indexed gets where the index has
 * it. */
static gboolean
needs_saving(StoreGc *gc, const Record *record, StoreLocation *indexed, Emptying *emptying)
{
  if (!store_index_lookup(gc->store->index, &record->id, indexed))
    *indexed = (StoreLocation){0};
  emptying->n_met += is_at(indexed, &record->location) && store_mark_contains(gc->mark, &record->id);
  if (!store_mark_contains(gc->mark, &record->id) && retire(gc, record, emptying))
    return FALSE;
  emptying->is_copied = TRUE;
  return is_at(indexed, &record->location) ||
         !store_pack_has(gc->store->packs, indexed, &record->id, &gc->last_seen);
}

static gboolean
settle_record(StoreGc *gc, const Record *record, Emptying *emptying, GError **error)
{
  StoreLocation indexed;
  StoreRecordInfo info;
  const guint8 *payload;
  gsize length;
  if (!needs_saving(gc, record, &indexed, emptying))
    return TRUE;
  if (read_sound(gc, &record->id, &record->location, &info, &payload, &length))
    return copy_record(gc, &info, payload, length, &indexed, error);
  emptying->keeps = TRUE;
  return TRUE;
}

/* ---- groups ---- */

static gboolean
write_draft(StoreGc *gc, GError **error)
{
  guint64 bytes = 0;
  if (gc->draft.n == 0)
    return TRUE;
  gboolean ok = store_group_write(gc->worker, &gc->draft, &bytes, error);
  gc->batch += bytes;
  gc->draft.n = ok ? 0 : gc->draft.n;
  return ok;
}

static gboolean
add_to_draft(StoreGc *gc, const StoreChunkId *id, const StoreLocation *indexed, const guint8 *content,
             GError **error)
{
  StoreGroupDraft *draft = &gc->draft;
  if (!draft->contents)
    draft->contents = g_malloc(STORE_GROUP_SIZE_MAX);
  memcpy(draft->contents + (gsize) draft->n * STORE_CHUNK_LENGTH_MAX, content, STORE_CHUNK_LENGTH_MAX);
  draft->ids[draft->n] = *id;
  draft->seen[draft->n++] = *indexed;
  return draft->n < gc->store->options.group_clusters || write_draft(gc, error);
}

/* The chunks WANTED (their numbers in the group) of a group of which others are dead. */
static gboolean
save_some(StoreGc *gc, const StoreGroupDraft *wanted, const guint *numbers, guint n, const guint8 *payload,
          gsize length, Emptying *emptying, GError **error)
{
  if (!gc->contents)
    gc->contents = g_malloc(STORE_GROUP_SIZE_MAX);
  if (!store_worker_unpack_group(gc->worker, n, payload, length, gc->contents)) {
    emptying->keeps = TRUE;
    return TRUE;
  }
  for (guint i = 0; i < wanted->n; i++) {
    const guint8 *content = gc->contents + (gsize) numbers[i] * STORE_CHUNK_LENGTH_MAX;
    StoreChunkId digest = store_digest(gc->store, content, STORE_CHUNK_LENGTH_MAX);
    /* The only copy is made of this: better the pack stays. */
    if (memcmp(digest.bytes, wanted->ids[i].bytes, ORDINAL) != 0) {
      emptying->keeps = TRUE;
      return TRUE;
    }
  }
  for (guint i = 0; i < wanted->n; i++)
    if (!add_to_draft(gc, &wanted->ids[i], &wanted->seen[i],
                      gc->contents + (gsize) numbers[i] * STORE_CHUNK_LENGTH_MAX, error))
      return FALSE;
  return TRUE;
}

static gboolean
copy_group(StoreGc *gc, StoreGroupDraft *wanted, const guint8 *payload, gsize length, GError **error)
{
  guint64 bytes = 0;
  gboolean ok = store_group_copy(gc->worker, wanted, payload, length, &bytes, error);
  gc->batch += bytes;
  return ok;
}

/* Whether the record that was read is of the chunks RECORDS, in their order. */
static gboolean
is_group_of(const guint8 *payload, const StoreRecordInfo *info, const Record *records, guint n)
{
  if (store_group_count(info->length) != n)
    return FALSE;
  for (guint i = 0; i < n; i++) {
    StoreRecordInfo chunk = store_group_chunk(payload, i);
    if (!store_chunk_id_equal(&chunk.id, &records[i].id))
      return FALSE;
  }
  return TRUE;
}

/* The N chunks of one group. One that is wanted as a whole is copied as it is. */
static gboolean
settle_group(StoreGc *gc, const Record *records, guint n, Emptying *emptying, GError **error)
{
  StoreGroupDraft wanted = {0};
  guint numbers[STORE_GROUP_CHUNKS_MAX];
  StoreRecordInfo info;
  gsize length;
  for (guint i = 0; i < n; i++) {
    if (!needs_saving(gc, &records[i], &wanted.seen[wanted.n], emptying))
      continue;
    numbers[wanted.n] = i;
    wanted.ids[wanted.n++] = records[i].id;
  }
  if (wanted.n == 0)
    return TRUE;
  const guint8 *payload =
      store_pack_read_group(gc->store->packs, &records->location, &info, gc->group_record, &length, NULL);
  if (!payload || !is_group_of(payload, &info, records, n)) {
    emptying->keeps = TRUE;
    return TRUE;
  }
  return wanted.n == n ? copy_group(gc, &wanted, payload, length, error)
                       : save_some(gc, &wanted, numbers, n, payload, length, emptying, error);
}

/* How many of RECORDS are of the group that the first is in. */
static guint
group_length(const Record *records, guint n)
{
  guint i = 1;
  while (i < MIN(n, STORE_GROUP_CHUNKS_MAX) && records[i].is_grouped &&
         is_at(&records[i].location, &records[0].location))
    i++;
  return i;
}

static gboolean
is_cancelled(const StoreGc *gc, GError **error)
{
  if (!g_cancellable_is_cancelled(gc->options->cancellable))
    return FALSE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return TRUE;
}

/* Saves what is wanted of PACK. */
static gboolean
empty_pack(StoreGc *gc, const Pack *pack, Emptying *emptying, GError **error)
{
  StoreLocation from = {.pack = pack->number};
  g_autoptr(GArray) records = g_array_new(FALSE, FALSE, sizeof(Record));
  if (!store_pack_scan_one(gc->store->packs, &from, collect_record, records, error))
    return FALSE;
  for (guint i = 0, n; i < records->len; i += n) {
    const Record *record = &g_array_index(records, Record, i);
    n = record->is_grouped ? group_length(record, records->len - i) : 1;
    if (is_cancelled(gc, error) || !(record->is_grouped ? settle_group(gc, record, n, emptying, error)
                                                        : settle_record(gc, record, emptying, error)))
      return FALSE;
  }
  /* A live record that is not even met stands in a damaged stretch. */
  emptying->keeps |= emptying->n_met < pack->n_live;
  return TRUE;
}

/* ---- sweeping ---- */

static gboolean
remove_pack(StoreGc *gc, guint32 number, GError **error)
{
  guint64 size;
  if (!store_pack_size(gc->store->packs, number, &size, error) ||
      !store_pack_remove(gc->store->packs, number, error))
    return FALSE;
  gc->result.n_packs++;
  gc->result.freed += size;
  return TRUE;
}

/* What was copied becomes durable, and the packs that it came from go. */
static gboolean
finish_batch(StoreGc *gc, GError **error)
{
  if (gc->emptied->len == 0)
    return TRUE;
  if (!write_draft(gc, error) || !store_pack_flush(gc->store->packs, error))
    return FALSE;
  gc->result.copied += gc->batch;
  gc->batch = 0;
  for (guint i = 0; i < gc->emptied->len; i++)
    if (!remove_pack(gc, g_array_index(gc->emptied, guint32, i), error))
      return FALSE;
  g_array_set_size(gc->emptied, 0);
  return TRUE;
}

static gboolean
take_out(StoreGc *gc, const Pack *pack, GError **error)
{
  Emptying emptying = {0};
  if (!empty_pack(gc, pack, &emptying, error))
    return FALSE;
  if (emptying.keeps) {
    gc->result.n_kept++;
    return TRUE;
  }
  if (!emptying.is_copied)
    return remove_pack(gc, pack->number, error);
  g_array_append_val(gc->emptied, pack->number);
  return gc->batch < COPY_BATCH || finish_batch(gc, error);
}

/* What copying the live records of PACK takes of the disk, at most; but what is left of groups may compress
 * worse than its shares say, for which as much again is allowed. */
static guint64
room_needed(const Pack *pack)
{
  guint64 records = MIN(pack->size, 2 * pack->live);
  return pack->live == 0 ? 0 : records + pack->n_live * (guint64) STORE_TABLE_ENTRY_SIZE + ROOM_BESIDE;
}

/* Where room is short, what was copied makes place for its sources first. *has_room: for what PACK needs. */
static gboolean
make_room(StoreGc *gc, const Pack *pack, gboolean *has_room, GError **error)
{
  guint64 needed = room_needed(pack);
  *has_room =
      needed == 0 || store_pack_room(gc->store->packs) > needed + COPY_BATCH + STORE_PACK_SIZE_DEFAULT;
  if (*has_room)
    return TRUE;
  if (!finish_batch(gc, error))
    return FALSE;
  *has_room = store_pack_room(gc->store->packs) >= needed;
  return TRUE;
}

static void
note_progress(StoreGc *gc, const Pack *pack)
{
  gc->done += pack->size;
  if (gc->options->progress)
    gc->options->progress(gc->done, gc->total, gc->options->user_data);
}

/* Takes those of PACKS out that there is room for; the others stay in PACKS. */
static gboolean
take_out_some(StoreGc *gc, GArray *packs, GError **error)
{
  guint n_left = 0, i = 0;
  gboolean ok = TRUE;
  for (; ok && i < packs->len; i++) {
    Pack pack = g_array_index(packs, Pack, i);
    gboolean has_room;
    ok = make_room(gc, &pack, &has_room, error) && (!has_room || take_out(gc, &pack, error));
    if (ok && !has_room)
      g_array_index(packs, Pack, n_left++) = pack;
    else
      note_progress(gc, &pack);
  }
  g_array_set_size(packs, n_left);
  return finish_batch(gc, ok ? error : NULL) && ok;
}

/* What is copied needs room before what it comes from can go; and what goes makes room for the next. */
static gboolean
take_out_all(StoreGc *gc, GArray *packs, GError **error)
{
  guint n_before = packs->len + 1;
  while (packs->len > 0 && packs->len < n_before) {
    n_before = packs->len;
    if (!take_out_some(gc, packs, error))
      return FALSE;
  }
  if (packs->len == 0)
    return TRUE;
  guint64 least = G_MAXUINT64;
  for (guint i = 0; i < packs->len; i++)
    least = MIN(least, room_needed(&g_array_index(packs, Pack, i)));
  g_autofree char *size = cbt_size_format(least);
  g_autofree char *hint =
      g_strdup_printf("Give the store's file system %s more, or remove more points, and run it again.", size);
  cbt_set_error(
      error, CBT_ERROR_NO_SPACE, hint,
      "there are dead chunks in %u of the packs, but no room to copy the others out of them: %s are needed",
      packs->len, size);
  return FALSE;
}

/*
 * What a backup that met the end of the disk has left in memory. As long as it cannot be written the open
 * pack cannot be sealed, nor anything be flushed. If nobody wants it, the pack ends with what its file has.
 */
static void
give_up_unwritten(StoreGc *gc)
{
  Store *store = gc->store;
  Emptying emptying = {0};
  gboolean is_wanted = FALSE;
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) records = g_array_new(FALSE, FALSE, sizeof(Record));
  pthread_mutex_lock(&store->append_lock);
  store_pack_list_unwritten(store->packs, collect_record, records);
  for (guint i = 0; i < records->len && !is_wanted; i++) {
    const Record *record = &g_array_index(records, Record, i);
    is_wanted = store_mark_contains(gc->mark, &record->id) || !retire_locked(gc, record, &emptying);
  }
  if (!is_wanted && !store_pack_give_up(store->packs, &error))
    g_debug("%s", error->message);
  pthread_mutex_unlock(&store->append_lock);
}

/* The open pack takes part if anything in it is dead. */
static void
seal_open_pack(StoreGc *gc)
{
  StoreLocation end = store_pack_end(gc->store->packs);
  const Pack *marked = g_hash_table_lookup(gc->packs, GUINT_TO_POINTER(end.pack));
  g_autoptr(GError) error = NULL;
  if (end.pack >= gc->first_pack || end.offset <= STORE_PACK_HEADER_SIZE + (marked ? marked->live : 0) ||
      store_pack_seal(gc->store->packs, &error))
    return;
  g_debug("%s", error->message);
  give_up_unwritten(gc);
}

/* Waits for packs to be read into the index to the end, for what is retired must not come back. */
static void
set_sweeping(Store *store, gboolean is_sweeping)
{
  pthread_mutex_lock(&store->rebuild_lock);
  store->is_sweeping = is_sweeping;
  pthread_mutex_unlock(&store->rebuild_lock);
}

static gboolean
sweep(StoreGc *gc, GError **error)
{
  seal_open_pack(gc);
  g_autoptr(GArray) packs = choose(gc, error);
  return packs && take_out_all(gc, packs, error);
}

gboolean
store_gc_sweep(StoreGc *gc, StoreGcResult *result, GError **error)
{
  set_sweeping(gc->store, TRUE);
  gboolean ok = sweep(gc, error);
  set_sweeping(gc->store, FALSE);
  ok = store_checkpoint(gc->store, ok ? error : NULL) && ok;
  gc->result.freed -= MIN(gc->result.copied, gc->result.freed);
  *result = gc->result;
  return ok;
}
