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

typedef struct {
  StoreMarkFreed *freed;
  guint64 n_unknown; /* chunks that no pack has */
} Search;

static void
add_chunk(const StoreChunkId *id G_GNUC_UNUSED, const StoreLocation *location, gpointer user_data)
{
  Search *search = user_data;
  if (location) {
    search->freed->bytes += location->length;
    search->freed->n_chunks++;
  } else {
    search->n_unknown++;
  }
}

gboolean
store_mark_freed(Store *store, const GPtrArray *kept, const GPtrArray *removed, GCancellable *cancellable,
                 StoreMarkFreed *freed, GError **error)
{
  g_autoptr(StoreMark) mark = store_mark_new(store, cancellable);
  Search search = {.freed = freed};
  *freed = (StoreMarkFreed){0};
  gboolean ok = store_mark_add(mark, kept, error);
  store_mark_set_listener(mark, add_chunk, &search);
  ok = store_mark_add(mark, removed, ok ? error : NULL) && ok;
  if (ok && search.n_unknown > 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "%" G_GUINT64_FORMAT " chunks of the points to remove are missing", search.n_unknown);
    ok = FALSE;
  }
  return ok;
}
