/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes that come free: mark what stays; then mark what goes, listening for chunks that are new. The
 * index knows where they stand, but their lengths only in steps of 32 bytes, so the packs that they stand in
 * are asked: the table of contents of each such pack is read once.
 *
 * A chunk may have several records, for a damaged one is replaced. Only the one that the index names counts;
 * the others are dead already.
 */
#include <store/mark.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/index-format.h>
#include <store/pack-format.h>
#include <store/store-private.h>

typedef struct {
  Store *store;
  GArray *places;    /* of guint64, of chunks that come free, as the index packs a location */
  guint64 n_unknown; /* chunks that the index does not have */
} Search;

static void
note_place(const StoreChunkId *id, gpointer user_data)
{
  Search *search = user_data;
  StoreLocation location;
  if (store_index_lookup(search->store->index, id, &location)) {
    guint64 place = store_index_pack_location(&location);
    g_array_append_val(search->places, place);
  } else {
    search->n_unknown++;
  }
}

/* By pack, then by offset: that is how the numbers are made. */
static int
compare_places(const void *a, const void *b)
{
  const guint64 *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

/* The chunks that come free of one pack, while its records are walked in order. */
typedef struct {
  const guint64 *next, *end;
  guint64 bytes;
} Pack;

static void
add_bytes(Pack *pack, guint32 length)
{
  pack->bytes += cbt_round_up(length, STORE_PACK_ALIGN);
  pack->next++;
}

/* Adds the chunks up to OFFSET, of which the pack has no sound record. */
static void
pass_by(Pack *pack, guint64 offset)
{
  while (pack->next < pack->end) {
    StoreLocation location = store_index_unpack_location(*pack->next);
    if (location.offset >= offset)
      return;
    add_bytes(pack, location.length);
  }
}

static gboolean
add_record(const StoreRecordInfo *info G_GNUC_UNUSED, const StoreLocation *location, gpointer user_data)
{
  Pack *pack = user_data;
  pass_by(pack, location->offset);
  if (pack->next < pack->end && store_index_unpack_location(*pack->next).offset == location->offset)
    add_bytes(pack, location->length);
  return pack->next < pack->end;
}

/* Fails as the first pack did that could not be read; then the index's lengths are taken. */
static gboolean
sum_bytes(Store *store, GArray *places, guint64 *bytes, GError **error)
{
  const guint64 *first = (const guint64 *) (gconstpointer) places->data, *end = first + places->len;
  gboolean ok = TRUE;
  *bytes = 0;
  while (first < end) {
    StoreLocation from = store_index_unpack_location(*first);
    Pack pack = {first, first, 0};
    while (pack.end < end && store_index_unpack_location(*pack.end).pack == from.pack)
      pack.end++;
    first = pack.end;
    ok = store_pack_scan_one(store->packs, &from, add_record, &pack, ok ? error : NULL) && ok;
    pass_by(&pack, G_MAXUINT64);
    *bytes += pack.bytes;
  }
  return ok;
}

static gboolean
add_all(StoreMark *mark, const GPtrArray *points, GError **error)
{
  GError *first = NULL;
  for (guint i = 0; i < points->len; i++) {
    GError *local = NULL;
    if (store_mark_add(mark, points->pdata[i], &local))
      continue;
    if (first)
      g_error_free(local);
    else
      first = local;
  }
  if (first)
    g_propagate_error(error, first);
  return first == NULL;
}

/* Fails as the first of the two did. */
static gboolean
find_freed(Search *search, const GPtrArray *kept, const GPtrArray *removed, GError **error)
{
  g_autoptr(StoreMark) mark = store_mark_new(search->store);
  gboolean ok = add_all(mark, kept, error);
  store_mark_set_listener(mark, note_place, search);
  ok = add_all(mark, removed, ok ? error : NULL) && ok;
  if (ok && search->n_unknown > 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "the index lacks %" G_GUINT64_FORMAT " chunks of the points to remove", search->n_unknown);
    ok = FALSE;
  }
  return ok;
}

gboolean
store_mark_freed(Store *store, const GPtrArray *kept, const GPtrArray *removed, StoreMarkFreed *freed,
                 GError **error)
{
  g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(guint64));
  Search search = {.store = store, .places = places};
  gboolean ok = find_freed(&search, kept, removed, error);
  g_array_sort(places, compare_places);
  ok = sum_bytes(store, places, &freed->bytes, ok ? error : NULL) && ok;
  freed->n_chunks = places->len;
  return ok;
}
