/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The layout of a region log, version 1. docs/formats/region-log.md has it in words.
 *
 *   page 0   header of 4096 bytes, written once, when the file is made
 *   then     sectors of 512 bytes: 63 words of flags, and a checksum
 *
 * Integers are little-endian. Region r has bit r % 64 of flag word r / 64; 63 words stand in each sector.
 */
#pragma once

#include <cbt/bitmap-format.h>

#define CBT_REGION_LOG_MAGIC       "CBTRGLOG" /* 8 bytes, without the NUL */
#define CBT_REGION_LOG_VERSION     1u
#define CBT_REGION_LOG_PAGE        4096u
#define CBT_REGION_LOG_SECTOR      512u
#define CBT_REGION_LOG_WORDS       63u /* in a sector */
#define CBT_REGION_LOG_REGION_SIZE CBT_BITMAP_REGION_SIZE

enum {
  CBT_REGION_LOG_AT_MAGIC = 0,        /* 8 bytes */
  CBT_REGION_LOG_AT_VERSION = 8,      /* u32 */
  CBT_REGION_LOG_AT_HEADER_SIZE = 12, /* u32, 4096 */
  CBT_REGION_LOG_AT_ID = 16,          /* 16 bytes, random: bitmap files name the log that covers them */
  CBT_REGION_LOG_AT_DISK_ID = 32,     /* 16 bytes */
  CBT_REGION_LOG_AT_DISK_SIZE = 48,   /* u64, bytes */
  CBT_REGION_LOG_AT_REGION_SIZE = 56, /* u64, bytes */
  CBT_REGION_LOG_AT_ZERO = 64,        /* zeros up to the checksum */
  CBT_REGION_LOG_AT_CHECKSUM = 4088,  /* u64, cbt_checksum64() of the 4088 bytes before it */

  CBT_REGION_SECTOR_AT_CHECKSUM =
      504, /* u64: of the 504 bytes before it, the sector's number (u64), the id */
};

_Static_assert(CBT_REGION_LOG_WORDS * 8 == CBT_REGION_SECTOR_AT_CHECKSUM, "the flags fill the sector");
_Static_assert(CBT_REGION_SECTOR_AT_CHECKSUM + 8 == CBT_REGION_LOG_SECTOR, "the checksum ends the sector");
_Static_assert(CBT_REGION_LOG_AT_CHECKSUM + 8 == CBT_REGION_LOG_PAGE, "the checksum ends the page");
