/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/vma-format.h>

#include <common/bytes.h>
#include <common/error.h>

#define BLOCKS_PER_CLUSTER (STORE_VMA_CLUSTER_SIZE / STORE_VMA_BLOCK_SIZE)

StoreVmaExtent *
store_vma_extent_new(void)
{
  StoreVmaExtent *extent = g_new0(StoreVmaExtent, 1);
  extent->buffer = g_aligned_alloc(1, STORE_VMA_EXTENT_SIZE_MAX, STORE_VMA_BLOCK_SIZE);
  store_vma_extent_clear(extent);
  return extent;
}

void
store_vma_extent_free(StoreVmaExtent *extent)
{
  if (!extent)
    return;
  g_aligned_free(extent->buffer);
  g_free(extent);
}

void
store_vma_extent_clear(StoreVmaExtent *extent)
{
  extent->n_clusters = 0;
  extent->length = STORE_VMA_EXTENT_HEADER_SIZE;
}

gboolean
store_vma_extent_is_full(const StoreVmaExtent *extent)
{
  return extent->n_clusters == STORE_VMA_EXTENT_CLUSTERS;
}

guint8 *
store_vma_extent_reserve(StoreVmaExtent *extent)
{
  g_assert(!store_vma_extent_is_full(extent));
  return extent->buffer + extent->length;
}

static void
append(StoreVmaExtent *extent, guint8 device, guint32 number, guint16 mask, gsize length)
{
  g_assert(!store_vma_extent_is_full(extent) && device != 0);
  extent->clusters[extent->n_clusters++] =
      (StoreVmaCluster){device, mask, number, extent->buffer + extent->length};
  extent->length += length;
}

void
store_vma_extent_add(StoreVmaExtent *extent, guint8 device, guint32 number)
{
  guint8 *from = store_vma_extent_reserve(extent), *to = from;
  guint16 mask = 0;
  for (guint i = 0; i < BLOCKS_PER_CLUSTER; i++, from += STORE_VMA_BLOCK_SIZE) {
    if (cbt_is_zero(from, STORE_VMA_BLOCK_SIZE))
      continue;
    if (to != from)
      memmove(to, from, STORE_VMA_BLOCK_SIZE);
    to += STORE_VMA_BLOCK_SIZE;
    mask |= (guint16) (1u << i);
  }
  append(extent, device, number, mask, (gsize) (to - store_vma_extent_reserve(extent)));
}

void
store_vma_extent_add_zero(StoreVmaExtent *extent, guint8 device, guint32 number)
{
  append(extent, device, number, 0, 0);
}

/* MD5 of the extent's header with its own field zero, into SUM. */
static void
sum_header(const guint8 *header, guint8 sum[STORE_VMA_MD5_SIZE])
{
  static const guint8 zeros[STORE_VMA_MD5_SIZE];
  gsize length = STORE_VMA_MD5_SIZE;
  g_autoptr(GChecksum) md5 = g_checksum_new(G_CHECKSUM_MD5);
  g_checksum_update(md5, header, STORE_VMA_EXTENT_AT_MD5);
  g_checksum_update(md5, zeros, sizeof zeros);
  g_checksum_update(md5, header + STORE_VMA_EXTENT_AT_INFOS,
                    STORE_VMA_EXTENT_HEADER_SIZE - STORE_VMA_EXTENT_AT_INFOS);
  g_checksum_get_digest(md5, sum, &length);
}

void
store_vma_extent_encode(StoreVmaExtent *extent, const CbtUuid *uuid)
{
  guint8 *header = extent->buffer;
  memset(header, 0, STORE_VMA_EXTENT_HEADER_SIZE);
  memcpy(header, STORE_VMA_EXTENT_MAGIC, 4);
  cbt_put_be16(header + STORE_VMA_EXTENT_AT_COUNT,
               (guint16) ((extent->length - STORE_VMA_EXTENT_HEADER_SIZE) / STORE_VMA_BLOCK_SIZE));
  memcpy(header + STORE_VMA_EXTENT_AT_UUID, uuid->bytes, sizeof uuid->bytes);
  for (guint i = 0; i < extent->n_clusters; i++) {
    const StoreVmaCluster *cluster = &extent->clusters[i];
    guint64 info = (guint64) cluster->mask << STORE_VMA_INFO_MASK_SHIFT |
                   (guint64) cluster->device << STORE_VMA_INFO_DEVICE_SHIFT | cluster->number;
    cbt_put_be64(header + STORE_VMA_EXTENT_AT_INFOS + 8 * i, info);
  }
  sum_header(header, header + STORE_VMA_EXTENT_AT_MD5);
}

static gboolean
fail(GError **error, const char *what)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", what);
  return FALSE;
}

/* The checks that need no look at the block infos, in the order of the original. */
static gboolean
check_header(const guint8 *header, const CbtUuid *uuid, GError **error)
{
  guint8 sum[STORE_VMA_MD5_SIZE];
  if (memcmp(header, STORE_VMA_EXTENT_MAGIC, 4) != 0)
    return fail(error, "there is no extent header here");
  sum_header(header, sum);
  if (memcmp(header + STORE_VMA_EXTENT_AT_MD5, sum, sizeof sum) != 0)
    return fail(error, "the checksum of the extent header does not fit");
  if (memcmp(header + STORE_VMA_EXTENT_AT_UUID, uuid->bytes, sizeof uuid->bytes) != 0)
    return fail(error, "the extent is of another archive");
  if (cbt_get_be16(header + STORE_VMA_EXTENT_AT_RESERVED) != 0)
    return fail(error, "the reserved field of the extent header is not zero");
  return TRUE;
}

gboolean
store_vma_extent_decode(StoreVmaExtent *extent, const CbtUuid *uuid, GError **error)
{
  const guint8 *header = extent->buffer;
  store_vma_extent_clear(extent);
  if (!check_header(header, uuid, error))
    return FALSE;
  guint count = cbt_get_be16(header + STORE_VMA_EXTENT_AT_COUNT);
  if (count > STORE_VMA_INFOS_PER_EXTENT * BLOCKS_PER_CLUSTER)
    return fail(error, "the extent names more blocks than it can hold");
  for (guint i = 0; i < STORE_VMA_INFOS_PER_EXTENT; i++) {
    guint64 info = cbt_get_be64(header + STORE_VMA_EXTENT_AT_INFOS + 8 * i);
    guint8 device = (guint8) (info >> STORE_VMA_INFO_DEVICE_SHIFT);
    guint16 mask = (guint16) (info >> STORE_VMA_INFO_MASK_SHIFT);
    if (device == 0)
      continue;
    extent->clusters[extent->n_clusters++] =
        (StoreVmaCluster){device, mask, (guint32) info, extent->buffer + extent->length};
    extent->length += (gsize) __builtin_popcount(mask) * STORE_VMA_BLOCK_SIZE;
  }
  return extent->length == STORE_VMA_EXTENT_HEADER_SIZE + (gsize) count * STORE_VMA_BLOCK_SIZE ||
         fail(error, "the extent's number of blocks does not fit its clusters");
}

void
store_vma_cluster_expand(const StoreVmaCluster *cluster, guint8 *data)
{
  const guint8 *from = cluster->blocks;
  for (guint i = 0; i < BLOCKS_PER_CLUSTER; i++, data += STORE_VMA_BLOCK_SIZE) {
    if ((cluster->mask >> i) & 1) {
      memcpy(data, from, STORE_VMA_BLOCK_SIZE);
      from += STORE_VMA_BLOCK_SIZE;
    } else {
      memset(data, 0, STORE_VMA_BLOCK_SIZE);
    }
  }
}
