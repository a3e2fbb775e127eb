/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading records: from the appender's buffers while they are there, else from the file, through a bounded
 * cache of open packs. A cached descriptor is closed only while nobody uses it; when all are in use, one more
 * is opened for the time.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <store/group.h>

static int
open_pack(const StorePackSet *set, guint32 number)
{
  g_autofree char *path = store_pack_path(set, number);
  return set->ops->open(set->ops, path, O_RDONLY, 0);
}

/* The slot that has NUMBER, or else the one to reuse; NULL if all are in use. fd_lock is held. */
static StorePackFd *
find_slot(StorePackSet *set, guint32 number)
{
  StorePackFd *oldest = NULL;
  for (guint i = 0; i < STORE_PACK_FDS; i++) {
    StorePackFd *slot = &set->fds[i];
    if (slot->number == number)
      return slot;
    if (slot->n_users == 0 && (!oldest || slot->last_use < oldest->last_use))
      oldest = slot;
  }
  return oldest;
}

static gboolean
fill_slot(StorePackSet *set, StorePackFd *slot, guint32 number)
{
  if (slot->number == number)
    return TRUE;
  int fd = open_pack(set, number);
  if (fd < 0)
    return FALSE;
  if (slot->number != 0)
    set->ops->close(set->ops, slot->fd);
  *slot = (StorePackFd){.number = number, .fd = fd};
  return TRUE;
}

int
store_pack_fd_acquire(StorePackSet *set, guint32 number, StorePackFd **used)
{
  *used = NULL;
  if (number == 0) { /* marks a slot without a pack; no pack has it, but a damaged index may name it */
    errno = ENOENT;
    return -1;
  }
  pthread_mutex_lock(&set->fd_lock);
  StorePackFd *slot = find_slot(set, number);
  int fd = -1;
  if (slot && fill_slot(set, slot, number)) {
    slot->n_users++;
    slot->last_use = ++set->fd_clock;
    fd = slot->fd;
  } else if (!slot) {
    fd = open_pack(set, number);
  }
  pthread_mutex_unlock(&set->fd_lock);
  *used = slot;
  return fd;
}

void
store_pack_fd_release(StorePackSet *set, int fd, StorePackFd *slot)
{
  if (!slot) {
    set->ops->close(set->ops, fd);
    return;
  }
  pthread_mutex_lock(&set->fd_lock);
  if (--slot->n_users == 0 && slot->number == 0)
    set->ops->close(set->ops, fd);
  pthread_mutex_unlock(&set->fd_lock);
}

void
store_pack_fd_forget(StorePackSet *set, guint32 number)
{
  g_return_if_fail(number != 0);
  pthread_mutex_lock(&set->fd_lock);
  for (guint i = 0; i < STORE_PACK_FDS; i++) {
    StorePackFd *slot = &set->fds[i];
    if (slot->number != number)
      continue;
    slot->number = 0;
    if (slot->n_users == 0)
      set->ops->close(set->ops, slot->fd);
  }
  pthread_mutex_unlock(&set->fd_lock);
}

void
store_pack_fds_clear(StorePackSet *set)
{
  for (guint i = 0; i < STORE_PACK_FDS; i++)
    if (set->fds[i].number != 0)
      set->ops->close(set->ops, set->fds[i].fd);
}

/* The buffer that has the record at OFFSET of PACK; NULL: the file has it. buffer_lock is held. */
static const StorePackBuffer *
find_buffer(const StorePackSet *set, guint32 pack, guint32 offset)
{
  for (guint64 i = set->n_written; i <= set->n_filled; i++) {
    const StorePackBuffer *buffer = &set->buffers[i % STORE_PACK_BUFFERS];
    if (buffer->pack == pack && offset >= buffer->start && offset < buffer->start + buffer->fill)
      return buffer;
  }
  return NULL;
}

/* Copies up to LENGTH bytes of a record that is not written out yet, as far as its buffer goes; waits for who
 * fills them. -1: it is in none. */
static gssize
read_buffered(StorePackSet *set, guint32 pack, guint32 offset, void *bytes, gsize length)
{
  gssize n = -1;
  pthread_mutex_lock(&set->buffer_lock);
  const StorePackBuffer *buffer = find_buffer(set, pack, offset);
  while (buffer && store_pack_is_filling(set, pack, offset, offset + length)) {
    pthread_cond_wait(&set->filled, &set->buffer_lock);
    buffer = find_buffer(set, pack, offset);
  }
  if (buffer) {
    n = (gssize) MIN(length, (gsize) (buffer->start + buffer->fill - offset));
    memcpy(bytes, store_pack_buffer_at(buffer, offset), (gsize) n);
  }
  pthread_mutex_unlock(&set->buffer_lock);
  return n;
}

static gboolean
read_bytes(StorePackSet *set, const StoreLocation *location, void *bytes, gsize length, gsize *n_read,
           GError **error)
{
  gssize n = read_buffered(set, location->pack, location->offset, bytes, length);
  if (n < 0) {
    StorePackFd *slot;
    int fd = store_pack_fd_acquire(set, location->pack, &slot);
    if (fd >= 0) {
      n = cbt_file_pread_full(set->ops, fd, bytes, length, location->offset);
      int errsv = errno;
      store_pack_fd_release(set, fd, slot);
      errno = errsv;
    }
  }
  if (n < 0) {
    cbt_set_error_errno(error, errno, "cannot read pack %08x at %u", location->pack, location->offset);
    return FALSE;
  }
  *n_read = (gsize) n;
  return TRUE;
}

