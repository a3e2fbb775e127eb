/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The chunk store: put bytes, get an id; give an id, get the bytes.
 *
 * It ties together the format file (identity and secret), the packs (where chunks live), and the index (where each one is).
 * It knows nothing of disks or points: store/manifest.h and store/point.h stand on it.
 *
 * Threads: one Store for all; each thread that puts or gets has a StoreWorker of its own (compression contexts and
 * buffers). Locks, in order: the store's append lock, that of staging, the index's.
 *
 * Clusters are compressed together, so a put may only take them up (store/staging.h): they are there for everybody at once,
 * and written when a group of them is full, by store_worker_flush(), by store_worker_free(), or by store_flush().
 *
 * Durability: a put is durable after the next store_flush() returned TRUE. Everything is found again by a scan of the
 * packs; see docs/formats/pack.md.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/chunk.h>

typedef struct Store Store;
typedef struct StoreWorker StoreWorker;

typedef struct {
  const CbtFileOps *ops;  /* NULL: the default table */
  gboolean dedup_verify;  /* compare bytes on a dedup hit */
  int zstd_level;         /* 1 is the default for 0 */
  guint64 pack_size;      /* bytes at which a pack is sealed; 0: 64 MiB */
  guint group_clusters;   /* clusters that are compressed together; 0: 64, the most; 1: none */
  guint8 digest_mask;     /* tests only: 0, or an AND mask on each digest byte, to force collisions */
} StoreOptions;

#define STORE_OPTIONS_DEFAULT ((StoreOptions) {.dedup_verify = TRUE})

/*
 * Opens the store in DIRECTORY, made when missing. A torn tail of the last pack is cut off, and what the index misses is read
 * from the packs. Errors: UNSUPPORTED (a newer format, by name), CORRUPT (format file), BUSY (open elsewhere), NO_SPACE, IO.
 */
Store *store_open(const char *directory, const StoreOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Flushes and frees; no worker may be left. */
void store_close(Store *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Store, store_close)

/* STATE if STORE's directory was removed, or another store stands in its place, since it was opened: what is written then
 * is lost, or mixed with the other. Asks the file system, which may hang. */
gboolean store_check_in_place(const Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;

const char *store_directory(const Store *store);
const CbtUuid *store_uuid(const Store *store);

typedef struct {
  guint64 n_chunks;     /* distinct chunks known */
  guint64 pack_bytes;   /* bytes of all packs on disk */
  guint64 n_packs;
  guint64 n_recovered;  /* chunks that the last open had to read from packs again */
} StoreStatistics;
void store_statistics(Store *store, StoreStatistics *statistics);

StoreWorker *store_worker_new(Store *store);
void store_worker_free(StoreWorker *worker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreWorker, store_worker_free)

typedef enum {
  STORE_PUT_ZERO,   /* all zeros: nothing is kept, the id is zero (DATA only) */
  STORE_PUT_REUSED, /* the store had it */
  STORE_PUT_STORED, /* new */
  STORE_PUT_HEALED, /* the store had it, damaged: the good bytes replace it */
} StorePutOutcome;

typedef struct {
  guint64 zero_bytes;   /* of clusters that were zero */
  guint64 reused_bytes; /* of clusters that the store had */
  guint64 new_bytes;    /* of clusters that were new, before compression */
  guint64 stored_bytes; /* what packs grew by, records and pages included; of clusters when they are written */
} StoreTally;

/* Puts LENGTH bytes (1 to STORE_CHUNK_LENGTH_MAX; DATA: exactly 64 KiB). TALLY (nullable) is added to; pages and blobs
 * count in stored_bytes alone. Errors: NO_SPACE, IO: the store stays sound and later puts may succeed. */
gboolean store_put(StoreWorker *worker, StoreChunkType type, const void *data, gsize length, StoreChunkId *id,
                   StorePutOutcome *outcome, StoreTally *tally, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * Gets the bytes of ID into BUFFER (STORE_CHUNK_LENGTH_MAX bytes); *length gets their number. The zero id gives 64 KiB of
 * zeros. Each record's checksum and the digest of the bytes are checked. Errors: CORRUPT names the chunk and its pack;
 * NOT_FOUND.
 */
gboolean store_get(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Whether CLUSTER (64 KiB) has the digest of ID, a DATA chunk's or the zero id. Looks at no chunk: damage in the store goes
 * unnoticed, and so does a real collision. */
gboolean store_has_digest(StoreWorker *worker, const StoreChunkId *id, const void *cluster);
/* Writes what WORKER has put and not written yet, so that it does not wait for store_flush(): at the end of its work. Errors
 * as of store_put(). TALLY (nullable) is added to. */
gboolean store_worker_flush(StoreWorker *worker, StoreTally *tally, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes all that was put before durable (invariant 3, first step), in a store that is in its place. After a failure the
 * caller must not commit. */
gboolean store_flush(Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What packs may grow by, at most, for all that was put and is in memory only; bytes. */
guint64 store_unwritten_bytes(Store *store);
/* Whether store_write_behind() has something to do. Cheap. */
gboolean store_is_behind(Store *store);
/* Writes what was put and fills a buffer: for a thread that may wait for the disk, so that those who put need not. */
void store_write_behind(Store *store);
/* Makes durable what is written by now, so that a flush finds less to do. Groups that are being filled go on to be, so
 * nobody may commit by it. */
gboolean store_flush_early(Store *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;
