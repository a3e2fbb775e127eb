/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Gives a disk of a recovery point back as a raw image: several threads read and decompress, zeros become holes.
 */
#pragma once

#include <gio/gio.h>
#include <store/manifest.h>

typedef struct {
  gboolean in_place;         /* the target has contents: write only what differs; else a file is emptied first */
  guint n_threads;           /* that compute at once, of twice as many, but eight at most; 0: one a processor */
  GCancellable *cancellable; /* (nullable) */
  void (*progress)(guint64 bytes_done, gpointer user_data); /* (nullable) of the disk's size; from any thread */
  gpointer user_data;
} StoreExtractOptions;

typedef struct {
  guint64 written; /* bytes written to the target */
  guint64 zero;    /* bytes left or made zero */
} StoreExtractResult;

/*
 * Writes MANIFEST's disk to FD (read-write if in place), which must be able to hold its size: a regular file is given that
 * size. What it wrote is durable on return. Errors: CORRUPT (a damaged chunk, named with its extent), NO_SPACE, IO,
 * CANCELLED, INVALID (a block device of another size that is too small).
 */
gboolean store_extract_raw(Store *store, const StoreManifest *manifest, int fd, const StoreExtractOptions *options,
                           StoreExtractResult *result, GError **error) G_GNUC_WARN_UNUSED_RESULT;
