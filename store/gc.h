/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Collecting garbage: gives the space of chunks back that no recovery point reaches.
 *
 *   gc = store_gc_begin(); store_gc_mark() of all points; store_gc_sweep(); store_gc_end()
 *
 * Backups (with pins, store/pins.h), restores and removals of points may go on beside it at any moment. The
 * list of points must be taken after begin, as one snapshot, and must have every committed point; one that is
 * committed later is safe by its pins.
 *
 * When it ends the space is free: packs without a live chunk are unlinked, and those with some are copied
 * together, the thinnest first, as long as little is copied (STORE_GC_COPY_ALWAYS) or more than
 * STORE_GC_WASTE_PERCENT of all bytes are dead. Cost: distinct pages and chunks once, in memory and in the
 * index; of packs only those that are taken out are opened.
 *
 * Interrupted anywhere, the store is sound: the worst is that a chunk stands in two packs until the next time.
 *
 * Threads: one at a time for each collection, and one collection at a time.
 */
#pragma once

#include <gio/gio.h>
#include <store/point.h>
#include <store/store.h>

#define STORE_GC_COPY_ALWAYS   (G_GUINT64_CONSTANT(1) << 30)
#define STORE_GC_WASTE_PERCENT 3u

typedef struct StoreGc StoreGc;

typedef struct {
  guint64 n_chunks;    /* live ones: pages, clusters, files */
  guint64 live_bytes;  /* of their records */
  guint64 n_missing;   /* live chunks that no pack has: damage, see store/verify.h */
  guint64 n_packs;     /* packs taken out */
  guint64 n_kept;      /* packs that had to stay because live chunks in them cannot be read */
  guint64 copied;      /* bytes of records copied out of them */
  guint64 freed;       /* bytes that the packs together are less by; what backups added beside is not counted */
} StoreGcResult;

typedef struct {
  GCancellable *cancellable; /* (nullable) */
  /* (nullable) bytes of the packs that are taken out; called now and then. */
  void (*progress)(guint64 done, guint64 total, gpointer user_data);
  gpointer user_data;
} StoreGcOptions;

/* OPTIONS (nullable) have to live as long. BUSY if one is under way. */
StoreGc *store_gc_begin(Store *store, const StoreGcOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_gc_end(StoreGc *gc);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreGc, store_gc_end)

/* Marks all that POINTS (of StorePoint) reach. CORRUPT (names disk and page), IO, CANCELLED: then nothing may be swept. */
gboolean store_gc_mark(StoreGc *gc, const GPtrArray *points, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * Frees what was not marked. Once. RESULT says what was done also when it fails: NO_SPACE (what is copied needs room before
 * the packs it comes from can go), IO, CANCELLED.
 */
gboolean store_gc_sweep(StoreGc *gc, StoreGcResult *result, GError **error) G_GNUC_WARN_UNUSED_RESULT;
