/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <store/group.h>
#include <store/pack-format.h>
#include <string.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>
#include <zstd.h>

#define N_RECORDS 12

typedef struct {
  char *folder;
  CbtUuid store;
  StoreLocation at[N_RECORDS];
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  memset(fixture->store.bytes, 0x5a, sizeof fixture->store.bytes);
  fixture->store.bytes[0] = 1;
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  store_test_folder_free(fixture->folder);
  g_free(fixture);
  return 0;
}

static StorePackSet *
open_set(const Fixture *fixture, const CbtFileOps *ops, guint64 pack_size)
{
  g_autoptr(GError) error = NULL;
  StorePackSet *set = store_pack_set_open(ops, fixture->folder, &fixture->store, pack_size, &error);
  if (error)
    print_message("%s\n", error->message);
  assert_non_null(set);
  return set;
}

static char *
path_of(const Fixture *fixture, guint32 number)
{
  return g_strdup_printf("%s/%08x.pack", fixture->folder, number);
}

/* Record I has odd lengths, and is unlike all others. */
static gsize
payload_of(guint i, guint8 payload[STORE_CHUNK_LENGTH_MAX])
{
  gsize length = i % 3 == 2 ? 5000 + i : 1 + i * 37;
  store_test_fill_random(payload, length, i + 1);
  return length;
}

static StoreChunkId
id_of(guint i)
{
  StoreChunkId id = {{(guint8) (i + 1), 2, 3}};
  return id;
}

static gboolean
append_record(StorePackSet *set, guint i, StoreLocation *location)
{
  static guint8 payload[STORE_CHUNK_LENGTH_MAX];
  gsize length = payload_of(i, payload);
  StoreRecordInfo info = {.id = id_of(i), .type = STORE_CHUNK_BLOB, .length = (guint32) length};
  return store_pack_append(set, &info, payload, length, location, NULL);
}

static gboolean
record_is_readable(StorePackSet *set, guint i, const StoreLocation *location)
{
  static guint8 expected[STORE_CHUNK_LENGTH_MAX];
  static guint8 buffer[STORE_PACK_READ_SIZE];
  StoreRecordInfo info;
  const guint8 *payload;
  gsize length;
  StoreChunkId id = id_of(i);
  gsize wanted = payload_of(i, expected);
  return store_pack_read(set, location, &info, buffer, &payload, &length, NULL) &&
         store_chunk_id_equal(&info.id, &id) && info.type == STORE_CHUNK_BLOB &&
         info.encoding == STORE_ENCODING_RAW && length == wanted && memcmp(payload, expected, wanted) == 0;
}

static void
append_all(Fixture *fixture, StorePackSet *set, guint n)
{
  for (guint i = 0; i < n; i++)
    assert_true(append_record(set, i, &fixture->at[i]));
}

/* A bit for each record that a scan finds; each at its place. */
typedef struct {
  const Fixture *fixture;
  guint32 found;
} Found;

static gboolean
note_found(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Found *found = user_data;
  guint i = info->id.bytes[0] - 1u;
  assert_in_range(i, 0, N_RECORDS - 1);
  assert_memory_equal(location, &found->fixture->at[i], sizeof *location);
  found->found |= 1u << i;
  return TRUE;
}

static guint32
scan(const Fixture *fixture, StorePackSet *set, const StoreLocation *from, guint64 *n_damaged)
{
  Found found = {.fixture = fixture};
  assert_true(store_pack_scan(set, from, note_found, &found, n_damaged, NULL));
  return found.found;
}

/* A frame of 64 KiB of A and as many of B, written by hand: that of a library may change with its version. */
static const guint8 golden_frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0x00, 0x00, 0x02, 0x00,
                                      0x02, 0x00, 0x08, 'A',  0x03, 0x00, 0x08, 'B'};

/* The payload of a group of records 0 and 1; its length. */
static gsize
group_payload(guint8 payload[100])
{
  StoreChunkId ids[2] = {id_of(0), id_of(1)};
  memcpy(payload, ids, sizeof ids);
  memcpy(payload + sizeof ids, golden_frame, sizeof golden_frame);
  return sizeof ids + sizeof golden_frame;
}

