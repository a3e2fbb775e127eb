/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing what was appended into the packs' files.
 *
 * One buffer is filled; those that are full are written in their order, one at a time, with no lock held: the
 * others go on appending meanwhile. Who flushes does so, or calls store_pack_write_behind(); who appends only
 * when no buffer is free. Records never straddle buffers, so each is in one
 * of them or in the file as a whole. All are of one pack: it is sealed when everything of it is written.
 *
 * Whole blocks of a full buffer are written past the page cache: copying them through it took a seventh of
 * the processors' time of a full backup, and pushed out what others had there. What is behind the last whole
 * block goes through it, and once more with the block, when that is whole. The rest of a flush, often less
 * than a buffer, goes the same way; where direct writes are refused, all of it goes through the page cache.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>

#define DIRECT_MIN (256u << 10) /* less is not worth waiting for the disk */

/* ---- buffers ---- */

StorePackBuffer *
store_pack_filling(StorePackSet *set)
{
  return &set->buffers[set->n_filled % STORE_PACK_BUFFERS];
}

guint8 *
store_pack_buffer_at(const StorePackBuffer *buffer, guint64 offset)
{
  return buffer->bytes + (offset - cbt_round_down(buffer->start, STORE_PACK_BLOCK));
}

void
store_pack_buffer_begin(StorePackSet *set, guint32 pack, guint64 start)
{
  StorePackBuffer *buffer = store_pack_filling(set);
  pthread_mutex_lock(&set->buffer_lock);
  if (!buffer->bytes)
    buffer->bytes = g_aligned_alloc(1, STORE_PACK_BLOCK + STORE_PACK_BUFFER_SIZE, STORE_PACK_BLOCK);
  buffer->pack = pack;
  buffer->start = start;
  buffer->fill = 0;
  buffer->n_before = 0;
  pthread_mutex_unlock(&set->buffer_lock);
}

gboolean
store_pack_is_filling(const StorePackSet *set, guint32 pack, guint64 from, guint64 to)
{
  for (const StorePackSlot *slot = set->filling; slot; slot = slot->next) {
    guint64 end = (guint64) slot->location.offset + store_record_span(slot->payload_length);
    if (slot->location.pack == pack && slot->location.offset < to && from < end)
      return TRUE;
  }
  return FALSE;
}

void
store_pack_wait_until_filled(StorePackSet *set, guint32 pack, guint64 from, guint64 to)
{
  pthread_mutex_lock(&set->buffer_lock);
  while (store_pack_is_filling(set, pack, from, to))
    pthread_cond_wait(&set->filled, &set->buffer_lock);
  pthread_mutex_unlock(&set->buffer_lock);
}

/* What is in the block in which NEXT begins comes with it, if it is known. */
static void
copy_before(const StorePackBuffer *full, StorePackBuffer *next)
{
  gsize wanted = next->start % STORE_PACK_BLOCK;
  if (full->n_before + full->fill < wanted)
    return;
  memcpy(next->bytes, store_pack_buffer_at(full, next->start - wanted), wanted);
  next->n_before = wanted;
}

gboolean
store_pack_turn_over(StorePackSet *set)
{
  const StorePackBuffer *full = store_pack_filling(set);
  if (set->n_filled - set->n_written == STORE_PACK_BUFFERS - 1)
    return FALSE;
  pthread_mutex_lock(&set->buffer_lock);
  set->n_filled++;
  pthread_mutex_unlock(&set->buffer_lock);
  store_pack_buffer_begin(set, full->pack, full->start + full->fill);
  g_atomic_int_set(&set->has_full, 1);
  return TRUE;
}

/* ---- writing ---- */

static gboolean
open_direct(const StorePackSet *set, StorePackTail *tail)
{
  g_autofree char *path = store_pack_path(set, tail->number);
  if (tail->direct_fd < 0 && !tail->is_refused)
    tail->direct_fd = set->ops->open(set->ops, path, O_RDWR | O_DIRECT, 0);
  tail->is_refused = tail->direct_fd < 0;
  return !tail->is_refused;
}

