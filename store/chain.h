/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exports recovery points as a chain that QEMU reads: a folder with one qcow2 file a disk and point. The
 * first one is the base and holds all of the disk, each later one is an overlay that holds what differs from
 * the point before, and names the file of that as its backing file. `chain.json` says what belongs to which
 * point. docs/formats/chain.md.
 *
 * An export to a folder that has a chain adds what is missing. Files are written beside their name, made
 * durable and renamed, and the index is written after them: a crash at any time leaves a chain that is
 * complete up to some point, and the next export goes on from there.
 */
#pragma once

#include <store/output.h>
#include <store/point.h>

typedef struct {
  guint n_threads;           /* 0: one a processor */
  GCancellable *cancellable; /* (nullable) */
  /* (nullable) For each image to come, before anything is written: one of DISK, so many bytes long. */
  void (*plan)(gpointer user_data, const char *disk, guint64 bytes);
  /* (nullable) As in StoreOutputOptions: BYTES more of DISK's images. */
  void (*progress)(gpointer user_data, const char *disk, guint64 bytes);
  gpointer user_data;
  const CbtFileOps *ops; /* NULL: the default table */
} StoreChainOptions;

/*
 * The points of a chain that ends with POINT, oldest first; POINTS (of StorePoint, newest first, all of its vm)
 * has them and keeps them. From POINT on it is the parent's turn, to the full one, which begins the chain.
 * Where a parent is gone, the next older point of the vm takes its place.
 */
GPtrArray *store_chain_select(const GPtrArray *points, const CbtUuid *point);

typedef struct {
  guint n_kept;          /* points that the folder had */
  guint n_written;       /* points that were added or completed */
  guint64 bytes_written; /* of their images */
} StoreChainResult;

/*
 * Exports POINTS (of StorePoint, oldest first, all of one vm) to FOLDER, which is made when missing. Each
 * point's images stand on those of the point before it in POINTS; a disk that is new there, was replaced, or
 * shrank gets a new base. A point whose uuid is in the folder's index is kept; an image of it that is gone is
 * written again.
 *
 * Errors: INVALID (no points, or not of one vm); STATE (the folder holds the chain of another vm or store, or
 * an image that was changed; by name); BUSY (another export writes there); CORRUPT (a damaged chunk or
 * index); CANCELLED, NO_SPACE, IO. What was complete before stays.
 */
gboolean store_chain_export(Store *store, const GPtrArray *points, const char *folder,
                            const StoreChainOptions *options, StoreChainResult *result,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
