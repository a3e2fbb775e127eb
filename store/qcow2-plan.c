/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One walk over what the image must say counts its clusters, region by region. From that follow the number of
 * tables, the offset of every cluster, and, as each cluster of the file is used exactly once, all refcounts.
 */
#include <store/qcow2-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/manifest-format.h>
#include <string.h>

_Static_assert(STORE_DISK_SIZE_MAX / STORE_QCOW2_L2_SPAN * STORE_QCOW2_ENTRY_SIZE <= STORE_QCOW2_L1_MAX,
               "QEMU takes the L1 table of the largest disk");
_Static_assert(STORE_DISK_SIZE_MAX * 2 / STORE_QCOW2_CLUSTER_SIZE / STORE_QCOW2_N_REFCOUNTS *
                       STORE_QCOW2_ENTRY_SIZE <=
                   STORE_QCOW2_REFTABLE_MAX,
               "and the refcount table of its image, tables included");

/* ---- counting ---- */

typedef struct {
  StoreQcow2 *image;
  GCancellable *cancellable;
} Scan;

static StoreQcow2Region *
add_region(StoreQcow2 *image, guint64 index)
{
  StoreQcow2Region region = {.index = index, .first_data = image->n_data, .first_slice = image->n_slices};
  g_array_append_val(image->regions, region);
  return &g_array_index(image->regions, StoreQcow2Region, image->regions->len - 1);
}

static void
count_data(StoreQcow2 *image, StoreQcow2Region *region, guint64 cluster)
{
  guint slice = (guint) (cluster % STORE_QCOW2_N_ENTRIES / STORE_QCOW2_SLICE_CLUSTERS);
  guint64 bit = G_GUINT64_CONSTANT(1) << (slice % 64);
  image->n_data++;
  if ((region->slices[slice / 64] & bit) == 0)
    image->n_slices++;
  region->slices[slice / 64] |= bit;
}

static gboolean
count_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  const Scan *scan = user_data;
  GArray *regions = scan->image->regions;
  guint64 index = cluster / STORE_QCOW2_N_ENTRIES;
  StoreQcow2Region *region =
      regions->len > 0 ? &g_array_index(regions, StoreQcow2Region, regions->len - 1) : NULL;
  if (!region || region->index != index) {
    if (g_cancellable_is_cancelled(scan->cancellable))
      return FALSE;
    region = add_region(scan->image, index);
  }
  if (!store_chunk_id_is_zero(id))
    count_data(scan->image, region, cluster);
  return TRUE;
}

gboolean
store_qcow2_changes(const StoreQcow2 *image, StoreWorker *worker, guint64 first, guint64 count,
                    StoreClusterFunc func, gpointer user_data, GError **error)
{
  return store_manifest_changes(worker, image->has_backing ? &image->backing : NULL, &image->manifest, first,
                                count, func, user_data, error);
}

static gboolean
scan_disk(StoreQcow2 *image, GCancellable *cancellable, GError **error)
{
  Scan scan = {image, cancellable};
  g_autoptr(StoreWorker) worker = store_worker_new(image->store);
  if (!store_qcow2_changes(image, worker, 0, G_MAXUINT64, count_cluster, &scan, error))
    return FALSE;
  if (!g_cancellable_is_cancelled(cancellable))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return FALSE;
}

/* ---- layout ---- */

static guint64
n_l1_entries(const StoreQcow2 *image)
{
  return cbt_div_up(image->size, STORE_QCOW2_L2_SPAN);
}

/* Refcount blocks count themselves and their table: more of them until they suffice. */
static void
lay_out(StoreQcow2 *image)
{
  image->n_l1 = cbt_div_up(n_l1_entries(image), STORE_QCOW2_N_ENTRIES);
  guint64 rest = 1 + image->n_l1 + image->regions->len + image->n_data;
  guint64 total = rest;
  while (image->n_clusters != total) {
    image->n_clusters = total;
    image->n_refblocks = cbt_div_up(total, STORE_QCOW2_N_REFCOUNTS);
    image->n_reftable = cbt_div_up(image->n_refblocks, STORE_QCOW2_N_ENTRIES);
    total = rest + image->n_refblocks + image->n_reftable;
  }
  image->reftable = 1;
  image->refblocks = image->reftable + image->n_reftable;
  image->l1 = image->refblocks + image->n_refblocks;
  image->l2 = image->l1 + image->n_l1;
  image->data = image->l2 + image->regions->len;
}

