/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of a verify share: verify.c (the run and its damage), verify-walk.c (what of a point has to be read),
 * verify-read.c (reading, by several threads), verify-uses.c (where what is damaged is used), verify-repair.c. */
#pragma once

#include <store/id-set.h>
#include <store/manifest-private.h>
#include <store/store-private.h>
#include <store/verify.h>

#define STORE_VERIFY_THREADS_MAX 16u

/* A chunk to be read. */
typedef struct {
  StoreChunkId id;
  StoreChunkType type;
  guint level;      /* of a page */
  gsize length;     /* that it must have; 0: any */
  guint64 covers;   /* bytes of the disk that are done with when it was read */
  guint64 base;     /* of a page: its first cluster */
  StorePage *page;  /* (nullable) where a page goes */
  guint64 place;    /* where it stands, as a number that orders; 0: the index does not have it */
  guint64 n_bytes;  /* out: of its record */
  GError *error;    /* out (nullable): what is wrong with it */
} StoreVerifyItem;

struct StoreVerify {
  /* constant after creation */
  Store *store;
  StoreVerifyOptions options;
  guint n_threads;
  guint batch_size;
  StoreWorker *workers[STORE_VERIFY_THREADS_MAX];

  gint stopped; /* atomic */

  /* the caller's thread */
  StoreIdSet *pages;      /* visited: all below them was read, or is in the batch */
  StoreIdSet *chunks;     /* clusters and files: read, or in the batch */
  StoreIdSet *damaged;    /* all of them */
  StoreIdSet *clean;      /* (nullable) pages below which nothing is damaged; made when there is damage */
  GPtrArray *damages;     /* of StoreVerifyDamage: the first ones */
  GHashTable *by_id;      /* the same by id */
  GStringChunk *texts;
  guint64 n_uses_kept;
  StoreVerifyCounts counts;
};

/* verify.c: what an item's error says is damage. Takes the error. */
void store_verify_note_damage(StoreVerify *verify, StoreVerifyItem *item);
/* Tells of bytes of the disk that need not be read. FALSE if the run is to stop. */
gboolean store_verify_cover(StoreVerify *verify, guint64 disk_bytes);

/* verify-read.c: reads ITEMS (of StoreVerifyItem; sorts them by place), and notes the damage. FALSE if the run is
 * to stop. */
gboolean store_verify_read(StoreVerify *verify, GArray *items);

/* verify-walk.c: reads all of POINT that was not read yet. FALSE if the run is to stop. */
gboolean store_verify_walk(StoreVerify *verify, const StorePoint *point, const StoreVerifyPlace *from);

/* verify-read.c: reads one item with the first worker, and leaves the error in it. */
void store_verify_read_one(StoreVerify *verify, StoreVerifyItem *item);

/* verify-uses.c: where POINT uses what is damaged. */
void store_verify_find_uses(StoreVerify *verify, const StorePoint *point, StoreVerifyVerdict *verdict);

/* Bytes of a disk of SIZE bytes in N clusters from FIRST on. */
static inline guint64
store_verify_span(guint64 size, guint64 first, guint64 n)
{
  guint64 offset = first * CBT_CLUSTER_SIZE;
  return offset >= size ? 0 : MIN(n * CBT_CLUSTER_SIZE, size - offset);
}
