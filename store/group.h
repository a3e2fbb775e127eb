/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Groups: several clusters in one record of a pack, compressed as one zstd frame (docs/formats/pack.md).
 *
 * The header of such a record says encoding GROUP, type DATA, the zero id, and as its length that of all
 * contents: a whole number of clusters. The payload is the ids of the clusters, then the frame of their
 * contents one behind the other.
 *
 * Each chunk of a group takes a share of its record. The shares are whole units of STORE_PACK_ALIGN and as
 * equal as that allows, and make up the record with its padding; so what packs hold can be summed up chunk by
 * chunk.
 *
 * Pure: no I/O, no compression.
 */
#pragma once

#include <store/pack-format.h>

#define STORE_GROUP_CHUNKS_MIN 2u
#define STORE_GROUP_CHUNKS_MAX 64u
#define STORE_GROUP_SIZE_MAX   (STORE_GROUP_CHUNKS_MAX * STORE_CHUNK_LENGTH_MAX)
/* A group is worthwhile, and sound, if it saves a 64th of its contents. */
#define STORE_GROUP_PAYLOAD_MAX (STORE_GROUP_SIZE_MAX / 64u * 63u)
#define STORE_GROUP_SHARE_MAX   (STORE_CHUNK_LENGTH_MAX + STORE_RECORD_HEADER_SIZE + STORE_PACK_ALIGN)

/* What the header of a group of N chunks says. */
static inline StoreRecordInfo
store_group_info(guint n)
{
  return (StoreRecordInfo){
      .type = STORE_CHUNK_DATA, .length = n * STORE_CHUNK_LENGTH_MAX, .encoding = STORE_ENCODING_GROUP};
}

/* The chunks of a group whose contents have LENGTH bytes. */
static inline guint
store_group_count(guint32 length)
{
  return length / STORE_CHUNK_LENGTH_MAX;
}

/* The longest payload of a group of N. */
static inline guint32
store_group_payload_max(guint n)
{
  return n * (STORE_CHUNK_LENGTH_MAX / 64u * 63u);
}

/* Whether a header that says encoding GROUP can be one. */
gboolean store_group_is_possible(const StoreRecordInfo *info, guint32 payload_length);
/* Whether none of the N ids that PAYLOAD begins with is zero, or there twice. */
gboolean store_group_ids_are_possible(const guint8 *payload, guint n);
/* Chunk I of a group, as a scan tells of it. */
StoreRecordInfo store_group_chunk(const guint8 *payload, guint i);
/* The number of chunk ID; -1 if it is not there. */
int store_group_find(const guint8 *payload, guint n, const StoreChunkId *id);
/* Bytes of chunk I of N, in a record whose payload has PAYLOAD_LENGTH bytes. */
guint32 store_group_share(guint32 payload_length, guint n, guint i);
