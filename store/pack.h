/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packs: append-only files of self-describing chunk records, `packs/NNNNNNNN.pack`.
 *
 * One pack set has at most one open pack, at the end of which records are appended; when it has grown to its
 * size it is sealed with a table of contents, and the next one begins. Reads see appended records at once,
 * written out or not.
 *
 * Threads: all functions but open and close may be called from any, side by side.
 *
 * Format: store/pack-format.h and docs/formats/pack.md.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/chunk.h>

#define STORE_PACK_SIZE_DEFAULT (G_GUINT64_CONSTANT(64) << 20)

/* Where a record stands. Fits 64 bits in the index; pack 0 does not exist, so all-zero means nowhere. */
typedef struct {
  guint32 pack;   /* number of the pack, from 1 */
  guint32 offset; /* of the record header in the pack, bytes, a multiple of 16 */
  /* Of header and payload, bytes; from the index with the padding to 16. Of a chunk in a group: its share, so
   * that the shares of all make up the record with its padding. */
  guint32 length;
} StoreLocation;

typedef enum {
  STORE_ENCODING_RAW = 0,   /* the payload is the content */
  STORE_ENCODING_ZSTD = 1,  /* the payload is a zstd frame */
  STORE_ENCODING_GROUP = 2, /* the payload is of several clusters, see store/group.h */
} StoreEncoding;

/* What a record's header says; or, of one chunk of a group, what a scan says: its own id and length. */
typedef struct {
  StoreChunkId id; /* zero in the header of a group */
  StoreChunkType type;
  guint32 length; /* of the content, bytes */
  StoreEncoding encoding;
} StoreRecordInfo;

typedef struct StorePackSet StorePackSet;

