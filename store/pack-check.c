/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pack that is not sealed may end in a record that was half written when the host went down; nothing refers
 * to that. A pack whose footer is damaged looks much like it, but its last bytes have still something of a
 * footer.
 */
#include <store/pack-check.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <store/group.h>
#include <store/pack-private.h>
#include <sys/stat.h>

typedef struct {
  StorePackSet *set;
  guint32 number;
  int fd;
  StoreRecordFunc func;
  gpointer user_data;
  StorePackCheck *check;
  StorePackFooter footer;
  guint64 limit;     /* records end here at the latest */
  guint64 expected;  /* where the next record should begin */
  guint64 group;     /* where the group stands of which chunks are told */
  GByteArray *table; /* what the table should be */
} Examination;

void
store_pack_check_clear(StorePackCheck *check)
{
  g_clear_pointer(&check->gaps, g_array_unref);
  g_clear_pointer(&check->lost, g_array_unref);
}

static void
add_gap(Examination *exam, guint64 end)
{
  StorePackGap gap = {exam->expected, end - exam->expected};
  g_array_append_val(exam->check->gaps, gap);
}

static gboolean
read_at(const Examination *exam, void *bytes, gsize length, guint64 offset)
{
  return cbt_file_pread_full(exam->set->ops, exam->fd, bytes, length, offset) == (gssize) length;
}

/* No checksum covers it, and nobody reads it; but a bit that flipped there is a bit that flipped. It may be
 * missing at the very end. */
static void
check_padding(Examination *exam, guint64 end)
{
  guint8 bytes[STORE_PACK_ALIGN];
  gsize length = (gsize) (cbt_round_up(end, STORE_PACK_ALIGN) - end);
  if (length == 0 || !read_at(exam, bytes, length, end) || cbt_is_zero(bytes, length))
    return;
  if (exam->check->n_padding++ == 0)
    exam->check->padding = end;
}

static gboolean
read_header(const Examination *exam, guint64 at, StoreRecordInfo *info, guint32 *payload_length)
{
  guint8 header[STORE_RECORD_HEADER_SIZE];
  return read_at(exam, header, sizeof header, at) &&
         store_record_header_decode(header, exam->number, (guint32) at, info, payload_length);
}

/* A record begins where one is expected, or behind a gap. */
static void
begin_record(Examination *exam, const StoreRecordInfo *info, const StoreLocation *location)
{
  StoreRecordInfo group;
  guint32 length = location->length - STORE_RECORD_HEADER_SIZE;
  if (location->offset > exam->expected)
    add_gap(exam, location->offset);
  exam->expected = location->offset;
  if (info->encoding == STORE_ENCODING_GROUP) {
    exam->group = location->offset;
    if (!read_header(exam, location->offset, &group, &length))
      return;
  }
  check_padding(exam, (guint64) location->offset + STORE_RECORD_HEADER_SIZE + length);
}

static gboolean
take_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Examination *exam = user_data;
  guint8 entry[STORE_TABLE_ENTRY_SIZE];
  if (info->encoding != STORE_ENCODING_GROUP || location->offset != exam->group)
    begin_record(exam, info, location);
  /* The shares of a group make up its span. */
  exam->expected = cbt_round_up(exam->expected + location->length, STORE_PACK_ALIGN);
  exam->check->n_records++;
  store_table_entry_encode(info, location, entry);
  g_byte_array_append(exam->table, entry, sizeof entry);
  return !exam->func || exam->func(info, location, exam->user_data);
}

/* ---- the footer ---- */

/* Bytes that are no sound footer, but have half of what makes one. */
static gboolean
was_a_footer(const Examination *exam, const guint8 *bytes)
{
  guint64 table = cbt_get_u64(bytes + STORE_FOOTER_AT_TABLE),
          count = cbt_get_u32(bytes + STORE_FOOTER_AT_COUNT);
  gboolean has_magic = memcmp(bytes, STORE_FOOTER_MAGIC, STORE_FOOTER_AT_NUMBER) == 0;
  gboolean has_number = cbt_get_u32(bytes + STORE_FOOTER_AT_NUMBER) == exam->number;
  gboolean fits = table < exam->check->size &&
                  table + count * STORE_TABLE_ENTRY_SIZE + STORE_FOOTER_SIZE == exam->check->size;
  return has_magic + has_number + fits >= 2;
}

static void
find_end(Examination *exam)
{
  StorePackCheck *check = exam->check;
  guint8 bytes[STORE_FOOTER_SIZE];
  exam->limit = check->size;
  if (store_pack_read_footer(exam->set, exam->fd, exam->number, check->size, &exam->footer)) {
    check->is_sealed = TRUE;
    exam->limit = exam->footer.table_offset;
  } else if (check->size >= STORE_PACK_HEADER_SIZE + STORE_FOOTER_SIZE &&
             read_at(exam, bytes, sizeof bytes, check->size - sizeof bytes) && was_a_footer(exam, bytes)) {
    check->is_sealed = TRUE;
    check->table_error = "its footer is damaged";
  }
}

/* ---- the table ---- */

