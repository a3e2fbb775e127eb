/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that were put and are not written yet. Each worker fills a group of its own, which is compressed
 * and appended when it is full, when the worker ends, or when the store is flushed. The groups belong to the
 * store, and what is in them is pending: found by puts and gets before the index is asked, so that an id is
 * final as soon as it was put.
 *
 * No chunk that was put is ever dropped: a group that cannot be written (a full disk) stays, and until it is
 * written every flush fails, and no new group is begun. So nobody commits a point of which a chunk was not
 * written, whoever put it; and memory is bounded by the groups that workers had begun.
 *
 * Threads: any; a StoreWorker is its thread's. The lock of staging is taken after the store's append lock.
 */
#pragma once

#include <store/chunk.h>
#include <store/pack.h>
#include <store/store.h>

typedef struct StoreStaging StoreStaging;
typedef struct StoreStaged StoreStaged; /* a group */

StoreStaging *store_staging_new(void);
/* What is not written is lost; nobody was told that it is durable. */
void store_staging_free(StoreStaging *staging);

/* How many chunks are pending. */
guint store_staging_count(StoreStaging *staging);
/* Whether chunk ID is pending. */
gboolean store_staging_has(StoreStaging *staging, const StoreChunkId *id);
/* The same; and a cluster's bytes go to CONTENT. */
gboolean store_staging_get(StoreStaging *staging, const StoreChunkId *id, void *content);
/* The same; and whether LENGTH bytes of DATA are its content. */
gboolean store_staging_compare(StoreStaging *staging, const StoreChunkId *id, const void *data, gsize length,
                               gboolean *is_equal);

/* Before a put: what could not be written is tried again. Fails as that does. */
gboolean store_staging_prepare(StoreWorker *worker, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Puts the cluster DATA, new or damaged, into the worker's group; SEEN is where the index has ID. The store's
 * append lock is held, and ID is not pending. DATA stays the caller's, and in use until store_staging_fill(). */
void store_staging_add(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *seen,
                       const void *data);
/* Copies what was added last, with no lock held. TRUE: the group is full. */
gboolean store_staging_fill(StoreWorker *worker);
/* Writes the worker's group. NO_SPACE, IO, CORRUPT; it stays then. */
gboolean store_staging_write(StoreWorker *worker, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes all that was added before, by whom ever. */
gboolean store_staging_write_all(Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The worker ends: its group is written, or stays without it. */
void store_staging_leave(StoreWorker *worker);
