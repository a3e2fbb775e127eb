/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two ends of an archive's byte stream: a descriptor, compressed with zstd or not. Never seeks, so that
 * pipes and FIFOs will do. A sink also writes the checksums of what passes, one for each piece, into a text
 * file of its own (docs/formats/vma.md: the format itself protects no data); a source checks them.
 *
 * Threads: one at a time.
 */
#pragma once

#include <store/vma-sums.h>

typedef struct StoreVmaSink StoreVmaSink;

/* Takes LENGTH bytes of the stream. */
typedef gboolean (*StoreVmaWriteFunc)(gpointer user_data, const guint8 *data, gsize length, GError **error);

/* Hands the stream to WRITE_FUNC, not compressed and without checksums. */
StoreVmaSink *store_vma_sink_new_for(StoreVmaWriteFunc write_func, gpointer user_data);
/* Writes to FD (transfer none). ZSTD_THREADS: 0: not compressed, else compressed by so many. SUMS_FD
 * (transfer none) gets the checksums; -1: none. */
StoreVmaSink *store_vma_sink_new(int fd, guint zstd_threads, int sums_fd,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* One piece: the header, or an extent. NO_SPACE, IO. */
gboolean store_vma_sink_write(StoreVmaSink *sink, const guint8 *data, gsize length,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends stream and checksums; without it they are recognised as cut off. */
gboolean store_vma_sink_finish(StoreVmaSink *sink, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes that left, compressed. */
guint64 store_vma_sink_written(const StoreVmaSink *sink);
void store_vma_sink_free(StoreVmaSink *sink);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaSink, store_vma_sink_free)

typedef struct StoreVmaSource StoreVmaSource;

/* Reads from FD (transfer none); zstd is recognised by its magic. SUMS: the checksums (transfer none, must
 * outlive the source) or NULL. IO. */
StoreVmaSource *store_vma_source_new(int fd, StoreVmaSums *sums, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Up to LENGTH bytes, fewer only at the end; -1 with ERROR set. */
gssize store_vma_source_read(StoreVmaSource *source, guint8 *data, gsize length,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The piece of LENGTH bytes that was read is DATA: compares its checksum, if there are checksums. CORRUPT. */
gboolean store_vma_source_check_piece(StoreVmaSource *source, const guint8 *data, gsize length,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* At the end of the archive: no checksum may be left over. CORRUPT. */
gboolean store_vma_source_check_end(StoreVmaSource *source, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes read so far, decompressed. */
guint64 store_vma_source_offset(const StoreVmaSource *source);
void store_vma_source_free(StoreVmaSource *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaSource, store_vma_source_free)
