/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A recovery point as a full VMA archive, made of what the store has; and an archive as a recovery point. */
#pragma once

#include <store/point.h>
#include <store/vma-reader.h>
#include <store/vma-writer.h>

/* The header that POINT's archive has: its uuid and time, its configs (read from the store) and disks. */
StoreVmaHeader *store_vma_point_header(StoreWorker *worker, const StorePoint *point,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes POINT to SINK. The same point gives the same bytes each time. PROGRESS as in StoreVmaContents.
 * Errors: CORRUPT names a damaged chunk; TOO_LARGE; those of the sink; CANCELLED. */
gboolean store_vma_write_point(Store *store, const StorePoint *point, StoreVmaSink *sink, guint n_threads,
                               void (*progress)(gpointer user_data, guint64 bytes), gpointer user_data,
                               GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
