/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Format of a manifest page (docs/formats/manifest.md). A page is a chunk of type STORE_CHUNK_PAGE:
 *
 *   offset size
 *        0    4  magic, STORE_PAGE_MAGIC, little-endian
 *        4    1  version, STORE_PAGE_VERSION
 *        5    1  level: 0 names clusters, n names pages of level n - 1
 *        6    2  number of entries, little-endian, 1 to STORE_PAGE_FANOUT
 *        8 16*n  chunk ids; zero: a zero cluster, or a subtree of zeros
 *
 * The last entry is never zero and nothing follows it, so that equal contents are equal bytes. A page of
 * zeros alone is not stored: its id is the zero id.
 */
#pragma once

#include <store/chunk.h>

#define STORE_PAGE_MAGIC          0x47504243u /* "CBPG" in the file */
#define STORE_PAGE_VERSION        1u
#define STORE_PAGE_MAGIC_OFFSET   0u
#define STORE_PAGE_VERSION_OFFSET 4u
#define STORE_PAGE_LEVEL_OFFSET   5u
#define STORE_PAGE_N_OFFSET       6u
#define STORE_PAGE_HEADER_SIZE    8u
#define STORE_PAGE_FANOUT_BITS    7u
#define STORE_PAGE_FANOUT         (1u << STORE_PAGE_FANOUT_BITS)
#define STORE_PAGE_SIZE_MAX       (STORE_PAGE_HEADER_SIZE + STORE_PAGE_FANOUT * STORE_CHUNK_ID_SIZE)

/* Largest disk; its 2^34 clusters need five levels. */
#define STORE_DISK_SIZE_MAX   (G_GUINT64_CONSTANT(1) << 50)
#define STORE_PAGE_LEVELS_MAX 5u

_Static_assert(sizeof(StoreChunkId) == STORE_CHUNK_ID_SIZE, "ids are copied as they stand in the page");
_Static_assert(STORE_PAGE_SIZE_MAX == 2056, "a full page");
_Static_assert(STORE_PAGE_SIZE_MAX <= STORE_CHUNK_LENGTH_MAX, "a page is a chunk");
_Static_assert(STORE_DISK_SIZE_MAX / CBT_CLUSTER_SIZE <=
                   G_GUINT64_CONSTANT(1) << (STORE_PAGE_FANOUT_BITS * STORE_PAGE_LEVELS_MAX),
               "the highest tree covers the largest disk");
