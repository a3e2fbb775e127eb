/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/pack-format.h>

#include <common/bytes.h>
#include <store/group.h>
#include <xxhash.h>

static guint64
seed_of(const CbtUuid *store)
{
  return cbt_get_u64(store->bytes) ^ cbt_get_u64(store->bytes + 8);
}

void
store_pack_header_encode(guint32 version, const CbtUuid *store, guint32 pack,
                         guint8 bytes[STORE_PACK_HEADER_SIZE])
{
  memset(bytes, 0, STORE_PACK_HEADER_SIZE);
  memcpy(bytes, STORE_PACK_MAGIC, sizeof STORE_PACK_MAGIC);
  cbt_put_u32(bytes + STORE_PACK_AT_VERSION, version);
  cbt_put_u32(bytes + STORE_PACK_AT_SIZE, STORE_PACK_HEADER_SIZE);
  memcpy(bytes + STORE_PACK_AT_UUID, store->bytes, sizeof store->bytes);
  cbt_put_u32(bytes + STORE_PACK_AT_NUMBER, pack);
  cbt_put_u64(bytes + STORE_PACK_AT_CHECKSUM, cbt_checksum64(bytes, STORE_PACK_AT_CHECKSUM));
}

guint32
store_pack_header_decode(const guint8 bytes[STORE_PACK_HEADER_SIZE], const CbtUuid *store, guint32 pack)
{
  /* Every field but the version is known beforehand, so a sound header is the one that we would write. */
  guint8 expected[STORE_PACK_HEADER_SIZE];
  guint32 version = cbt_get_u32(bytes + STORE_PACK_AT_VERSION);
  store_pack_header_encode(version, store, pack, expected);
  return version <= STORE_PACK_VERSION && memcmp(bytes, expected, sizeof expected) == 0 ? version : 0;
}

/* The header's last field is its checksum: it is left out, and the header in front of it mixed into the
 * payload's seed. */
static guint64
record_checksum(const guint8 *bytes, const CbtUuid *store, guint32 payload_length)
{
  guint64 seed = XXH3_64bits_withSeed(bytes, STORE_RECORD_AT_CHECKSUM, seed_of(store));
  return XXH3_64bits_withSeed(bytes + STORE_RECORD_HEADER_SIZE, payload_length, seed);
}

void
store_record_encode(guint8 *bytes, const CbtUuid *store, guint32 pack, guint32 offset,
                    const StoreRecordInfo *info, guint32 payload_length)
{
  memset(bytes, 0, STORE_RECORD_HEADER_SIZE);
  cbt_put_u32(bytes, STORE_RECORD_MAGIC);
  bytes[STORE_RECORD_AT_TYPE] = (guint8) info->type;
  bytes[STORE_RECORD_AT_ENCODING] = (guint8) info->encoding;
  cbt_put_u32(bytes + STORE_RECORD_AT_LENGTH, info->length);
  cbt_put_u32(bytes + STORE_RECORD_AT_PAYLOAD, payload_length);
  memcpy(bytes + STORE_RECORD_AT_ID, info->id.bytes, STORE_CHUNK_ID_SIZE);
  cbt_put_u32(bytes + STORE_RECORD_AT_PACK, pack);
  cbt_put_u32(bytes + STORE_RECORD_AT_OFFSET, offset / STORE_PACK_ALIGN);
  cbt_put_u64(bytes + STORE_RECORD_AT_CHECKSUM, record_checksum(bytes, store, payload_length));
}

/* The rules that the header of a record of one chunk and its table's entry share. */
static gboolean
info_is_possible(const StoreRecordInfo *info, guint32 payload_length)
{
  return info->type >= STORE_CHUNK_DATA && info->type <= STORE_CHUNK_BLOB &&
         info->encoding <= STORE_ENCODING_ZSTD && info->length > 0 &&
         info->length <= STORE_CHUNK_LENGTH_MAX && payload_length > 0 &&
         payload_length <= STORE_CHUNK_LENGTH_MAX &&
         (info->encoding == STORE_ENCODING_ZSTD || payload_length == info->length) &&
         !store_chunk_id_is_zero(&info->id);
}

gboolean
store_record_header_decode(const guint8 bytes[STORE_RECORD_HEADER_SIZE], guint32 pack, guint32 offset,
                           StoreRecordInfo *info, guint32 *payload_length)
{
  if (cbt_get_u32(bytes) != STORE_RECORD_MAGIC || cbt_get_u16(bytes + STORE_RECORD_AT_ZERO) != 0 ||
      cbt_get_u32(bytes + STORE_RECORD_AT_PACK) != pack ||
      cbt_get_u32(bytes + STORE_RECORD_AT_OFFSET) != offset / STORE_PACK_ALIGN)
    return FALSE;
  info->type = (StoreChunkType) bytes[STORE_RECORD_AT_TYPE];
  info->encoding = (StoreEncoding) bytes[STORE_RECORD_AT_ENCODING];
  info->length = cbt_get_u32(bytes + STORE_RECORD_AT_LENGTH);
  memcpy(info->id.bytes, bytes + STORE_RECORD_AT_ID, STORE_CHUNK_ID_SIZE);
  *payload_length = cbt_get_u32(bytes + STORE_RECORD_AT_PAYLOAD);
  return info->encoding == STORE_ENCODING_GROUP ? store_group_is_possible(info, *payload_length)
                                                : info_is_possible(info, *payload_length);
}

