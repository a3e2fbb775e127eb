/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Appending to packs.
 *
 * Validity rule: a record is valid if its header names its own place and its checksum fits; nothing else
 * makes it so. The table of contents of a sealed pack saves reading the records, and is used if footer and
 * table are sound.
 *
 * Write order: records go into a buffer, from where they are readable at once, and are written in order when
 * it is full or a flush asks (pack-write.c). A record has its place before its bytes, which are copied with
 * no lock held: whoever wants them meanwhile waits. A flush writes the buffers, syncs every pack written to
 * since the last flush, then the folder if a pack was made. Only then may anything refer to the records
 * durably. So after a crash all that was flushed is there, and behind it perhaps more records, the last one
 * perhaps torn: opening cuts there.
 *
 * Failures: a write that fails (disk full) leaves the buffer as it is; the same bytes are written to the same
 * place when it is tried again, and the record that finds no room meanwhile does not exist. For syncs that
 * fail see pack-flush.c.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <store/group.h>
#include <sys/stat.h>

_Static_assert(STORE_PACK_BUFFER_SIZE >= STORE_PACK_HEADER_SIZE + STORE_RECORD_SIZE_MAX + STORE_PACK_ALIGN,
               "the first record of a pack fits the buffer");
_Static_assert(STORE_PACK_BUFFER_SIZE >= STORE_PACK_HEADER_SIZE + STORE_RECORD_HEADER_SIZE +
                                             STORE_GROUP_PAYLOAD_MAX + STORE_PACK_ALIGN,
               "and so does a group");
_Static_assert(STORE_PACK_READ_SIZE >= STORE_RECORD_SIZE_MAX + 32, "a rounded length fits the read buffer");

#define TABLE_SIZE_MAX (16u << 20) /* bytes: half a million chunks */

char *
store_pack_path(const StorePackSet *set, guint32 number)
{
  return g_strdup_printf("%s/%08x.pack", set->folder, number);
}

void
store_pack_tail_unref(StorePackSet *set, StorePackTail *tail)
{
  if (--tail->n_refs > 0)
    return;
  set->ops->close(set->ops, tail->fd);
  if (tail->direct_fd >= 0)
    set->ops->close(set->ops, tail->direct_fd);
  g_free(tail);
}

StorePackTail *
store_pack_tail_new(guint32 number, guint32 version, int fd, guint64 written)
{
  StorePackTail *tail = g_new0(StorePackTail, 1);
  *tail = (StorePackTail){.number = number, .version = version, .fd = fd, .direct_fd = -1, .n_refs = 1};
  tail->written = written;
  return tail;
}

void
store_pack_tail_begin(StorePackSet *set, guint32 number, guint32 version, int fd, guint64 written)
{
  set->open = store_pack_tail_new(number, version, fd, written);
  store_pack_buffer_begin(set, number, written);
}

/* --- writing; append_lock is held --- */

static void
buffer_add(StorePackSet *set, gsize length)
{
  pthread_mutex_lock(&set->buffer_lock);
  store_pack_filling(set)->fill += length;
  set->total_bytes += length;
  pthread_mutex_unlock(&set->buffer_lock);
}

static gboolean
begin_pack(StorePackSet *set, GError **error)
{
  if (set->next_number > STORE_PACK_NUMBER_MAX) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "%s has no pack numbers left", set->folder);
    return FALSE;
  }
  g_autofree char *path = store_pack_path(set, set->next_number);
  int fd = set->ops->open(set->ops, path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot make %s", path);
    return FALSE;
  }
  set->folder_is_dirty = TRUE;
  store_pack_tail_begin(set, set->next_number++, set->version, fd, 0);
  g_byte_array_set_size(set->table, 0);
  store_pack_header_encode(set->version, &set->store, set->open->number, store_pack_filling(set)->bytes);
  buffer_add(set, STORE_PACK_HEADER_SIZE);
  pthread_mutex_lock(&set->buffer_lock);
  set->n_packs++;
  pthread_mutex_unlock(&set->buffer_lock);
  return TRUE;
}

/* Syncs one tail; called with append_lock held or with a reference and flush_lock. The outcome is noted by
 * the caller. */
