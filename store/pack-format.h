/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pack file, little-endian (docs/formats/pack.md):
 *
 *   header (64)   magic "CBTPACK\0", version, size of this header, store uuid, pack number, zero, checksum
 *   records       each: header (48), payload, zeros up to a multiple of 16
 *   table         in a sealed pack: 32 bytes for each record
 *   footer (48)   in a sealed pack, at its very end
 *
 * A record names its own place (pack and offset), and its checksum is seeded with the store's uuid, so that
 * neither a copy of a record elsewhere, nor the bytes of a record inside a guest's data, can be taken for
 * one.
 *
 * Encoding and decoding only; no I/O.
 */
#pragma once

#include <common/uuid.h>
#include <store/pack.h>

#define STORE_PACK_ALIGN       16u
#define STORE_PACK_VERSION     2u        /* version 1 has no groups */
#define STORE_PACK_MAGIC       "CBTPACK" /* with its NUL */
#define STORE_PACK_HEADER_SIZE 64u
#define STORE_PACK_AT_VERSION  8
#define STORE_PACK_AT_SIZE     12
#define STORE_PACK_AT_UUID     16
#define STORE_PACK_AT_NUMBER   32
#define STORE_PACK_AT_CHECKSUM 56

#define STORE_RECORD_MAGIC       0x52544243u /* "CBTR" */
#define STORE_RECORD_HEADER_SIZE 48u
#define STORE_RECORD_AT_TYPE     4
#define STORE_RECORD_AT_ENCODING 5
#define STORE_RECORD_AT_ZERO     6
#define STORE_RECORD_AT_LENGTH   8
#define STORE_RECORD_AT_PAYLOAD  12
#define STORE_RECORD_AT_ID       16
#define STORE_RECORD_AT_PACK     32
#define STORE_RECORD_AT_OFFSET   36 /* bytes / STORE_PACK_ALIGN */
#define STORE_RECORD_AT_CHECKSUM 40
#define STORE_RECORD_SIZE_MAX    (STORE_RECORD_HEADER_SIZE + STORE_CHUNK_LENGTH_MAX)

#define STORE_TABLE_ENTRY_SIZE  32u
#define STORE_TABLE_AT_ID       0
#define STORE_TABLE_AT_OFFSET   16
#define STORE_TABLE_AT_LENGTH   20
#define STORE_TABLE_AT_CONTENT  24
#define STORE_TABLE_AT_TYPE     28
#define STORE_TABLE_AT_ENCODING 29

#define STORE_FOOTER_MAGIC       "CBTTABLE"
#define STORE_FOOTER_SIZE        48u
#define STORE_FOOTER_AT_NUMBER   8
#define STORE_FOOTER_AT_COUNT    12
#define STORE_FOOTER_AT_TABLE    16 /* offset of the table, bytes, u64 */
#define STORE_FOOTER_AT_ENTRIES  24 /* checksum of the table */
#define STORE_FOOTER_AT_CHECKSUM 40

/* A location has 27 bits of pack number and 24 bits of offset / 16 in the index. */
#define STORE_PACK_NUMBER_MAX ((1u << 27) - 1)
#define STORE_PACK_OFFSET_MAX (1u << 28)

_Static_assert(STORE_PACK_AT_CHECKSUM + 8 == STORE_PACK_HEADER_SIZE, "the checksum ends the pack header");
_Static_assert(STORE_RECORD_AT_CHECKSUM + 8 == STORE_RECORD_HEADER_SIZE,
               "the checksum ends the record header");
_Static_assert(STORE_FOOTER_AT_CHECKSUM + 8 == STORE_FOOTER_SIZE, "the checksum ends the footer");
_Static_assert(STORE_PACK_HEADER_SIZE % STORE_PACK_ALIGN == 0, "records are aligned");
_Static_assert(STORE_TABLE_ENTRY_SIZE % STORE_PACK_ALIGN == 0 && STORE_FOOTER_SIZE % STORE_PACK_ALIGN == 0,
               "a sealed pack is a whole number of units");

/* Bytes that a record of PAYLOAD_LENGTH takes with its padding. */
static inline guint32
store_record_span(guint32 payload_length)
{
  return (STORE_RECORD_HEADER_SIZE + payload_length + STORE_PACK_ALIGN - 1) & ~(STORE_PACK_ALIGN - 1);
}

void store_pack_header_encode(guint32 version, const CbtUuid *store, guint32 pack,
                              guint8 bytes[STORE_PACK_HEADER_SIZE]);
/* The version of the pack, 0 if the header is not sound. */
guint32 store_pack_header_decode(const guint8 bytes[STORE_PACK_HEADER_SIZE], const CbtUuid *store,
                                 guint32 pack);

/* Completes the record at BYTES, whose payload already stands behind the room for its header. */
void store_record_encode(guint8 *bytes, const CbtUuid *store, guint32 pack, guint32 offset,
                         const StoreRecordInfo *info, guint32 payload_length);
/* What the header at BYTES says, if its fields can be true for a record of PACK at OFFSET. The checksum is
 * not looked at. */
gboolean store_record_header_decode(const guint8 bytes[STORE_RECORD_HEADER_SIZE], guint32 pack,
                                    guint32 offset, StoreRecordInfo *info, guint32 *payload_length);
/* The checksum of header and payload; both stand together at BYTES. */
gboolean store_record_is_sound(const guint8 *bytes, const CbtUuid *store, guint32 payload_length);

void store_table_entry_encode(const StoreRecordInfo *info, const StoreLocation *location,
                              guint8 bytes[STORE_TABLE_ENTRY_SIZE]);
/* FALSE if the entry cannot be of a pack whose table stands at TABLE_OFFSET. */
gboolean store_table_entry_decode(const guint8 bytes[STORE_TABLE_ENTRY_SIZE], guint32 pack,
                                  guint64 table_offset, StoreRecordInfo *info, StoreLocation *location);

typedef struct {
  guint32 n_entries;
  guint64 table_offset;
  guint64 table_checksum;
} StorePackFooter;

void store_footer_encode(const StorePackFooter *footer, const CbtUuid *store, guint32 pack,
                         guint8 bytes[STORE_FOOTER_SIZE]);
/* FALSE if BYTES are no sound footer of a pack of FILE_SIZE bytes. The table's own checksum is left to the
 * caller. */
gboolean store_footer_decode(const guint8 bytes[STORE_FOOTER_SIZE], const CbtUuid *store, guint32 pack,
                             guint64 file_size, StorePackFooter *footer);
