/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes that come free: mark what stays; then mark what goes, listening for chunks that are new. The
 * index knows what each takes in its pack.
 *
 * A chunk may have several records, for a damaged one is replaced. Only the one that the index names counts;
 * the others are dead already.
 */
#include <store/mark.h>

#include <common/error.h>
#include <store/store-private.h>

typedef struct {
  Store *store;
  StoreMarkFreed *freed;
  guint64 n_unknown; /* chunks that the index does not have */
} Search;

static void
add_chunk(const StoreChunkId *id, gpointer user_data)
{
  Search *search = user_data;
  StoreLocation location;
  if (store_index_lookup(search->store->index, id, &location)) {
    search->freed->bytes += location.length;
    search->freed->n_chunks++;
  } else {
    search->n_unknown++;
  }
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

gboolean
store_mark_freed(Store *store, const GPtrArray *kept, const GPtrArray *removed, StoreMarkFreed *freed,
                 GError **error)
{
  g_autoptr(StoreMark) mark = store_mark_new(store);
  Search search = {.store = store, .freed = freed};
  *freed = (StoreMarkFreed){0};
  gboolean ok = add_all(mark, kept, error);
  store_mark_set_listener(mark, add_chunk, &search);
  ok = add_all(mark, removed, ok ? error : NULL) && ok;
  if (ok && search.n_unknown > 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "the index lacks %" G_GUINT64_FORMAT " chunks of the points to remove", search.n_unknown);
    ok = FALSE;
  }
  return ok;
}
