/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Takes the disks of a VMA archive out: one thread reads, several write. */
#pragma once

#include <store/vma-reader.h>

typedef struct {
  int fd;               /* -1: this disk is left out (transfer none) */
  gboolean write_zeros; /* the target has contents: zeros must be made; else it reads as zeros already */
} StoreVmaTarget;

/* Reads the rest of READER's archive into TARGETS, by device id. All is checked as in a verify, the clusters
 * that are missing at the end too. CORRUPT, NO_SPACE, IO. */
gboolean store_vma_extract(StoreVmaReader *reader, const StoreVmaTarget targets[STORE_VMA_DEVICE_MAX + 1],
                           guint n_threads, GError **error) G_GNUC_WARN_UNUSED_RESULT;
