/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing several clusters at once: as a group where that saves something, else each in a record of its own.
 * The index is pointed to them, but never away from another record of the same chunk that came between and is
 * sound.
 */
#pragma once

#include <store/group.h>
#include <store/store.h>

typedef struct {
  guint n;
  StoreChunkId ids[STORE_GROUP_CHUNKS_MAX];
  StoreLocation
      seen[STORE_GROUP_CHUNKS_MAX]; /* where the index had each when it was taken up; all-zero: nowhere */
  guint8 *contents; /* (nullable) N clusters; NULL: whatever the index names instead by now is believed */
} StoreGroupDraft;

/*
 * Compresses and appends DRAFT; *bytes gets what packs grew by. NO_SPACE, IO: it may be tried again, and what
 * was written of it by then is garbage or used. CORRUPT: one of its ids is another content's by now (somebody
 * lost the index's entry of a real collision); then it can never be written.
 */
gboolean store_group_write(StoreWorker *worker, StoreGroupDraft *draft, guint64 *bytes,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The same with a group's PAYLOAD as it is. */
gboolean store_group_copy(StoreWorker *worker, StoreGroupDraft *draft, const guint8 *payload,
                          gsize payload_length, guint64 *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
