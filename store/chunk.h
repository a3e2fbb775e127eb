/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chunk ids: how the content of a cluster, a manifest page or a config file is named.
 *
 * An id is 16 bytes: 15 bytes of XXH3-128 keyed with the store's secret, and an ordinal. The ordinal is 0 but for contents
 * whose digests really collide: they are stored beside each other as 1, 2, ... (up to 255). The all-zero id means
 * "zeros", and is never the id of a stored chunk: a digest of 15 zero bytes starts at ordinal 1.
 */
#pragma once

#include <common/extent.h>

#define STORE_CHUNK_ID_SIZE       16
#define STORE_CHUNK_ID_TEXT_SIZE  33 /* hexadecimal with the NUL */
#define STORE_SECRET_SIZE         192 /* bytes; XXH3 asks for at least 136 */
#define STORE_CHUNK_LENGTH_MAX    65536u

typedef struct {
  guint8 bytes[STORE_CHUNK_ID_SIZE]; /* [0..14] digest, [15] ordinal */
} StoreChunkId;

typedef enum {
  STORE_CHUNK_DATA = 1, /* a cluster, always 64 KiB (the last one of a disk is padded with zeros) */
  STORE_CHUNK_PAGE = 2, /* a manifest page */
  STORE_CHUNK_BLOB = 3, /* a configuration file */
} StoreChunkType;

/* The id of DATA with ordinal 0 (1 if the digest is zero). The same bytes as another type have the same id: the type is a
 * note, not part of the name. */
StoreChunkId store_chunk_id(const guint8 secret[STORE_SECRET_SIZE], const void *data, gsize length);
gboolean store_chunk_id_is_zero(const StoreChunkId *id);
gboolean store_chunk_id_equal(const StoreChunkId *a, const StoreChunkId *b);
const char *store_chunk_id_format(const StoreChunkId *id, char text[STORE_CHUNK_ID_TEXT_SIZE]);
gboolean store_chunk_id_parse(const char *text, StoreChunkId *id);

/* For a GHashTable whose keys are StoreChunkId: the first bytes of a digest are as good a hash as any. */
guint store_chunk_id_hash(gconstpointer id);
gboolean store_chunk_id_hash_equal(gconstpointer a, gconstpointer b);
