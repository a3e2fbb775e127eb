/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/index-format.h>

#include <common/bytes.h>
#include <store/pack-format.h>

_Static_assert(STORE_RECORD_SIZE_MAX / STORE_PACK_ALIGN + 1 < 1u << 13, "the span fits its 13 bits");
_Static_assert(STORE_PACK_OFFSET_MAX / STORE_PACK_ALIGN == 1u << 24, "the offset fits its 24 bits");

void
store_index_header_encode(const StoreIndexHeader *header, guint8 bytes[STORE_INDEX_HEADER_SIZE])
{
  memset(bytes, 0, STORE_INDEX_HEADER_SIZE);
  memcpy(bytes, STORE_INDEX_MAGIC, STORE_INDEX_AT_VERSION);
  cbt_put_u32(bytes + STORE_INDEX_AT_VERSION, STORE_INDEX_VERSION);
  cbt_put_u32(bytes + STORE_INDEX_AT_SIZE, STORE_INDEX_HEADER_SIZE);
  memcpy(bytes + STORE_INDEX_AT_UUID, header->store.bytes, sizeof header->store.bytes);
  cbt_put_u64(bytes + STORE_INDEX_AT_SLOTS, header->n_slots);
  cbt_put_u64(bytes + STORE_INDEX_AT_SPARE, header->n_spare);
  cbt_put_u64(bytes + STORE_INDEX_AT_USED, header->n_used);
  cbt_put_u64(bytes + STORE_INDEX_AT_REMOVED, header->n_removed);
  cbt_put_u32(bytes + STORE_INDEX_AT_PACK, header->covered.pack);
  cbt_put_u32(bytes + STORE_INDEX_AT_OFFSET, header->covered.offset);
  cbt_put_u32(bytes + STORE_INDEX_AT_FLAGS, header->flags);
  memcpy(bytes + STORE_INDEX_AT_BOOT, header->boot.bytes, sizeof header->boot.bytes);
  cbt_put_u64(bytes + STORE_INDEX_AT_CHECKSUM, cbt_checksum64(bytes, STORE_INDEX_AT_CHECKSUM));
  cbt_put_u64(bytes + STORE_INDEX_AT_LIVE_USED, header->n_used);
  cbt_put_u64(bytes + STORE_INDEX_AT_LIVE_REMOVED, header->n_removed);
}

static gboolean
sizes_are_sound(const StoreIndexHeader *header, guint64 file_size)
{
  return cbt_is_power_of_two(header->n_slots) && header->n_slots >= STORE_INDEX_SLOTS_MIN &&
         header->n_slots <= STORE_INDEX_SLOTS_MAX && header->n_spare <= header->n_slots &&
         file_size >= STORE_INDEX_HEADER_SIZE + (header->n_slots + header->n_spare) * STORE_INDEX_SLOT_SIZE;
}

gboolean
store_index_header_decode(const guint8 bytes[STORE_INDEX_HEADER_SIZE], const CbtUuid *store,
                          guint64 file_size, StoreIndexHeader *header)
{
  if (memcmp(bytes, STORE_INDEX_MAGIC, STORE_INDEX_AT_VERSION) != 0 ||
      cbt_get_u32(bytes + STORE_INDEX_AT_VERSION) != STORE_INDEX_VERSION ||
      cbt_get_u32(bytes + STORE_INDEX_AT_SIZE) != STORE_INDEX_HEADER_SIZE ||
      cbt_get_u64(bytes + STORE_INDEX_AT_CHECKSUM) != cbt_checksum64(bytes, STORE_INDEX_AT_CHECKSUM))
    return FALSE;
  memset(header, 0, sizeof *header);
  memcpy(header->store.bytes, bytes + STORE_INDEX_AT_UUID, sizeof header->store.bytes);
  header->n_slots = cbt_get_u64(bytes + STORE_INDEX_AT_SLOTS);
  header->n_spare = cbt_get_u64(bytes + STORE_INDEX_AT_SPARE);
  header->n_used = cbt_get_u64(bytes + STORE_INDEX_AT_USED);
  header->n_removed = cbt_get_u64(bytes + STORE_INDEX_AT_REMOVED);
  header->covered.pack = cbt_get_u32(bytes + STORE_INDEX_AT_PACK);
  header->covered.offset = cbt_get_u32(bytes + STORE_INDEX_AT_OFFSET);
  header->flags = cbt_get_u32(bytes + STORE_INDEX_AT_FLAGS);
  memcpy(header->boot.bytes, bytes + STORE_INDEX_AT_BOOT, sizeof header->boot.bytes);
  return cbt_uuid_equal(&header->store, store) && sizes_are_sound(header, file_size);
}

guint64
store_index_pack_location(const StoreLocation *location)
{
  return (guint64) location->pack << 37 | (guint64) (location->offset / STORE_PACK_ALIGN) << 13 |
         cbt_div_up(location->length, STORE_PACK_ALIGN);
}

StoreLocation
store_index_unpack_location(guint64 packed)
{
  return (StoreLocation){
      .pack = (guint32) (packed >> 37),
      .offset = (guint32) (packed >> 13 & 0xffffff) * STORE_PACK_ALIGN,
      .length = (guint32) (packed & 0x1fff) * STORE_PACK_ALIGN,
  };
}
