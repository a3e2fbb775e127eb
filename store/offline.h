/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store as it lies on disk, opened to be looked at: nothing in it is written, cut, made or locked, whatever state
 * it is in. The index is not used but made anew, in a temporary folder, from the records that the caller finds.
 *
 * It may be open elsewhere at the same time; then what is appended after the packs were looked through is not seen.
 */
#pragma once

#include <store/index-format.h>
#include <store/pack-check.h>
#include <store/store-private.h>

typedef struct {
  Store *store;    /* to get from: store_get(), store_verify; never to put */
  char *temporary; /* folder of its index */
  gboolean in_use; /* somebody has it open */
} StoreOffline;

/* NOT_FOUND (no such store), CORRUPT (the format file), UNSUPPORTED, IO. */
StoreOffline *store_offline_open(const char *directory, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_offline_close(StoreOffline *offline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreOffline, store_offline_close)

/* Notes where a chunk is. */
gboolean store_offline_note(StoreOffline *offline, const StoreRecordInfo *info, const StoreLocation *location,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Notes all chunks, by the tables of contents where there are sound ones; packs that cannot be read are left out. */
gboolean store_offline_note_all(StoreOffline *offline, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
  gboolean is_there;
  gboolean is_sound;    /* its header is; else what follows is zero */
  StoreIndexHeader header;
  guint64 n_entries;
  guint64 n_wrong;      /* of them, that do not name a place that was noted */
} StoreOfflineIndex;

/* The store's own index against what was noted. */
void store_offline_compare_index(StoreOffline *offline, StoreOfflineIndex *index);