/* Opens FOLDER. The last pack, if unsealed, is checked record by record, and cut behind the last good one. */
StorePackSet *store_pack_set_open(const CbtFileOps *ops, const char *folder, const CbtUuid *store_uuid,
                                  guint64 pack_size, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Packs are begun with VERSION from now on, that of the store: a program that takes the store takes its
 * packs. Version 1 has no groups; a set is opened with the highest. */
void store_pack_set_version(StorePackSet *set, guint32 version);
/* Writes out and frees; does not seal. */
void store_pack_set_close(StorePackSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StorePackSet, store_pack_set_close)

/* Appends one record; of a group INFO and PAYLOAD are as store/group.h has them. Errors: NO_SPACE, IO; the
 * record then does not exist, and appending may be tried again. */
gboolean store_pack_append(StorePackSet *set, const StoreRecordInfo *info, const void *payload,
                           gsize payload_length, StoreLocation *location,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A record that has its place in the packs, and whose bytes are still to be copied there. */
typedef struct StorePackSlot {
  StoreLocation location;
  /* of the set's own */
  StoreRecordInfo info;
  const void *payload;
  guint32 payload_length;
  guint8 *at;
  struct StorePackSlot *next;
} StorePackSlot;
/* The same in two steps, of which the second, long one needs no lock of the caller's. SLOT and PAYLOAD are in
 * use until store_pack_fill(), which is to follow soon, whatever happens: who reads or writes out the record
 * waits for it. */
gboolean store_pack_reserve(StorePackSet *set, const StoreRecordInfo *info, const void *payload,
                            gsize payload_length, StorePackSlot *slot,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_pack_fill(StorePackSet *set, StorePackSlot *slot);
/* Room that store_pack_read() wants: a header, the longest payload of one chunk, and what a rounded length
 * adds. */
#define STORE_PACK_READ_SIZE (STORE_CHUNK_LENGTH_MAX + 128u)
/* Reads a record into BUFFER (STORE_PACK_READ_SIZE bytes) and checks its header and checksum; *payload points
 * into BUFFER. Of a group only the header is read, and not checked: see store_pack_read_group(). CORRUPT
 * names pack and offset. Any thread. */
gboolean store_pack_read(StorePackSet *set, const StoreLocation *location, StoreRecordInfo *info,
                         void *buffer, const guint8 **payload, gsize *payload_length,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Reads the group at LOCATION into RECORD and checks header, checksum and ids: the payload, which stands in
 * RECORD. CORRUPT as above. */
const guint8 *store_pack_read_group(StorePackSet *set, const StoreLocation *location, StoreRecordInfo *info,
                                    GByteArray *record, gsize *payload_length,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
#define STORE_PACK_GROUP_MAX 64u /* chunks: STORE_GROUP_CHUNKS_MAX */
/* The group that store_pack_has() has read last, for who asks for one chunk of it after the other; begins
 * all-zero. */
typedef struct {
  StoreLocation at;
  guint n;
  guint8 ids[STORE_PACK_GROUP_MAX * STORE_CHUNK_ID_SIZE];
} StorePackGroup;
/* Whether there is a sound record at LOCATION that has the chunk ID. */
gboolean store_pack_has(StorePackSet *set, const StoreLocation *location, const StoreChunkId *id,
                        StorePackGroup *last);
/* The header of a record alone: it names its place and fits it, but neither it nor the payload is checked for
 * damage. Of a group: what it says of the chunk ID, if it names that. */
gboolean store_pack_read_info(StorePackSet *set, const StoreLocation *location, const StoreChunkId *id,
                              StoreRecordInfo *info, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes of records that are only in memory. */
guint64 store_pack_unwritten_bytes(StorePackSet *set);
/* Whether something is full for store_pack_write_behind(), which nobody writes yet; what could not be written
 * counts again when more is full. Cheap. */
gboolean store_pack_is_behind(StorePackSet *set);
/* Writes what store_pack_append() has found full. It waits for the disk: call it without locks. Without it
 * who appends does so, when all buffers are full. */
void store_pack_write_behind(StorePackSet *set);
/* Writes out what is buffered, so that a scan sees it. */
gboolean store_pack_write(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes out what is buffered and makes all appended records durable. */
gboolean store_pack_flush(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Where the next record will go: what an index that is complete now covers. */
StoreLocation store_pack_end(StorePackSet *set);

/* Called with each record in order, and of a group with each chunk in order; FALSE stops. */
typedef gboolean (*StoreRecordFunc)(const StoreRecordInfo *info, const StoreLocation *location,
                                    gpointer user_data);
/* Walks all records from FROM on (NULL: from the first), by tables of contents where packs are sealed and
 * sound, else record by record; those that are not written out yet are not seen. Damaged stretches are
 * skipped, and counted in *n_damaged (nullable). */
gboolean store_pack_scan(StorePackSet *set, const StoreLocation *from, StoreRecordFunc func,
                         gpointer user_data, guint64 *n_damaged, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The same for the one pack of FROM, from there on; a pack that is not there is an error (NOT_FOUND). */
gboolean store_pack_scan_one(StorePackSet *set, const StoreLocation *from, StoreRecordFunc func,
                             gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The numbers of all packs on disk, ascending (transfer full, of guint32). */
GArray *store_pack_list(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes of the file. */
gboolean store_pack_size(StorePackSet *set, guint32 number, guint64 *size,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes that are free where the packs are; G_MAXUINT64 if that is not known. */
guint64 store_pack_room(StorePackSet *set);
/* Seals the open pack, if it has records; the next record begins another. */
gboolean store_pack_seal(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Calls FUNC with each record, and of a group with each chunk, that is in no file yet, the last one first.
 * FUNC calls nothing of SET. */
void store_pack_list_unwritten(StorePackSet *set, StoreRecordFunc func, gpointer user_data);
/* Ends the open pack without sealing it. Records that are in no file yet are lost: nobody may refer to them,
 * nor append meanwhile. The next record begins another pack. */
gboolean store_pack_give_up(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Removes a pack that has ended. That it is gone is durable after the next flush. Who still reads from it may
 * go on.
 */
gboolean store_pack_remove(StorePackSet *set, guint32 number, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_pack_totals(StorePackSet *set, guint64 *n_packs, guint64 *bytes);
