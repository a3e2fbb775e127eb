/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which clusters came is kept in a compressed bitmap a device: it grows with what the archive really holds,
 * not with what a number in it says.
 */
#include <store/vma-reader.h>

#include <common/bytes.h>
#include <common/error.h>
#include <roaring/roaring.h>

struct StoreVmaReader {
  StoreVmaSource *source;
  StoreVmaHeader *header;
  const StoreVmaDevice *devices[STORE_VMA_DEVICE_MAX + 1]; /* by id; NULL: none */
  roaring_bitmap_t *seen[STORE_VMA_DEVICE_MAX + 1];
};

/* Prefixes the error with where the piece of LENGTH bytes that was read last begins. */
static gboolean
fail_at(const StoreVmaReader *reader, gsize length, GError **error)
{
  g_prefix_error(error, "at offset %" G_GUINT64_FORMAT " of the archive: ",
                 store_vma_source_offset(reader->source) - length);
  return FALSE;
}

static gboolean
read_exactly(StoreVmaReader *reader, guint8 *data, gsize length, GError **error)
{
  gssize n = store_vma_source_read(reader->source, data, length, error);
  if (n >= 0 && (gsize) n < length)
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the archive is cut off at %" G_GUINT64_FORMAT " bytes",
                  store_vma_source_offset(reader->source));
  return n >= 0 && (gsize) n == length;
}

static gboolean
read_header(StoreVmaReader *reader, GError **error)
{
  g_autofree guint8 *data = g_malloc(STORE_VMA_HEADER_PEEK);
  if (!read_exactly(reader, data, STORE_VMA_HEADER_PEEK, error))
    return FALSE;
  gsize length = store_vma_header_peek(data, error);
  if (length == 0)
    return FALSE;
  data = g_realloc(data, length);
  if (!read_exactly(reader, data + STORE_VMA_HEADER_PEEK, length - STORE_VMA_HEADER_PEEK, error))
    return FALSE;
  reader->header = store_vma_header_decode(data, length, error);
  return reader->header && store_vma_source_check_piece(reader->source, data, length, error);
}

StoreVmaReader *
store_vma_reader_new(StoreVmaSource *source, GError **error)
{
  g_autoptr(StoreVmaReader) reader = g_new0(StoreVmaReader, 1);
  reader->source = source;
  if (!read_header(reader, error))
    return NULL;
  for (guint i = 0; i < reader->header->devices->len; i++) {
    const StoreVmaDevice *device = reader->header->devices->pdata[i];
    reader->devices[device->id] = device;
    reader->seen[device->id] = roaring_bitmap_create();
  }
  return g_steal_pointer(&reader);
}

void
store_vma_reader_free(StoreVmaReader *reader)
{
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    if (reader->seen[id])
      roaring_bitmap_free(reader->seen[id]);
  store_vma_header_free(reader->header);
  g_free(reader);
}

const StoreVmaHeader *
store_vma_reader_header(const StoreVmaReader *reader)
{
  return reader->header;
}

static gboolean
fail_cluster(const StoreVmaDevice *device, guint32 number, const char *what, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "cluster %u of disk '%s' %s", number, device->name, what);
  return FALSE;
}

/* Blocks of the cluster that begin behind the end of SIZE bytes. */
static guint16
blocks_behind(guint64 size, guint32 number)
{
  guint64 left = size - (guint64) number * STORE_VMA_CLUSTER_SIZE;
  guint64 n_blocks = cbt_div_up(MIN(left, STORE_VMA_CLUSTER_SIZE), STORE_VMA_BLOCK_SIZE);
  return (guint16) ~((1u << n_blocks) - 1u);
}

static gboolean
check_cluster(StoreVmaReader *reader, const StoreVmaCluster *cluster, GError **error)
{
  const StoreVmaDevice *device =
      cluster->device <= STORE_VMA_DEVICE_MAX ? reader->devices[cluster->device] : NULL;
  if (!device) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "a cluster is of disk number %u, which the header does not have", cluster->device);
    return FALSE;
  }
  roaring_bitmap_t *seen = reader->seen[cluster->device];
  if (cluster->number >= cbt_div_up(device->size, STORE_VMA_CLUSTER_SIZE))
    return fail_cluster(device, cluster->number, "lies behind the end of the disk", error);
  if (cluster->mask & blocks_behind(device->size, cluster->number))
    return fail_cluster(device, cluster->number, "has data behind the end of the disk", error);
  if (store_vma_device_is_state(device) && cluster->number != roaring_bitmap_get_cardinality(seen))
    return fail_cluster(device, cluster->number, "is out of order", error);
  return roaring_bitmap_add_checked(seen, cluster->number) ||
         fail_cluster(device, cluster->number, "comes twice", error);
}

static gboolean
check_clusters(StoreVmaReader *reader, const StoreVmaExtent *extent, GError **error)
{
  for (guint i = 0; i < extent->n_clusters; i++)
    if (!check_cluster(reader, &extent->clusters[i], error))
      return FALSE;
  return TRUE;
}

gboolean
store_vma_reader_next(StoreVmaReader *reader, StoreVmaExtent *extent, GError **error)
{
  gssize n = store_vma_source_read(reader->source, extent->buffer, STORE_VMA_EXTENT_HEADER_SIZE, error);
  if (n < 0)
    return FALSE;
  if (n == 0)
    return FALSE;
  if (n < (gssize) STORE_VMA_EXTENT_HEADER_SIZE) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the archive ends in %zd bytes that are no extent", n);
    return fail_at(reader, (gsize) n, error);
  }
  if (!store_vma_extent_decode(extent, &reader->header->uuid, error) ||
      !check_clusters(reader, extent, error))
    return fail_at(reader, STORE_VMA_EXTENT_HEADER_SIZE, error);
  return read_exactly(reader, extent->buffer + STORE_VMA_EXTENT_HEADER_SIZE,
                      extent->length - STORE_VMA_EXTENT_HEADER_SIZE, error) &&
         store_vma_source_check_piece(reader->source, extent->buffer, extent->length, error);
}

gboolean
store_vma_reader_check_complete(const StoreVmaReader *reader, GError **error)
{
  if (!store_vma_source_check_end(reader->source, error))
    return FALSE;
  for (guint i = 0; i < reader->header->devices->len; i++) {
    const StoreVmaDevice *device = reader->header->devices->pdata[i];
    const roaring_bitmap_t *seen = reader->seen[device->id];
    guint64 wanted = cbt_div_up(device->size, STORE_VMA_CLUSTER_SIZE);
    guint64 n_seen = roaring_bitmap_get_cardinality(seen);
    if (n_seen == wanted || store_vma_device_is_state(device))
      continue;
    guint32 first = 0;
    while (roaring_bitmap_contains(seen, first))
      first++;
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                  " clusters of disk '%s' are missing, the first is %u",
                  wanted - n_seen, wanted, device->name, first);
    return FALSE;
  }
  return TRUE;
}

guint64
store_vma_reader_n_clusters(const StoreVmaReader *reader, guint8 device)
{
  return reader->seen[device] ? roaring_bitmap_get_cardinality(reader->seen[device]) : 0;
}