static gboolean
check_backing(const StoreQcow2Backing *backing, GError **error)
{
  gsize length = strlen(backing->file);
  if (length > 0 && length <= STORE_QCOW2_BACKING_NAME_MAX &&
      strlen(backing->format) <= STORE_QCOW2_BACKING_FORMAT_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' cannot be named as a backing file", backing->file);
  return FALSE;
}

StoreQcow2 *
store_qcow2_new(Store *store, const StoreManifest *manifest, const StoreQcow2Backing *backing,
                GCancellable *cancellable, GError **error)
{
  if (backing && !check_backing(backing, error))
    return NULL;
  g_autoptr(StoreQcow2) image = g_new0(StoreQcow2, 1);
  image->store = store;
  image->manifest = *manifest;
  image->size = cbt_round_up(manifest->size, STORE_QCOW2_SECTOR_SIZE);
  image->regions = g_array_new(FALSE, FALSE, sizeof(StoreQcow2Region));
  if (backing) {
    image->has_backing = TRUE;
    image->backing = *backing->manifest;
    image->backing_file = g_strdup(backing->file);
    image->backing_format = g_strdup(backing->format);
  }
  if (!scan_disk(image, cancellable, error))
    return NULL;
  lay_out(image);
  return g_steal_pointer(&image);
}

void
store_qcow2_free(StoreQcow2 *image)
{
  g_array_unref(image->regions);
  g_free(image->backing_file);
  g_free(image->backing_format);
  g_free(image);
}

guint64
store_qcow2_length(const StoreQcow2 *image)
{
  return image->n_clusters * STORE_QCOW2_CLUSTER_SIZE;
}

/* ---- metadata ---- */

/* The extensions and the name behind the header's fields. */
static void
encode_backing(const StoreQcow2 *image, guint8 *header)
{
  guint32 format_length = (guint32) strlen(image->backing_format);
  guint32 name_length = (guint32) strlen(image->backing_file);
  guint8 *at = header + STORE_QCOW2_HEADER_LENGTH;
  cbt_put_be32(at, STORE_QCOW2_EXTENSION_BACKING_FORMAT);
  cbt_put_be32(at + 4, format_length);
  memcpy(at + STORE_QCOW2_EXTENSION_HEADER_SIZE, image->backing_format, format_length);
  at += STORE_QCOW2_EXTENSION_HEADER_SIZE + cbt_round_up(format_length, 8);
  at += STORE_QCOW2_EXTENSION_HEADER_SIZE; /* the end: zeros */
  cbt_put_be64(header + STORE_QCOW2_BACKING_OFFSET, (guint64) (at - header));
  cbt_put_be32(header + STORE_QCOW2_BACKING_LENGTH_OFFSET, name_length);
  memcpy(at, image->backing_file, name_length);
}

static void
encode_header(const StoreQcow2 *image, guint8 *header)
{
  cbt_put_be32(header, STORE_QCOW2_MAGIC);
  cbt_put_be32(header + STORE_QCOW2_VERSION_OFFSET, STORE_QCOW2_VERSION);
  cbt_put_be32(header + STORE_QCOW2_CLUSTER_BITS_OFFSET, STORE_QCOW2_CLUSTER_BITS);
  cbt_put_be64(header + STORE_QCOW2_SIZE_OFFSET, image->size);
  cbt_put_be32(header + STORE_QCOW2_L1_ENTRIES_OFFSET, (guint32) n_l1_entries(image));
  cbt_put_be64(header + STORE_QCOW2_L1_OFFSET, image->l1 * STORE_QCOW2_CLUSTER_SIZE);
  cbt_put_be64(header + STORE_QCOW2_REFTABLE_OFFSET, image->reftable * STORE_QCOW2_CLUSTER_SIZE);
  cbt_put_be32(header + STORE_QCOW2_REFTABLE_CLUSTERS_OFFSET, (guint32) image->n_reftable);
  cbt_put_be32(header + STORE_QCOW2_REFCOUNT_ORDER_OFFSET, STORE_QCOW2_REFCOUNT_ORDER);
  cbt_put_be32(header + STORE_QCOW2_HEADER_LENGTH_OFFSET, STORE_QCOW2_HEADER_LENGTH);
  if (image->has_backing)
    encode_backing(image, header);
}

/* Cluster K of the refcount table. */
static void
encode_reftable(const StoreQcow2 *image, guint64 k, guint8 *cluster)
{
  guint64 first = k * STORE_QCOW2_N_ENTRIES;
  guint64 end = MIN(first + STORE_QCOW2_N_ENTRIES, image->n_refblocks);
  for (guint64 i = first; i < end; i++)
    cbt_put_be64(cluster + (i - first) * STORE_QCOW2_ENTRY_SIZE,
                 (image->refblocks + i) * STORE_QCOW2_CLUSTER_SIZE);
}

/* Refcount block K. */
static void
encode_refblock(const StoreQcow2 *image, guint64 k, guint8 *cluster)
{
  guint64 n = MIN(STORE_QCOW2_N_REFCOUNTS, image->n_clusters - k * STORE_QCOW2_N_REFCOUNTS);
  for (guint64 i = 0; i < n; i++)
    cbt_put_be16(cluster + i * 2, 1);
}

/* The first region whose L1 entry is INDEX or a later one. */
static guint64
find_region(const StoreQcow2 *image, guint64 index)
{
  guint64 low = 0, high = image->regions->len;
  while (low < high) {
    guint64 middle = (low + high) / 2;
    if (store_qcow2_region(image, middle)->index < index)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* Cluster K of the L1 table. */
static void
encode_l1(const StoreQcow2 *image, guint64 k, guint8 *cluster)
{
  guint64 first = k * STORE_QCOW2_N_ENTRIES;
  for (guint64 i = find_region(image, first); i < image->regions->len; i++) {
    guint64 entry = store_qcow2_region(image, i)->index - first;
    if (entry >= STORE_QCOW2_N_ENTRIES)
      return;
    cbt_put_be64(cluster + entry * STORE_QCOW2_ENTRY_SIZE,
                 ((image->l2 + i) * STORE_QCOW2_CLUSTER_SIZE) | STORE_QCOW2_COPIED);
  }
}

void
store_qcow2_encode_metadata(const StoreQcow2 *image, guint64 number, guint8 *cluster)
{
  memset(cluster, 0, STORE_QCOW2_CLUSTER_SIZE);
  if (number >= image->l1)
    encode_l1(image, number - image->l1, cluster);
  else if (number >= image->refblocks)
    encode_refblock(image, number - image->refblocks, cluster);
  else if (number >= image->reftable)
    encode_reftable(image, number - image->reftable, cluster);
  else
    encode_header(image, cluster);
}