static void
test_a_sealed_pack_with_a_group_is_the_golden_one(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 100);
  StoreRecordInfo info = store_group_info(2);
  guint8 payload[100];
  gsize length = group_payload(payload);
  assert_true(store_pack_append(set, &info, payload, length, &fixture->at[0], NULL));
  assert_true(store_pack_seal(set, NULL));
  store_pack_set_close(set);
  g_autofree char *path = path_of(fixture, 1);
  g_autofree char *data = NULL;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  store_test_golden("pack-v2", "pack.md", data, length);
  g_autofree guint8 *contents = g_malloc(2 * STORE_CHUNK_LENGTH_MAX);
  assert_int_equal(ZSTD_decompress(contents, 2 * STORE_CHUNK_LENGTH_MAX, golden_frame, sizeof golden_frame),
                   2 * STORE_CHUNK_LENGTH_MAX);
  assert_int_equal(contents[STORE_CHUNK_LENGTH_MAX - 1], 'A');
  assert_int_equal(contents[STORE_CHUNK_LENGTH_MAX], 'B');
}

static void
test_a_group_is_told_chunk_by_chunk_and_shares_its_record(void **state)
{
  Fixture *fixture = *state;
  guint8 payload[100];
  gsize length = group_payload(payload);
  StoreRecordInfo info = store_group_info(2);
  StoreLocation at;
  StorePackSet *set = open_set(fixture, NULL, 16384);
  assert_true(store_pack_append(set, &info, payload, length, &at, NULL));
  fixture->at[0] = fixture->at[1] = at;
  fixture->at[0].length = store_group_share((guint32) length, 2, 0);
  fixture->at[1].length = store_group_share((guint32) length, 2, 1);
  assert_int_equal(fixture->at[0].length + fixture->at[1].length, store_record_span((guint32) length));
  assert_true(append_record(set, 2, &fixture->at[2]));
  for (guint i = 0; i < 3; i++) {
    gsize read_length;
    g_autoptr(GByteArray) record = g_byte_array_new();
    const guint8 *read = store_pack_read_group(set, &fixture->at[1], &info, record, &read_length, NULL);
    assert_int_equal(read_length, length);
    assert_memory_equal(read, payload, length);
    assert_true(record_is_readable(set, 2, &fixture->at[2]));
    StoreChunkId id = id_of(1), other = id_of(2);
    StorePackGroup last = {0};
    assert_true(store_pack_has(set, &fixture->at[1], &id, &last));
    assert_false(store_pack_has(set, &fixture->at[1], &other, &last));
    assert_true(i == 1 ? store_pack_seal(set, NULL) : store_pack_write(set, NULL));
    assert_int_equal(scan(fixture, set, NULL, NULL), 7);
  }
  store_pack_set_close(set);
}

static void
test_a_sealed_pack_is_the_golden_one(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 100);
  StoreChunkId id;
  StoreLocation location;
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++)
    id.bytes[i] = (guint8) (0xf0 + i);
  StoreRecordInfo info = {.id = id, .type = STORE_CHUNK_BLOB, .length = 19};
  assert_true(store_pack_append(set, &info, "a config file bytes", 19, &location, NULL));
  assert_true(store_pack_append(set, &info, "a config file bytes", 19, &location, NULL));
  assert_int_equal(location.pack, 2);
  store_pack_set_close(set);
  g_autofree char *path = path_of(fixture, 1);
  g_autofree char *data = NULL;
  gsize length;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  /* Version 1 differs in nothing but the header. */
  store_pack_header_encode(1, &fixture->store, 1, (guint8 *) data);
  store_test_golden("pack-v1", "pack.md", data, length);
}

/* Makes pack 1 one of version 1, as an older version of the program has left it. */
static void
make_version_1(const Fixture *fixture)
{
  g_autofree char *path = path_of(fixture, 1);
  g_autofree char *data = NULL;
  gsize length;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  store_pack_header_encode(1, &fixture->store, 1, (guint8 *) data);
  store_test_write(path, data, length);
}