static gboolean
is_in_gap(const StorePackCheck *check, guint64 offset)
{
  for (guint i = 0; i < check->gaps->len; i++) {
    const StorePackGap *gap = &g_array_index(check->gaps, StorePackGap, i);
    if (offset >= gap->offset && offset < gap->offset + gap->length)
      return TRUE;
  }
  return FALSE;
}

static void
find_lost_in_table(Examination *exam, const guint8 *table)
{
  for (guint32 i = 0; i < exam->footer.n_entries; i++) {
    StorePackLost lost;
    if (store_table_entry_decode(table + (gsize) i * STORE_TABLE_ENTRY_SIZE, exam->number,
                                 exam->footer.table_offset, &lost.info, &lost.location) &&
        is_in_gap(exam->check, lost.location.offset))
      g_array_append_val(exam->check->lost, lost);
  }
}

static void
check_table(Examination *exam)
{
  StorePackCheck *check = exam->check;
  gsize length = (gsize) exam->footer.n_entries * STORE_TABLE_ENTRY_SIZE;
  g_autofree guint8 *table = g_try_malloc(length + 1);
  if (!table || !read_at(exam, table, length, exam->footer.table_offset))
    check->table_error = "its table of contents cannot be read";
  else if (cbt_checksum64(table, length) != exam->footer.table_checksum)
    check->table_error = "its table of contents is damaged";
  else if (check->gaps->len == 0 &&
           (exam->table->len != length || memcmp(exam->table->data, table, length) != 0))
    check->table_error = "its table of contents is not that of its records";
  if (!check->table_error)
    find_lost_in_table(exam, table);
}

/* What is left of the ids of a group says what was lost. */
static void
add_lost_group(Examination *exam, const StorePackLost *group, guint32 payload_length)
{
  guint8 ids[STORE_GROUP_CHUNKS_MAX * STORE_CHUNK_ID_SIZE];
  guint n = store_group_count(group->info.length);
  if (!read_at(exam, ids, (gsize) n * STORE_CHUNK_ID_SIZE, group->location.offset + STORE_RECORD_HEADER_SIZE))
    return;
  for (guint i = 0; i < n; i++) {
    StorePackLost lost = {store_group_chunk(ids, i), group->location};
    lost.location.length = store_group_share(payload_length, n, i);
    g_array_append_val(exam->check->lost, lost);
  }
}

/* Without a table: the headers in gaps one behind the other, as far as they can be true. */
static void
find_lost_by_headers(Examination *exam)
{
  for (guint i = 0; i < exam->check->gaps->len; i++) {
    const StorePackGap *gap = &g_array_index(exam->check->gaps, StorePackGap, i);
    guint32 length;
    for (guint64 at = gap->offset; at < gap->offset + gap->length; at += store_record_span(length)) {
      StorePackLost lost = {.location = {.pack = exam->number, .offset = (guint32) at}};
      if (!read_header(exam, at, &lost.info, &length))
        break;
      lost.location.length = STORE_RECORD_HEADER_SIZE + length;
      if (lost.info.encoding == STORE_ENCODING_GROUP)
        add_lost_group(exam, &lost, length);
      else
        g_array_append_val(exam->check->lost, lost);
    }
  }
}

/* ---- all of it ---- */

static gboolean
examine(Examination *exam)
{
  StorePackCheck *check = exam->check;
  guint8 header[STORE_PACK_HEADER_SIZE];
  StorePackWalk walk;
  check->header_is_sound = read_at(exam, header, sizeof header, 0) &&
                           store_pack_header_decode(header, &exam->set->store, exam->number) > 0;
  find_end(exam);
  exam->expected = STORE_PACK_HEADER_SIZE;
  if (!store_pack_walk(exam->set, exam->fd, exam->number, exam->expected, exam->limit, take_record, exam,
                       &walk))
    return FALSE;
  if (check->is_sealed && !check->table_error && exam->expected < exam->limit)
    add_gap(exam, exam->limit);
  if (!check->is_sealed && exam->expected < check->size)
    check->torn = check->size - exam->expected;
  if (check->is_sealed && !check->table_error)
    check_table(exam);
  if (!check->is_sealed || check->table_error)
    find_lost_by_headers(exam);
  return TRUE;
}

gboolean
store_pack_check(StorePackSet *set, guint32 number, StoreRecordFunc func, gpointer user_data,
                 StorePackCheck *check, GError **error)
{
  StorePackFd *slot;
  struct stat st;
  Examination exam = {.set = set, .number = number, .func = func, .user_data = user_data, .check = check};
  *check = (StorePackCheck){0};
  check->gaps = g_array_new(FALSE, FALSE, sizeof(StorePackGap));
  check->lost = g_array_new(FALSE, FALSE, sizeof(StorePackLost));
  exam.table = g_byte_array_new();
  exam.fd = store_pack_fd_acquire(set, number, &slot);
  gboolean ok = exam.fd >= 0 && fstat(exam.fd, &st) == 0;
  if (ok) {
    check->size = (guint64) st.st_size;
    ok = examine(&exam);
  }
  int errsv = errno;
  if (exam.fd >= 0)
    store_pack_fd_release(set, exam.fd, slot);
  g_byte_array_unref(exam.table);
  if (!ok)
    cbt_set_error_errno(error, errsv, "cannot read pack %08x", number);
  return ok;
}