gboolean
store_pack_tail_sync(StorePackSet *set, const StorePackTail *tail, GError **error)
{
  if (set->ops->fdatasync(set->ops, tail->fd) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make pack %08x durable", tail->number);
  return FALSE;
}

/* Too many sealed packs wait for a flush: makes the oldest durable, so that descriptors and dirty memory stay
 * bounded. */
static void
relieve_unsynced(StorePackSet *set)
{
  while (set->unsynced->len > STORE_PACK_UNSYNCED) {
    StorePackTail *tail = g_ptr_array_index(set->unsynced, 0);
    if (tail->is_suspect)
      return; /* the next flush tells */
    if (!store_pack_tail_sync(set, tail, NULL)) {
      tail->n_failures++;
      tail->is_suspect = TRUE;
      return;
    }
    tail->synced = tail->written;
    g_ptr_array_remove_index(set->unsynced, 0);
    store_pack_tail_unref(set, tail);
  }
}

static gboolean
write_table(StorePackSet *set, GError **error)
{
  StorePackTail *tail = set->open;
  StorePackFooter footer = {
      .n_entries = set->table->len / STORE_TABLE_ENTRY_SIZE,
      .table_offset = tail->written,
      .table_checksum = cbt_checksum64(set->table->data, set->table->len),
  };
  gsize n_bytes = set->table->len + STORE_FOOTER_SIZE;
  g_autofree guint8 *bytes = g_malloc(n_bytes);
  memcpy(bytes, set->table->data, set->table->len);
  store_footer_encode(&footer, &set->store, tail->number, bytes + set->table->len);
  if (!cbt_file_pwrite_full(set->ops, tail->fd, bytes, n_bytes, tail->written)) {
    cbt_set_error_errno(error, errno, "cannot seal pack %08x", tail->number);
    return FALSE;
  }
  tail->written += n_bytes;
  pthread_mutex_lock(&set->buffer_lock);
  set->total_bytes += n_bytes;
  store_pack_filling(set)->pack = 0;
  pthread_mutex_unlock(&set->buffer_lock);
  return TRUE;
}

static gboolean
is_open(const StorePackSet *set, guint32 number)
{
  return set->open && set->open->number == number;
}

gboolean
store_pack_seal_open(StorePackSet *set, GError **error)
{
  guint32 number = set->open->number;
  while (is_open(set, number) && (store_pack_filling(set)->fill > 0 || set->n_written < set->n_filled))
    if (!store_pack_write_out(set, error))
      return FALSE;
  if (!is_open(set, number)) /* another thread was faster */
    return TRUE;
  if (!write_table(set, error))
    return FALSE;
  g_ptr_array_add(set->unsynced, g_steal_pointer(&set->open));
  relieve_unsynced(set);
  return TRUE;
}

/*
 * Whether the open pack is to end before SPAN more bytes. Chunks in groups may take less room than their
 * entries in the table, which is kept in memory until then.
 */
static gboolean
is_full(StorePackSet *set, gsize span, gboolean is_group)
{
  guint64 end = store_pack_filling(set)->start + store_pack_filling(set)->fill;
  if (is_group && set->open->version < STORE_PACK_VERSION)
    return TRUE;
  return set->table->len > 0 && (end + span > set->pack_size || set->table->len >= TABLE_SIZE_MAX);
}

/* Sees to an open pack and a buffer that take SPAN more bytes; looks anew after each step, for the lock may
 * have been let go. */
static gboolean
make_room(StorePackSet *set, gsize span, gboolean is_group, GError **error)
{
  gboolean ok = TRUE;
  while (ok) {
    gboolean ends = set->open && is_full(set, span, is_group);
    if (!set->open)
      ok = begin_pack(set, error);
    else if (ends)
      ok = store_pack_seal_open(set, error);
    else if (store_pack_filling(set)->fill + span <= STORE_PACK_BUFFER_SIZE)
      return TRUE;
    else if (!store_pack_turn_over(set))
      ok = store_pack_write_full(set, 1, error);
  }
  return FALSE;
}

void
store_pack_note_in_table(StorePackSet *set, const StoreRecordInfo *info, const StoreLocation *location)
{
  guint8 entry[STORE_TABLE_ENTRY_SIZE];
  store_table_entry_encode(info, location, entry);
  g_byte_array_append(set->table, entry, sizeof entry);
}

/* A group has an entry for each of its chunks. */
static void
note_record(StorePackSet *set, const StoreRecordInfo *info, const guint8 *payload, guint32 payload_length,
            const StoreLocation *location)
{
  if (info->encoding != STORE_ENCODING_GROUP) {
    store_pack_note_in_table(set, info, location);
    return;
  }
  for (guint i = 0; i < store_group_count(info->length); i++) {
    StoreLocation share = *location;
    StoreRecordInfo chunk = store_group_chunk(payload, i);
    share.length = store_group_share(payload_length, store_group_count(info->length), i);
    store_pack_note_in_table(set, &chunk, &share);
  }
}

/* Makes room for what SLOT says, and notes that its bytes are to come. append_lock is held. */
static void
place(StorePackSet *set, StorePackSlot *slot)
{
  const StorePackBuffer *buffer = store_pack_filling(set);
  guint32 offset = (guint32) (buffer->start + buffer->fill);
  slot->at = store_pack_buffer_at(buffer, offset);
  slot->location = (StoreLocation){
      .pack = set->open->number, .offset = offset, .length = STORE_RECORD_HEADER_SIZE + slot->payload_length};
  note_record(set, &slot->info, slot->payload, slot->payload_length, &slot->location);
  pthread_mutex_lock(&set->buffer_lock);
  slot->next = set->filling;
  set->filling = slot;
  pthread_mutex_unlock(&set->buffer_lock);
  buffer_add(set, store_record_span(slot->payload_length));
}

gboolean
store_pack_reserve(StorePackSet *set, const StoreRecordInfo *info, const void *payload, gsize payload_length,
                   StorePackSlot *slot, GError **error)
{
  gboolean is_group = info->encoding == STORE_ENCODING_GROUP;
  g_assert(payload_length > 0 &&
           payload_length <= (is_group ? STORE_GROUP_PAYLOAD_MAX : STORE_CHUNK_LENGTH_MAX));
  *slot = (StorePackSlot){.info = *info, .payload = payload, .payload_length = (guint32) payload_length};
  pthread_mutex_lock(&set->append_lock);
  g_assert(!is_group || set->version >= STORE_PACK_VERSION);
  gboolean ok = make_room(set, store_record_span(slot->payload_length), is_group, error);
  if (ok)
    place(set, slot);
  pthread_mutex_unlock(&set->append_lock);
  return ok;
}

void
store_pack_fill(StorePackSet *set, StorePackSlot *slot)
{
  guint32 length = STORE_RECORD_HEADER_SIZE + slot->payload_length;
  memcpy(slot->at + STORE_RECORD_HEADER_SIZE, slot->payload, slot->payload_length);
  memset(slot->at + length, 0, store_record_span(slot->payload_length) - length);
  store_record_encode(slot->at, &set->store, slot->location.pack, slot->location.offset, &slot->info,
                      slot->payload_length);
  pthread_mutex_lock(&set->buffer_lock);
  StorePackSlot **link = &set->filling;
  while (*link != slot)
    link = &(*link)->next;
  *link = slot->next;
  pthread_cond_broadcast(&set->filled);
  pthread_mutex_unlock(&set->buffer_lock);
}

gboolean
store_pack_append(StorePackSet *set, const StoreRecordInfo *info, const void *payload, gsize payload_length,
                  StoreLocation *location, GError **error)
{
  StorePackSlot slot;
  if (!store_pack_reserve(set, info, payload, payload_length, &slot, error))
    return FALSE;
  store_pack_fill(set, &slot);
  *location = slot.location;
  return TRUE;
}

StoreLocation
store_pack_end(StorePackSet *set)
{
  pthread_mutex_lock(&set->append_lock);
  const StorePackBuffer *buffer = store_pack_filling(set);
  StoreLocation end = {.pack = set->next_number, .offset = STORE_PACK_HEADER_SIZE};
  if (set->open)
    end = (StoreLocation){.pack = set->open->number, .offset = (guint32) (buffer->start + buffer->fill)};
  pthread_mutex_unlock(&set->append_lock);
  return end;
}

void
store_pack_totals(StorePackSet *set, guint64 *n_packs, guint64 *bytes)
{
  pthread_mutex_lock(&set->buffer_lock);
  *n_packs = set->n_packs;
  *bytes = set->total_bytes;
  pthread_mutex_unlock(&set->buffer_lock);
}
