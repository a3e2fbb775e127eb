/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The `format` file of a store: its version, identity and secret. Written once, when the store is made, and again only
 * to raise its version, before what an older one could not read is written. Without the secret no chunk can be recognised, so it is never made anew
 * over existing packs.
 *
 * Layout, little-endian (docs/formats/store.md):
 *
 *   offset  size  field
 *        0     8  magic "CBTSTORE"
 *        8     4  version
 *       12     4  size of the file, 256
 *       16    16  uuid of the store
 *       32     8  creation time, microseconds since 1970, signed
 *       40    16  zero
 *       56   192  secret
 *      248     8  XXH3-64 of bytes [0, 248)
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/chunk.h>

#define STORE_FORMAT_MAGIC       "CBTSTORE"
#define STORE_FORMAT_VERSION     2u /* version 1 has no groups in its packs */
#define STORE_FORMAT_SIZE        256
#define STORE_FORMAT_AT_VERSION  8
#define STORE_FORMAT_AT_SIZE     12
#define STORE_FORMAT_AT_UUID     16
#define STORE_FORMAT_AT_CREATED  32
#define STORE_FORMAT_AT_SECRET   56
#define STORE_FORMAT_AT_CHECKSUM 248

_Static_assert(sizeof STORE_FORMAT_MAGIC - 1 == STORE_FORMAT_AT_VERSION, "the magic fills its field");
_Static_assert(STORE_FORMAT_AT_SECRET + STORE_SECRET_SIZE == STORE_FORMAT_AT_CHECKSUM,
               "the secret fills its field");
_Static_assert(STORE_FORMAT_AT_CHECKSUM + 8 == STORE_FORMAT_SIZE, "the checksum ends the file");

typedef struct {
  guint32 version;
  CbtUuid uuid;
  gint64 created; /* microseconds since 1970 */
  guint8 secret[STORE_SECRET_SIZE];
} StoreFormat;

/* A fresh identity, of the highest version; FALSE if the system gives no random bytes. */
gboolean store_format_generate(StoreFormat *format, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_format_encode(const StoreFormat *format, guint8 bytes[STORE_FORMAT_SIZE]);
/* PATH is for messages. UNSUPPORTED: a newer version; CORRUPT: anything else that is not what encode made. */
gboolean store_format_decode(const guint8 *bytes, gsize length, const char *path, StoreFormat *format,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

gboolean store_format_save(const CbtFileOps *ops, const char *path, const StoreFormat *format,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NOT_FOUND if there is none, and decode's errors. */
gboolean store_format_load(const CbtFileOps *ops, const char *path, StoreFormat *format,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