gboolean
store_record_is_sound(const guint8 *bytes, const CbtUuid *store, guint32 payload_length)
{
  return cbt_get_u64(bytes + STORE_RECORD_AT_CHECKSUM) == record_checksum(bytes, store, payload_length);
}

void
store_table_entry_encode(const StoreRecordInfo *info, const StoreLocation *location,
                         guint8 bytes[STORE_TABLE_ENTRY_SIZE])
{
  memset(bytes, 0, STORE_TABLE_ENTRY_SIZE);
  memcpy(bytes + STORE_TABLE_AT_ID, info->id.bytes, STORE_CHUNK_ID_SIZE);
  cbt_put_u32(bytes + STORE_TABLE_AT_OFFSET, location->offset);
  cbt_put_u32(bytes + STORE_TABLE_AT_LENGTH, location->length);
  cbt_put_u32(bytes + STORE_TABLE_AT_CONTENT, info->length);
  bytes[STORE_TABLE_AT_TYPE] = (guint8) info->type;
  bytes[STORE_TABLE_AT_ENCODING] = (guint8) info->encoding;
}

/* A chunk of a group takes what its share is. */
static gboolean
share_is_possible(const StoreRecordInfo *info, guint32 share)
{
  return info->type == STORE_CHUNK_DATA && info->length == STORE_CHUNK_LENGTH_MAX && share > 0 &&
         share % STORE_PACK_ALIGN == 0 && share <= STORE_GROUP_SHARE_MAX &&
         !store_chunk_id_is_zero(&info->id);
}

gboolean
store_table_entry_decode(const guint8 bytes[STORE_TABLE_ENTRY_SIZE], guint32 pack, guint64 table_offset,
                         StoreRecordInfo *info, StoreLocation *location)
{
  memcpy(info->id.bytes, bytes + STORE_TABLE_AT_ID, STORE_CHUNK_ID_SIZE);
  info->length = cbt_get_u32(bytes + STORE_TABLE_AT_CONTENT);
  info->type = (StoreChunkType) bytes[STORE_TABLE_AT_TYPE];
  info->encoding = (StoreEncoding) bytes[STORE_TABLE_AT_ENCODING];
  location->pack = pack;
  location->offset = cbt_get_u32(bytes + STORE_TABLE_AT_OFFSET);
  location->length = cbt_get_u32(bytes + STORE_TABLE_AT_LENGTH);
  if (location->offset < STORE_PACK_HEADER_SIZE || location->offset % STORE_PACK_ALIGN != 0 ||
      !cbt_range_fits(location->offset, location->length, table_offset))
    return FALSE;
  if (info->encoding == STORE_ENCODING_GROUP)
    return share_is_possible(info, location->length);
  return location->length > STORE_RECORD_HEADER_SIZE && location->length <= STORE_RECORD_SIZE_MAX &&
         info_is_possible(info, location->length - STORE_RECORD_HEADER_SIZE);
}

void
store_footer_encode(const StorePackFooter *footer, const CbtUuid *store, guint32 pack,
                    guint8 bytes[STORE_FOOTER_SIZE])
{
  memset(bytes, 0, STORE_FOOTER_SIZE);
  memcpy(bytes, STORE_FOOTER_MAGIC, STORE_FOOTER_AT_NUMBER);
  cbt_put_u32(bytes + STORE_FOOTER_AT_NUMBER, pack);
  cbt_put_u32(bytes + STORE_FOOTER_AT_COUNT, footer->n_entries);
  cbt_put_u64(bytes + STORE_FOOTER_AT_TABLE, footer->table_offset);
  cbt_put_u64(bytes + STORE_FOOTER_AT_ENTRIES, footer->table_checksum);
  cbt_put_u64(bytes + STORE_FOOTER_AT_CHECKSUM,
              XXH3_64bits_withSeed(bytes, STORE_FOOTER_AT_CHECKSUM, seed_of(store)));
}

gboolean
store_footer_decode(const guint8 bytes[STORE_FOOTER_SIZE], const CbtUuid *store, guint32 pack,
                    guint64 file_size, StorePackFooter *footer)
{
  if (memcmp(bytes, STORE_FOOTER_MAGIC, STORE_FOOTER_AT_NUMBER) != 0 ||
      cbt_get_u64(bytes + STORE_FOOTER_AT_CHECKSUM) !=
          XXH3_64bits_withSeed(bytes, STORE_FOOTER_AT_CHECKSUM, seed_of(store)) ||
      cbt_get_u32(bytes + STORE_FOOTER_AT_NUMBER) != pack)
    return FALSE;
  footer->n_entries = cbt_get_u32(bytes + STORE_FOOTER_AT_COUNT);
  footer->table_offset = cbt_get_u64(bytes + STORE_FOOTER_AT_TABLE);
  footer->table_checksum = cbt_get_u64(bytes + STORE_FOOTER_AT_ENTRIES);
  guint64 table_size = (guint64) footer->n_entries * STORE_TABLE_ENTRY_SIZE;
  return footer->table_offset >= STORE_PACK_HEADER_SIZE && footer->table_offset <= STORE_PACK_OFFSET_MAX &&
         footer->table_offset + table_size + STORE_FOOTER_SIZE == file_size;
}
