/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inputs: an archive, plain or compressed; or, if it begins with '#', the checksums of an archive. The MD5
 * sums in archives are made to fit before they are read a second time, else nothing behind them would be
 * reached. What is accepted must keep its promises: clusters inside their disks, headers that survive a round
 * trip, and an extraction that gives the same bytes as the extents.
 */
#include "fuzz.h"

#include <common/bytes.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <store/vma-extract.h>
#include <store/vma-format.h>
#include <store/vma-sums.h>
#include <sys/mman.h>
#include <unistd.h>

/* Offsets in an archive that are worth a mutation of their own. */
typedef struct {
  gsize at[1024];
  guint8 length[1024];
  guint n;
} Fields;

static void
add_field(Fields *fields, gsize at, guint8 length)
{
  if (fields->n == G_N_ELEMENTS(fields->at))
    return;
  fields->at[fields->n] = at;
  fields->length[fields->n++] = length;
}

/* ---- the structure, as far as it can be seen ---- */

static void
put_md5(guint8 *data, gsize length, gsize at)
{
  gsize sum_length = STORE_VMA_MD5_SIZE;
  g_autoptr(GChecksum) md5 = g_checksum_new(G_CHECKSUM_MD5);
  memset(data + at, 0, STORE_VMA_MD5_SIZE);
  g_checksum_update(md5, data, (gssize) length);
  g_checksum_get_digest(md5, data + at, &sum_length);
}

/* The header's length; 0 if it is not all there. */
static gsize
header_length(const guint8 *data, gsize size)
{
  gsize length = size > STORE_VMA_HEADER_SIZE_MIN ? cbt_get_be32(data + STORE_VMA_AT_HEADER_SIZE) : 0;
  return length > STORE_VMA_HEADER_SIZE_MIN && length <= size ? length : 0;
}

/* The length that the block infos of the extent at DATA give it. */
static gsize
extent_length(const guint8 *data)
{
  gsize length = STORE_VMA_EXTENT_HEADER_SIZE;
  for (guint i = 0; i < STORE_VMA_INFOS_PER_EXTENT; i++) {
    guint64 info = cbt_get_be64(data + STORE_VMA_EXTENT_AT_INFOS + 8 * i);
    if ((info >> STORE_VMA_INFO_DEVICE_SHIFT) & 0xff)
      length += (gsize) __builtin_popcountll(info >> STORE_VMA_INFO_MASK_SHIFT) * STORE_VMA_BLOCK_SIZE;
  }
  return length;
}

/* Makes all MD5 sums fit that can be found. */
static void
fix_sums(guint8 *data, gsize size)
{
  gsize at = header_length(data, size);
  if (at == 0)
    return;
  put_md5(data, at, STORE_VMA_AT_MD5);
  while (size - at >= STORE_VMA_EXTENT_HEADER_SIZE) {
    put_md5(data + at, STORE_VMA_EXTENT_HEADER_SIZE, STORE_VMA_EXTENT_AT_MD5);
    at += MIN(extent_length(data + at), size - at);
  }
}

static void
find_header_fields(const guint8 *data, gsize length, Fields *fields)
{
  add_field(fields, STORE_VMA_AT_VERSION, 4);
  add_field(fields, STORE_VMA_AT_BLOBS, 4);
  add_field(fields, STORE_VMA_AT_BLOBS_SIZE, 4);
  add_field(fields, STORE_VMA_AT_HEADER_SIZE, 4);
  for (guint i = 0; i < 4; i++) {
    add_field(fields, STORE_VMA_AT_CONFIG_NAMES + 4 * i, 4);
    add_field(fields, STORE_VMA_AT_CONFIG_DATA + 4 * i, 4);
    add_field(fields, STORE_VMA_AT_DEVICES + (i + 1) * STORE_VMA_DEVICE_SIZE + STORE_VMA_DEVICE_AT_NAME, 4);
    add_field(fields, STORE_VMA_AT_DEVICES + (i + 1) * STORE_VMA_DEVICE_SIZE + STORE_VMA_DEVICE_AT_SIZE, 8);
  }
  for (gsize at = STORE_VMA_HEADER_SIZE_MIN; at + 8 <= length && data[at + 1] + data[at + 2] > 0; at += 8)
    add_field(fields, at, 8);
}

