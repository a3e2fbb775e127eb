/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store-fixture.h"

#include <common/fd.h>
#include <fcntl.h>

#include <store/group-write.h>
#include <store/group.h>
#include <store/store-private.h>
#include <zstd.h>

/* --- the format --- */

static void
test_shares_make_up_the_record(void **state G_GNUC_UNUSED)
{
  for (guint n = STORE_GROUP_CHUNKS_MIN; n <= STORE_GROUP_CHUNKS_MAX; n++) {
    guint32 lengths[] = {n * STORE_CHUNK_ID_SIZE + 1, n * 1000 + 7, store_group_payload_max(n)};
    for (guint k = 0; k < G_N_ELEMENTS(lengths); k++) {
      guint32 sum = 0;
      for (guint i = 0; i < n; i++) {
        guint32 share = store_group_share(lengths[k], n, i);
        assert_in_range(share, STORE_PACK_ALIGN, STORE_GROUP_SHARE_MAX);
        assert_int_equal(share % STORE_PACK_ALIGN, 0);
        sum += share;
      }
      assert_int_equal(sum, store_record_span(lengths[k]));
    }
  }
}

static gboolean
header_is_taken(guint32 length, guint32 payload_length, StoreChunkType type, guint8 id)
{
  g_autofree guint8 *record = g_malloc0(STORE_RECORD_HEADER_SIZE + payload_length);
  CbtUuid store = {{1}};
  StoreRecordInfo info = {.id = {{id}}, .type = type, .length = length, .encoding = STORE_ENCODING_GROUP};
  StoreRecordInfo read;
  guint32 read_length;
  store_record_encode(record, &store, 3, 64, &info, payload_length);
  return store_record_header_decode(record, 3, 64, &read, &read_length);
}