static void
test_a_group_never_goes_into_a_pack_of_version_1(void **state)
{
  Fixture *fixture = *state;
  guint8 payload[100];
  gsize length = group_payload(payload);
  StoreRecordInfo info = store_group_info(2);
  StoreLocation at;
  StorePackSet *set = open_set(fixture, NULL, 16384);
  assert_true(append_record(set, 2, &fixture->at[2]));
  store_pack_set_close(set);
  make_version_1(fixture);
  set = open_set(fixture, NULL, 16384);
  assert_true(append_record(set, 3, &fixture->at[3]));
  assert_int_equal(fixture->at[3].pack, 1);
  assert_true(store_pack_append(set, &info, payload, length, &at, NULL));
  assert_int_equal(at.pack, 2);
  assert_true(record_is_readable(set, 2, &fixture->at[2]));
  assert_true(record_is_readable(set, 3, &fixture->at[3]));
  store_pack_set_close(set);
}

static void
test_records_are_readable_before_and_after_flush_and_reopening(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 16384);
  append_all(fixture, set, N_RECORDS);
  for (guint i = 0; i < N_RECORDS; i++)
    assert_true(record_is_readable(set, i, &fixture->at[i]));
  assert_true(store_pack_flush(set, NULL));
  for (guint i = 0; i < N_RECORDS; i++)
    assert_true(record_is_readable(set, i, &fixture->at[i]));
  store_pack_set_close(set);
  set = open_set(fixture, NULL, 16384);
  for (guint i = 0; i < N_RECORDS; i++)
    assert_true(record_is_readable(set, i, &fixture->at[i]));
  guint64 n_packs, bytes;
  store_pack_totals(set, &n_packs, &bytes);
  assert_true(n_packs > 1);
  store_pack_set_close(set);
}

static void
test_a_rounded_length_reads_the_exact_record(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, N_RECORDS);
  for (guint pass = 0; pass < 2; pass++) {
    for (guint i = 0; i < N_RECORDS; i++) {
      StoreLocation rounded = fixture->at[i];
      rounded.length = (rounded.length + 15) / 16 * 16;
      assert_true(record_is_readable(set, i, &rounded));
    }
    assert_true(store_pack_flush(set, NULL));
  }
  store_pack_set_close(set);
}

/* As a damaged index could name it. No descriptor that is not its own may be closed for it. */
static void
test_a_pack_without_a_number_is_not_there_and_costs_no_descriptor(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 16384);
  append_all(fixture, set, N_RECORDS);
  for (guint i = 0; i < N_RECORDS; i++) {
    StoreLocation nowhere = fixture->at[i];
    nowhere.pack = 0;
    assert_false(record_is_readable(set, i, &nowhere));
    assert_true(record_is_readable(set, i, &fixture->at[i]));
    assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
  }
  assert_true(store_pack_flush(set, NULL));
  for (guint i = 0; i < N_RECORDS; i++)
    assert_true(record_is_readable(set, i, &fixture->at[i]));
  store_pack_set_close(set);
}

static void
test_appending_goes_on_behind_what_was_there(void **state)
{
  Fixture *fixture = *state;
  for (guint i = 0; i < N_RECORDS; i++) {
    StorePackSet *set = open_set(fixture, NULL, 0);
    assert_true(append_record(set, i, &fixture->at[i]));
    store_pack_set_close(set);
  }
  StorePackSet *set = open_set(fixture, NULL, 0);
  guint64 n_damaged;
  assert_int_equal(scan(fixture, set, NULL, &n_damaged), (1u << N_RECORDS) - 1);
  assert_int_equal(n_damaged, 0);
  guint64 n_packs, bytes;
  store_pack_totals(set, &n_packs, &bytes);
  assert_int_equal(n_packs, 1);
  store_pack_set_close(set);
}

static void
test_a_scan_starts_where_it_is_told(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 8192);
  append_all(fixture, set, N_RECORDS);
  StoreLocation end = store_pack_end(set);
  assert_true(store_pack_flush(set, NULL));
  for (guint i = 0; i < N_RECORDS; i++)
    assert_int_equal(scan(fixture, set, &fixture->at[i], NULL), ((1u << N_RECORDS) - 1) & ~((1u << i) - 1));
  assert_int_equal(scan(fixture, set, &end, NULL), 0);
  store_pack_set_close(set);
}

