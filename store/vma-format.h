/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMA archive of Proxmox VE, big-endian where nothing else is said (docs/formats/vma.md):
 *
 *   header    12288 bytes and the blob table: magic, version, uuid, time, MD5, tables of configs and devices
 *   extents   each: header (512) with up to 59 block infos, then the blocks that they name, 4096 bytes each
 *
 * A block info stands for a cluster of 64 KiB: bits 48 to 63 are the mask of its blocks that follow (bit 0
 * the first), bits 32 to 39 the device (0: a gap), bits 0 to 31 the cluster's number. Offsets into the blob
 * table count from its start; its first byte is not used, so that 0 means none. A blob is a length, u16 and
 * little-endian, and its bytes; a name ends in NUL.
 *
 * Encoding and decoding only; no I/O.
 */
#pragma once

#include <store/vma.h>

#define STORE_VMA_MAGIC               "VMA" /* with its NUL */
#define STORE_VMA_MAGIC_SIZE          4u
#define STORE_VMA_VERSION             1u
#define STORE_VMA_AT_VERSION          4
#define STORE_VMA_AT_UUID             8
#define STORE_VMA_AT_TIME             24
#define STORE_VMA_AT_MD5              32
#define STORE_VMA_AT_BLOBS            48 /* offset of the blob table */
#define STORE_VMA_AT_BLOBS_SIZE       52
#define STORE_VMA_AT_HEADER_SIZE      56
#define STORE_VMA_AT_CONFIG_NAMES     2044
#define STORE_VMA_AT_CONFIG_DATA      3068
#define STORE_VMA_AT_DEVICES          4096
#define STORE_VMA_HEADER_SIZE_MIN     12288u
#define STORE_VMA_HEADER_SIZE_UNIT    512u
#define STORE_VMA_HEADER_SIZE_WRITTEN (512u << 10) /* what we write at most, as the original does */
#define STORE_VMA_HEADER_SIZE_READ    (16u << 20)  /* what we read at most, far above what any tool writes */
#define STORE_VMA_BLOB_MAX            65535u
#define STORE_VMA_N_CONFIGS           256u
#define STORE_VMA_N_DEVICES           256u /* 1 to 254 are used */

#define STORE_VMA_DEVICE_SIZE    32u
#define STORE_VMA_DEVICE_AT_NAME 0
#define STORE_VMA_DEVICE_AT_SIZE 8

#define STORE_VMA_EXTENT_MAGIC       "VMAE"
#define STORE_VMA_EXTENT_AT_RESERVED 4
#define STORE_VMA_EXTENT_AT_COUNT    6
#define STORE_VMA_EXTENT_AT_UUID     8
#define STORE_VMA_EXTENT_AT_MD5      24
#define STORE_VMA_EXTENT_AT_INFOS    40
#define STORE_VMA_MD5_SIZE           16u

#define STORE_VMA_INFO_MASK_SHIFT   48
#define STORE_VMA_INFO_DEVICE_SHIFT 32

G_STATIC_ASSERT(sizeof STORE_VMA_MAGIC == STORE_VMA_MAGIC_SIZE);
G_STATIC_ASSERT(STORE_VMA_AT_UUID + 16 == STORE_VMA_AT_TIME && STORE_VMA_AT_TIME + 8 == STORE_VMA_AT_MD5);
G_STATIC_ASSERT(STORE_VMA_AT_MD5 + STORE_VMA_MD5_SIZE == STORE_VMA_AT_BLOBS);
G_STATIC_ASSERT(STORE_VMA_AT_CONFIG_NAMES + STORE_VMA_N_CONFIGS * 4 == STORE_VMA_AT_CONFIG_DATA);
G_STATIC_ASSERT(STORE_VMA_AT_CONFIG_DATA + STORE_VMA_N_CONFIGS * 4 <= STORE_VMA_AT_DEVICES);
G_STATIC_ASSERT(STORE_VMA_AT_DEVICES + STORE_VMA_N_DEVICES * STORE_VMA_DEVICE_SIZE ==
                STORE_VMA_HEADER_SIZE_MIN);
G_STATIC_ASSERT(STORE_VMA_EXTENT_AT_MD5 + STORE_VMA_MD5_SIZE == STORE_VMA_EXTENT_AT_INFOS);
G_STATIC_ASSERT(STORE_VMA_EXTENT_AT_INFOS + 8 * STORE_VMA_INFOS_PER_EXTENT == STORE_VMA_EXTENT_HEADER_SIZE);
G_STATIC_ASSERT(STORE_VMA_CLUSTER_SIZE == CBT_CLUSTER_SIZE);
G_STATIC_ASSERT(STORE_VMA_CLUSTER_SIZE == 16 * STORE_VMA_BLOCK_SIZE);
