/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The trees of all points of a disk are gone down together: of each place the distinct pages of all points
 * are loaded, then place by place what they name. Two points that follow each other mostly name the same, so
 * most is seen to be equal by comparing neighbours in memory, and only the rest is looked up in the index,
 * where a look costs more than a page's worth of comparisons.
 *
 * The marks are bits of the index's slots, by kind: a page that is visited is not visited again. Visited and
 * reached are apart because a file may have the very bytes of a page, and then has its id: that the file was
 * reached must not keep the page from being visited.
 */
#include <store/mark.h>

#include <common/error.h>
#include <store/manifest-private.h>
#include <store/store-private.h>
#include <string.h>

#define PAGES_AT_ONCE 1024u /* of one place; so the memory is bounded */

struct StoreMark {
  Store *store;
  GCancellable *cancellable;
  StoreWorker *worker;
  StoreIndexMarks *marks;
  GHashTable *missing; /* of StoreChunkId: reached, but in no pack */
  guint64 count;
  StoreMarkFunc func; /* (nullable) */
  gpointer user_data;
  GError *error; /* (nullable) the first */
};

StoreMark *
store_mark_new(Store *store, GCancellable *cancellable)
{
  StoreMark *mark = g_new0(StoreMark, 1);
  mark->store = store;
  mark->cancellable = cancellable;
  mark->worker = store_worker_new(store);
  mark->marks = store_index_marks_new(store->index);
  mark->missing = g_hash_table_new_full(store_chunk_id_hash, store_chunk_id_hash_equal, g_free, NULL);
  return mark;
}

void
store_mark_free(StoreMark *mark)
{
  store_worker_free(mark->worker);
  store_index_marks_free(mark->marks);
  g_hash_table_unref(mark->missing);
  g_clear_error(&mark->error);
  g_free(mark);
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
  return store_index_is_marked(mark->marks, id, STORE_INDEX_MARK_REACHED) ||
         g_hash_table_contains(mark->missing, id);
}

guint64
store_mark_count(const StoreMark *mark)
{
  return mark->count;
}

/* ---- one chunk ---- */

static void
count_new(StoreMark *mark, const StoreChunkId *id, const StoreLocation *location)
{
  mark->count++;
  if (mark->func)
    mark->func(id, location, mark->user_data);
}

/* What the index lacks is looked for in the packs, once. */
static gboolean
mark_entry(StoreMark *mark, const StoreChunkId *id, StoreIndexMark kind, gboolean *is_new,
           StoreLocation *location)
{
  gint seen = g_atomic_int_get(&mark->store->was_rebuilt);
  return store_index_mark(mark->marks, id, kind, is_new, location) ||
         (store_rebuild_index(mark->store, seen) &&
          store_index_mark(mark->marks, id, kind, is_new, location));
}

static void
reach(StoreMark *mark, const StoreChunkId *id)
{
  StoreLocation location;
  gboolean is_new;
  if (mark_entry(mark, id, STORE_INDEX_MARK_REACHED, &is_new, &location)) {
    if (is_new)
      count_new(mark, id, &location);
  } else if (g_hash_table_add(mark->missing, g_memdup2(id, sizeof *id))) {
    count_new(mark, id, NULL);
  }
}

static void
reach_all(StoreMark *mark, const StoreChunkId *ids, guint n)
{
  store_index_marks_prefetch(mark->marks, ids, n);
  for (guint i = 0; i < n; i++)
    reach(mark, &ids[i]);
}

/* ---- pages ---- */

static void
keep_first(StoreMark *mark, GError *error)
{
  if (mark->error)
    g_error_free(error);
  else
    mark->error = error;
}

