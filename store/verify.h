/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verifying recovery points: is all there that a restore would read, and is it what was backed up?
 *
 * A StoreVerify is one run over any number of points. Each chunk (cluster, manifest page, configuration file) is read
 * once in it, however many points share it: record checksum, decompression, digest and length are checked. Clusters
 * are read in batches, in the order in which they stand in the packs, by several threads. What is found damaged is
 * named once, with each place that uses it, of every point of the run: also of those that come later and only share
 * it.
 *
 * Lifecycle: new; then for each point skip() (it was verified in a run that was cut off) or point(); then ask for the
 * damage; free. Backups, and garbage collection that moves chunks, may go on beside it; the points must not be
 * removed.
 *
 * Memory: 18 bytes for each distinct page and 7 for each other chunk (store/id-set.h: there is a chance of one in
 * 2^64 / chunks that a chunk is taken for one that was read), and what is damaged, of which details are limited.
 *
 * Threads: one at a time for each StoreVerify, but for the progress function.
 */
#pragma once

#include <store/point.h>
#include <store/store.h>

typedef struct StoreVerify StoreVerify;

/* A place in a point: all of the disks before DISK, and the clusters of that one before CLUSTER. */
typedef struct {
  guint disk;
  guint64 cluster;
} StoreVerifyPlace;

typedef struct {
  guint n_threads; /* 0: as many as there are processors, and at least 2 */
  guint batch;     /* clusters that are read in one go; 0: 2048, which is 128 MiB */
  /* (nullable) Called by any of the threads, side by side: a record of so many bytes was read (0: none), and so many
   * bytes of the point's disks are done with. It may wait, for a limit of speed. FALSE stops the run. */
  gboolean (*progress)(guint64 record_bytes, guint64 disk_bytes, gpointer user_data);
  /* (nullable) By the caller's thread: everything of the point before PLACE was read, and nothing of it is damaged. */
  void (*reached)(const StorePoint *point, const StoreVerifyPlace *place, gpointer user_data);
  gpointer user_data;
} StoreVerifyOptions;

StoreVerify *store_verify_new(Store *store, const StoreVerifyOptions *options);
void store_verify_free(StoreVerify *verify);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVerify, store_verify_free)

typedef struct {
  guint64 n_uses; /* places of the point that use a damaged chunk; 0: the point is sound */
  guint64 bytes;  /* of its disks and files that cannot be restored */
} StoreVerifyVerdict;

/* Verifies POINT, from FROM on (NULL: all of it). Damage is no error. CANCELLED: progress said so. */
gboolean store_verify_point(StoreVerify *verify, const StorePoint *point, const StoreVerifyPlace *from,
                            StoreVerifyVerdict *verdict, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Takes POINT up to UNTIL (NULL: all of it) for verified: reads the pages alone. FALSE if one of them cannot be read;
 * then POINT is not to be trusted, but what it names is not read again for another point either. */
gboolean store_verify_skip(StoreVerify *verify, const StorePoint *point,
                           const StoreVerifyPlace *until) G_GNUC_WARN_UNUSED_RESULT;

/* ---- what was found ---- */

/* A place that uses a damaged chunk. Below a page that is damaged all of its range is lost. */
typedef struct {
  CbtUuid point;
  const char *vm;     /* as all texts: as long as the StoreVerify */
  const char *disk;   /* NULL: it is a configuration file */
  const char *config; /* NULL: it is an extent of a disk */
  guint64 offset;     /* bytes */
  guint64 length;
} StoreVerifyUse;

typedef struct {
  StoreChunkId id;
  StoreChunkType type;
  guint level;    /* of a page; 0 names clusters */
  guint32 pack;   /* where the index has it; 0: nowhere */
  guint32 offset; /* bytes */
  char *error;    /* what is wrong */
  guint64 n_uses; /* places, kept or not */
  GArray *uses;   /* of StoreVerifyUse: the first of them */
  gboolean is_repaired;
} StoreVerifyDamage;

/* Details are kept of so many chunks, and of so many places in all. */
#define STORE_VERIFY_DAMAGES_MAX 10000u
#define STORE_VERIFY_USES_MAX    200000u

/* Of StoreVerifyDamage, in the order in which they were found (transfer none): the first ones. */
const GPtrArray *store_verify_damages(const StoreVerify *verify);

typedef struct {
  guint64 n_chunks;    /* read */
  guint64 bytes;       /* of their records */
  guint64 n_skipped;   /* chunks not read again, because they were read by the run that was cut off */
  guint64 n_damaged;   /* chunks, repaired or not */
  guint64 n_repaired;  /* of them */
} StoreVerifyCounts;
void store_verify_counts(const StoreVerify *verify, StoreVerifyCounts *counts);

/* ---- repair ---- */

/* Where else clusters may be had: an image of the disk, or another point. */
typedef struct {
  /* Fills CLUSTER (64 KiB) with what stands at OFFSET of DISK; zeros behind the end. FALSE if there is nothing. */
  gboolean (*read)(const char *disk, guint64 offset, guint8 *cluster, gpointer user_data);
  gpointer user_data;
} StoreVerifySource;

/*
 * Looks for sound bytes of what was found damaged, and puts them: first in other records of the chunk (one that was
 * replaced may still be there), then at the places of SOURCE (nullable) that use it; of a page, what a backup of that
 * range of SOURCE would write. The digest decides, so a source that has other bytes does no harm. *n_repaired gets
 * how many chunks are sound now; then the points that were damaged are to be verified again, for which the places of
 * what is left are forgotten, and more damage may be found below a page that was repaired. A chunk whose digest
 * really has two contents is not repaired.
 *
 * CANCELLED: progress said so; NO_SPACE, IO: nothing more could be put.
 */
gboolean store_verify_repair(StoreVerify *verify, const StoreVerifySource *source, guint64 *n_repaired,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
