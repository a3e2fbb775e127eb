/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The builder keeps the path of pages from the root down to the leaf that it is in. When the next cluster
 * lies elsewhere, the pages that do not contain it are closed from the leaf upwards: a page that changed is
 * put and its id set in its parent, one that did not is dropped. Then the new path is loaded from the ids in
 * the parents, which are the base's wherever nothing was set: so untouched subtrees are inherited without
 * being read.
 */
#include <store/manifest-private.h>

#include <common/bytes.h>

typedef struct {
  StorePage page;
  guint64 number; /* of the page in its level */
  gboolean open;
  gboolean changed;
} OpenPage;

struct StoreManifestBuilder {
  StoreWorker *worker; /* constant, as all up to tally */
  guint64 size;
  guint n_levels;
  StoreTally *tally;
  StoreChunkId root;
  guint64 next_cluster;                 /* the least that may be set */
  OpenPage path[STORE_PAGE_LEVELS_MAX]; /* by level; pages above an open one are open */
};

guint64
store_manifest_n_clusters(guint64 size)
{
  return cbt_div_up(size, CBT_CLUSTER_SIZE);
}

guint
store_manifest_n_levels(guint64 size)
{
  guint64 n_clusters = store_manifest_n_clusters(size);
  guint n_levels = 1;
  while (n_levels < STORE_PAGE_LEVELS_MAX && (n_clusters - 1) >> store_page_entry_bits(n_levels) > 0 &&
         n_clusters > 0)
    n_levels++;
  return n_levels;
}

static gboolean
put_page(StoreManifestBuilder *builder, const StorePage *page, guint level, StoreChunkId *id, GError **error)
{
  guint8 data[STORE_PAGE_SIZE_MAX];
  gsize length = store_page_encode(page, level, data);
  memset(id, 0, sizeof *id);
  return length == 0 ||
         store_put(builder->worker, STORE_CHUNK_PAGE, data, length, id, NULL, builder->tally, error);
}

/* A smaller disk's tree may be lower: its root becomes the first entry of a page above. */
static gboolean
lift_root(StoreManifestBuilder *builder, guint n_levels, GError **error)
{
  for (; n_levels < builder->n_levels && !store_chunk_id_is_zero(&builder->root); n_levels++) {
    StorePage page = {.entries = {builder->root}};
    if (!put_page(builder, &page, n_levels, &builder->root, error))
      return FALSE;
  }
  return TRUE;
}

StoreManifestBuilder *
store_manifest_builder_new(StoreWorker *worker, const StoreManifest *base, guint64 size, StoreTally *tally,
                           GError **error)
{
  g_assert(size <= STORE_DISK_SIZE_MAX && (!base || base->size <= size));
  g_autoptr(StoreManifestBuilder) builder = g_new0(StoreManifestBuilder, 1);
  builder->worker = worker;
  builder->size = size;
  builder->n_levels = store_manifest_n_levels(size);
  builder->tally = tally;
  if (base) {
    builder->root = base->root;
    if (!lift_root(builder, store_manifest_n_levels(base->size), error))
      return NULL;
  }
  return g_steal_pointer(&builder);
}

void
store_manifest_builder_free(StoreManifestBuilder *builder)
{
  g_free(builder);
}

/* Where the id of the open page of LEVEL stands. */
static StoreChunkId *
parent_entry(StoreManifestBuilder *builder, guint level, guint64 number)
{
  if (level + 1 == builder->n_levels)
    return &builder->root;
  return &builder->path[level + 1].page.entries[number % STORE_PAGE_FANOUT];
}

static gboolean
close_page(StoreManifestBuilder *builder, guint level, GError **error)
{
  OpenPage *open = &builder->path[level];
  StoreChunkId id;
  open->open = FALSE;
  if (!open->changed)
    return TRUE;
  if (!put_page(builder, &open->page, level, &id, error))
    return FALSE;
  StoreChunkId *entry = parent_entry(builder, level, open->number);
  if (!store_chunk_id_equal(entry, &id) && level + 1 < builder->n_levels)
    builder->path[level + 1].changed = TRUE;
  *entry = id;
  return TRUE;
}

static guint64
page_number(guint64 cluster, guint level)
{
  return cluster >> store_page_entry_bits(level + 1);
}

/* Closes the open pages that do not contain CLUSTER, from the leaf upwards. */
static gboolean
leave_pages(StoreManifestBuilder *builder, guint64 cluster, GError **error)
{
  for (guint level = 0; level < builder->n_levels; level++) {
    const OpenPage *open = &builder->path[level];
    if (!open->open)
      continue;
    if (open->number == page_number(cluster, level))
      return TRUE;
    if (!close_page(builder, level, error))
      return FALSE;
  }
  return TRUE;
}

/* Opens the pages that contain CLUSTER, from the root downwards. */
static gboolean
enter_pages(StoreManifestBuilder *builder, guint64 cluster, GError **error)
{
  for (guint level = builder->n_levels; level-- > 0;) {
    OpenPage *open = &builder->path[level];
    if (open->open)
      continue;
    open->number = page_number(cluster, level);
    if (!store_page_load(builder->worker, parent_entry(builder, level, open->number), level, &open->page,
                         error))
      return FALSE;
    open->open = TRUE;
    open->changed = FALSE;
  }
  return TRUE;
}

gboolean
store_manifest_builder_set(StoreManifestBuilder *builder, guint64 cluster, const StoreChunkId *id,
                           GError **error)
{
  g_assert(cluster >= builder->next_cluster && cluster < store_manifest_n_clusters(builder->size));
  builder->next_cluster = cluster + 1;
  OpenPage *leaf = &builder->path[0];
  if (!leaf->open || leaf->number != page_number(cluster, 0))
    if (!leave_pages(builder, cluster, error) || !enter_pages(builder, cluster, error))
      return FALSE;
  StoreChunkId *entry = &leaf->page.entries[cluster % STORE_PAGE_FANOUT];
  if (!store_chunk_id_equal(entry, id))
    leaf->changed = TRUE;
  *entry = *id;
  return TRUE;
}

gboolean
store_manifest_builder_finish(StoreManifestBuilder *builder, StoreManifest *manifest, GError **error)
{
  for (guint level = 0; level < builder->n_levels; level++)
    if (builder->path[level].open && !close_page(builder, level, error))
      return FALSE;
  *manifest = (StoreManifest){.root = builder->root, .size = builder->size};
  return TRUE;
}
