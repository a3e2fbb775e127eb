/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking packs: by table of contents, or record by record with resynchronisation.
 *
 * Behind a damaged record the walk tries every 16th byte for a record. It may look into payloads, which
 * guests control; that a record names its own place, under a checksum seeded with the store's uuid, keeps
 * forgeries out, and the store checks the digest of what it reads in any case.
 */
#include <store/pack-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <store/group.h>
#include <sys/stat.h>

#define WINDOW (8u << 20) /* of which a group may take half */

/* --- the folder --- */

static gboolean
number_of(const char *name, guint32 *number)
{
  char *end = NULL;
  for (guint i = 0; i < 8; i++)
    if (!g_ascii_isxdigit(name[i]))
      return FALSE;
  *number = (guint32) g_ascii_strtoull(name, &end, 16);
  return end == name + 8 && strcmp(end, ".pack") == 0 && *number > 0 && *number <= STORE_PACK_NUMBER_MAX;
}

static int
compare_numbers(const void *a, const void *b)
{
  guint32 x = *(const guint32 *) a;
  guint32 y = *(const guint32 *) b;
  return (x > y) - (x < y);
}

GArray *
store_pack_list(StorePackSet *set, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(GDir) dir = g_dir_open(set->folder, 0, &local);
  if (!dir) {
    cbt_set_error(error, cbt_error_code(local), NULL, "%s", local->message);
    return NULL;
  }
  GArray *numbers = g_array_new(FALSE, FALSE, sizeof(guint32));
  for (const char *name = g_dir_read_name(dir); name; name = g_dir_read_name(dir)) {
    guint32 number;
    if (number_of(name, &number))
      g_array_append_val(numbers, number);
  }
  g_array_sort(numbers, compare_numbers);
  return numbers;
}

/* --- record by record --- */

/* A stretch of the file in memory, moved as the walk goes on. */
typedef struct {
  const CbtFileOps *ops;
  int fd;
  guint64 start;
  gsize length;
  guint8 *bytes; /* WINDOW of them */
} Window;

/* Sees to it that [offset, offset + WANTED) is in memory, as far as the file goes, and gives how much of it
 * is. */
static gboolean
window_get(Window *window, guint64 offset, gsize wanted, guint64 limit, const guint8 **bytes,
           gsize *available)
{
  wanted = (gsize) MIN((guint64) wanted, limit - offset);
  if (offset < window->start || offset + wanted > window->start + window->length) {
    gssize n = cbt_file_pread_full(window->ops, window->fd, window->bytes,
                                   (gsize) MIN((guint64) WINDOW, limit - offset), offset);
    if (n < 0)
      return FALSE;
    window->start = offset;
    window->length = (gsize) n;
  }
  *bytes = window->bytes + (offset - window->start);
  *available = MIN(wanted, (gsize) (window->start + window->length - offset));
  return TRUE;
}

/* The record at OFFSET: *span is 0 if there is no good one. FALSE if reading fails. */
static gboolean
record_at(StorePackSet *set, Window *window, guint32 number, guint64 offset, guint64 limit,
          StoreRecordInfo *info, StoreLocation *location, const guint8 **payload_at, guint32 *span)
{
  const guint8 *bytes;
  gsize available;
  guint32 payload;
  *span = 0;
  if (!window_get(window, offset, STORE_RECORD_HEADER_SIZE, limit, &bytes, &available))
    return FALSE;
  if (available < STORE_RECORD_HEADER_SIZE ||
      !store_record_header_decode(bytes, number, (guint32) offset, info, &payload))
    return TRUE;
  guint32 length = STORE_RECORD_HEADER_SIZE + payload;
  if (!window_get(window, offset, length, limit, &bytes, &available))
    return FALSE;
  *payload_at = bytes + STORE_RECORD_HEADER_SIZE;
  if (available < length || !store_record_is_sound(bytes, &set->store, payload) ||
      (info->encoding == STORE_ENCODING_GROUP &&
       !store_group_ids_are_possible(*payload_at, store_group_count(info->length))))
    return TRUE;
  *location = (StoreLocation){.pack = number, .offset = (guint32) offset, .length = length};
  *span = store_record_span(payload);
  return TRUE;
}

