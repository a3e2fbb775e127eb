/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What store.c (opening, flushing, recovery) and worker.c (put and get) share. */
#pragma once

#include <pthread.h>
#include <store/format.h>
#include <store/group-cache.h>
#include <store/index.h>
#include <store/pins.h>
#include <store/staging.h>
#include <store/store.h>

struct Store {
  /* constant after creation */
  char *directory;
  StoreOptions options;
  const CbtFileOps *ops;
  StoreFormat format; /* but for the version, which may be raised under version_lock */
  int lock_fd;
  StorePackSet *packs;
  StoreIndex *index;
  StoreStaging *staging;
  StoreGroupCache *groups;
  gint n_workers; /* atomic; without any, groups hold no memory */
  guint64 n_recovered;

  pthread_mutex_t checkpoint_lock; /* one checkpoint at a time, which no flush waits for; taken first */
  guint64 checkpoint_bytes;        /* bytes of packs at the last one */
  gboolean checkpoint_is_due;

  pthread_mutex_t rebuild_lock; /* reading all packs into the index; taken second */
  gint was_rebuilt;             /* atomic: the packs were read again since the store was opened */
  gboolean is_sweeping;         /* packs are being taken out: what stands in them must not come back into the index */

  pthread_mutex_t append_lock; /* look up, append and insert as one step; taken third */

  pthread_mutex_t version_lock; /* taken alone */

  pthread_mutex_t pins_lock; /* taken fourth */
  GPtrArray *pins;           /* of StorePins */
  gboolean is_collecting;
};

/* The id of DATA with its first ordinal. */
StoreChunkId store_digest(const Store *store, const void *data, gsize length);
/*
 * Reads all packs into the index, once in the life of STORE, and not while packs are taken out. Puts go on. SEEN is what
 * was_rebuilt said before the caller missed a chunk. TRUE if it is worth looking again.
 */
gboolean store_rebuild_index(Store *store, gint seen);
/* Flushes, and lets the index vouch for all of it. */
gboolean store_checkpoint(Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Before a group is appended: an older version of the program could not read it. */
gboolean store_raise_version(Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* From now on WORKER compares bytes on a dedup hit, whatever the store's option says: so what it puts heals. */
void store_worker_compare(StoreWorker *worker);
/* As store_get(), of the record at LOCATION, wherever the index says that ID is. FALSE if it is not sound. */
gboolean store_get_at(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location, void *buffer,
                      gsize *length) G_GNUC_WARN_UNUSED_RESULT;
