/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layout of a bitmap file, version 1. docs/formats/bitmap.md has it in words, with an example.
 *
 *   page 0, 1   two header slots of 4096 bytes
 *   then        bit array 0, bit array 1, summary 0, summary 1, one reserved; each from a page boundary,
 * zero-filled up to the next. The region log is a file of its own, cbt/region-log-format.h
 *
 * Integers are little-endian. Bit i of an array is bit i % 64 of its 64-bit word i / 64. The arrays are
 * mapped and used as they are, so only little-endian hosts can open the file.
 */
#pragma once

#include <cbt/bitmap-file.h>

#define CBT_BITMAP_MAGIC   "CBTBITMP" /* 8 bytes, without the NUL */
#define CBT_BITMAP_VERSION 1u
#define CBT_BITMAP_PAGE    4096u
#define CBT_BITMAP_N_SLOTS 2u

/* Bytes of the disk that a flag of the region log stands for. */
#define CBT_BITMAP_REGION_SIZE (G_GUINT64_CONSTANT(16) << 20)

/* Offsets into a header slot. The first four and the checksum stand where they are in every version to come.
 */
enum {
  CBT_BITMAP_AT_MAGIC = 0,          /* 8 bytes */
  CBT_BITMAP_AT_VERSION = 8,        /* u32 */
  CBT_BITMAP_AT_HEADER_SIZE = 12,   /* u32, 4096 */
  CBT_BITMAP_AT_SEQUENCE = 16,      /* u64, the valid slot with the higher one counts */
  CBT_BITMAP_AT_GENERATION = 24,    /* u64, number of transitions */
  CBT_BITMAP_AT_STATE = 32,         /* u32, CbtBitmapState */
  CBT_BITMAP_AT_FLAGS = 36,         /* u32, CBT_BITMAP_FLAG_* */
  CBT_BITMAP_AT_PARENT = 40,        /* u32, 0 or 1: which bit array is the parent's */
  CBT_BITMAP_AT_RESERVED = 44,      /* u32, 0 */
  CBT_BITMAP_AT_GRANULARITY = 48,   /* u64, bytes */
  CBT_BITMAP_AT_REGION_SIZE = 56,   /* u64, bytes, CBT_BITMAP_REGION_SIZE */
  CBT_BITMAP_AT_BOOT_ID = 64,       /* 16 bytes, of the boot that opened the file last */
  CBT_BITMAP_AT_DISK_ID = 80,       /* 16 bytes */
  CBT_BITMAP_AT_DISK_SIZE = 96,     /* u64, bytes */
  CBT_BITMAP_AT_DEVICE = 104,       /* u64 */
  CBT_BITMAP_AT_INODE = 112,        /* u64, 0 for a block device */
  CBT_BITMAP_AT_MTIME = 120,        /* i64, nanoseconds since 1970, 0 for a block device */
  CBT_BITMAP_AT_BASE = 128,         /* 16 bytes, nil: none */
  CBT_BITMAP_AT_PENDING = 144,      /* 16 bytes, nil: none */
  CBT_BITMAP_AT_NAME = 160,         /* 64 bytes, NUL-padded */
  CBT_BITMAP_AT_REASON = 224,       /* 192 bytes, NUL-padded UTF-8 */
  CBT_BITMAP_AT_WORDS = 416,        /* u64 [2], file offsets of the bit arrays */
  CBT_BITMAP_AT_WORDS_SIZE = 432,   /* u64, bytes of each, without padding */
  CBT_BITMAP_AT_SUMMARY = 440,      /* u64 [2], file offsets of the summaries */
  CBT_BITMAP_AT_SUMMARY_SIZE = 456, /* u64 */
  CBT_BITMAP_AT_REGIONS = 464,      /* u64, file offset of what is reserved */
  CBT_BITMAP_AT_REGIONS_SIZE = 472, /* u64 */
  CBT_BITMAP_AT_FILE_SIZE = 480,    /* u64 */
  CBT_BITMAP_AT_LOG_ID = 488,       /* 16 bytes: the region log that covers the file, nil: none */
  CBT_BITMAP_AT_FILE_ID = 504,      /* 16 bytes, random: another one for each file that is made */
  CBT_BITMAP_AT_CTIME = 520,        /* i64, nanoseconds since 1970, 0 for a block device */
  CBT_BITMAP_AT_ZERO = 528,         /* zeros up to the checksum */
  CBT_BITMAP_AT_CHECKSUM = 4088,    /* u64, cbt_checksum64() of the 4088 bytes before it */
};

#define CBT_BITMAP_FLAG_CLEAN             1u /* closed in good order */
#define CBT_BITMAP_FLAG_INCONSISTENT_BASE 2u /* frozen, and inconsistent before that */
#define CBT_BITMAP_FLAGS_KNOWN            3u

_Static_assert(G_BYTE_ORDER == G_LITTLE_ENDIAN, "the bit arrays are mapped as they stand in the file");
_Static_assert(CBT_NAME_MAX + 1 == CBT_BITMAP_AT_REASON - CBT_BITMAP_AT_NAME, "name field");
_Static_assert(CBT_REASON_MAX + 1 == CBT_BITMAP_AT_WORDS - CBT_BITMAP_AT_REASON, "reason field");
_Static_assert(sizeof(CbtUuid) == CBT_BITMAP_AT_PENDING - CBT_BITMAP_AT_BASE, "uuid field");
_Static_assert(CBT_BITMAP_AT_CHECKSUM + 8 == CBT_BITMAP_PAGE, "the checksum ends the slot");

/* A decoded header slot. */
typedef struct {
  guint64 sequence;
  guint64 generation;
  CbtBitmapState state;
  guint parent; /* 0 or 1 */
  gboolean clean;
  gboolean inconsistent_base;
  guint64 granularity;
  CbtUuid boot_id;
  CbtUuid file_id;
  CbtUuid log_id; /* of the region log that covers it while it is not clean; nil: none */
  CbtDiskIdentity disk;
  CbtUuid base;
  CbtUuid pending;
  char name[CBT_NAME_MAX + 1];
  char reason[CBT_REASON_MAX + 1];
} CbtBitmapHeader;

/* Where things stand in the file: follows from disk size and granularity alone. Bytes. */
typedef struct {
  guint64 words[2];
  guint64 words_size;
  guint64 summary[2];
  guint64 summary_size;
  guint64 regions;
  guint64 regions_size;
  guint64 file_size;
} CbtBitmapLayout;

/* SIZE at most CBT_DISK_SIZE_MAX, GRANULARITY valid. */
void cbt_bitmap_layout_init(CbtBitmapLayout *layout, guint64 size, guint64 granularity);

void cbt_bitmap_header_encode(const CbtBitmapHeader *header, guint8 page[CBT_BITMAP_PAGE]);
/* CORRUPT: magic, checksum, or a field that cannot be. UNSUPPORTED: intact, but of a newer version. */
gboolean cbt_bitmap_header_decode(const guint8 page[CBT_BITMAP_PAGE], CbtBitmapHeader *header,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Decodes both slots and takes the valid one with the higher sequence; *slot says which. UNSUPPORTED if
 * either is of a newer version; CORRUPT if none is valid. */
gboolean cbt_bitmap_header_choose(const guint8 pages[CBT_BITMAP_N_SLOTS * CBT_BITMAP_PAGE],
                                  CbtBitmapHeader *header, guint *slot,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
