/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMA archives in memory: the header as an object, and one extent at a time. store/vma-reader.h reads whole
 * archives from a stream; whoever writes one encodes the header, fills extents and sends them out in any
 * order of clusters. Nothing here does I/O, and nothing seeks.
 *
 * Source of the format: Proxmox VE's vma_spec.txt and its tool; see docs/formats/vma.md.
 *
 * Threads: objects belong to one thread at a time.
 */
#pragma once

#include <common/extent.h>
#include <common/uuid.h>

#define STORE_VMA_BLOCK_SIZE         4096u
#define STORE_VMA_CLUSTER_SIZE       65536u
#define STORE_VMA_INFOS_PER_EXTENT   59u
#define STORE_VMA_EXTENT_CLUSTERS    58u /* that we put into one, as the original does */
#define STORE_VMA_EXTENT_HEADER_SIZE 512u
#define STORE_VMA_EXTENT_SIZE_MAX                                                                            \
  (STORE_VMA_EXTENT_HEADER_SIZE + STORE_VMA_INFOS_PER_EXTENT * STORE_VMA_CLUSTER_SIZE)
#define STORE_VMA_DEVICE_MAX 254u
/* Cluster numbers have 32 bits. */
#define STORE_VMA_DISK_SIZE_MAX ((G_GUINT64_CONSTANT(1) << 32) * STORE_VMA_CLUSTER_SIZE)
/* A device of this name is a stream: its clusters come in sequence, and its size is only the upper bound. */
#define STORE_VMA_STATE_NAME "vmstate"

typedef struct {
  char *name;
  guint8 *data;
  gsize size; /* bytes */
} StoreVmaConfig;

typedef struct {
  guint8 id; /* 1 to STORE_VMA_DEVICE_MAX */
  char *name;
  guint64 size; /* bytes */
} StoreVmaDevice;

typedef struct {
  CbtUuid uuid;
  gint64 time;        /* seconds since 1970 */
  GPtrArray *configs; /* of StoreVmaConfig */
  GPtrArray *devices; /* of StoreVmaDevice, ascending ids */
} StoreVmaHeader;

StoreVmaHeader *store_vma_header_new(void);
void store_vma_header_free(StoreVmaHeader *header);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaHeader, store_vma_header_free)
void store_vma_header_add_config(StoreVmaHeader *header, const char *name, const void *data, gsize size);
/* The next free id, which it returns; 0 if all are taken. SIZE is rounded up to 512 when encoded. */
guint8 store_vma_header_add_device(StoreVmaHeader *header, const char *name, guint64 size);
/* (transfer none); NULL if there is none. */
const StoreVmaDevice *store_vma_header_find_device(const StoreVmaHeader *header, guint8 id);
gboolean store_vma_device_is_state(const StoreVmaDevice *device);

/* The bytes of HEADER (transfer full). INVALID, TOO_LARGE name what does not fit: a config above 65535 bytes,
 * a disk above STORE_VMA_DISK_SIZE_MAX, a header above 512 KiB, neither config nor device. */
guint8 *store_vma_header_encode(const StoreVmaHeader *header, gsize *length,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Length of the whole header, from its first STORE_VMA_HEADER_PEEK bytes. CORRUPT. */
#define STORE_VMA_HEADER_PEEK 12288u
gsize store_vma_header_peek(const guint8 *data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Checks and takes apart LENGTH bytes, which is what peek said. CORRUPT names what is wrong; UNSUPPORTED the
 * version. */
StoreVmaHeader *store_vma_header_decode(const guint8 *data, gsize length,
                                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
  guint8 device;
  guint16 mask; /* bit i: block i of the cluster is there; the others are zeros */
  guint32 number;
  const guint8 *blocks; /* the blocks of the mask, one after another */
} StoreVmaCluster;

/* One extent with a buffer for the longest. */
typedef struct {
  guint n_clusters;
  StoreVmaCluster clusters[STORE_VMA_INFOS_PER_EXTENT];
  gsize length;   /* of the extent, bytes */
  guint8 *buffer; /* STORE_VMA_EXTENT_SIZE_MAX, aligned to 4096 */
} StoreVmaExtent;

StoreVmaExtent *store_vma_extent_new(void);
void store_vma_extent_free(StoreVmaExtent *extent);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaExtent, store_vma_extent_free)

/* Makes EXTENT empty. */
void store_vma_extent_clear(StoreVmaExtent *extent);
gboolean store_vma_extent_is_full(const StoreVmaExtent *extent);
/* Where the 64 KiB of the next cluster may be put, to be taken by add(); not if it is full. */
guint8 *store_vma_extent_reserve(StoreVmaExtent *extent);
/* Adds a cluster: the bytes at reserve(), of which blocks of zeros are left out; or zeros. */
void store_vma_extent_add(StoreVmaExtent *extent, guint8 device, guint32 number);
void store_vma_extent_add_zero(StoreVmaExtent *extent, guint8 device, guint32 number);
/* Fills in the header: buffer[0, length) is then what an archive holds. */
void store_vma_extent_encode(StoreVmaExtent *extent, const CbtUuid *uuid);

/* Takes apart the first 512 bytes of the buffer: n_clusters and length are set; blocks are valid when the
 * rest of the length was read. CORRUPT names what is wrong. Devices and cluster numbers are the caller's to
 * check. */
gboolean store_vma_extent_decode(StoreVmaExtent *extent, const CbtUuid *uuid,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The 64 KiB of CLUSTER with its zeros. */
void store_vma_cluster_expand(const StoreVmaCluster *cluster, guint8 *data);
