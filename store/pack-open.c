/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a set of packs, recovering the last one, closing.
 *
 * An unsealed last pack is walked, and cut behind its last good record: what stands there is a torn write.
 * Damage with good records behind it is no torn write; it is left alone.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static gboolean
recover_entry(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  store_pack_note_in_table(user_data, info, location);
  return TRUE;
}

/* 0 if its header is not sound. */
static guint32
version_of(StorePackSet *set, int fd, guint32 number)
{
  guint8 header[STORE_PACK_HEADER_SIZE];
  if (cbt_file_pread_full(set->ops, fd, header, sizeof header, 0) != (gssize) sizeof header)
    return 0;
  return store_pack_header_decode(header, &set->store, number);
}

/* The last pack has no sound table. *keep gets the bytes that stay, or 0 if nothing is appended to it any
 * more, because its header is damaged. */
static gboolean
recover_tail(StorePackSet *set, int fd, guint32 number, guint64 size, guint64 *keep)
{
  *keep = 0;
  if (version_of(set, fd, number) == 0)
    return TRUE;
  StorePackWalk walk;
  if (!store_pack_walk(set, fd, number, STORE_PACK_HEADER_SIZE, size, recover_entry, set, &walk))
    return FALSE;
  /* The last record's padding may be missing. */
  *keep = MIN(walk.end, size);
  guint64 padded = cbt_round_up(*keep, STORE_PACK_ALIGN);
  if (size != padded && set->ops->ftruncate(set->ops, fd, (off_t) padded) != 0)
    return FALSE;
  *keep = padded;
  return TRUE;
}

/*
 * A process that was killed may have left sealed packs that the kernel has and the disk has not. There are no
 * more than the appender lets wait; the next flush sees to them.
 */
static void
distrust_recent(StorePackSet *set, guint32 number, guint64 size)
{
  g_autofree char *path = store_pack_path(set, number);
  int fd = set->ops->open(set->ops, path, O_RDWR, 0);
  if (fd < 0)
    return;
  g_ptr_array_add(set->unsynced, store_pack_tail_new(number, 0, fd, size));
}

/* Decides what becomes of the last pack: sealed ones stay, an unsealed one is recovered and opened. */
static gboolean
open_last(StorePackSet *set, guint32 number, int fd, guint64 size, gboolean *taken)
{
  StorePackFooter footer;
  guint64 keep = 0;
  *taken = FALSE;
  if (store_pack_read_footer(set, fd, number, size, &footer)) {
    distrust_recent(set, number, size);
    return TRUE;
  }
  if (!recover_tail(set, fd, number, size, &keep))
    return FALSE;
  if (keep == 0)
    return TRUE;
  set->total_bytes = set->total_bytes - size + keep;
  store_pack_tail_begin(set, number, version_of(set, fd, number), fd, keep);
  *taken = TRUE;
  return TRUE;
}

static gboolean
recover_last(StorePackSet *set, guint32 number, GError **error)
{
  g_autofree char *path = store_pack_path(set, number);
  struct stat st;
  gboolean taken = FALSE;
  int fd = set->ops->open(set->ops, path, O_RDWR, 0);
  gboolean ok = fd >= 0 && fstat(fd, &st) == 0 && open_last(set, number, fd, (guint64) st.st_size, &taken);
  int errsv = errno;
  if (fd >= 0 && !taken)
    set->ops->close(set->ops, fd);
  if (!ok)
    cbt_set_error_errno(error, errsv, "cannot open %s", path);
  return ok;
}

/* A crash right after a pack was made leaves a file without even a header: it never was a pack. */
static gboolean
drop_if_empty(StorePackSet *set, const char *path, guint64 size)
{
  return size < STORE_PACK_HEADER_SIZE && set->ops->unlink(set->ops, path) == 0;
}

static gboolean
count_packs(StorePackSet *set, guint32 *last, GError **error)
{
  g_autoptr(GArray) numbers = store_pack_list(set, error);
  if (!numbers)
    return FALSE;
  *last = 0;
  for (guint i = 0; i < numbers->len; i++) {
    guint32 number = g_array_index(numbers, guint32, i);
    g_autofree char *path = store_pack_path(set, number);
    struct stat st;
    if (stat(path, &st) != 0)
      continue;
    if (i + 1 == numbers->len && drop_if_empty(set, path, (guint64) st.st_size))
      continue;
    set->n_packs++;
    set->total_bytes += (guint64) st.st_size;
    *last = number;
    if (i + STORE_PACK_UNSYNCED + 2 >= numbers->len && i + 1 < numbers->len)
      distrust_recent(set, number, (guint64) st.st_size);
  }
  return TRUE;
}

StorePackSet *
store_pack_set_open(const CbtFileOps *ops, const char *folder, const CbtUuid *store_uuid, guint64 pack_size,
                    GError **error)
{
  g_autoptr(StorePackSet) set = g_new0(StorePackSet, 1);
  set->ops = ops ? ops : cbt_file_ops_default();
  set->folder = g_strdup(folder);
  set->store = *store_uuid;
  set->version = STORE_PACK_VERSION;
  set->pack_size = MIN(pack_size ? pack_size : STORE_PACK_SIZE_DEFAULT, (guint64) STORE_PACK_OFFSET_MAX);
  set->unsynced = g_ptr_array_new();
  set->table = g_byte_array_new();
  pthread_mutex_init(&set->flush_lock, NULL);
  pthread_mutex_init(&set->append_lock, NULL);
  pthread_cond_init(&set->written, NULL);
  pthread_cond_init(&set->filled, NULL);
  pthread_mutex_init(&set->buffer_lock, NULL);
  pthread_mutex_init(&set->fd_lock, NULL);
  guint32 last = 0;
  if (!count_packs(set, &last, error))
    return NULL;
  set->next_number = last + 1;
  set->folder_is_dirty = TRUE;
  if (last > 0 && !recover_last(set, last, error))
    return NULL;
  return g_steal_pointer(&set);
}

void
store_pack_set_version(StorePackSet *set, guint32 version)
{
  pthread_mutex_lock(&set->append_lock);
  set->version = version;
  pthread_mutex_unlock(&set->append_lock);
}

void
store_pack_set_close(StorePackSet *set)
{
  if (!set)
    return;
  if (!store_pack_write(set, NULL))
    g_debug("%s: what was not flushed is lost", set->folder);
  if (set->open)
    store_pack_tail_unref(set, set->open);
  for (guint i = 0; i < set->unsynced->len; i++)
    store_pack_tail_unref(set, g_ptr_array_index(set->unsynced, i));
  store_pack_fds_clear(set);
  g_ptr_array_unref(set->unsynced);
  g_byte_array_unref(set->table);
  pthread_mutex_destroy(&set->flush_lock);
  pthread_mutex_destroy(&set->append_lock);
  pthread_cond_destroy(&set->written);
  pthread_cond_destroy(&set->filled);
  pthread_mutex_destroy(&set->buffer_lock);
  pthread_mutex_destroy(&set->fd_lock);
  for (guint i = 0; i < STORE_PACK_BUFFERS; i++)
    g_aligned_free(set->buffers[i].bytes);
  g_free(set->folder);
  g_free(set);
}
