/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A planned image, as qcow2-plan.c makes it and qcow2.c writes it. */
#pragma once

#include <store/qcow2-format.h>
#include <store/qcow2.h>

/* Data is read and written in slices of the disk, of which a region has so many. */
#define STORE_QCOW2_SLICE_CLUSTERS 64u
#define STORE_QCOW2_REGION_SLICES  ((guint) (STORE_QCOW2_N_ENTRIES / STORE_QCOW2_SLICE_CLUSTERS))
#define STORE_QCOW2_SLICE_SIZE     (STORE_QCOW2_SLICE_CLUSTERS * STORE_QCOW2_CLUSTER_SIZE)

/* A region is the part of a disk that one L2 table covers; only those that need one are listed. */
typedef struct {
  guint64 index;                                  /* of its entry in the L1 table */
  guint64 first_data;                             /* data clusters of all regions before */
  guint64 first_slice;                            /* slices with data of all regions before */
  guint64 slices[STORE_QCOW2_REGION_SLICES / 64]; /* bit for bit: which of its slices have data */
} StoreQcow2Region;

struct StoreQcow2 {
  /* constant after creation */
  Store *store;
  StoreManifest manifest;
  gboolean has_backing;
  StoreManifest backing;
  char *backing_file; /* NULL: none */
  char *backing_format;
  guint64 size;    /* of the disk, as the header says */
  GArray *regions; /* of StoreQcow2Region, ascending */
  guint64 n_data;
  guint64 n_slices; /* with data */
  /* in clusters of the file */
  guint64 reftable;
  guint64 n_reftable;
  guint64 refblocks;
  guint64 n_refblocks;
  guint64 l1;
  guint64 n_l1;
  guint64 l2;   /* one for each region */
  guint64 data; /* n_data of them */
  guint64 n_clusters;
};

static inline const StoreQcow2Region *
store_qcow2_region(const StoreQcow2 *image, guint64 i)
{
  return &g_array_index(image->regions, StoreQcow2Region, i);
}

/* What the image must say of clusters [FIRST, FIRST + COUNT) of the disk: FUNC as in
 * store_manifest_changes(). */
gboolean store_qcow2_changes(const StoreQcow2 *image, StoreWorker *worker, guint64 first, guint64 count,
                             StoreClusterFunc func, gpointer user_data,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Cluster NUMBER of the file, one before the L2 tables, into CLUSTER (64 KiB). */
void store_qcow2_encode_metadata(const StoreQcow2 *image, guint64 number, guint8 *cluster);
