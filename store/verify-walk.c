/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which chunks of a point have to be read. The tree is gone down depth first, the pages below one page being
 * read together; a page that was visited before is not entered, for all below it was read then. Clusters are
 * gathered into batches, which go over the borders of pages.
 */
#include <store/verify-private.h>

#include <common/bytes.h>

/* Pages of one level: those below one page, or the root alone. */
typedef struct {
  StorePage pages[STORE_PAGE_FANOUT];
  GArray *items;
} Group;

typedef struct {
  StoreVerify *verify;
  const StorePoint *point;
  guint disk;
  guint64 size;                         /* of that disk, bytes */
  guint64 first;                        /* clusters before it need not be read */
  Group *groups[STORE_PAGE_LEVELS_MAX]; /* by level, made when needed */
  GArray *batch;                        /* clusters */
} Walk;

static gboolean
flush_batch(Walk *walk, guint64 next_cluster)
{
  StoreVerify *verify = walk->verify;
  StoreVerifyPlace place = {walk->disk, next_cluster};
  gboolean ok = store_verify_read(verify, walk->batch);
  g_array_set_size(walk->batch, 0);
  if (ok && verify->options.reached && store_id_set_count(verify->damaged) == 0)
    verify->options.reached(walk->point, &place, verify->options.user_data);
  return ok;
}

/* The clusters of a leaf whose first is BASE. */
static gboolean
take_leaf(Walk *walk, const StorePage *page, guint64 base)
{
  StoreVerify *verify = walk->verify;
  guint64 covered = 0;
  for (guint i = 0; i < STORE_PAGE_FANOUT; i++) {
    const StoreChunkId *id = &page->entries[i];
    guint64 span = store_verify_span(walk->size, base + i, 1);
    if (store_chunk_id_is_zero(id) || base + i < walk->first || !store_id_set_add(verify->chunks, id)) {
      covered += span;
      continue;
    }
    StoreVerifyItem item = {.id = *id, .type = STORE_CHUNK_DATA, .length = CBT_CLUSTER_SIZE, .covers = span};
    g_array_append_val(walk->batch, item);
  }
  return store_verify_cover(verify, covered) &&
         (walk->batch->len < verify->batch_size || flush_batch(walk, base + STORE_PAGE_FANOUT));
}

static Group *
group_at(Walk *walk, guint level)
{
  if (!walk->groups[level]) {
    walk->groups[level] = g_new(Group, 1);
    walk->groups[level]->items = g_array_new(FALSE, FALSE, sizeof(StoreVerifyItem));
  }
  g_array_set_size(walk->groups[level]->items, 0);
  return walk->groups[level];
}

/* Puts the page ID of LEVEL into GROUP, unless it need not be visited. */
static gboolean
add_page(Walk *walk, Group *group, const StoreChunkId *id, guint level, guint64 base)
{
  guint64 n_clusters = G_GUINT64_CONSTANT(1) << store_page_entry_bits(level + 1);
  if (store_chunk_id_is_zero(id) || base + n_clusters <= walk->first ||
      !store_id_set_add(walk->verify->pages, id))
    return store_verify_cover(walk->verify, store_verify_span(walk->size, base, n_clusters));
  StoreVerifyItem item = {.id = *id, .type = STORE_CHUNK_PAGE, .level = level, .base = base};
  item.page = &group->pages[group->items->len];
  g_array_append_val(group->items, item);
  return TRUE;
}

static int
compare_bases(const void *a, const void *b)
{
  guint64 x = ((const StoreVerifyItem *) a)->base, y = ((const StoreVerifyItem *) b)->base;
  return (x > y) - (x < y);
}

/* Reads the pages of GROUP, and goes on to what is below them in the order of the disk. */
static gboolean
visit_group(Walk *walk, Group *group, guint level)
{
  StoreVerify *verify = walk->verify;
  if (group->items->len == 0)
    return TRUE;
  if (!store_verify_read(verify, group->items))
    return FALSE;
  g_array_sort(group->items, compare_bases);
  for (guint i = 0; i < group->items->len; i++) {
    const StoreVerifyItem *item = &g_array_index(group->items, StoreVerifyItem, i);
    gboolean ok = TRUE;
    if (store_id_set_contains(verify->damaged, &item->id)) {
      guint64 n_clusters = G_GUINT64_CONSTANT(1) << store_page_entry_bits(level + 1);
      ok = store_verify_cover(verify, store_verify_span(walk->size, item->base, n_clusters));
    } else if (level == 0) {
      ok = take_leaf(walk, item->page, item->base);
    } else {
      Group *below = group_at(walk, level - 1);
      for (guint64 e = 0; ok && e < STORE_PAGE_FANOUT; e++)
        ok = add_page(walk, below, &item->page->entries[e], level - 1,
                      item->base + (e << store_page_entry_bits(level)));
      ok = ok && visit_group(walk, below, level - 1);
    }
    if (!ok)
      return FALSE;
  }
  return TRUE;
}

static gboolean
walk_disk(Walk *walk, const StoreManifest *manifest)
{
  guint level = store_manifest_n_levels(manifest->size) - 1;
  Group *group = group_at(walk, level);
  walk->size = manifest->size;
  return add_page(walk, group, &manifest->root, level, 0) && visit_group(walk, group, level) &&
         flush_batch(walk, store_manifest_n_clusters(manifest->size));
}

static gboolean
walk_configs(StoreVerify *verify, const StorePoint *point)
{
  g_autoptr(GArray) items = g_array_new(FALSE, FALSE, sizeof(StoreVerifyItem));
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = point->configs->pdata[i];
    StoreVerifyItem item = {.id = config->id, .type = STORE_CHUNK_BLOB, .length = (gsize) config->size};
    if (!store_chunk_id_is_zero(&config->id) && store_id_set_add(verify->chunks, &config->id))
      g_array_append_val(items, item);
  }
  return store_verify_read(verify, items);
}

gboolean
store_verify_walk(StoreVerify *verify, const StorePoint *point, const StoreVerifyPlace *from)
{
  Walk walk = {.verify = verify, .point = point};
  walk.batch = g_array_new(FALSE, FALSE, sizeof(StoreVerifyItem));
  gboolean ok = walk_configs(verify, point);
  for (guint i = 0; ok && i < point->disks->len; i++) {
    const StorePointDisk *disk = point->disks->pdata[i];
    walk.disk = i;
    walk.first = from && i == from->disk ? from->cluster : 0;
    if (from && i < from->disk)
      ok = store_verify_cover(verify, disk->manifest.size);
    else
      ok = walk_disk(&walk, &disk->manifest);
  }
  for (guint i = 0; i < STORE_PAGE_LEVELS_MAX; i++) {
    if (walk.groups[i])
      g_array_unref(walk.groups[i]->items);
    g_free(walk.groups[i]);
  }
  g_array_unref(walk.batch);
  return ok;
}
