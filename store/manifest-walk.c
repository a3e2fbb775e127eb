/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks down one tree, or two at once. A zero id is a subtree of zeros and is not entered; equal ids of two
 * trees are equal subtrees and are not entered either, so that a difference costs what differs. The depth is
 * at most STORE_PAGE_LEVELS_MAX, and a level holds one page (two in a difference).
 *
 * The builder sets nothing behind the end of a disk, so what a smaller FROM lacks is zero in its pages too.
 */
#include <store/manifest-private.h>

#include <common/bytes.h>
#include <common/error.h>

/* ---- one tree ---- */

typedef struct {
  StoreWorker *worker;
  guint64 first; /* clusters [first, end) */
  guint64 end;
  StoreClusterFunc func;
  gpointer user_data;
  gboolean stopped;
} Walk;

/* The entries of a page at BASE (its first cluster) that touch clusters [first, end): *from up to *to. */
static void
entries_in_range(guint level, guint64 base, guint64 first, guint64 end, guint *from, guint *to)
{
  guint bits = store_page_entry_bits(level);
  *from = first > base ? (guint) MIN((first - base) >> bits, STORE_PAGE_FANOUT) : 0;
  *to = end > base ? (guint) MIN(((end - base - 1) >> bits) + 1, STORE_PAGE_FANOUT) : 0;
}

static gboolean
walk_page(Walk *walk, const StoreChunkId *id, guint level, guint64 base, GError **error)
{
  StorePage page;
  guint from, to;
  if (store_chunk_id_is_zero(id))
    return TRUE;
  if (!store_page_load(walk->worker, id, level, &page, error))
    return FALSE;
  entries_in_range(level, base, walk->first, walk->end, &from, &to);
  for (guint i = from; i < to && !walk->stopped; i++) {
    guint64 cluster = base + ((guint64) i << store_page_entry_bits(level));
    if (level > 0) {
      if (!walk_page(walk, &page.entries[i], level - 1, cluster, error))
        return FALSE;
    } else if (!store_chunk_id_is_zero(&page.entries[i])) {
      walk->stopped = !walk->func(cluster, &page.entries[i], walk->user_data);
    }
  }
  return TRUE;
}

gboolean
store_manifest_walk(StoreWorker *worker, const StoreManifest *manifest, guint64 first, guint64 count,
                    StoreClusterFunc func, gpointer user_data, GError **error)
{
  guint64 n_clusters = store_manifest_n_clusters(manifest->size);
  guint64 end = count > n_clusters || first > n_clusters - count ? n_clusters : first + count;
  Walk walk = {worker, first, end, func, user_data, FALSE};
  if (first >= end)
    return TRUE;
  return walk_page(&walk, &manifest->root, store_manifest_n_levels(manifest->size) - 1, 0, error);
}

/* ---- some clusters of one tree ---- */