static gboolean
fail_corrupt(const StoreLocation *location, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "pack %08x is damaged at %u", location->pack,
                location->offset);
  return FALSE;
}

gboolean
store_pack_read(StorePackSet *set, const StoreLocation *location, StoreRecordInfo *info, void *buffer,
                const guint8 **payload, gsize *payload_length, GError **error)
{
  gsize n = 0;
  guint32 length = 0;
  gsize wanted = CLAMP(location->length, STORE_RECORD_HEADER_SIZE, STORE_PACK_READ_SIZE);
  if (!read_bytes(set, location, buffer, wanted, &n, error))
    return FALSE;
  if (n < STORE_RECORD_HEADER_SIZE ||
      !store_record_header_decode(buffer, location->pack, location->offset, info, &length))
    return fail_corrupt(location, error);
  *payload_length = length;
  if (info->encoding == STORE_ENCODING_GROUP)
    return TRUE;
  if (STORE_RECORD_HEADER_SIZE + length > n || !store_record_is_sound(buffer, &set->store, length))
    return fail_corrupt(location, error);
  *payload = (const guint8 *) buffer + STORE_RECORD_HEADER_SIZE;
  return TRUE;
}

/* The header at LOCATION, if it is a group's. */
static gboolean
read_group_header(StorePackSet *set, const StoreLocation *location, StoreRecordInfo *info, guint32 *length,
                  GError **error)
{
  guint8 header[STORE_RECORD_HEADER_SIZE];
  gsize n = 0;
  if (!read_bytes(set, location, header, sizeof header, &n, error))
    return FALSE;
  return (n == sizeof header &&
          store_record_header_decode(header, location->pack, location->offset, info, length) &&
          info->encoding == STORE_ENCODING_GROUP) ||
         fail_corrupt(location, error);
}

const guint8 *
store_pack_read_group(StorePackSet *set, const StoreLocation *location, StoreRecordInfo *info,
                      GByteArray *record, gsize *payload_length, GError **error)
{
  guint32 length;
  gsize n = 0;
  if (!read_group_header(set, location, info, &length, error))
    return NULL;
  g_byte_array_set_size(record, STORE_RECORD_HEADER_SIZE + length);
  if (!read_bytes(set, location, record->data, record->len, &n, error))
    return NULL;
  const guint8 *payload = record->data + STORE_RECORD_HEADER_SIZE;
  if (n < record->len || !store_record_is_sound(record->data, &set->store, length) ||
      !store_group_ids_are_possible(payload, store_group_count(info->length))) {
    fail_corrupt(location, error);
    return NULL;
  }
  *payload_length = length;
  return payload;
}

/* Reads the group at LOCATION into LAST, unless it is there. */
static gboolean
see_group(StorePackSet *set, const StoreLocation *location, StorePackGroup *last)
{
  StoreRecordInfo info;
  gsize length;
  if (last->at.pack == location->pack && last->at.offset == location->offset)
    return TRUE;
  g_autoptr(GByteArray) record = g_byte_array_new();
  const guint8 *group = store_pack_read_group(set, location, &info, record, &length, NULL);
  if (!group)
    return FALSE;
  last->at = *location;
  last->n = store_group_count(info.length);
  memcpy(last->ids, group, last->n * STORE_CHUNK_ID_SIZE);
  return TRUE;
}

gboolean
store_pack_has(StorePackSet *set, const StoreLocation *location, const StoreChunkId *id, StorePackGroup *last)
{
  StoreRecordInfo info;
  const guint8 *payload;
  gsize length;
  g_autofree guint8 *buffer = g_malloc(STORE_PACK_READ_SIZE);
  if (!store_pack_read(set, location, &info, buffer, &payload, &length, NULL))
    return FALSE;
  if (info.encoding != STORE_ENCODING_GROUP)
    return store_chunk_id_equal(&info.id, id);
  return see_group(set, location, last) && store_group_find(last->ids, last->n, id) >= 0;
}

gboolean
store_pack_read_info(StorePackSet *set, const StoreLocation *location, const StoreChunkId *id,
                     StoreRecordInfo *info, GError **error)
{
  guint8 bytes[STORE_RECORD_HEADER_SIZE + STORE_GROUP_CHUNKS_MAX * STORE_CHUNK_ID_SIZE];
  const guint8 *ids = bytes + STORE_RECORD_HEADER_SIZE;
  gsize n = 0;
  guint32 length = 0;
  if (!read_bytes(set, location, bytes, sizeof bytes, &n, error))
    return FALSE;
  if (n < STORE_RECORD_HEADER_SIZE ||
      !store_record_header_decode(bytes, location->pack, location->offset, info, &length))
    return fail_corrupt(location, error);
  if (info->encoding != STORE_ENCODING_GROUP)
    return STORE_RECORD_HEADER_SIZE + length <= location->length || fail_corrupt(location, error);
  guint n_ids = store_group_count(info->length);
  if (n < STORE_RECORD_HEADER_SIZE + (gsize) n_ids * STORE_CHUNK_ID_SIZE)
    return fail_corrupt(location, error);
  int i = store_group_find(ids, n_ids, id);
  if (i >= 0)
    *info = store_group_chunk(ids, (guint) i);
  return TRUE;
}