/* Calls FUNC with a record, or with each chunk of a group. FALSE if it said so. */
static gboolean
tell_of(const StoreRecordInfo *info, const StoreLocation *location, const guint8 *payload,
        StoreRecordFunc func, gpointer user_data)
{
  if (info->encoding != STORE_ENCODING_GROUP)
    return func(info, location, user_data);
  guint n = store_group_count(info->length);
  gboolean goes_on = TRUE;
  for (guint i = 0; i < n && goes_on; i++) {
    StoreRecordInfo chunk = store_group_chunk(payload, i);
    StoreLocation share = *location;
    share.length = store_group_share(location->length - STORE_RECORD_HEADER_SIZE, n, i);
    goes_on = func(&chunk, &share, user_data);
  }
  return goes_on;
}

static gboolean
walk_records(StorePackSet *set, Window *window, guint32 number, guint64 offset, guint64 limit,
             StoreRecordFunc func, gpointer user_data, StorePackWalk *walk)
{
  gboolean in_damage = FALSE;
  while (offset < limit && offset < STORE_PACK_OFFSET_MAX && !walk->stopped) {
    StoreRecordInfo info;
    StoreLocation location;
    const guint8 *payload;
    guint32 span;
    if (!record_at(set, window, number, offset, limit, &info, &location, &payload, &span))
      return FALSE;
    if (span == 0) {
      walk->n_damaged += !in_damage;
      in_damage = TRUE;
      offset += STORE_PACK_ALIGN;
      continue;
    }
    in_damage = FALSE;
    offset += span;
    walk->end = offset;
    walk->n_records++;
    walk->stopped = func && !tell_of(&info, &location, payload, func, user_data);
  }
  return TRUE;
}

gboolean
store_pack_walk(StorePackSet *set, int fd, guint32 number, guint64 from, guint64 limit, StoreRecordFunc func,
                gpointer user_data, StorePackWalk *walk)
{
  g_autofree guint8 *bytes = g_malloc(WINDOW);
  Window window = {.ops = set->ops, .fd = fd, .bytes = bytes};
  *walk = (StorePackWalk){.end = from};
  return walk_records(set, &window, number, from, limit, func, user_data, walk);
}

/* --- tables of contents --- */

gboolean
store_pack_read_footer(StorePackSet *set, int fd, guint32 number, guint64 size, StorePackFooter *footer)
{
  guint8 bytes[STORE_FOOTER_SIZE];
  return size >= STORE_PACK_HEADER_SIZE + STORE_FOOTER_SIZE &&
         cbt_file_pread_full(set->ops, fd, bytes, sizeof bytes, size - sizeof bytes) ==
             (gssize) sizeof bytes &&
         store_footer_decode(bytes, &set->store, number, size, footer);
}

/* The table of a sealed pack (transfer full); NULL if it is not sound. */
static guint8 *
read_table(StorePackSet *set, int fd, const StorePackFooter *footer)
{
  gsize length = (gsize) footer->n_entries * STORE_TABLE_ENTRY_SIZE;
  if (length > STORE_PACK_OFFSET_MAX) /* a record takes more than its entry */
    return NULL;
  g_autofree guint8 *table = g_try_malloc(length + 1);
  if (!table || cbt_file_pread_full(set->ops, fd, table, length, footer->table_offset) != (gssize) length ||
      cbt_checksum64(table, length) != footer->table_checksum)
    return NULL;
  return g_steal_pointer(&table);
}

static gboolean
table_is_possible(const guint8 *table, guint32 number, const StorePackFooter *footer)
{
  StoreRecordInfo info;
  StoreLocation location;
  for (guint32 i = 0; i < footer->n_entries; i++)
    if (!store_table_entry_decode(table + (gsize) i * STORE_TABLE_ENTRY_SIZE, number, footer->table_offset,
                                  &info, &location))
      return FALSE;
  return TRUE;
}

