/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes a whole VMA archive to a sink: all clusters of all disks, in order, made by several threads at once.
 * The same contents give the same bytes, however many threads there are.
 */
#pragma once

#include <gio/gio.h>
#include <store/vma-stream.h>
#include <store/vma.h>

/* Where the bytes of the disks come from. Each thread has a state of its own. */
typedef struct {
  gpointer (*thread_new)(gpointer user_data, GError **error); /* NULL with ERROR on failure */
  void (*thread_free)(gpointer thread);
  /* Adds clusters [FIRST, FIRST + N) of DEVICE to EXTENT, in order, each once. Bytes behind the end of the
   * disk are zeros. */
  gboolean (*add)(gpointer thread, const StoreVmaDevice *device, guint64 first, guint n,
                  StoreVmaExtent *extent, GError **error);
  /* (nullable) After BYTES of the disks were written; may wait, as for a rate limit. From any thread, one at
   * a time. */
  void (*progress)(gpointer user_data, guint64 bytes);
  gpointer user_data;
} StoreVmaContents;

/* The header, then every disk's clusters, and the end of the sink. HEADER's devices give the sizes.
 * CANCELLED, the sink's errors, what CONTENTS set. */
gboolean store_vma_write(const StoreVmaHeader *header, const StoreVmaContents *contents, StoreVmaSink *sink,
                         guint n_threads, GCancellable *cancellable,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
