/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of chunk ids in memory, for millions of them.
 *
 * An exact set takes about 18 bytes an id. The other kind keeps 64 bits of a digest of each id and takes about 7
 * bytes: of n ids, one that was never added seems to be there with a chance of n / 2^64, and none that was added is
 * ever missing. So it may answer what is still wanted, but not what need not be visited any more.
 *
 * Pure. One thread at a time.
 */
#pragma once

#include <store/chunk.h>

typedef struct StoreIdSet StoreIdSet;

StoreIdSet *store_id_set_new(gboolean exact);
void store_id_set_free(StoreIdSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreIdSet, store_id_set_free)

/* FALSE if it was there. */
gboolean store_id_set_add(StoreIdSet *set, const StoreChunkId *id);
gboolean store_id_set_contains(const StoreIdSet *set, const StoreChunkId *id);
guint64 store_id_set_count(const StoreIdSet *set);
/* Bytes of memory that the entries have been given. */
guint64 store_id_set_memory(const StoreIdSet *set);
