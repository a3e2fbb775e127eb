/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manifests: which chunk each cluster of a disk has at one recovery point, as a Merkle tree of pages.
 *
 * A leaf page names STORE_PAGE_FANOUT clusters by chunk id, a page above names as many pages; a page is a chunk like any
 * other, so equal pages of any two points are one. The zero id stands for a zero cluster, or for a subtree of nothing but
 * zeros. A tree's height follows from the disk's size alone. Format: store/manifest-format.h, docs/formats/manifest.md.
 */
#pragma once

#include <store/store.h>

typedef struct {
  StoreChunkId root; /* the zero id: a disk of zeros */
  guint64 size;      /* of the disk, bytes */
} StoreManifest;

/* Clusters of a disk of SIZE bytes, and levels of pages above them (at least 1). */
guint64 store_manifest_n_clusters(guint64 size);
guint store_manifest_n_levels(guint64 size);

/*
 * A builder: takes changed clusters in ascending order and writes each page once, so its memory is one page a level.
 * What is not set keeps what BASE has (NULL: zeros). BASE may be of a smaller or equal size; a disk that shrank has no base.
 * One thread at a time; WORKER is used by it while a call runs. INVALID: a size that is too large, or below BASE's.
 */
typedef struct StoreManifestBuilder StoreManifestBuilder;
StoreManifestBuilder *store_manifest_builder_new(StoreWorker *worker, const StoreManifest *base, guint64 size,
                                                 StoreTally *tally, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_manifest_builder_free(StoreManifestBuilder *builder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreManifestBuilder, store_manifest_builder_free)
/* CLUSTER is greater than in any call before. */
gboolean store_manifest_builder_set(StoreManifestBuilder *builder, guint64 cluster, const StoreChunkId *id,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes the open pages. The builder is of no more use but to be freed. */
gboolean store_manifest_builder_finish(StoreManifestBuilder *builder, StoreManifest *manifest, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* One call for each cluster that is not zero, ascending. FALSE stops without an error. */
typedef gboolean (*StoreClusterFunc)(guint64 cluster, const StoreChunkId *id, gpointer user_data);
/* Walks clusters [first, first + count). */
gboolean store_manifest_walk(StoreWorker *worker, const StoreManifest *manifest, guint64 first, guint64 count,
                             StoreClusterFunc func, gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* IDS gets those of N clusters, ascending; the zero id for what is zero, or behind the end. Each page that has some of them
 * is read once. */
gboolean store_manifest_get_many(StoreWorker *worker, const StoreManifest *manifest, const guint64 *clusters, guint n,
                                 StoreChunkId *ids, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The id of one cluster. */
gboolean store_manifest_get(StoreWorker *worker, const StoreManifest *manifest, guint64 cluster, StoreChunkId *id,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * One call for each cluster of [first, first + count) that FROM (NULL: zeros) and TO have different ids for, ascending,
 * with TO's: the zero id where TO has zeros. What is behind the end of FROM is zeros. FALSE stops without an error.
 * Costs what differs: equal subtrees are skipped.
 */
gboolean store_manifest_changes(StoreWorker *worker, const StoreManifest *from, const StoreManifest *to, guint64 first,
                                guint64 count, StoreClusterFunc func, gpointer user_data, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* One call for each run of clusters that differ; ZERO if TO has zeros there. EXTENT is clipped to the size of TO. FALSE
 * stops without an error. */
typedef gboolean (*StoreDifferenceFunc)(const CbtExtent *extent, gboolean zero, gpointer user_data);
/* The same as runs, from OFFSET on. */
gboolean store_manifest_difference(StoreWorker *worker, const StoreManifest *from, const StoreManifest *to,
                                   guint64 offset, StoreDifferenceFunc func, gpointer user_data, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