static void
walk_table(const guint8 *table, guint32 number, const StorePackFooter *footer, guint64 from,
           StoreRecordFunc func, gpointer user_data, StorePackWalk *walk)
{
  for (guint32 i = 0; i < footer->n_entries && !walk->stopped; i++) {
    StoreRecordInfo info;
    StoreLocation location;
    if (store_table_entry_decode(table + (gsize) i * STORE_TABLE_ENTRY_SIZE, number, footer->table_offset,
                                 &info, &location) &&
        location.offset >= from)
      walk->stopped = !func(&info, &location, user_data);
  }
}

/* --- all packs --- */

typedef struct {
  guint64 from;
  StoreRecordFunc func;
  gpointer user_data;
} Scan;

/* Bytes of pack NUMBER that have records: the file's size, or as much of the open pack as is written. */
static guint64
readable_size(StorePackSet *set, int fd, guint32 number)
{
  struct stat st;
  guint64 size = fstat(fd, &st) == 0 ? (guint64) st.st_size : 0;
  pthread_mutex_lock(&set->buffer_lock);
  const StorePackBuffer *first = &set->buffers[set->n_written % STORE_PACK_BUFFERS];
  if (number == first->pack)
    size = MIN(size, first->start);
  pthread_mutex_unlock(&set->buffer_lock);
  return size;
}

static gboolean
scan_fd(StorePackSet *set, int fd, guint32 number, const Scan *scan, StorePackWalk *walk)
{
  StorePackFooter footer;
  guint64 size = readable_size(set, fd, number);
  *walk = (StorePackWalk){0};
  if (store_pack_read_footer(set, fd, number, size, &footer)) {
    g_autofree guint8 *table = read_table(set, fd, &footer);
    if (table && table_is_possible(table, number, &footer)) {
      walk_table(table, number, &footer, scan->from, scan->func, scan->user_data, walk);
      return TRUE;
    }
    size = footer.table_offset;
  }
  guint64 from = MAX(scan->from, (guint64) STORE_PACK_HEADER_SIZE);
  return store_pack_walk(set, fd, number, cbt_round_up(from, STORE_PACK_ALIGN), size, scan->func,
                         scan->user_data, walk);
}

static gboolean
scan_pack(StorePackSet *set, guint32 number, const Scan *scan, StorePackWalk *walk, GError **error)
{
  StorePackFd *slot;
  int fd = store_pack_fd_acquire(set, number, &slot);
  gboolean ok = fd >= 0 && scan_fd(set, fd, number, scan, walk);
  int errsv = errno;
  if (fd >= 0)
    store_pack_fd_release(set, fd, slot);
  if (!ok)
    cbt_set_error_errno(error, errsv, "cannot read pack %08x", number);
  return ok;
}

gboolean
store_pack_scan_one(StorePackSet *set, const StoreLocation *from, StoreRecordFunc func, gpointer user_data,
                    GError **error)
{
  Scan scan = {.from = from->offset, .func = func, .user_data = user_data};
  StorePackWalk walk;
  return scan_pack(set, from->pack, &scan, &walk, error);
}

gboolean
store_pack_scan(StorePackSet *set, const StoreLocation *from, StoreRecordFunc func, gpointer user_data,
                guint64 *n_damaged, GError **error)
{
  g_autoptr(GArray) numbers = store_pack_list(set, error);
  guint64 damaged = 0;
  gboolean stopped = FALSE;
  for (guint i = 0; numbers && i < numbers->len && !stopped; i++) {
    guint32 number = g_array_index(numbers, guint32, i);
    StorePackWalk walk;
    if (from && number < from->pack)
      continue;
    Scan scan = {
        .from = from && number == from->pack ? from->offset : 0, .func = func, .user_data = user_data};
    if (!scan_pack(set, number, &scan, &walk, error))
      return FALSE;
    damaged += walk.n_damaged;
    stopped = walk.stopped;
  }
  if (n_damaged)
    *n_damaged = damaged;
  return numbers != NULL;
}