static void
test_a_tail_torn_at_any_byte_costs_the_last_record_alone(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = path_of(fixture, 1);
  g_autofree char *whole = NULL;
  gsize length;
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, 5);
  store_pack_set_close(set);
  assert_true(g_file_get_contents(path, &whole, &length, NULL));
  const StoreLocation *last = &fixture->at[4];
  for (gsize cut = last->offset; cut < length; cut++) {
    store_test_write(path, whole, cut);
    set = open_set(fixture, NULL, 0);
    guint64 n_damaged;
    gboolean is_whole = cut >= last->offset + last->length;
    assert_int_equal(scan(fixture, set, NULL, &n_damaged), is_whole ? 31 : 15);
    assert_int_equal(n_damaged, 0);
    assert_true(append_record(set, 5, &fixture->at[5]));
    assert_true(record_is_readable(set, 3, &fixture->at[3]));
    assert_true(record_is_readable(set, 5, &fixture->at[5]));
    store_pack_set_close(set);
    set = open_set(fixture, NULL, 0);
    assert_int_equal(scan(fixture, set, NULL, &n_damaged), is_whole ? 63 : 47);
    store_pack_set_close(set);
  }
}

static void
test_a_file_torn_inside_its_header_is_no_pack(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = path_of(fixture, 1);
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, 1);
  store_pack_set_close(set);
  for (guint64 cut = 0; cut < STORE_PACK_HEADER_SIZE; cut++) {
    store_test_truncate(path, cut);
    set = open_set(fixture, NULL, 0);
    append_all(fixture, set, 1);
    assert_int_equal(fixture->at[0].pack, 1);
    store_pack_set_close(set);
  }
}

static void
check_flipped_record(Fixture *fixture, guint64 pack_size, guint victim, guint64 offset)
{
  g_autofree char *path = path_of(fixture, fixture->at[victim].pack);
  store_test_flip(path, offset, 0x10);
  StorePackSet *set = open_set(fixture, NULL, pack_size);
  for (guint i = 0; i < N_RECORDS; i++)
    assert_int_equal(record_is_readable(set, i, &fixture->at[i]), i != victim);
  store_pack_set_close(set);
  store_test_flip(path, offset, 0x10);
}

static void
test_a_flipped_bit_costs_the_record_that_has_it(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, N_RECORDS);
  store_pack_set_close(set);
  /* Each byte of a header, and some of the payload. */
  for (guint64 at = 0; at < STORE_RECORD_HEADER_SIZE; at++)
    check_flipped_record(fixture, 0, 5, fixture->at[5].offset + at);
  for (guint64 at = STORE_RECORD_HEADER_SIZE; at < fixture->at[5].length; at += 997)
    check_flipped_record(fixture, 0, 5, fixture->at[5].offset + at);
}

static void
test_damage_is_named_and_what_is_behind_it_is_kept(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = path_of(fixture, 1);
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, N_RECORDS);
  store_pack_set_close(set);
  guint64 size = store_test_file_size(path);
  store_test_flip(path, fixture->at[2].offset, 0xff);
  store_test_flip(path, fixture->at[3].offset + 8, 0xff);
  store_test_flip(path, fixture->at[7].offset + 60, 1);
  set = open_set(fixture, NULL, 0);
  guint64 n_damaged;
  guint32 lost = 1u << 2 | 1u << 3 | 1u << 7;
  assert_int_equal(scan(fixture, set, NULL, &n_damaged), ((1u << N_RECORDS) - 1) & ~lost);
  assert_int_equal(n_damaged, 2);
  assert_int_equal(store_test_file_size(path), size);
  guint8 buffer[STORE_PACK_READ_SIZE];
  StoreRecordInfo info;
  const guint8 *payload;
  gsize length;
  g_autoptr(GError) error = NULL;
  assert_false(store_pack_read(set, &fixture->at[7], &info, buffer, &payload, &length, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  g_autofree char *place = g_strdup_printf("at %u", fixture->at[7].offset);
  assert_non_null(strstr(error->message, "00000001"));
  assert_non_null(strstr(error->message, place));
  store_pack_set_close(set);
}

static void
test_a_damaged_table_falls_back_to_the_records(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 12000);
  append_all(fixture, set, N_RECORDS);
  store_pack_set_close(set);
  g_autofree char *path = path_of(fixture, 1);
  guint64 size = store_test_file_size(path);
  guint n_in_first = 0;
  for (guint i = 0; i < N_RECORDS; i++)
    n_in_first += fixture->at[i].pack == 1;
  guint64 table_size = STORE_FOOTER_SIZE + n_in_first * STORE_TABLE_ENTRY_SIZE;
  for (guint64 back = 1; back <= table_size; back++) {
    store_test_flip(path, size - back, 4);
    set = open_set(fixture, NULL, 12000);
    assert_int_equal(scan(fixture, set, NULL, NULL), (1u << N_RECORDS) - 1);
    store_pack_set_close(set);
    store_test_flip(path, size - back, 4);
  }
}

