/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For the files of the route `changes`: the question, and the answer as it grows.
 *
 * Threads: that of the task which answers.
 */
#pragma once

#include <cbt/bitmap-file.h>
#include <daemon/disks.h>
#include <daemon/live-map.h>
#include <json-glib/json-glib.h>

typedef struct {
  CatalogueVm *vm;
  const CatalogueDisk *disk;
  StorePoint *from; /* (nullable) */
  StorePoint *to;   /* NULL: live */
  StorePoint *base; /* (nullable) of the bitmap that tells what is live, where that is not `from` */
  char *bitmap;     /* (nullable) its bits instead of the difference of points */
  CbtUuid lease;    /* that must hold it; nil: none */
  guint64 offset;
  guint64 limit; /* extents */

  /* the answer as it grows */
  CbtBitmapInfo info; /* of `bitmap`, as it was read */
  guint64 granularity, size_from, size_to;
  JsonBuilder *builder;
  guint64 n_extents;
  guint64 next_offset;
  gboolean more;
} Changes;

/* Adds an extent; FALSE when the answer is full. */
gboolean changes_add_extent(const CbtExtent *extent, gboolean zero, gpointer changes);
/* What the manifests FROM (nullable: zeros) and TO have different, from OFFSET on. NOT_FOUND if a point of
 * the question was forgotten meanwhile. */
gboolean changes_difference(Daemon *daemon, const Changes *changes, const StorePointDisk *from,
                            const StorePointDisk *to, guint64 offset, StoreDifferenceFunc func,
                            gpointer user_data, GError **error);
/* The disk of the question in POINT. NOT_FOUND if it has none. */
const StorePointDisk *changes_point_disk(const StorePoint *point, const CatalogueDisk *disk, GError **error);
/* The bits of bitmap INFO of the disk, in memory of the caller's. */
CbtBitmap *changes_copy_bits(DiskRef *ref, const CbtBitmapInfo *info, LiveMapBits which, GError **error);
/* BUSY: a bitmap was another at each attempt. */
void changes_set_unsteady(GError **error);
#define CHANGES_MAX_ATTEMPTS 5

/* What differs between `from` and the disk as it is; without `from`, what is allocated. */
gboolean changes_to_live(Daemon *daemon, Changes *changes, GError **error);
/* The bits of `bitmap`. */
gboolean changes_of_bitmap(Daemon *daemon, Changes *changes, GError **error);
