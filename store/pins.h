/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pins: which chunks a recovery point under way relies on, so that collecting garbage beside it leaves them.
 *
 * Whoever makes a point makes pins first, gives them to all workers that put for it, and frees them when the
 * point is committed or given up. Everything those workers put is pinned, new or reused. What a point inherits
 * from its base without putting it needs no pins: the base may not be removed while it is read.
 *
 * Memory: two to four bytes for each chunk put, at most STORE_PINS_BYTES_MAX. Of a chunk that is not pinned it
 * may be said that it is (some 3 %, more beyond 2^25 chunks), never the other way round; such a chunk is
 * collected another time.
 *
 * Threads: adding and asking from any.
 */
#pragma once

#include <store/store.h>

#define STORE_PINS_BYTES_MAX (64u << 20)

typedef struct StorePins StorePins;

StorePins *store_pins_new(Store *store);
/* No worker has them any more. */
void store_pins_free(StorePins *pins);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StorePins, store_pins_free)

/* WORKER's puts are pinned by PINS from now on (transfer none). */
void store_worker_set_pins(StoreWorker *worker, StorePins *pins);

/* ---- for the store itself ---- */

/* Before ID is looked up. All ordinals of its digest are pinned. */
void store_pins_add(StorePins *pins, const StoreChunkId *id);
/* Whether ID is pinned by any point under way, or one that ended since the collection began. */
gboolean store_pins_contain(Store *store, const StoreChunkId *id);

/* Between these two, pins that are freed go on to count; FALSE if it is so already. *first_pack gets the
 * number from which on packs have chunks of points under way, G_MAXUINT32 if there are none. */
gboolean store_pins_begin_collection(Store *store, guint32 *first_pack);
void store_pins_end_collection(Store *store);
