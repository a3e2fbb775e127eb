/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making packs durable.
 *
 * A sync that fails may have made the kernel forget dirty pages while it still shows their content, and a
 * second sync would then succeed wrongly. So what was not durable by then is suspect: the next flush writes
 * it again from what can be read, provided that every record of it is sound.
 *
 * Appending goes on while the syncs run: a flush answers for what was written when it began.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>

/* What a flush has to sync: a tail as it was when the flush began. */
typedef struct {
  StorePackTail *tail;
  guint64 written;
  guint n_failures;
  gboolean is_suspect;
} Target;

static void
add_target(GArray *targets, StorePackTail *tail)
{
  if (tail->synced == tail->written)
    return;
  tail->n_refs++;
  Target target = {tail, tail->written, tail->n_failures, tail->is_suspect};
  g_array_append_val(targets, target);
}

static gboolean
rewrite(StorePackSet *set, int fd, guint64 from, guint64 to)
{
  gsize window = 1 << 20;
  g_autofree guint8 *bytes = g_malloc(window);
  while (from < to) {
    gsize length = (gsize) MIN((guint64) window, to - from);
    if (cbt_file_pread_full(set->ops, fd, bytes, length, from) != (gssize) length ||
        !cbt_file_pwrite_full(set->ops, fd, bytes, length, from))
      return FALSE;
    from += length;
  }
  return TRUE;
}

/* Writes a suspect tail's bytes again if they are all still good. */
static gboolean
rewrite_suspect(StorePackSet *set, const Target *target, GError **error)
{
  const StorePackTail *tail = target->tail;
  guint64 limit = target->written;
  StorePackFooter footer;
  if (store_pack_read_footer(set, tail->fd, tail->number, limit, &footer))
    limit = footer.table_offset;
  StorePackWalk walk;
  guint64 from = MAX(tail->synced, (guint64) STORE_PACK_HEADER_SIZE);
  if (store_pack_walk(set, tail->fd, tail->number, MIN(from, limit), limit, NULL, NULL, &walk) &&
      walk.n_damaged == 0 && rewrite(set, tail->fd, tail->synced, target->written))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_IO, "Look at the store's disk in the kernel log.",
                "pack %08x lost bytes that could not be written", tail->number);
  return FALSE;
}

static gboolean
flush_target(StorePackSet *set, const Target *target, GError **error)
{
  return (!target->is_suspect || rewrite_suspect(set, target, error)) &&
         store_pack_tail_sync(set, target->tail, error);
}

/* Notes the outcome of a sync; append_lock is held. FALSE if another sync of the same pack failed meanwhile.
 */
static gboolean
settle_target(StorePackSet *set, const Target *target, gboolean ok, GError **error)
{
  StorePackTail *tail = target->tail;
  if (ok && tail->n_failures != target->n_failures) {
    cbt_set_error(error, CBT_ERROR_IO, NULL, "pack %08x could not be made durable", tail->number);
    ok = FALSE;
  } else if (!ok) {
    tail->n_failures++;
  }
  tail->is_suspect = !ok;
  if (ok)
    tail->synced = MAX(tail->synced, target->written);
  gboolean is_done = tail != set->open && tail->synced == tail->written;
  gboolean is_listed = g_ptr_array_find(set->unsynced, tail, NULL);
  if (is_done && is_listed) {
    g_ptr_array_remove(set->unsynced, tail);
    store_pack_tail_unref(set, tail);
  } else if (!ok && tail != set->open && !is_listed) {
    tail->n_refs++;
    g_ptr_array_add(set->unsynced, tail);
  }
  store_pack_tail_unref(set, tail);
  return ok;
}

static gboolean
collect_targets(StorePackSet *set, GArray *targets, gboolean *folder_is_dirty, GError **error)
{
  pthread_mutex_lock(&set->append_lock);
  gboolean ok = store_pack_write_out(set, error);
  if (ok) {
    for (guint i = 0; i < set->unsynced->len; i++)
      add_target(targets, g_ptr_array_index(set->unsynced, i));
    if (set->open)
      add_target(targets, set->open);
    *folder_is_dirty = set->folder_is_dirty;
    set->folder_is_dirty = FALSE;
  }
  pthread_mutex_unlock(&set->append_lock);
  return ok;
}

static gboolean
flush_folder(StorePackSet *set, GError **error)
{
  if (set->ops->fsync_dir(set->ops, set->folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", set->folder);
  pthread_mutex_lock(&set->append_lock);
  set->folder_is_dirty = TRUE;
  pthread_mutex_unlock(&set->append_lock);
  return FALSE;
}

static gboolean
flush_locked(StorePackSet *set, GError **error)
{
  g_autoptr(GArray) targets = g_array_new(FALSE, FALSE, sizeof(Target));
  gboolean folder_is_dirty = FALSE;
  if (!collect_targets(set, targets, &folder_is_dirty, error))
    return FALSE;
  gboolean ok = TRUE;
  for (guint i = 0; i < targets->len; i++) {
    const Target *target = &g_array_index(targets, Target, i);
    gboolean synced = flush_target(set, target, ok ? error : NULL);
    pthread_mutex_lock(&set->append_lock);
    ok = settle_target(set, target, synced, ok && synced ? error : NULL) && ok;
    pthread_mutex_unlock(&set->append_lock);
  }
  return (!folder_is_dirty || flush_folder(set, ok ? error : NULL)) && ok;
}

gboolean
store_pack_flush(StorePackSet *set, GError **error)
{
  pthread_mutex_lock(&set->flush_lock);
  gboolean ok = flush_locked(set, error);
  pthread_mutex_unlock(&set->flush_lock);
  return ok;
}