static void
test_a_damaged_header_keeps_the_records_but_takes_no_more(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, 5);
  store_pack_set_close(set);
  g_autofree char *path = path_of(fixture, 1);
  store_test_flip(path, 20, 4);
  set = open_set(fixture, NULL, 0);
  assert_int_equal(scan(fixture, set, NULL, NULL), 31);
  assert_true(append_record(set, 5, &fixture->at[5]));
  assert_int_equal(fixture->at[5].pack, 2);
  store_pack_set_close(set);
}

static void
test_records_of_another_store_or_place_are_not_believed(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 0);
  append_all(fixture, set, 5);
  store_pack_set_close(set);
  g_autofree char *one = path_of(fixture, 1);
  g_autofree char *nine = path_of(fixture, 9);
  g_autofree char *data = NULL;
  gsize length;
  assert_true(g_file_get_contents(one, &data, &length, NULL));
  store_test_write(nine, data, length);
  set = open_set(fixture, NULL, 0);
  assert_int_equal(scan(fixture, set, NULL, NULL), 31);
  store_pack_set_close(set);
  Fixture other = *fixture;
  other.store.bytes[7] ^= 1;
  set = open_set(&other, NULL, 0);
  assert_int_equal(scan(&other, set, NULL, NULL), 0);
  store_pack_set_close(set);
}

static void
test_a_record_inside_a_payload_is_not_found_by_a_scan(void **state)
{
  Fixture *fixture = *state;
  StorePackSet *set = open_set(fixture, NULL, 0);
  guint8 payload[4096] = {0};
  StoreLocation location;
  /* A guest that knows everything but where its record will stand, off by one unit. */
  StoreRecordInfo inner = {.id = id_of(3), .type = STORE_CHUNK_BLOB, .length = 64};
  store_record_encode(payload + 16, &fixture->store, 1, 64 + 48 + 32, &inner, 64);
  StoreRecordInfo info = {.id = id_of(0), .type = STORE_CHUNK_BLOB, .length = sizeof payload};
  assert_true(store_pack_append(set, &info, payload, sizeof payload, &location, NULL));
  assert_true(store_pack_append(set, &info, payload, sizeof payload, &fixture->at[0], NULL));
  store_pack_set_close(set);
  g_autofree char *path = path_of(fixture, 1);
  store_test_flip(path, location.offset, 1);
  set = open_set(fixture, NULL, 0);
  assert_int_equal(scan(fixture, set, NULL, NULL), 1);
  store_pack_set_close(set);
}

/* Appends and flushes with failing calls; what a successful flush covered must be there. */
static gboolean
fault_run(Fixture *fixture, StoreFaultOps *faults, guint32 *durable)
{
  g_autoptr(StorePackSet) set =
      store_pack_set_open(store_fault_ops_table(faults), fixture->folder, &fixture->store, 9000, NULL);
  guint32 appended = 0;
  *durable = 0;
  for (guint i = 0; set && i < N_RECORDS; i++) {
    gboolean ok = append_record(set, i, &fixture->at[i]) || append_record(set, i, &fixture->at[i]);
    if (ok)
      appended |= 1u << i;
    if (i % 4 == 3 && (store_pack_flush(set, NULL) || store_pack_flush(set, NULL)))
      *durable = appended;
  }
  return set != NULL;
}

