/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/store-reserve.h>

#include <common/error.h>
#include <common/size.h>
#include <stdatomic.h>
#include <string.h>

#define MIB          (G_GUINT64_CONSTANT(1) << 20)
#define DEFAULT_MOST (1024 * MIB)
#define DEFAULT_PART 100 /* of the file system */

#define HINT                                                                                                 \
  "Make room on the store's file system: forget points (cbt-backup prune), then cbt-backup gc. What "        \
  "changed "                                                                                                 \
  "meanwhile is in the next incremental."

#define ANSWER_TIMEOUT_MS 200

struct StoreReserve {
  FreeSpace *space; /* constant, as the next two */
  Store *store;
  guint64 configured;
  atomic_ullong unchecked; /* put since the last check */
};

StoreReserve *
store_reserve_new(FreeSpace *space, Store *store, guint64 bytes)
{
  StoreReserve *reserve = g_new0(StoreReserve, 1);
  reserve->space = space;
  reserve->store = store;
  reserve->configured = bytes;
  return reserve;
}

void
store_reserve_free(StoreReserve *reserve)
{
  g_free(reserve);
}

guint64
store_reserve_bytes(StoreReserve *reserve)
{
  if (reserve->configured != STORE_RESERVE_DEFAULT)
    return reserve->configured;
  return MIN(DEFAULT_MOST, free_space_total(reserve->space) / DEFAULT_PART);
}

/* What was put and waits in memory has its place already. */
gboolean
store_reserve_check(StoreReserve *reserve, GError **error)
{
  guint64 available, unwritten = store_unwritten_bytes(reserve->store);
  gboolean is_known;
  if (reserve->configured == 0 || !free_space_get(reserve->space, ANSWER_TIMEOUT_MS, &available, &is_known) ||
      !is_known)
    return TRUE;
  available -= MIN(available, unwritten);
  if (available >= store_reserve_bytes(reserve))
    return TRUE;
  g_autofree char *free_text = cbt_size_format(available);
  g_autofree char *reserve_text = cbt_size_format(store_reserve_bytes(reserve));
  cbt_set_error(error, CBT_ERROR_NO_SPACE,
                HINT " The reserve is the key 'reserve' of [store], or --store-reserve.",
                "no space: %s has %s free%s, less than the reserve of %s", store_directory(reserve->store),
                free_text, unwritten > 0 ? " beside what is to be written" : "", reserve_text);
  return FALSE;
}

gboolean
store_reserve_note(StoreReserve *reserve, guint64 bytes, GError **error)
{
  guint64 step = CLAMP(store_reserve_bytes(reserve) / 16, MIB, 64 * MIB);
  if (atomic_fetch_add(&reserve->unchecked, bytes) + bytes < step)
    return TRUE;
  atomic_store(&reserve->unchecked, 0);
  return store_reserve_check(reserve, error);
}

void
store_reserve_explain(StoreReserve *reserve, GError **error)
{
  guint64 available;
  gboolean is_known;
  g_autofree char *own_hint = error && *error ? cbt_error_hint(*error) : NULL;
  if (!error || !g_error_matches(*error, CBT_ERROR, CBT_ERROR_NO_SPACE))
    return;
  /* It may have been another file system that was full. */
  if (!free_space_get(reserve->space, ANSWER_TIMEOUT_MS, &available, &is_known) ||
      available > MAX(store_reserve_bytes(reserve), 16 * MIB))
    return;
  g_autofree char *free_text = cbt_size_format(available);
  g_autofree char *message = cbt_error_message(*error);
  g_autofree char *hint = g_strconcat(own_hint ? own_hint : "", own_hint ? " " : "", HINT, NULL);
  if (own_hint && strstr(own_hint, HINT))
    return;
  g_clear_error(error);
  cbt_set_error(error, CBT_ERROR_NO_SPACE, hint, "%s (%s has %s free)", message,
                store_directory(reserve->store), free_text);
}
