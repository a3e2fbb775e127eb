/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packs that end: sealing the open one before its time, or giving up what of it cannot be written, and taking
 * out those that hold nothing any more. A pack's number is not given to another one while the set is open, so
 * that nobody takes one for the other.
 */
#include <store/pack-private.h>

#include <common/error.h>
#include <errno.h>
#include <sys/statvfs.h>

gboolean
store_pack_seal(StorePackSet *set, GError **error)
{
  pthread_mutex_lock(&set->append_lock);
  gboolean ok = !set->open || set->table->len == 0 || store_pack_seal_open(set, error);
  pthread_mutex_unlock(&set->append_lock);
  return ok;
}

void
store_pack_list_unwritten(StorePackSet *set, StoreRecordFunc func, gpointer user_data)
{
  StoreRecordInfo info;
  StoreLocation location;
  pthread_mutex_lock(&set->append_lock);
  for (guint at = set->open ? set->table->len : 0; at > 0; at -= STORE_TABLE_ENTRY_SIZE) {
    const guint8 *entry = set->table->data + at - STORE_TABLE_ENTRY_SIZE;
    if (!store_table_entry_decode(entry, set->open->number, G_MAXUINT64, &info, &location) ||
        location.offset < set->open->written || !func(&info, &location, user_data))
      break;
  }
  pthread_mutex_unlock(&set->append_lock);
}

/* append_lock is held, and nobody writes. */
static void
empty_buffers(StorePackSet *set)
{
  pthread_mutex_lock(&set->buffer_lock);
  StorePackBuffer *last = store_pack_filling(set);
  set->total_bytes -= last->start + last->fill - set->open->written;
  set->n_written = set->n_filled;
  last->pack = 0;
  last->fill = 0;
  pthread_mutex_unlock(&set->buffer_lock);
  g_atomic_int_set(&set->has_full, 0);
}

/* A pack without its header is none. */
static gboolean
remove_headless(StorePackSet *set)
{
  g_autofree char *path = store_pack_path(set, set->open->number);
  if (set->ops->unlink(set->ops, path) != 0)
    return FALSE;
  pthread_mutex_lock(&set->buffer_lock);
  set->n_packs--;
  pthread_mutex_unlock(&set->buffer_lock);
  return TRUE;
}

/* What a write that failed has left behind is cut off. append_lock is held, and nobody writes. */
static gboolean
give_up_open(StorePackSet *set, GError **error)
{
  StorePackTail *tail = set->open;
  /* The next pack's records get the room that is still being filled. */
  store_pack_wait_until_filled(set, tail->number, 0, G_MAXUINT64);
  if (tail->written == 0 ? !remove_headless(set)
                         : set->ops->ftruncate(set->ops, tail->fd, (off_t) tail->written) != 0) {
    cbt_set_error_errno(error, errno, "cannot cut pack %08x", tail->number);
    return FALSE;
  }
  empty_buffers(set);
  set->open = NULL;
  if (tail->synced < tail->written)
    g_ptr_array_add(set->unsynced, tail);
  else
    store_pack_tail_unref(set, tail);
  return TRUE;
}

gboolean
store_pack_give_up(StorePackSet *set, GError **error)
{
  pthread_mutex_lock(&set->append_lock);
  while (set->is_writing)
    pthread_cond_wait(&set->written, &set->append_lock);
  gboolean ok = !set->open || give_up_open(set, error);
  pthread_mutex_unlock(&set->append_lock);
  return ok;
}

gboolean
store_pack_size(StorePackSet *set, guint32 number, guint64 *size, GError **error)
{
  g_autofree char *path = store_pack_path(set, number);
  struct stat st;
  if (stat(path, &st) == 0) {
    *size = (guint64) st.st_size;
    return TRUE;
  }
  cbt_set_error_errno(error, errno, "cannot look at %s", path);
  return FALSE;
}

guint64
store_pack_room(StorePackSet *set)
{
  struct statvfs space;
  return statvfs(set->folder, &space) == 0 ? (guint64) space.f_bavail * space.f_frsize : G_MAXUINT64;
}

/* Its bytes need not become durable any more, and no descriptor may keep them on the disk. */
static void
forget_tail(StorePackSet *set, guint32 number)
{
  pthread_mutex_lock(&set->append_lock);
  for (guint i = set->unsynced->len; i-- > 0;) {
    StorePackTail *tail = g_ptr_array_index(set->unsynced, i);
    if (tail->number != number)
      continue;
    g_ptr_array_remove_index(set->unsynced, i);
    store_pack_tail_unref(set, tail);
  }
  set->folder_is_dirty = TRUE;
  pthread_mutex_unlock(&set->append_lock);
}

gboolean
store_pack_remove(StorePackSet *set, guint32 number, GError **error)
{
  g_autofree char *path = store_pack_path(set, number);
  guint64 size;
  if (!store_pack_size(set, number, &size, error))
    return FALSE;
  if (set->ops->unlink(set->ops, path) != 0) {
    cbt_set_error_errno(error, errno, "cannot remove %s", path);
    return FALSE;
  }
  forget_tail(set, number);
  store_pack_fd_forget(set, number);
  pthread_mutex_lock(&set->buffer_lock);
  set->n_packs--;
  set->total_bytes -= MIN(size, set->total_bytes);
  pthread_mutex_unlock(&set->buffer_lock);
  return TRUE;
}