static void
check_faults(void **state, gboolean for_ever, gboolean power_cut)
{
  Fixture *fixture = *state;
  gboolean has_failed = TRUE;
  for (guint n = 1; has_failed; n++) {
    char *folder = fixture->folder;
    fixture->folder = store_test_folder_new();
    StoreFaultOps *faults = store_fault_ops_new();
    guint32 durable;
    store_fault_ops_arm(faults, n, for_ever, n % 2 ? ENOSPC : EIO);
    gboolean opened = fault_run(fixture, faults, &durable);
    has_failed = store_fault_ops_has_failed(faults);
    if (!has_failed || (!for_ever && opened))
      assert_int_equal(durable, (1u << N_RECORDS) - 1);
    if (power_cut)
      store_fault_ops_power_cut(faults, NULL);
    StorePackSet *set = open_set(fixture, NULL, 9000);
    for (guint i = 0; i < N_RECORDS; i++)
      if (durable & 1u << i)
        assert_true(record_is_readable(set, i, &fixture->at[i]));
    assert_int_equal(scan(fixture, set, NULL, NULL) & durable, durable);
    assert_true(append_record(set, 0, &fixture->at[0]));
    assert_true(store_pack_flush(set, NULL));
    assert_true(record_is_readable(set, 0, &fixture->at[0]));
    store_pack_set_close(set);
    store_fault_ops_free(faults);
    store_test_folder_free(fixture->folder);
    fixture->folder = folder;
  }
}

static void
test_any_call_that_fails_once_leaves_the_set_usable(void **state)
{
  check_faults(state, FALSE, FALSE);
}

static void
test_a_disk_that_fails_for_ever_loses_nothing_flushed(void **state)
{
  check_faults(state, TRUE, FALSE);
}

static void
test_a_power_cut_at_any_call_loses_nothing_flushed(void **state)
{
  check_faults(state, TRUE, TRUE);
}

static void
test_a_power_cut_after_a_failed_call_loses_nothing_flushed(void **state)
{
  check_faults(state, FALSE, TRUE);
}

static void
test_what_a_killed_process_left_is_durable_after_the_next_flush(void **state)
{
  Fixture *fixture = *state;
  StoreFaultOps *faults = store_fault_ops_new();
  const CbtFileOps *ops = store_fault_ops_table(faults);
  store_fault_ops_arm(faults, 0, FALSE, 0);
  StorePackSet *set = open_set(fixture, ops, 9000);
  append_all(fixture, set, N_RECORDS);
  store_fault_ops_arm(faults, 1, TRUE, EIO);
  store_pack_set_close(set);
  store_fault_ops_arm(faults, 0, FALSE, 0);
  set = open_set(fixture, ops, 9000);
  guint32 found = scan(fixture, set, NULL, NULL);
  assert_true(fixture->at[N_RECORDS - 1].pack > 2 && (found & 15) == 15);
  assert_true(store_pack_flush(set, NULL));
  store_pack_set_close(set);
  store_fault_ops_power_cut(faults, NULL);
  set = open_set(fixture, NULL, 9000);
  assert_int_equal(scan(fixture, set, NULL, NULL), found);
  store_pack_set_close(set);
  store_fault_ops_free(faults);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_sealed_pack_is_the_golden_one, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_sealed_pack_with_a_group_is_the_golden_one, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_group_is_told_chunk_by_chunk_and_shares_its_record, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_group_never_goes_into_a_pack_of_version_1, setup, teardown),
      cmocka_unit_test_setup_teardown(test_records_are_readable_before_and_after_flush_and_reopening, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_rounded_length_reads_the_exact_record, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_pack_without_a_number_is_not_there_and_costs_no_descriptor,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_appending_goes_on_behind_what_was_there, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_scan_starts_where_it_is_told, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_tail_torn_at_any_byte_costs_the_last_record_alone, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_file_torn_inside_its_header_is_no_pack, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_flipped_bit_costs_the_record_that_has_it, setup, teardown),
      cmocka_unit_test_setup_teardown(test_damage_is_named_and_what_is_behind_it_is_kept, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_damaged_table_falls_back_to_the_records, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_damaged_header_keeps_the_records_but_takes_no_more, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_records_of_another_store_or_place_are_not_believed, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_record_inside_a_payload_is_not_found_by_a_scan, setup, teardown),
      cmocka_unit_test_setup_teardown(test_any_call_that_fails_once_leaves_the_set_usable, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_disk_that_fails_for_ever_loses_nothing_flushed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_power_cut_at_any_call_loses_nothing_flushed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_what_a_killed_process_left_is_durable_after_the_next_flush, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_power_cut_after_a_failed_call_loses_nothing_flushed, setup,
                                      teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