static void
find_fields(const guint8 *data, gsize size, Fields *fields)
{
  gsize at = header_length(data, size);
  if (at == 0)
    return;
  find_header_fields(data, at, fields);
  while (size - at >= STORE_VMA_EXTENT_HEADER_SIZE) {
    add_field(fields, at, 6);
    add_field(fields, at + STORE_VMA_EXTENT_AT_COUNT, 2);
    add_field(fields, at + STORE_VMA_EXTENT_AT_UUID, 16);
    for (guint i = 0; i < STORE_VMA_INFOS_PER_EXTENT; i++)
      add_field(fields, at + STORE_VMA_EXTENT_AT_INFOS + 8 * i, 8);
    at += MIN(extent_length(data + at), size - at);
  }
}

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize size_max_bytes, unsigned seed)
{
  Fields fields = {.n = 0};
  find_fields(data, size, &fields);
  if (fields.n == 0 || seed % 4 == 0)
    return LLVMFuzzerMutate(data, size, size_max_bytes);
  for (guint round = 0; round <= seed / 4 % 3; round++) {
    guint i = (seed / 16 + round * 7919) % fields.n;
    LLVMFuzzerMutate(data + fields.at[i], fields.length[i], fields.length[i]);
  }
  return size;
}

/* ---- reading ---- */

static int
memory_file(const guint8 *data, gsize size)
{
  int fd = memfd_create("fuzz", MFD_CLOEXEC);
  g_assert_cmpint(fd, >=, 0);
  g_assert_true(cbt_pwrite_full(fd, data, size, 0));
  return fd;
}

/* What was said about a header must survive its being written again, unless it is too large for that. */
static void
check_header(const StoreVmaHeader *header)
{
  gsize length;
  g_autofree guint8 *data = store_vma_header_encode(header, &length, NULL);
  if (!data)
    return;
  g_assert_cmpuint(store_vma_header_peek(data, NULL), ==, length);
  g_autoptr(StoreVmaHeader) again = store_vma_header_decode(data, length, NULL);
  g_assert_nonnull(again);
  g_assert_cmpuint(again->devices->len, ==, header->devices->len);
  g_assert_cmpuint(again->configs->len, ==, header->configs->len);
  g_assert_true(cbt_uuid_equal(&again->uuid, &header->uuid));
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *a = header->devices->pdata[i], *b = again->devices->pdata[i];
    g_assert_true(a->id == b->id && cbt_round_up(a->size, 512) == b->size && strcmp(a->name, b->name) == 0);
  }
}

/* An extent that is written again must hold the same clusters; one with an info more than we write is not. */
static void
check_extent(const StoreVmaExtent *extent, const CbtUuid *uuid)
{
  static StoreVmaExtent *again;
  static guint8 data[STORE_VMA_CLUSTER_SIZE], data_again[STORE_VMA_CLUSTER_SIZE];
  if (extent->n_clusters > STORE_VMA_EXTENT_CLUSTERS)
    return;
  again = again ? again : store_vma_extent_new();
  store_vma_extent_clear(again);
  for (guint i = 0; i < extent->n_clusters; i++) {
    store_vma_cluster_expand(&extent->clusters[i], store_vma_extent_reserve(again));
    store_vma_extent_add(again, extent->clusters[i].device, extent->clusters[i].number);
  }
  store_vma_extent_encode(again, uuid);
  g_assert_true(store_vma_extent_decode(again, uuid, NULL));
  g_assert_true(again->n_clusters == extent->n_clusters && again->length <= extent->length);
  for (guint i = 0; i < extent->n_clusters; i++) {
    g_assert_true(again->clusters[i].device == extent->clusters[i].device &&
                  again->clusters[i].number == extent->clusters[i].number);
    store_vma_cluster_expand(&extent->clusters[i], data);
    store_vma_cluster_expand(&again->clusters[i], data_again);
    g_assert_cmpmem(data, sizeof data, data_again, sizeof data_again);
  }
}

/* The sum of the bytes of all clusters, each with its device and place. */
static guint64
add_extent(const StoreVmaHeader *header, const StoreVmaExtent *extent, guint64 sum)
{
  static guint8 data[STORE_VMA_CLUSTER_SIZE];
  for (guint i = 0; i < extent->n_clusters; i++) {
    const StoreVmaCluster *cluster = &extent->clusters[i];
    const StoreVmaDevice *device = store_vma_header_find_device(header, cluster->device);
    guint64 at = (guint64) cluster->number * STORE_VMA_CLUSTER_SIZE;
    g_assert_true(device && at < device->size);
    store_vma_cluster_expand(cluster, data);
    gsize length = (gsize) MIN(device->size - at, sizeof data);
    if (!cbt_is_zero(data, length))
      sum += cbt_checksum64(data, length) ^ ((guint64) cluster->device << 56) ^ at;
  }
  return sum;
}

