/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The chunk index: id to location. Derived data: it can be deleted, and is made again from the packs.
 *
 * A hash table in a file that is mapped shared, so that opening costs nothing and memory is the page cache's. Slots are
 * ordered by the id's leading bits (linear probing), so that growing is one sequential pass into a new file, replaced by
 * rename. A crashed process loses nothing (the kernel has the pages); after a power loss, everything up to the last
 * checkpoint is there, and the store reads the packs behind it again. Entries are hints: a wrong one is found when the
 * record it points to has another id.
 *
 * Threads: look-ups from any number, one change at a time beside them (an internal lock).
 * Format: store/index-format.h and docs/formats/index.md.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/pack.h>

typedef struct StoreIndex StoreIndex;

/*
 * Opens PATH. *covered gets how far into the packs the index is complete (all-zero: nothing, it was made anew because it was
 * missing, damaged, of another store or version).
 */
StoreIndex *store_index_open(const CbtFileOps *ops, const char *path, const CbtUuid *store_uuid,
                             StoreLocation *covered, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_index_close(StoreIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreIndex, store_index_close)

gboolean store_index_lookup(StoreIndex *index, const StoreChunkId *id, StoreLocation *location);
/* Inserts or replaces. NO_SPACE, IO when growing fails. */
gboolean store_index_insert(StoreIndex *index, const StoreChunkId *id, const StoreLocation *location, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* FALSE if it was not there. */
gboolean store_index_remove(StoreIndex *index, const StoreChunkId *id);
/* Makes the index durable and notes that it is complete up to COVERED. */
gboolean store_index_checkpoint(StoreIndex *index, const StoreLocation *covered, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * Marks: bits for each entry, for walks over all that is wanted. They stay with their entries when the table grows, and
 * take two bits a slot. Threads: one for each StoreIndexMarks.
 */
typedef struct StoreIndexMarks StoreIndexMarks;
typedef enum { STORE_INDEX_MARK_REACHED, STORE_INDEX_MARK_VISITED, STORE_INDEX_MARK_KINDS } StoreIndexMark;

StoreIndexMarks *store_index_marks_new(StoreIndex *index);
/* Before the index is closed. */
void store_index_marks_free(StoreIndexMarks *marks);
/* Brings the slots of IDS near, for marking many is waiting for memory. */
void store_index_marks_prefetch(StoreIndexMarks *marks, const StoreChunkId *ids, guint n);
/* Marks the entry of ID; *is_new: it was not. LOCATION is nullable. FALSE if there is no entry. */
gboolean store_index_mark(StoreIndexMarks *marks, const StoreChunkId *id, StoreIndexMark kind, gboolean *is_new,
                          StoreLocation *location);
gboolean store_index_is_marked(StoreIndexMarks *marks, const StoreChunkId *id, StoreIndexMark kind);
guint64 store_index_count(const StoreIndex *index);
