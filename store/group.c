/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/group.h>

#include <string.h>

_Static_assert(STORE_GROUP_CHUNKS_MIN *STORE_CHUNK_ID_SIZE + STORE_RECORD_HEADER_SIZE >=
                   STORE_GROUP_CHUNKS_MIN * STORE_PACK_ALIGN,
               "each chunk has a share");

_Static_assert(STORE_GROUP_CHUNKS_MAX == STORE_PACK_GROUP_MAX, "a group's ids fit");

gboolean
store_group_is_possible(const StoreRecordInfo *info, guint32 payload_length)
{
  guint n = store_group_count(info->length);
  return info->type == STORE_CHUNK_DATA && store_chunk_id_is_zero(&info->id) &&
         info->length % STORE_CHUNK_LENGTH_MAX == 0 && n >= STORE_GROUP_CHUNKS_MIN &&
         n <= STORE_GROUP_CHUNKS_MAX && payload_length > n * STORE_CHUNK_ID_SIZE &&
         payload_length <= store_group_payload_max(n);
}

static StoreChunkId
id_at(const guint8 *payload, guint i)
{
  StoreChunkId id;
  memcpy(id.bytes, payload + (gsize) i * STORE_CHUNK_ID_SIZE, sizeof id.bytes);
  return id;
}

gboolean
store_group_ids_are_possible(const guint8 *payload, guint n)
{
  for (guint i = 0; i < n; i++) {
    StoreChunkId id = id_at(payload, i);
    if (store_chunk_id_is_zero(&id) || store_group_find(payload, i, &id) >= 0)
      return FALSE;
  }
  return TRUE;
}

StoreRecordInfo
store_group_chunk(const guint8 *payload, guint i)
{
  return (StoreRecordInfo){.id = id_at(payload, i),
                           .type = STORE_CHUNK_DATA,
                           .length = STORE_CHUNK_LENGTH_MAX,
                           .encoding = STORE_ENCODING_GROUP};
}

int
store_group_find(const guint8 *payload, guint n, const StoreChunkId *id)
{
  for (guint i = 0; i < n; i++)
    if (memcmp(payload + (gsize) i * STORE_CHUNK_ID_SIZE, id->bytes, STORE_CHUNK_ID_SIZE) == 0)
      return (int) i;
  return -1;
}

guint32
store_group_share(guint32 payload_length, guint n, guint i)
{
  guint32 units = store_record_span(payload_length) / STORE_PACK_ALIGN;
  return (units / n + (i < units % n)) * STORE_PACK_ALIGN;
}
