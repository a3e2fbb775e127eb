/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marking: which chunks are reached from recovery points. Manifest pages, the clusters that they name, and
 * configuration files.
 *
 * A page is visited once, whatever number of points share it, so that the cost grows with distinct pages, not
 * with points. Memory: two bits a slot of the index, and 2 KiB for each point of one disk at a time and level.
 *
 * Threads: one at a time for each StoreMark; backups may go on beside it.
 */
#pragma once

#include <gio/gio.h>
#include <store/pack.h>
#include <store/point.h>
#include <store/store.h>

typedef struct StoreMark StoreMark;

/* CANCELLABLE is nullable. */
StoreMark *store_mark_new(Store *store, GCancellable *cancellable);
/* Before the store is closed. */
void store_mark_free(StoreMark *mark);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreMark, store_mark_free)

/*
 * Marks all that POINTS (of StorePoint) reach; best all at once, for what the points of a disk share is then looked at
 * once. A page that cannot be read does not stop that: it is marked itself, all that can be read is marked as well, and
 * then the call fails with the first such error, which names disk and page. Whatever stands below such a page is not
 * marked, so nothing may be thrown away because it is not. CORRUPT, IO, CANCELLED.
 */
gboolean store_mark_add(StoreMark *mark, const GPtrArray *points, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_mark_contains(const StoreMark *mark, const StoreChunkId *id);
/* Distinct chunks that are marked. */
guint64 store_mark_count(const StoreMark *mark);

/* Told of each chunk when it is marked for the first time. LOCATION is NULL if no pack has it. */
typedef void (*StoreMarkFunc)(const StoreChunkId *id, const StoreLocation *location, gpointer user_data);
void store_mark_set_listener(StoreMark *mark, StoreMarkFunc func, gpointer user_data);

typedef struct {
  guint64 bytes; /* of their records in packs, headers and padding included */
  guint64 n_chunks;
} StoreMarkFreed;

/*
 * What comes free when REMOVED go and KEPT stay (both of StorePoint): the chunks that only REMOVED reach. If it
 * fails (as store_mark_add does), *freed holds what was found all the same: with a page that cannot be read in KEPT it
 * may be too much, in REMOVED too little. CANCELLABLE is nullable.
 */
gboolean store_mark_freed(Store *store, const GPtrArray *kept, const GPtrArray *removed, GCancellable *cancellable,
                          StoreMarkFreed *freed, GError **error) G_GNUC_WARN_UNUSED_RESULT;
