/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index file, little-endian (docs/formats/index.md): a header page, then slots of 24 bytes, N_SLOTS of
 * them and a few spare ones behind, so that probing never wraps.
 *
 *   header   magic "CBTINDEX", version, size of the header, store uuid, slots, spare slots, used slots,
 *            covered pack and offset, flags, zero, removed slots, boot id, checksum; then two live counts
 *   slot     id (16), location (8): 0 empty, 1 removed, else pack << 37 | offset / 16 << 13 | span / 16, where the
 *            span is the record's with its padding
 */
#pragma once

#include <store/index.h>

#define STORE_INDEX_MAGIC        "CBTINDEX"
#define STORE_INDEX_VERSION      2u
#define STORE_INDEX_HEADER_SIZE  4096u
#define STORE_INDEX_AT_VERSION   8
#define STORE_INDEX_AT_SIZE      12
#define STORE_INDEX_AT_UUID      16
#define STORE_INDEX_AT_SLOTS     32
#define STORE_INDEX_AT_SPARE     40
#define STORE_INDEX_AT_USED      48
#define STORE_INDEX_AT_PACK      56 /* covered */
#define STORE_INDEX_AT_OFFSET    60
#define STORE_INDEX_AT_FLAGS     64
#define STORE_INDEX_AT_REMOVED   72
#define STORE_INDEX_AT_BOOT      80
#define STORE_INDEX_AT_CHECKSUM  96
#define STORE_INDEX_CHECKED_SIZE 104
/* Beside the checksum, kept up with each change, exact within the same boot: */
#define STORE_INDEX_AT_LIVE_USED    256
#define STORE_INDEX_AT_LIVE_REMOVED 264

/* Just grown, not durable: covered holds within the same boot only. */
#define STORE_INDEX_VOLATILE (1u << 0)

#define STORE_INDEX_SLOT_SIZE 24u
#define STORE_INDEX_SLOTS_MIN (G_GUINT64_CONSTANT(1) << 14)
#define STORE_INDEX_SLOTS_MAX (G_GUINT64_CONSTANT(1) << 40)
#define STORE_INDEX_SPARE     1024u

#define STORE_INDEX_EMPTY   G_GUINT64_CONSTANT(0)
#define STORE_INDEX_REMOVED G_GUINT64_CONSTANT(1)

_Static_assert(STORE_INDEX_AT_BOOT + 16 == STORE_INDEX_AT_CHECKSUM, "the boot id fills its field");
_Static_assert(STORE_INDEX_HEADER_SIZE % 8 == 0 && STORE_INDEX_SLOT_SIZE % 8 == 0,
               "locations are aligned for atomics");

typedef struct {
  CbtUuid store;
  guint64 n_slots;
  guint64 n_spare;
  guint64 n_used; /* slots that are not empty, removed ones too */
  guint64 n_removed;
  StoreLocation covered; /* length 0 */
  guint32 flags;
  CbtUuid boot;
} StoreIndexHeader;

void store_index_header_encode(const StoreIndexHeader *header, guint8 bytes[STORE_INDEX_HEADER_SIZE]);
/* FALSE if BYTES are no sound header of a file of FILE_SIZE bytes that belongs to STORE. */
gboolean store_index_header_decode(const guint8 bytes[STORE_INDEX_HEADER_SIZE], const CbtUuid *store,
                                   guint64 file_size, StoreIndexHeader *header);
guint64 store_index_pack_location(const StoreLocation *location);
StoreLocation store_index_unpack_location(guint64 packed);