/* Takes the archive in FD apart; TRUE if it is whole. */
static gboolean
read_archive(int fd, StoreVmaSums *sums, guint64 *sum, GError **error)
{
  lseek(fd, 0, SEEK_SET);
  g_autoptr(StoreVmaSource) source = store_vma_source_new(fd, sums, error);
  if (!source)
    return FALSE;
  g_autoptr(StoreVmaReader) reader = store_vma_reader_new(source, error);
  if (!reader)
    return FALSE;
  g_autoptr(StoreVmaExtent) extent = store_vma_extent_new();
  GError *local = NULL;
  check_header(store_vma_reader_header(reader));
  while (store_vma_reader_next(reader, extent, &local)) {
    check_extent(extent, &store_vma_reader_header(reader)->uuid);
    *sum = add_extent(store_vma_reader_header(reader), extent, *sum);
  }
  if (!local && store_vma_reader_check_complete(reader, error))
    return TRUE;
  if (local)
    g_propagate_error(error, local);
  return FALSE;
}

/* ---- extracting what was good ---- */

static guint64
sum_disk(int fd, const StoreVmaDevice *device)
{
  static guint8 data[STORE_VMA_CLUSTER_SIZE];
  guint64 sum = 0;
  for (guint64 at = 0; at < device->size; at += sizeof data) {
    gsize length = (gsize) MIN(device->size - at, sizeof data);
    memset(data, 0, sizeof data);
    g_assert_cmpint(cbt_pread_full(fd, data, length, at), >=, 0);
    if (!cbt_is_zero(data, length))
      sum += cbt_checksum64(data, length) ^ ((guint64) device->id << 56) ^ at;
  }
  return sum;
}

static void
extract_archive(int fd, guint64 expected)
{
  StoreVmaTarget targets[STORE_VMA_DEVICE_MAX + 1];
  guint64 sum = 0;
  lseek(fd, 0, SEEK_SET);
  g_autoptr(StoreVmaSource) source = store_vma_source_new(fd, NULL, NULL);
  g_autoptr(StoreVmaReader) reader = store_vma_reader_new(source, NULL);
  const StoreVmaHeader *header = store_vma_reader_header(reader);
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    targets[id] = (StoreVmaTarget){-1, FALSE};
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    targets[device->id] = (StoreVmaTarget){memory_file(NULL, 0), device->id % 2 == 0};
  }
  g_assert_true(store_vma_extract(reader, targets, 1, NULL));
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    sum += device->size <= 64 << 20 ? sum_disk(targets[device->id].fd, device) : 0;
    expected = device->size <= 64 << 20 ? expected : 0;
    close(targets[device->id].fd);
  }
  g_assert_true(expected == 0 || sum == expected);
}

/* ---- inputs ---- */

static void
take_archive(const guint8 *data, gsize size)
{
  guint64 sum = 0;
  g_autoptr(GError) error = NULL;
  int fd = memory_file(data, size);
  if (read_archive(fd, NULL, &sum, &error))
    extract_archive(fd, sum);
  else
    g_assert_true(error && *error->message);
  close(fd);
}

/* The text of checksums, for an archive that has a header alone. */
static void
take_sums(const guint8 *data, gsize size)
{
  gsize length;
  guint64 sum = 0;
  char line[STORE_VMA_SUMS_LINE_SIZE];
  g_autoptr(GError) error = NULL;
  g_autofree char *text = g_strndup((const char *) data, size);
  g_autoptr(StoreVmaSums) sums = store_vma_sums_new(memory_file(data, size), &error);
  if (!sums) {
    g_assert_nonnull(error);
    return;
  }
  g_autoptr(StoreVmaHeader) header = store_vma_header_new();
  store_vma_header_add_config(header, "a", "b", 1);
  g_autofree guint8 *archive = store_vma_header_encode(header, &length, NULL);
  int fd = memory_file(archive, length);
  gboolean ok = read_archive(fd, sums, &sum, &error);
  g_assert_true(ok ? strstr(text, store_vma_sums_format(archive, length, line)) != NULL : error != NULL);
  close(fd);
}

int
LLVMFuzzerTestOneInput(const guint8 *data, gsize size)
{
  if (size > 0 && data[0] == '#') {
    take_sums(data, size);
    return 0;
  }
  g_autofree guint8 *copy = g_memdup2(data, size);
  take_archive(data, size);
  if (header_length(data, size) == 0)
    return 0;
  fix_sums(copy, size);
  take_archive(copy, size);
  return 0;
}