static void
test_headers_that_cannot_be_a_groups_are_refused(void **state G_GNUC_UNUSED)
{
  const guint32 c = STORE_CHUNK_LENGTH_MAX;
  assert_true(header_is_taken(2 * c, 100, STORE_CHUNK_DATA, 0));
  assert_true(header_is_taken(64 * c, 63 * c, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(2 * c, 100, STORE_CHUNK_DATA, 1));
  assert_false(header_is_taken(2 * c, 100, STORE_CHUNK_PAGE, 0));
  assert_false(header_is_taken(c, 100, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(0, 100, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(2 * c + 1, 100, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(65 * c, 100000, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(G_MAXUINT32, 100000, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(2 * c, 32, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(2 * c, 2 * c, STORE_CHUNK_DATA, 0));
  assert_false(header_is_taken(64 * c, 63 * c + 1, STORE_CHUNK_DATA, 0));
}

static void
test_ids_that_are_zero_or_there_twice_are_refused(void **state G_GNUC_UNUSED)
{
  StoreChunkId ids[3] = {{{1}}, {{2}}, {{3}}};
  const guint8 *payload = (const guint8 *) ids;
  assert_true(store_group_ids_are_possible(payload, 3));
  assert_int_equal(store_group_find(payload, 3, &ids[2]), 2);
  assert_int_equal(store_group_find(payload, 2, &ids[2]), -1);
  ids[2] = ids[0];
  assert_false(store_group_ids_are_possible(payload, 3));
  ids[2] = (StoreChunkId){{0}};
  assert_false(store_group_ids_are_possible(payload, 3));
}

/* A frame of other contents, of too few or too many, and none at all: records with a good checksum. */
static void
test_a_frame_that_is_none_of_the_group_is_damage(void **state)
{
  Fixture *fixture = *state;
  g_autofree guint8 *contents = g_malloc0(3 * CBT_CLUSTER_SIZE);
  for (guint kind = 0; kind < 4; kind++) {
    guint8 payload[1000] = {0};
    guint8 data[STORE_CHUNK_LENGTH_MAX];
    StoreChunkId ids[2] = {{{(guint8) (10 + kind)}}, {{(guint8) (20 + kind)}}};
    StoreRecordInfo info = store_group_info(2);
    StoreLocation at;
    g_autoptr(GError) error = NULL;
    gsize length = 2 * CBT_CLUSTER_SIZE;
    memcpy(payload, ids, sizeof ids);
    size_t n = ZSTD_compress(payload + sizeof ids, sizeof payload - sizeof ids, contents,
                             (kind == 0   ? 1
                              : kind == 1 ? 3
                                          : 2) *
                                 CBT_CLUSTER_SIZE,
                             1);
    if (kind == 2)
      payload[sizeof ids] ^= 1;
    assert_true(store_pack_append(fixture->store->packs, &info, payload, sizeof ids + n, &at, NULL));
    at.length = store_group_share((guint32) (sizeof ids + n), 2, 0);
    assert_true(store_index_insert(fixture->store->index, &ids[0], &at, NULL));
    assert_false(store_get(fixture->worker, &ids[0], data, &length, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  }
}

/* --- groups in a store --- */

static void
put_range(StoreWorker *worker, Fixture *fixture, guint first, guint end, StorePutOutcome expected)
{
  for (guint i = first; i < end; i++) {
    StorePutOutcome outcome;
    assert_true(put_cluster(worker, i, &fixture->ids[i], &outcome, NULL));
    assert_int_equal(outcome, expected);
  }
}

static guint
count_readable(Fixture *fixture, guint first, guint end)
{
  guint n = 0;
  for (guint i = first; i < end; i++)
    n += cluster_is_readable(fixture->worker, i, &fixture->ids[i], NULL);
  return n;
}

static void
test_what_is_pending_is_found_by_all_and_written_once(void **state)
{
  Fixture *fixture = *state;
  StoreTally tally = {0};
  StoreStatistics before, after;
  StoreWorker *other = store_worker_new(fixture->store);
  store_statistics(fixture->store, &before);
  put_range(fixture->worker, fixture, 0, 3, STORE_PUT_STORED);
  put_range(other, fixture, 0, 3, STORE_PUT_REUSED);
  assert_true(cluster_is_readable(other, 2, &fixture->ids[2], NULL));
  store_statistics(fixture->store, &after);
  assert_int_equal(after.pack_bytes, before.pack_bytes);
  assert_true(store_worker_flush(fixture->worker, &tally, NULL));
  store_statistics(fixture->store, &after);
  assert_int_equal(after.pack_bytes - before.pack_bytes, tally.stored_bytes + STORE_PACK_HEADER_SIZE);
  assert_int_equal(after.n_chunks, 3);
  put_range(other, fixture, 0, 3, STORE_PUT_REUSED);
  store_worker_free(other);
  reopen(fixture);
  assert_int_equal(count_readable(fixture, 0, 3), 3);
}

/* A flush takes what another worker has just begun; that goes on with a new group. */
static void
test_a_flush_writes_the_groups_of_all_workers(void **state)
{
  Fixture *fixture = *state;
  StoreTally tally = {0};
  put_range(fixture->worker, fixture, 0, 2, STORE_PUT_STORED);
  assert_true(store_flush(fixture->store, NULL));
  StoreLocation at;
  assert_true(store_index_lookup(fixture->store->index, &fixture->ids[1], &at));
  put_range(fixture->worker, fixture, 2, 4, STORE_PUT_STORED);
  assert_true(store_worker_flush(fixture->worker, &tally, NULL));
  assert_true(tally.stored_bytes > 0); /* also of what the flush wrote for it */
  reopen(fixture);
  assert_int_equal(count_readable(fixture, 0, 4), 4);
}

static void
test_incompressible_clusters_are_records_of_their_own(void **state)
{
  Fixture *fixture = *state;
  for (guint i = 1; i < 10; i += 2)
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  for (guint i = 1; i < 10; i += 2) {
    StoreLocation at;
    assert_true(store_index_lookup(fixture->store->index, &fixture->ids[i], &at));
    assert_int_equal(at.length, store_record_span(CBT_CLUSTER_SIZE));
  }
}

static void
test_a_damaged_group_loses_its_chunks_and_is_healed(void **state)
{
  Fixture *fixture = *state;
  put_range(fixture->worker, fixture, 0, 10, STORE_PUT_STORED);
  close_fixture(fixture);
  damage(fixture, &fixture->ids[1]);
  open_fixture(fixture);
  assert_int_equal(count_readable(fixture, 0, 5), 0);
  assert_int_equal(count_readable(fixture, 5, 10), 5);
  put_range(fixture->worker, fixture, 0, 5, STORE_PUT_HEALED);
  put_range(fixture->worker, fixture, 0, 10, STORE_PUT_REUSED);
  assert_int_equal(count_readable(fixture, 0, 10), 10);
  reopen(fixture);
  assert_int_equal(count_readable(fixture, 0, 10), 10);
}

static void
test_a_torn_group_is_cut_off(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *pack = path_of(fixture, "packs/00000001.pack");
  g_autofree char *index = path_of(fixture, "index");
  fixture->options.pack_size = 0;
  reopen(fixture);
  put_range(fixture->worker, fixture, 0, 10, STORE_PUT_STORED);
  close_fixture(fixture);
  store_test_truncate(pack, store_test_file_size(pack) - 1000);
  unlink(index);
  open_fixture(fixture);
  assert_int_equal(count_readable(fixture, 0, 10), 5);
  put_range(fixture->worker, fixture, 0, 5, STORE_PUT_REUSED);
  put_range(fixture->worker, fixture, 5, 10, STORE_PUT_STORED);
  reopen(fixture);
  assert_int_equal(count_readable(fixture, 0, 10), 10);
}

/* --- version 1 --- */

static guint32
format_version(const Fixture *fixture)
{
  g_autofree char *path = path_of(fixture, "format");
  StoreFormat format;
  assert_true(store_format_load(cbt_file_ops_default(), path, &format, NULL));
  return format.version;
}

/* Of a store that has no groups, as an older version of the program has left it. */
static void
make_version_1(const Fixture *fixture)
{
  g_autofree char *path = path_of(fixture, "format");
  g_autofree char *pack = path_of(fixture, "packs/00000001.pack");
  g_autofree char *data = NULL;
  gsize length;
  StoreFormat format;
  assert_true(store_format_load(cbt_file_ops_default(), path, &format, NULL));
  format.version = 1;
  assert_true(store_format_save(cbt_file_ops_default(), path, &format, NULL));
  assert_true(g_file_get_contents(pack, &data, &length, NULL));
  store_pack_header_encode(1, &format.uuid, 1, (guint8 *) data);
  store_test_write(pack, data, length);
}

static void
test_a_store_of_version_1_is_read_and_raised_by_the_first_group(void **state)
{
  Fixture *fixture = *state;
  StoreLocation at;
  fixture->options.group_clusters = 1;
  fixture->options.pack_size = 0;
  reopen(fixture);
  put_range(fixture->worker, fixture, 0, 6, STORE_PUT_STORED);
  close_fixture(fixture);
  make_version_1(fixture);
  fixture->options.group_clusters = 5;
  open_fixture(fixture);
  put_range(fixture->worker, fixture, 0, 6, STORE_PUT_REUSED);
  assert_int_equal(count_readable(fixture, 0, 6), 6);
  assert_true(store_flush(fixture->store, NULL));
  assert_int_equal(format_version(fixture), 1);
  put_range(fixture->worker, fixture, 6, 12, STORE_PUT_STORED);
  assert_true(store_flush(fixture->store, NULL));
  assert_int_equal(format_version(fixture), STORE_FORMAT_VERSION);
  assert_true(store_index_lookup(fixture->store->index, &fixture->ids[6], &at));
  assert_int_equal(at.pack, 2);
  close_fixture(fixture);
  g_autofree char *index = path_of(fixture, "index");
  unlink(index);
  open_fixture(fixture);
  assert_int_equal(count_readable(fixture, 0, 12), 12);
}

static void
test_a_store_of_version_1_begins_packs_of_version_1(void **state)
{
  Fixture *fixture = *state;
  StoreChunkId id;
  guint8 header[STORE_PACK_HEADER_SIZE];
  put_range(fixture->worker, fixture, 0, 1, STORE_PUT_STORED);
  close_fixture(fixture);
  make_version_1(fixture);
  open_fixture(fixture);
  assert_true(store_pack_seal(fixture->store->packs, NULL));
  assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, "new", 3, &id, NULL, NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  g_autofree char *path = path_of(fixture, "packs/00000002.pack");
  CBT_AUTO_FD int fd = open(path, O_RDONLY);
  assert_int_equal(pread(fd, header, sizeof header, 0), sizeof header);
  assert_int_equal(store_pack_header_decode(header, store_uuid(fixture->store), 2), 1);
}

/* --- beside a collection --- */

static struct {
  CbtFileOps table;
  StoreIndex *index; /* (nullable) the next write takes ID out of it */
  StoreChunkId id;
} taker;

static ssize_t
take_out_and_write(const CbtFileOps *ops, int fd, const void *bytes, size_t length, off_t offset)
{
  StoreIndex *index = g_steal_pointer(&taker.index);
  if (index)
    assert_true(store_index_remove(index, &taker.id));
  return cbt_file_ops_default()->pwrite(ops, fd, bytes, length, offset);
}

/* Nobody wants it when a collection looks, and it is found pending after that. */
static void
test_what_is_taken_out_of_the_index_before_its_group_has_left_is_written_again(void **state)
{
  Fixture *fixture = *state;
  StoreLocation at;
  taker.table = *cbt_file_ops_default();
  taker.table.pwrite = take_out_and_write;
  fixture->options.ops = &taker.table;
  reopen(fixture);
  for (guint i = 1; i < 8; i += 2)
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], NULL, NULL));
  taker.id = fixture->ids[1];
  taker.index = fixture->store->index; /* the fifth makes the group full, and the pack */
  assert_true(put_cluster(fixture->worker, 9, &fixture->ids[9], NULL, NULL));
  assert_null(taker.index);
  assert_int_equal(store_staging_count(fixture->store->staging), 0);
  for (guint i = 1; i < 10; i += 2)
    assert_true(store_index_lookup(fixture->store->index, &fixture->ids[i], &at));
}

/* --- failures --- */

/* Whoever put or reused a chunk that could not be written cannot commit, also when the worker that put it is
 * gone; and nothing new is begun. When the disk has room again all of it is written. */
static void
test_nobody_commits_what_could_not_be_written(void **state)
{
  Fixture *fixture = *state;
  StoreFaultOps *faults = store_fault_ops_new();
  StoreChunkId id;
  guint8 data[CBT_CLUSTER_SIZE];
  fixture->options.ops = store_fault_ops_table(faults);
  store_fault_ops_arm(faults, 0, FALSE, 0);
  reopen(fixture);
  StoreWorker *other = store_worker_new(fixture->store);
  put_range(other, fixture, 0, 3, STORE_PUT_STORED);
  put_range(fixture->worker, fixture, 2, 3, STORE_PUT_REUSED);
  assert_true(store_pack_seal(fixture->store->packs, NULL));
  store_fault_ops_arm(faults, 1, TRUE, ENOSPC);
  assert_false(store_flush(fixture->store, NULL));
  store_worker_free(other);
  for (guint i = 0; i < 2; i++) {
    g_autoptr(GError) error = NULL;
    assert_false(store_flush(fixture->store, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_NO_SPACE);
  }
  assert_true(cluster_is_readable(fixture->worker, 2, &fixture->ids[2], NULL));
  put_range(fixture->worker, fixture, 2, 3, STORE_PUT_REUSED);
  cluster_of(7, data);
  assert_false(store_put(fixture->worker, STORE_CHUNK_DATA, data, sizeof data, &id, NULL, NULL, NULL));
  store_fault_ops_arm(faults, 0, FALSE, 0);
  assert_true(put_cluster(fixture->worker, 7, &fixture->ids[7], NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  fixture->options.ops = NULL;
  reopen(fixture);
  store_fault_ops_free(faults);
  assert_int_equal(count_readable(fixture, 0, 3), 3);
  assert_int_equal(count_readable(fixture, 7, 8), 1);
}

static int
open_no_new_index(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  errno = ENOSPC;
  return g_str_has_suffix(path, "index.new") ? -1 : cbt_file_ops_default()->open(ops, path, flags, mode);
}

/* Its place in the packs is taken by then: who waits for the bytes there must not do so for ever. */
static void
test_a_group_for_which_the_index_cannot_grow_is_written_when_it_can(void **state)
{
  Fixture *fixture = *state;
  CbtFileOps ops = *cbt_file_ops_default();
  StoreLocation nowhere = {.pack = 1000, .offset = STORE_PACK_HEADER_SIZE, .length = 64};
  fixture->options.ops = &ops;
  reopen(fixture);
  put_range(fixture->worker, fixture, 0, 3, STORE_PUT_STORED);
  ops.open = open_no_new_index;
  for (guint i = 1; i < STORE_INDEX_SLOTS_MIN; i++) {
    StoreChunkId id = store_chunk_id(fixture->store->format.secret, &i, sizeof i);
    if (!store_index_insert(fixture->store->index, &id, &nowhere, NULL))
      break;
  }
  assert_false(store_flush(fixture->store, NULL));
  assert_true(store_pack_unwritten_bytes(fixture->store->packs) > 0);
  assert_true(store_pack_flush(fixture->store->packs, NULL));
  assert_false(store_flush(fixture->store, NULL));
  ops = *cbt_file_ops_default();
  assert_true(store_flush(fixture->store, NULL));
  fixture->options.ops = NULL;
  reopen(fixture);
  assert_int_equal(count_readable(fixture, 0, 3), 3);
}

/* The index had lost an entry, which comes back while the chunk is pending: with the same content, damaged,
 * or with another content of the same name. */
static void
test_an_entry_that_comes_back_is_never_pointed_to_other_bytes(void **state)
{
  Fixture *fixture = *state;
  StoreLocation at, now;
  guint8 data[CBT_CLUSTER_SIZE];
  put_range(fixture->worker, fixture, 0, 2, STORE_PUT_STORED);
  assert_true(store_flush(fixture->store, NULL));
  assert_true(store_index_lookup(fixture->store->index, &fixture->ids[0], &at));
  assert_true(store_index_remove(fixture->store->index, &fixture->ids[0]));
  put_range(fixture->worker, fixture, 0, 1, STORE_PUT_STORED);
  assert_true(store_index_insert(fixture->store->index, &fixture->ids[0], &at, NULL));
  assert_true(store_flush(fixture->store, NULL));
  assert_true(store_index_lookup(fixture->store->index, &fixture->ids[0], &now));
  assert_memory_equal(&now, &at, sizeof at);

  /* A record of the same name with other bytes, which have the digest under the mask. */
  close_fixture(fixture);
  fixture->options.digest_mask = 0;
  open_fixture(fixture);
  StoreChunkId id = store_digest(fixture->store, (cluster_of(9, data), data), sizeof data);
  StoreRecordInfo info = {.id = id, .type = STORE_CHUNK_DATA, .length = CBT_CLUSTER_SIZE};
  put_range(fixture->worker, fixture, 9, 10, STORE_PUT_STORED);
  data[0] ^= 1;
  assert_true(store_pack_append(fixture->store->packs, &info, data, sizeof data, &at, NULL));
  assert_true(store_index_insert(fixture->store->index, &id, &at, NULL));
  assert_true(store_flush(fixture->store, NULL)); /* that record is damaged: it does not have its digest */
  assert_int_equal(count_readable(fixture, 9, 10), 1);
}

static void
test_a_true_collision_that_comes_back_fails_the_flush(void **state)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  fixture->options.digest_mask = 0x01;
  open_fixture(fixture);
  guint8 first[CBT_CLUSTER_SIZE], second[CBT_CLUSTER_SIZE];
  StoreChunkId id, other;
  StoreLocation at;
  g_autoptr(GError) error = NULL;
  cluster_of(0, first);
  id = store_digest(fixture->store, first, sizeof first);
  guint seed = 1000;
  do { /* one of 2^15 digests */
    memcpy(second, first, sizeof second);
    memcpy(second, &seed, sizeof seed);
    other = store_digest(fixture->store, second, sizeof second);
    seed++;
  } while (!store_chunk_id_equal(&id, &other));
  StoreRecordInfo info = {.id = id, .type = STORE_CHUNK_DATA, .length = CBT_CLUSTER_SIZE};
  put_range(fixture->worker, fixture, 0, 1, STORE_PUT_STORED);
  assert_true(store_pack_append(fixture->store->packs, &info, second, sizeof second, &at, NULL));
  assert_true(store_index_insert(fixture->store->index, &id, &at, NULL));
  assert_false(store_flush(fixture->store, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  assert_false(store_flush(fixture->store, NULL));
  reopen(fixture);
  put_range(fixture->worker, fixture, 0, 1, STORE_PUT_STORED); /* under the next ordinal */
  assert_false(store_chunk_id_equal(&fixture->ids[0], &id));
  assert_true(store_flush(fixture->store, NULL));
  assert_int_equal(count_readable(fixture, 0, 1), 1);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shares_make_up_the_record),
      cmocka_unit_test(test_headers_that_cannot_be_a_groups_are_refused),
      cmocka_unit_test(test_ids_that_are_zero_or_there_twice_are_refused),
      TEST_GROUPED(test_a_frame_that_is_none_of_the_group_is_damage),
      TEST_GROUPED(test_what_is_pending_is_found_by_all_and_written_once),
      TEST_GROUPED(test_a_flush_writes_the_groups_of_all_workers),
      TEST_GROUPED(test_incompressible_clusters_are_records_of_their_own),
      TEST_GROUPED(test_a_damaged_group_loses_its_chunks_and_is_healed),
      TEST_GROUPED(test_a_torn_group_is_cut_off),
      TEST_GROUPED(test_a_store_of_version_1_is_read_and_raised_by_the_first_group),
      TEST_GROUPED(test_a_store_of_version_1_begins_packs_of_version_1),
      TEST_GROUPED(test_what_is_taken_out_of_the_index_before_its_group_has_left_is_written_again),
      TEST_GROUPED(test_nobody_commits_what_could_not_be_written),
      TEST_GROUPED(test_a_group_for_which_the_index_cannot_grow_is_written_when_it_can),
      TEST_GROUPED(test_an_entry_that_comes_back_is_never_pointed_to_other_bytes),
      TEST_GROUPED(test_a_true_collision_that_comes_back_fails_the_flush),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
