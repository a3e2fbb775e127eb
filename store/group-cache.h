/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Groups that were read and decompressed lately, for all who read of a store: a group is decompressed once,
 * however many threads want chunks of it at the same time. At most STORE_GROUP_CACHE_SIZE of them, the one
 * used longest ago goes first.
 *
 * A pack's number is never given to another one while a store is open, so what is here stays right.
 *
 * Threads: any.
 */
#pragma once

#include <store/group.h>

#define STORE_GROUP_CACHE_SIZE 16u /* of up to 4 MiB */

typedef struct StoreGroupCache StoreGroupCache;

typedef struct {
  guint n;
  guint8 ids[STORE_GROUP_CHUNKS_MAX * STORE_CHUNK_ID_SIZE];
  guint8 *contents; /* N clusters, one behind the other; room for STORE_GROUP_SIZE_MAX bytes */
} StoreCachedGroup;

StoreGroupCache *store_group_cache_new(void);
void store_group_cache_free(StoreGroupCache *cache);

/* The group at LOCATION, to be released; NULL if it is not here. Waits while another thread brings it. */
StoreCachedGroup *store_group_cache_get(StoreGroupCache *cache, const StoreLocation *location);
/* The same, but one that is not here is made: *is_new, and the caller is to fill and settle it. May wait for
 * room, so nobody calls it who holds a group. */
StoreCachedGroup *store_group_cache_begin(StoreGroupCache *cache, const StoreLocation *location,
                                          gboolean *is_new);
/* The new GROUP is good, and to be released in its turn; or it is not, and goes. */
void store_group_cache_settle(StoreGroupCache *cache, StoreCachedGroup *group, gboolean is_good);
void store_group_cache_release(StoreGroupCache *cache, StoreCachedGroup *group);
/* Forgets all that is not in use, and frees the memory. */
void store_group_cache_clear(StoreGroupCache *cache);