/* CLUSTERS are all below the entry ID of a page above LEVEL, of which BASE is the first. */
static gboolean
get_below(StoreWorker *worker, const StoreChunkId *id, guint level, guint64 base, const guint64 *clusters,
          guint n, StoreChunkId *ids, GError **error)
{
  StorePage page;
  guint bits = store_page_entry_bits(level);
  if (!store_page_load(worker, id, level, &page, error))
    return FALSE;
  for (guint i = 0, next; i < n; i = next) {
    guint64 entry = (clusters[i] - base) >> bits;
    for (next = i; next < n && (clusters[next] - base) >> bits == entry; next++)
      ids[next] = page.entries[entry];
    if (level > 0 && !store_chunk_id_is_zero(&ids[i]) &&
        !get_below(worker, &page.entries[entry], level - 1, base + (entry << bits), clusters + i, next - i,
                   ids + i, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
store_manifest_get_many(StoreWorker *worker, const StoreManifest *manifest, const guint64 *clusters, guint n,
                        StoreChunkId *ids, GError **error)
{
  guint64 n_clusters = store_manifest_n_clusters(manifest->size);
  for (; n > 0 && clusters[n - 1] >= n_clusters; n--)
    memset(&ids[n - 1], 0, sizeof *ids);
  return n == 0 || get_below(worker, &manifest->root, store_manifest_n_levels(manifest->size) - 1, 0,
                             clusters, n, ids, error);
}

gboolean
store_manifest_get(StoreWorker *worker, const StoreManifest *manifest, guint64 cluster, StoreChunkId *id,
                   GError **error)
{
  return store_manifest_get_many(worker, manifest, &cluster, 1, id, error);
}

/* ---- two trees ---- */

typedef struct {
  StoreWorker *worker;
  guint64 first; /* clusters [first, end) */
  guint64 end;
  StoreClusterFunc func;
  gpointer user_data;
  gboolean stopped;
} Compare;

static gboolean compare_pages(Compare *compare, const StoreChunkId *from, const StoreChunkId *to, guint level,
                              guint64 base, GError **error);

static gboolean
compare_entry(Compare *compare, const StoreChunkId *from, const StoreChunkId *to, guint level,
              guint64 cluster, GError **error)
{
  if (store_chunk_id_equal(from, to))
    return TRUE;
  if (level > 0)
    return compare_pages(compare, from, to, level - 1, cluster, error);
  compare->stopped = !compare->func(cluster, to, compare->user_data);
  return TRUE;
}

static gboolean
compare_pages(Compare *compare, const StoreChunkId *from, const StoreChunkId *to, guint level, guint64 base,
              GError **error)
{
  StorePage from_page, to_page;
  guint first, end;
  if (!store_page_load(compare->worker, from, level, &from_page, error) ||
      !store_page_load(compare->worker, to, level, &to_page, error))
    return FALSE;
  entries_in_range(level, base, compare->first, compare->end, &first, &end);
  for (guint i = first; i < end && !compare->stopped; i++) {
    guint64 cluster = base + ((guint64) i << store_page_entry_bits(level));
    if (!compare_entry(compare, &from_page.entries[i], &to_page.entries[i], level, cluster, error))
      return FALSE;
  }
  return TRUE;
}

/* A FROM tree that is higher than TO: only its first subtree of WANTED levels lies inside TO. */
static gboolean
descend(StoreWorker *worker, StoreChunkId *root, guint n_levels, guint wanted, GError **error)
{
  StorePage page;
  for (; n_levels > wanted; n_levels--) {
    if (!store_page_load(worker, root, n_levels - 1, &page, error))
      return FALSE;
    *root = page.entries[0];
  }
  return TRUE;
}

/* A TO tree that is higher than FROM: its first subtree is compared with FROM, all others with zeros. */
static gboolean
compare_roots(Compare *compare, const StoreChunkId *from, guint from_levels, const StoreChunkId *to,
              guint level, GError **error)
{
  static const StoreChunkId zero;
  StorePage page;
  guint first, end;
  if (level + 1 == from_levels)
    return store_chunk_id_equal(from, to) || compare_pages(compare, from, to, level, 0, error);
  if (!store_page_load(compare->worker, to, level, &page, error))
    return FALSE;
  entries_in_range(level, 0, compare->first, compare->end, &first, &end);
  for (guint i = first; i < end && !compare->stopped; i++) {
    guint64 cluster = (guint64) i << store_page_entry_bits(level);
    gboolean ok = i == 0 ? compare_roots(compare, from, from_levels, &page.entries[0], level - 1, error)
                         : compare_entry(compare, &zero, &page.entries[i], level, cluster, error);
    if (!ok)
      return FALSE;
  }
  return TRUE;
}

gboolean
store_manifest_changes(StoreWorker *worker, const StoreManifest *from, const StoreManifest *to, guint64 first,
                       guint64 count, StoreClusterFunc func, gpointer user_data, GError **error)
{
  guint64 n_clusters = store_manifest_n_clusters(to->size);
  guint64 end = count > n_clusters || first > n_clusters - count ? n_clusters : first + count;
  guint to_levels = store_manifest_n_levels(to->size);
  guint from_levels = from ? store_manifest_n_levels(from->size) : to_levels;
  StoreChunkId older = from ? from->root : (StoreChunkId){{0}};
  Compare compare = {worker, first, end, func, user_data, FALSE};
  if (first >= end)
    return TRUE;
  return descend(worker, &older, from_levels, to_levels, error) &&
         compare_roots(&compare, &older, MIN(from_levels, to_levels), &to->root, to_levels - 1, error);
}

/* ---- runs of what differs ---- */

typedef struct {
  guint64 offset; /* bytes */
  guint64 to_size;
  StoreDifferenceFunc func;
  gpointer user_data;
  gboolean stopped;
  /* the run not yet handed out, in clusters */
  guint64 run_start;
  guint64 run_end; /* equal: none */
  gboolean run_zero;
} Difference;

static void
flush_run(Difference *difference)
{
  if (difference->run_start == difference->run_end)
    return;
  CbtExtent extent = {MAX(difference->run_start * CBT_CLUSTER_SIZE, difference->offset), 0};
  extent.length = MIN(difference->run_end * CBT_CLUSTER_SIZE, difference->to_size) - extent.offset;
  difference->run_start = difference->run_end;
  if (!difference->func(&extent, difference->run_zero, difference->user_data))
    difference->stopped = TRUE;
}

static gboolean
add_to_run(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  Difference *difference = user_data;
  gboolean zero = store_chunk_id_is_zero(id);
  if (difference->run_start == difference->run_end || difference->run_end != cluster ||
      difference->run_zero != zero) {
    flush_run(difference);
    difference->run_start = cluster;
    difference->run_zero = zero;
  }
  difference->run_end = cluster + 1;
  return !difference->stopped;
}

gboolean
store_manifest_difference(StoreWorker *worker, const StoreManifest *from, const StoreManifest *to,
                          guint64 offset, StoreDifferenceFunc func, gpointer user_data, GError **error)
{
  Difference difference = {.offset = offset, .to_size = to->size, .func = func, .user_data = user_data};
  if (offset >= to->size)
    return TRUE;
  if (!store_manifest_changes(worker, from, to, offset / CBT_CLUSTER_SIZE, G_MAXUINT64, add_to_run,
                              &difference, error))
    return FALSE;
  if (!difference.stopped)
    flush_run(&difference);
  return TRUE;
}
