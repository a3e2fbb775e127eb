/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two sets. Pages: that one was visited means that all below it is marked, so this set must be exact. Chunks:
 * clusters and configuration files. They are apart because a file may have the very bytes of a page, and then
 * has its id: that the file was marked must not keep the page from being visited.
 */
#include <store/mark.h>

#include <common/error.h>
#include <malloc.h>
#include <store/id-set.h>
#include <store/manifest-private.h>

#define TRIM_BYTES (16u << 20)

struct StoreMark {
  StoreWorker *worker;
  StoreIdSet *pages;
  StoreIdSet *chunks;
  StoreMarkFunc func; /* (nullable) */
  gpointer user_data;
};

StoreMark *
store_mark_new(Store *store)
{
  StoreMark *mark = g_new0(StoreMark, 1);
  mark->worker = store_worker_new(store);
  mark->pages = store_id_set_new(TRUE);
  mark->chunks = store_id_set_new(FALSE);
  return mark;
}

void
store_mark_free(StoreMark *mark)
{
  store_worker_free(mark->worker);
  guint64 memory = store_id_set_memory(mark->pages) + store_id_set_memory(mark->chunks);
  store_id_set_free(mark->pages);
  store_id_set_free(mark->chunks);
  g_free(mark);
  /* Millions of small pieces: by itself the allocator would keep them all for later. */
  if (memory >= TRIM_BYTES)
    malloc_trim(0);
}

void
store_mark_set_listener(StoreMark *mark, StoreMarkFunc func, gpointer user_data)
{
  mark->func = func;
  mark->user_data = user_data;
}

gboolean
store_mark_contains(const StoreMark *mark, const StoreChunkId *id)
{
  return store_id_set_contains(mark->chunks, id) || store_id_set_contains(mark->pages, id);
}

/* A chunk that is both a page and a file counts twice: that is a count for people. */
guint64
store_mark_count(const StoreMark *mark)
{
  return store_id_set_count(mark->pages) + store_id_set_count(mark->chunks);
}

/* Adds ID to SET, the OTHER one being looked at for the listener's sake alone. FALSE if it was in SET. */
static gboolean
add(StoreMark *mark, StoreIdSet *set, const StoreIdSet *other, const StoreChunkId *id)
{
  if (!store_id_set_add(set, id))
    return FALSE;
  if (mark->func && !store_id_set_contains(other, id))
    mark->func(id, mark->user_data);
  return TRUE;
}

static void
add_chunk(StoreMark *mark, const StoreChunkId *id)
{
  if (!store_chunk_id_is_zero(id))
    add(mark, mark->chunks, mark->pages, id);
}

static void
keep_first(GError **first, GError *error)
{
  if (*first)
    g_error_free(error);
  else
    *first = error;
}

static void
add_page(StoreMark *mark, const StoreChunkId *id, guint level, GError **first)
{
  StorePage page;
  GError *error = NULL;
  if (store_chunk_id_is_zero(id) || !add(mark, mark->pages, mark->chunks, id))
    return;
  if (!store_page_load(mark->worker, id, level, &page, &error)) {
    keep_first(first, error);
    return;
  }
  for (guint i = 0; i < STORE_PAGE_FANOUT; i++) {
    if (level > 0)
      add_page(mark, &page.entries[i], level - 1, first);
    else
      add_chunk(mark, &page.entries[i]);
  }
}

gboolean
store_mark_add(StoreMark *mark, const StorePoint *point, GError **error)
{
  GError *first = NULL;
  for (guint i = 0; i < point->disks->len; i++) {
    const StoreManifest *manifest = &((const StorePointDisk *) point->disks->pdata[i])->manifest;
    add_page(mark, &manifest->root, store_manifest_n_levels(manifest->size) - 1, &first);
  }
  for (guint i = 0; i < point->configs->len; i++)
    add_chunk(mark, &((const StorePointConfig *) point->configs->pdata[i])->id);
  if (first)
    g_propagate_error(error, first);
  return first == NULL;
}
