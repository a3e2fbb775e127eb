/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One page: bytes to entries and back. The encoding is canonical (no trailing zero entry, nothing behind the
 * last), so that equal subtrees of any two points are one chunk; decode refuses what encode would not have
 * written.
 */
#include <store/manifest-private.h>

#include <common/bytes.h>
#include <common/error.h>

gsize
store_page_encode(const StorePage *page, guint level, guint8 *buffer)
{
  guint n = STORE_PAGE_FANOUT;
  while (n > 0 && store_chunk_id_is_zero(&page->entries[n - 1]))
    n--;
  if (n == 0)
    return 0;
  cbt_put_u32(buffer + STORE_PAGE_MAGIC_OFFSET, STORE_PAGE_MAGIC);
  buffer[STORE_PAGE_VERSION_OFFSET] = STORE_PAGE_VERSION;
  buffer[STORE_PAGE_LEVEL_OFFSET] = (guint8) level;
  cbt_put_u16(buffer + STORE_PAGE_N_OFFSET, (guint16) n);
  memcpy(buffer + STORE_PAGE_HEADER_SIZE, page->entries, n * sizeof page->entries[0]);
  return STORE_PAGE_HEADER_SIZE + n * sizeof page->entries[0];
}

/* NULL if DATA is a page of LEVEL, else what is wrong with it. */
static const char *
check_page(const guint8 *data, gsize length, guint level)
{
  if (length < STORE_PAGE_HEADER_SIZE || cbt_get_u32(data + STORE_PAGE_MAGIC_OFFSET) != STORE_PAGE_MAGIC)
    return "it is no manifest page";
  if (data[STORE_PAGE_VERSION_OFFSET] != STORE_PAGE_VERSION)
    return "its version is not known";
  if (data[STORE_PAGE_LEVEL_OFFSET] != level)
    return "it is of another level";
  guint n = cbt_get_u16(data + STORE_PAGE_N_OFFSET);
  if (n == 0 || n > STORE_PAGE_FANOUT || length != STORE_PAGE_HEADER_SIZE + n * STORE_CHUNK_ID_SIZE)
    return "its length is wrong";
  if (cbt_is_zero(data + length - STORE_CHUNK_ID_SIZE, STORE_CHUNK_ID_SIZE))
    return "its last entry is zero";
  return NULL;
}

gboolean
store_page_decode(const guint8 *data, gsize length, guint level, StorePage *page, GError **error)
{
  const char *wrong = check_page(data, length, level);
  if (wrong) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", wrong);
    return FALSE;
  }
  memset(page, 0, sizeof *page);
  memcpy(page->entries, data + STORE_PAGE_HEADER_SIZE, length - STORE_PAGE_HEADER_SIZE);
  return TRUE;
}

gboolean
store_manifest_get_chunk(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length,
                         GError **error)
{
  g_autoptr(GError) local = NULL;
  if (store_get(worker, id, buffer, length, &local))
    return TRUE;
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    local->code = CBT_ERROR_CORRUPT;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

gboolean
store_manifest_get_cluster(StoreWorker *worker, const StoreChunkId *id, guint8 *data, guint64 offset,
                           GError **error)
{
  gsize length;
  if (!store_manifest_get_chunk(worker, id, data, &length, error)) {
    g_prefix_error(error, "extent at offset %" G_GUINT64_FORMAT ": ", offset);
    return FALSE;
  }
  if (length == CBT_CLUSTER_SIZE)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                "extent at offset %" G_GUINT64_FORMAT ": its chunk has %zu bytes", offset, length);
  return FALSE;
}

gboolean
store_page_load(StoreWorker *worker, const StoreChunkId *id, guint level, StorePage *page, GError **error)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  if (store_chunk_id_is_zero(id)) {
    memset(page, 0, sizeof *page);
    return TRUE;
  }
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  gsize length;
  if (store_manifest_get_chunk(worker, id, data, &length, error) &&
      store_page_decode(data, length, level, page, error))
    return TRUE;
  g_prefix_error(error, "manifest page %s: ", store_chunk_id_format(id, text));
  return FALSE;
}