static gboolean
is_cancelled(StoreMark *mark)
{
  if (!g_cancellable_is_cancelled(mark->cancellable))
    return FALSE;
  if (!mark->error)
    cbt_set_error(&mark->error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return TRUE;
}

/* Loads those of IDS that were not visited yet, and gives how many there are. */
static guint
load_pages(StoreMark *mark, guint level, const StoreChunkId *ids, guint n, StorePage *pages)
{
  guint n_pages = 0;
  reach_all(mark, ids, n);
  for (guint i = 0; i < n; i++) {
    gboolean is_new;
    GError *error = NULL;
    if (mark_entry(mark, &ids[i], STORE_INDEX_MARK_VISITED, &is_new, NULL) && !is_new)
      continue;
    if (store_page_load(mark->worker, &ids[i], level, &pages[n_pages], &error))
      n_pages++;
    else
      keep_first(mark, error);
  }
  return n_pages;
}

/* What PAGES have at ENTRY, but for zeros and what the page before has, too. */
static guint
collect_entries(const StorePage *pages, guint n_pages, guint entry, StoreChunkId *ids)
{
  guint n = 0;
  for (guint i = 0; i < n_pages; i++) {
    const StoreChunkId *id = &pages[i].entries[entry];
    if (!store_chunk_id_is_zero(id) && (n == 0 || !store_chunk_id_equal(id, &ids[n - 1])))
      ids[n++] = *id;
  }
  return n;
}

/* What leaves of one place name. */
static void
reach_clusters(StoreMark *mark, const StorePage *pages, guint n_pages)
{
  guint n = 0, n_max = STORE_PAGE_FANOUT * 4;
  g_autofree StoreChunkId *ids = g_new(StoreChunkId, n_max + n_pages);
  for (guint entry = 0; entry < STORE_PAGE_FANOUT; entry++) {
    n += collect_entries(pages, n_pages, entry, ids + n);
    if (n >= n_max || entry + 1 == STORE_PAGE_FANOUT) {
      reach_all(mark, ids, n);
      n = 0;
    }
  }
}

/* The pages IDS, all of one place. */
static void
visit(StoreMark *mark, guint level, const StoreChunkId *ids, guint n)
{
  g_autofree StorePage *pages = g_new(StorePage, MIN(n, PAGES_AT_ONCE));
  g_autofree StoreChunkId *below = g_new(StoreChunkId, MIN(n, PAGES_AT_ONCE));
  for (guint first = 0; first < n && !is_cancelled(mark); first += PAGES_AT_ONCE) {
    guint n_pages = load_pages(mark, level, ids + first, MIN(n - first, PAGES_AT_ONCE), pages);
    if (level == 0)
      reach_clusters(mark, pages, n_pages);
    for (guint entry = 0; level > 0 && entry < STORE_PAGE_FANOUT; entry++) {
      guint n_below = collect_entries(pages, n_pages, entry, below);
      if (n_below > 0)
        visit(mark, level - 1, below, n_below);
    }
  }
}

/* ---- points ---- */

typedef struct {
  const StorePoint *point;
  const StorePointDisk *disk;
  guint level; /* of the root */
} Tree;

/* By disk, then by height, then in the order in which they were made. */
static int
compare_trees(const void *a, const void *b)
{
  const Tree *x = a, *y = b;
  int vm = strcmp(x->point->vm, y->point->vm);
  int name = vm == 0 ? strcmp(x->disk->name, y->disk->name) : vm;
  if (name != 0)
    return name;
  if (x->level != y->level)
    return x->level < y->level ? -1 : 1;
  return (x->point->time > y->point->time) - (x->point->time < y->point->time);
}

static gboolean
is_of_same_disk(const Tree *a, const Tree *b)
{
  return a->level == b->level && strcmp(a->point->vm, b->point->vm) == 0 &&
         strcmp(a->disk->name, b->disk->name) == 0;
}

static GArray *
list_trees(const GPtrArray *points)
{
  GArray *trees = g_array_new(FALSE, FALSE, sizeof(Tree));
  for (guint i = 0; i < points->len; i++) {
    const StorePoint *point = points->pdata[i];
    for (guint d = 0; d < point->disks->len; d++) {
      const StorePointDisk *disk = point->disks->pdata[d];
      Tree tree = {point, disk, store_manifest_n_levels(disk->manifest.size) - 1};
      if (!store_chunk_id_is_zero(&disk->manifest.root))
        g_array_append_val(trees, tree);
    }
  }
  g_array_sort(trees, compare_trees);
  return trees;
}

static void
visit_disk(StoreMark *mark, const Tree *trees, guint n)
{
  g_autofree StoreChunkId *roots = g_new(StoreChunkId, n);
  gboolean was_well = !mark->error;
  for (guint i = 0; i < n; i++)
    roots[i] = trees[i].disk->manifest.root;
  visit(mark, trees[0].level, roots, n);
  if (was_well && mark->error)
    g_prefix_error(&mark->error, "disk '%s' of vm '%s': ", trees[0].disk->name, trees[0].point->vm);
}

static void
reach_configs(StoreMark *mark, const StorePoint *point)
{
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = point->configs->pdata[i];
    if (!store_chunk_id_is_zero(&config->id))
      reach(mark, &config->id);
  }
}

gboolean
store_mark_add(StoreMark *mark, const GPtrArray *points, GError **error)
{
  g_autoptr(GArray) trees = list_trees(points);
  const Tree *all = (const Tree *) (gconstpointer) trees->data;
  for (guint first = 0, end; first < trees->len && !is_cancelled(mark); first = end) {
    for (end = first + 1; end < trees->len && is_of_same_disk(&all[first], &all[end]); end++)
      continue;
    visit_disk(mark, all + first, end - first);
  }
  for (guint i = 0; i < points->len; i++)
    reach_configs(mark, points->pdata[i]);
  if (!mark->error)
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&mark->error));
  return FALSE;
}
