/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of qcow2, version 3, that is written here. Source: QEMU, docs/interop/qcow2.txt. All integers are
 * big-endian. The file is made of 64 KiB clusters, in this order:
 *
 *   1   header, its extensions, name of the backing file
 *   rt  refcount table: offsets of the refcount blocks
 *   rb  refcount blocks: 16 bits for each cluster of the file, all of them 1
 *   l1  L1 table: one entry for each 512 MiB of the disk, the offset of its L2 table, or 0
 *   n   L2 tables: one entry for each cluster of the disk, ascending
 *   d   data clusters, ascending
 *
 * Header:
 *
 *   offset size
 *        0    4  magic, "QFI\xfb"
 *        4    4  version, 3
 *        8    8  offset of the backing file's name; 0: no backing file
 *       16    4  length of the name, without a NUL
 *       20    4  cluster bits, 16
 *       24    8  size of the disk, bytes
 *       32    4  encryption, 0
 *       36    4  entries of the L1 table
 *       40    8  offset of the L1 table
 *       48    8  offset of the refcount table
 *       56    4  clusters of the refcount table
 *       60    4  snapshots, 0
 *       64    8  offset of the snapshot table, 0
 *       72    8  incompatible features, 0: not dirty or corrupt, no external data, deflate, plain L2
 *       80    8  compatible features, 0: no lazy refcounts
 *       88    8  autoclear features, 0
 *       96    4  refcount order, 4: 16 bits
 *      100    4  header length, 104
 *      104       extensions: type (4), length (4), data padded to 8; the end has type and length 0
 */
#pragma once

#include <common/extent.h>

#define STORE_QCOW2_MAGIC   0x514649fbu
#define STORE_QCOW2_VERSION 3u

#define STORE_QCOW2_CLUSTER_BITS 16u
#define STORE_QCOW2_CLUSTER_SIZE (G_GUINT64_CONSTANT(1) << STORE_QCOW2_CLUSTER_BITS)
#define STORE_QCOW2_SECTOR_SIZE  G_GUINT64_CONSTANT(512) /* sizes of disks are multiples of it */

#define STORE_QCOW2_VERSION_OFFSET           4u
#define STORE_QCOW2_BACKING_OFFSET           8u
#define STORE_QCOW2_BACKING_LENGTH_OFFSET    16u
#define STORE_QCOW2_CLUSTER_BITS_OFFSET      20u
#define STORE_QCOW2_SIZE_OFFSET              24u
#define STORE_QCOW2_L1_ENTRIES_OFFSET        36u
#define STORE_QCOW2_L1_OFFSET                40u
#define STORE_QCOW2_REFTABLE_OFFSET          48u
#define STORE_QCOW2_REFTABLE_CLUSTERS_OFFSET 56u
#define STORE_QCOW2_REFCOUNT_ORDER_OFFSET    96u
#define STORE_QCOW2_HEADER_LENGTH_OFFSET     100u
#define STORE_QCOW2_HEADER_LENGTH            104u
#define STORE_QCOW2_REFCOUNT_ORDER           4u

#define STORE_QCOW2_EXTENSION_HEADER_SIZE    8u
#define STORE_QCOW2_EXTENSION_BACKING_FORMAT 0xe2792acau
#define STORE_QCOW2_BACKING_NAME_MAX         1023u
#define STORE_QCOW2_BACKING_FORMAT_MAX       16u

/* Entries are offsets with flags. */
#define STORE_QCOW2_ENTRY_SIZE   8u
#define STORE_QCOW2_COPIED       (G_GUINT64_CONSTANT(1) << 63) /* the refcount is 1 (L1 and L2) */
#define STORE_QCOW2_ZERO         G_GUINT64_CONSTANT(1) /* reads as zeros, whatever the backing file has (L2) */
#define STORE_QCOW2_N_ENTRIES    (STORE_QCOW2_CLUSTER_SIZE / STORE_QCOW2_ENTRY_SIZE) /* of a cluster of them */
#define STORE_QCOW2_N_REFCOUNTS  (STORE_QCOW2_CLUSTER_SIZE / 2)                      /* of a refcount block */
#define STORE_QCOW2_L2_SPAN      (STORE_QCOW2_N_ENTRIES * STORE_QCOW2_CLUSTER_SIZE)  /* bytes of the disk */
#define STORE_QCOW2_L1_MAX       (G_GUINT64_CONSTANT(32) << 20) /* bytes that QEMU takes, as below */
#define STORE_QCOW2_REFTABLE_MAX (G_GUINT64_CONSTANT(8) << 20)

_Static_assert(STORE_QCOW2_CLUSTER_SIZE == CBT_CLUSTER_SIZE, "a cluster of the disk is one of the file");
_Static_assert(STORE_QCOW2_L2_SPAN == G_GUINT64_CONSTANT(512) << 20, "an L2 table covers 512 MiB");
_Static_assert(STORE_QCOW2_N_REFCOUNTS *(1u << STORE_QCOW2_REFCOUNT_ORDER) / 8 == STORE_QCOW2_CLUSTER_SIZE,
               "a block is full of refcounts");
_Static_assert(STORE_QCOW2_HEADER_LENGTH_OFFSET + 4 == STORE_QCOW2_HEADER_LENGTH,
               "nothing follows version 3's fields");
_Static_assert(STORE_QCOW2_HEADER_LENGTH % 8 == 0, "as the format demands");
_Static_assert(STORE_QCOW2_HEADER_LENGTH + 2 * STORE_QCOW2_EXTENSION_HEADER_SIZE +
                       STORE_QCOW2_BACKING_FORMAT_MAX + STORE_QCOW2_BACKING_NAME_MAX <=
                   STORE_QCOW2_CLUSTER_SIZE,
               "all of the header is in the first cluster");
