/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads a VMA archive from a stream, extent by extent, and trusts nothing in it: every extent is checked,
 * every cluster belongs to a device of the header, lies inside it, and comes once. Takes what the original
 * tool takes, and finds what it does not (clusters that are missing, unknown devices, data behind a disk's
 * end). Memory is bounded by what was really read.
 *
 * Lifecycle: new reads the header; next until it returns FALSE; check_complete.
 */
#pragma once

#include <store/vma-stream.h>
#include <store/vma.h>

typedef struct StoreVmaReader StoreVmaReader;

/* SOURCE must outlive it. CORRUPT, UNSUPPORTED, IO. */
StoreVmaReader *store_vma_reader_new(StoreVmaSource *source, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_vma_reader_free(StoreVmaReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaReader, store_vma_reader_free)

const StoreVmaHeader *store_vma_reader_header(const StoreVmaReader *reader);
/* Reads the next extent; FALSE at the end of the archive, or with ERROR set: CORRUPT names the offset. */
gboolean store_vma_reader_next(StoreVmaReader *reader, StoreVmaExtent *extent,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* After the last extent: whether every cluster of every disk was there. CORRUPT names the first one missing.
 */
gboolean store_vma_reader_check_complete(const StoreVmaReader *reader,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Clusters of DEVICE so far: for the state stream, its length. */
guint64 store_vma_reader_n_clusters(const StoreVmaReader *reader, guint8 device);
