/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What worker.c (putting), worker-read.c (reading and getting), staging.c and group-write.c share. */
#pragma once

#include <store/group-cache.h>
#include <store/staging.h>
#include <store/store-private.h>
#include <zstd.h>

#define ORDINAL (STORE_CHUNK_ID_SIZE - 1)

struct StoreWorker {
  Store *store;
  StorePins *pins;   /* (nullable) of the point that is put for */
  gboolean compares; /* bytes on a dedup hit */
  ZSTD_CCtx *compressor;
  ZSTD_DCtx *decompressor;
  guint8 *record;           /* STORE_PACK_READ_SIZE: what a pack was read into */
  guint8 *compressed;       /* STORE_CHUNK_LENGTH_MAX */
  guint8 *content;          /* STORE_CHUNK_LENGTH_MAX: a stored chunk to compare with */
  GByteArray *group_record; /* the same as record, of a group */

  /* made when the first group is written */
  ZSTD_CCtx *group_compressor;
  guint8 *group; /* STORE_GROUP_PAYLOAD_MAX */

  StoreStaged *staged;  /* (nullable) the group that is filled; protected by the store's append_lock */
  guint8 *spare;        /* (nullable) for the next one's contents; protected by staging's lock */
  guint64 stored_bytes; /* atomic: of its groups that were written, and not told in a tally yet */
};

typedef enum {
  RECORD_GOOD,
  RECORD_OTHER,   /* of another chunk: the index entry is stale */
  RECORD_DAMAGED, /* or cannot be read; the error says which */
} RecordState;

/*
 * The content of chunk ID in the record at LOCATION: *content is within the worker's record buffer, or INTO
 * (STORE_CHUNK_LENGTH_MAX bytes).
 */
RecordState store_worker_read(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *location,
                              StoreRecordInfo *info, void *into, const guint8 **content, GError **error);
/* Decompresses the N clusters of a group's payload into CONTENTS. FALSE if it is no frame of them. */
gboolean store_worker_unpack_group(StoreWorker *worker, guint n, const guint8 *payload, gsize payload_length,
                                   guint8 *contents) G_GNUC_WARN_UNUSED_RESULT;

/* The payload of a record for one chunk. */
typedef struct {
  StoreRecordInfo info;
  const void *payload;
  gsize payload_length;
} StorePacked;

/* Compresses into the worker's buffer; what saves less than a sixteenth stays as it is. */
StorePacked store_worker_pack(StoreWorker *worker, StoreChunkType type, const void *data, gsize length);

static inline gboolean
store_locations_are_equal(const StoreLocation *a, const StoreLocation *b)
{
  return a->pack == b->pack && a->offset == b->offset;
}
