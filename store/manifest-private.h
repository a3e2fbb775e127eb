/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages as the builder and the walks use them. For this folder and its tests. */
#pragma once

#include <store/manifest-format.h>
#include <store/manifest.h>

/* Entries behind the last non-zero one are zero in memory. */
typedef struct {
  StoreChunkId entries[STORE_PAGE_FANOUT];
} StorePage;

/* Clusters below one entry of a page of LEVEL, as a power of two. */
static inline guint
store_page_entry_bits(guint level)
{
  return level * STORE_PAGE_FANOUT_BITS;
}

/* As store_get(), for a chunk that a manifest or point names: one that is missing is CORRUPT, not NOT_FOUND. */
gboolean store_manifest_get_chunk(StoreWorker *worker, const StoreChunkId *id, void *buffer, gsize *length,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The same for the cluster of a disk at OFFSET: DATA gets 64 KiB. CORRUPT names the extent. */
gboolean store_manifest_get_cluster(StoreWorker *worker, const StoreChunkId *id, guint8 *data, guint64 offset,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes of PAGE into BUFFER (STORE_PAGE_SIZE_MAX); 0 if it is all zeros. */
gsize store_page_encode(const StorePage *page, guint level, guint8 *buffer);
/* CORRUPT says what is wrong. */
gboolean store_page_decode(const guint8 *data, gsize length, guint level, StorePage *page, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Reads the page ID, which is of LEVEL; the zero id gives an empty page. CORRUPT names it. */
gboolean store_page_load(StoreWorker *worker, const StoreChunkId *id, guint level, StorePage *page, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
