/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/store-reserve.h>

#include <common/error.h>
#include <common/size.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/statvfs.h>

#define MIB          (G_GUINT64_CONSTANT(1) << 20)
#define DEFAULT_MOST (1024 * MIB)
#define DEFAULT_PART 100 /* of the file system */

#define HINT                                                                                                 \
  "Make room on the store's file system: forget points (cbt-backup prune), then cbt-backup gc. What "        \
  "changed "                                                                                                 \
  "meanwhile is in the next incremental."

struct StoreReserve {
  char *folder; /* constant, as the next two */
  guint64 bytes;
  guint64 step;
  atomic_ullong unchecked; /* written since the last check */
};

/* What others than root may use; FALSE if it does not tell. */
static gboolean
get_space(const char *folder, guint64 *available, guint64 *size)
{
  struct statvfs vfs;
  if (statvfs(folder, &vfs) != 0)
    return FALSE;
  *available = (guint64) vfs.f_bavail * vfs.f_frsize;
  *size = (guint64) vfs.f_blocks * vfs.f_frsize;
  return TRUE;
}

StoreReserve *
store_reserve_new(const char *folder, guint64 bytes)
{
  StoreReserve *reserve = g_new0(StoreReserve, 1);
  guint64 available, size = 0;
  reserve->folder = g_strdup(folder);
  reserve->bytes = bytes;
  if (bytes == STORE_RESERVE_DEFAULT)
    reserve->bytes =
        get_space(folder, &available, &size) ? MIN(DEFAULT_MOST, size / DEFAULT_PART) : DEFAULT_MOST;
  reserve->step = CLAMP(reserve->bytes / 16, MIB, 64 * MIB);
  return reserve;
}

void
store_reserve_free(StoreReserve *reserve)
{
  g_free(reserve->folder);
  g_free(reserve);
}

guint64
store_reserve_bytes(const StoreReserve *reserve)
{
  return reserve->bytes;
}

gboolean
store_reserve_check(StoreReserve *reserve, GError **error)
{
  guint64 available, size;
  if (reserve->bytes == 0 || !get_space(reserve->folder, &available, &size) || available >= reserve->bytes)
    return TRUE;
  g_autofree char *free_text = cbt_size_format(available);
  g_autofree char *reserve_text = cbt_size_format(reserve->bytes);
  cbt_set_error(error, CBT_ERROR_NO_SPACE,
                HINT " The reserve is the key 'reserve' of [store], or --store-reserve.",
                "%s has %s free, and %s of it are reserved", reserve->folder, free_text, reserve_text);
  return FALSE;
}

gboolean
store_reserve_note(StoreReserve *reserve, guint64 bytes, GError **error)
{
  guint64 before = atomic_fetch_add(&reserve->unchecked, bytes);
  if (before / reserve->step == (before + bytes) / reserve->step)
    return TRUE;
  return store_reserve_check(reserve, error);
}

void
store_reserve_explain(StoreReserve *reserve, GError **error)
{
  guint64 available, size;
  g_autofree char *own_hint = error && *error ? cbt_error_hint(*error) : NULL;
  if (!error || !g_error_matches(*error, CBT_ERROR, CBT_ERROR_NO_SPACE))
    return;
  /* It may have been another file system that was full. */
  if (!get_space(reserve->folder, &available, &size) || available > MAX(reserve->bytes, 16 * MIB))
    return;
  g_autofree char *free_text = cbt_size_format(available);
  g_autofree char *message = cbt_error_message(*error);
  g_autofree char *hint = g_strconcat(own_hint ? own_hint : "", own_hint ? " " : "", HINT, NULL);
  if (own_hint && strstr(own_hint, HINT))
    return;
  g_clear_error(error);
  cbt_set_error(error, CBT_ERROR_NO_SPACE, hint, "%s (%s has %s free)", message, reserve->folder, free_text);
}