/* Writes the whole blocks of BUFFER; *from gets where the rest begins. */
static gboolean
write_blocks(const StorePackSet *set, StorePackTail *tail, const StorePackBuffer *buffer, guint64 *from)
{
  guint64 first = cbt_round_down(buffer->start, STORE_PACK_BLOCK);
  guint64 end = cbt_round_down(buffer->start + buffer->fill, STORE_PACK_BLOCK);
  *from = buffer->start;
  if (buffer->fill < DIRECT_MIN || buffer->n_before != buffer->start - first || !open_direct(set, tail))
    return TRUE;
  if (cbt_file_pwrite_full(set->ops, tail->direct_fd, buffer->bytes, end - first, first)) {
    *from = end;
    return TRUE;
  }
  tail->is_refused = errno == EINVAL; /* some file systems say so only now */
  if (tail->is_refused)
    set->ops->close(set->ops, cbt_steal_fd(&tail->direct_fd));
  return tail->is_refused;
}

static gboolean
write_buffer(const StorePackSet *set, StorePackTail *tail, const StorePackBuffer *buffer, GError **error)
{
  guint64 from, end = buffer->start + buffer->fill;
  if (write_blocks(set, tail, buffer, &from) &&
      cbt_file_pwrite_full(set->ops, tail->fd, store_pack_buffer_at(buffer, from), end - from, from))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write pack %08x at %" G_GUINT64_FORMAT, tail->number,
                      buffer->start);
  return FALSE;
}

/* append_lock is held, but for the write. All full buffers are of the open pack, which nobody seals
 * meanwhile. */
static gboolean
write_oldest(StorePackSet *set, GError **error)
{
  StorePackBuffer *buffer = &set->buffers[set->n_written % STORE_PACK_BUFFERS];
  StorePackTail *tail = set->open;
  set->is_writing = TRUE;
  pthread_mutex_unlock(&set->append_lock);
  store_pack_wait_until_filled(set, buffer->pack, buffer->start, buffer->start + buffer->fill);
  gboolean ok = write_buffer(set, tail, buffer, error);
  if (ok)
    copy_before(buffer, &set->buffers[(set->n_written + 1) % STORE_PACK_BUFFERS]);
  pthread_mutex_lock(&set->append_lock);
  set->is_writing = FALSE;
  if (ok) {
    tail->written = buffer->start + buffer->fill;
    pthread_mutex_lock(&set->buffer_lock);
    set->n_written++;
    pthread_mutex_unlock(&set->buffer_lock);
  }
  g_atomic_int_set(&set->has_full, ok && set->n_filled > set->n_written);
  pthread_cond_broadcast(&set->written);
  return ok;
}

gboolean
store_pack_write_full(StorePackSet *set, guint64 count, GError **error)
{
  guint64 end = MIN(set->n_written + count, set->n_filled);
  while (set->n_written < end) {
    if (set->is_writing)
      pthread_cond_wait(&set->written, &set->append_lock);
    else if (!write_oldest(set, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
store_pack_write_out(StorePackSet *set, GError **error)
{
  while (set->open && store_pack_filling(set)->fill > 0 && !store_pack_turn_over(set))
    if (!store_pack_write_full(set, 1, error))
      return FALSE;
  return store_pack_write_full(set, STORE_PACK_BUFFERS, error);
}

gboolean
store_pack_write(StorePackSet *set, GError **error)
{
  pthread_mutex_lock(&set->append_lock);
  gboolean ok = store_pack_write_out(set, error);
  pthread_mutex_unlock(&set->append_lock);
  return ok;
}

guint64
store_pack_unwritten_bytes(StorePackSet *set)
{
  guint64 bytes = 0;
  pthread_mutex_lock(&set->buffer_lock);
  for (guint64 i = set->n_written; i <= set->n_filled; i++)
    bytes += set->buffers[i % STORE_PACK_BUFFERS].fill;
  pthread_mutex_unlock(&set->buffer_lock);
  return bytes;
}

gboolean
store_pack_is_behind(StorePackSet *set)
{
  return g_atomic_int_get(&set->has_full) != 0;
}

void
store_pack_write_behind(StorePackSet *set)
{
  g_autoptr(GError) error = NULL;
  if (!store_pack_is_behind(set))
    return;
  pthread_mutex_lock(&set->append_lock);
  if (!set->is_writing && !store_pack_write_full(set, STORE_PACK_BUFFERS, &error))
    g_debug("%s", error->message); /* who needs the room, or flushes, tries again and tells */
  pthread_mutex_unlock(&set->append_lock);
}
