/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store-fixture.h"

#include <stdio.h>
#include <store/store-private.h>

static void
test_clusters_come_back_at_once_and_after_reopening(void **state)
{
  Fixture *fixture = *state;
  put_all(fixture, STORE_PUT_STORED);
  check_all(fixture);
  assert_true(store_flush(fixture->store, NULL));
  check_all(fixture);
  reopen(fixture);
  check_all(fixture);
  StoreStatistics statistics;
  store_statistics(fixture->store, &statistics);
  assert_int_equal(statistics.n_chunks, N_CLUSTERS);
  assert_int_equal(statistics.n_recovered, 0);
  assert_true(statistics.n_packs > 1);
  put_all(fixture, STORE_PUT_REUSED);
}

static void
test_zeros_are_not_stored(void **state)
{
  Fixture *fixture = *state;
  static const guint8 zeros[CBT_CLUSTER_SIZE];
  guint8 data[STORE_CHUNK_LENGTH_MAX];
  StoreChunkId id;
  StorePutOutcome outcome;
  StoreTally tally = {0};
  gsize length;
  assert_true(store_put(fixture->worker, STORE_CHUNK_DATA, zeros, sizeof zeros, &id, &outcome, &tally, NULL));
  assert_int_equal(outcome, STORE_PUT_ZERO);
  assert_true(store_chunk_id_is_zero(&id));
  assert_int_equal(tally.zero_bytes, sizeof zeros);
  assert_int_equal(tally.stored_bytes, 0);
  assert_true(store_get(fixture->worker, &id, data, &length, NULL));
  assert_int_equal(length, sizeof zeros);
  assert_true(cbt_is_zero(data, length));
  /* A page of zeros is a page. */
  assert_true(store_put(fixture->worker, STORE_CHUNK_PAGE, zeros, 512, &id, &outcome, &tally, NULL));
  assert_int_equal(outcome, STORE_PUT_STORED);
  assert_false(store_chunk_id_is_zero(&id));
  assert_true(store_get(fixture->worker, &id, data, &length, NULL));
  assert_int_equal(length, 512);
}

static void
test_a_cluster_has_the_digest_of_its_own_chunk_alone(void **state)
{
  Fixture *fixture = *state;
  static const StoreChunkId zero_id = {{0}};
  guint8 data[CBT_CLUSTER_SIZE], zeros[CBT_CLUSTER_SIZE] = {0};
  StoreChunkId id;
  store_test_fill_random(data, sizeof data, 7);
  assert_true(store_put(fixture->worker, STORE_CHUNK_DATA, data, sizeof data, &id, NULL, NULL, NULL));
  assert_true(store_has_digest(fixture->worker, &id, data));
  assert_false(store_has_digest(fixture->worker, &zero_id, data));
  assert_true(store_has_digest(fixture->worker, &zero_id, zeros));
  data[sizeof data - 1] ^= 1;
  assert_false(store_has_digest(fixture->worker, &id, data));
}

static void
test_pages_and_blobs_of_any_length_come_back(void **state)
{
  Fixture *fixture = *state;
  static const gsize lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 240, 241, 1000, 4095, 4096, 65535, 65536};
  guint8 data[STORE_CHUNK_LENGTH_MAX], back[STORE_CHUNK_LENGTH_MAX];
  for (guint i = 0; i < 2 * G_N_ELEMENTS(lengths); i++) {
    gsize wanted = lengths[i / 2];
    gsize length;
    StoreChunkId id;
    if (i % 2)
      store_test_fill_random(data, wanted, i);
    else
      store_test_fill_text(data, wanted, i);
    assert_true(store_put(fixture->worker, i % 2 ? STORE_CHUNK_PAGE : STORE_CHUNK_BLOB, data, wanted, &id,
                          NULL, NULL, NULL));
    assert_true(store_get(fixture->worker, &id, back, &length, NULL));
    assert_int_equal(length, wanted);
    assert_memory_equal(back, data, wanted);
  }
}

static void
test_the_tally_adds_up(void **state)
{
  Fixture *fixture = *state;
  StoreTally tally = {0};
  StoreChunkId id;
  StoreStatistics before, after;
  store_statistics(fixture->store, &before);
  for (guint i = 0; i < 4; i++)
    assert_true(put_cluster(fixture->worker, i, &id, NULL, &tally));
  assert_true(put_cluster(fixture->worker, 2, &id, NULL, &tally));
  assert_int_equal(tally.new_bytes, 4 * CBT_CLUSTER_SIZE);
  assert_int_equal(tally.reused_bytes, CBT_CLUSTER_SIZE);
  assert_int_equal(tally.zero_bytes, 0);
  store_statistics(fixture->store, &after);
  assert_int_equal(after.pack_bytes - before.pack_bytes, tally.stored_bytes + STORE_PACK_HEADER_SIZE);
  assert_in_range(tally.stored_bytes, 2 * CBT_CLUSTER_SIZE, 3 * CBT_CLUSTER_SIZE);
  StoreTally page = {0};
  assert_true(store_put(fixture->worker, STORE_CHUNK_PAGE, "a page of text", 14, &id, NULL, &page, NULL));
  assert_int_equal(page.new_bytes + page.reused_bytes + page.zero_bytes, 0);
  assert_int_equal(page.stored_bytes, 64);
}

static void
test_a_chunk_that_is_not_there_is_not_found(void **state)
{
  Fixture *fixture = *state;
  guint8 data[STORE_CHUNK_LENGTH_MAX];
  gsize length;
  StoreChunkId id = {{1, 2, 3}};
  g_autoptr(GError) error = NULL;
  put_all(fixture, STORE_PUT_STORED);
  assert_false(store_get(fixture->worker, &id, data, &length, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_NOT_FOUND);
  assert_non_null(strstr(error->message, "01020300000000000000000000000000"));
}

/* --- many workers, collisions --- */

typedef struct {
  Store *store;
  guint start;
  pthread_barrier_t *together; /* all put at the same instant */
  StoreTally tally;
  StoreChunkId ids[N_CLUSTERS];
} Job;

static void *
put_in_thread(void *data)
{
  Job *job = data;
  g_autoptr(StoreWorker) worker = store_worker_new(job->store);
  for (guint round = 0; round < 3; round++) {
    for (guint k = 0; k < N_CLUSTERS; k++) {
      guint i = (job->start + k) % N_CLUSTERS;
      guint8 cluster[CBT_CLUSTER_SIZE];
      cluster_of(i, cluster);
      pthread_barrier_wait(job->together);
      assert_true(store_put(worker, STORE_CHUNK_DATA, cluster, sizeof cluster, &job->ids[i], NULL,
                            &job->tally, NULL));
      assert_true(cluster_is_readable(worker, i, &job->ids[i], NULL));
    }
    assert_true(store_flush(job->store, NULL));
  }
  return NULL;
}

static void
check_threads(Fixture *fixture, guint step)
{
  pthread_t threads[4];
  Job jobs[4] = {0};
  guint64 new_bytes = 0;
  pthread_barrier_t together;
  pthread_barrier_init(&together, NULL, 4);
  for (guint i = 0; i < 4; i++) {
    jobs[i] = (Job){.store = fixture->store, .start = i * step, .together = &together};
    assert_int_equal(pthread_create(&threads[i], NULL, put_in_thread, &jobs[i]), 0);
  }
  for (guint i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    new_bytes += jobs[i].tally.new_bytes;
    assert_int_equal(jobs[i].tally.new_bytes + jobs[i].tally.reused_bytes, 3 * N_CLUSTERS * CBT_CLUSTER_SIZE);
    assert_memory_equal(jobs[i].ids, jobs[0].ids, sizeof jobs[0].ids);
  }
  pthread_barrier_destroy(&together);
  assert_int_equal(new_bytes, N_CLUSTERS * CBT_CLUSTER_SIZE);
  StoreStatistics statistics;
  store_statistics(fixture->store, &statistics);
  assert_int_equal(statistics.n_chunks, N_CLUSTERS);
}

static void
test_workers_side_by_side_store_each_chunk_once(void **state)
{
  check_threads(*state, 0);
}

static void
test_workers_of_different_disks_share_chunks(void **state)
{
  check_threads(*state, 5);
}

static void
check_collisions(Fixture *fixture)
{
  put_all(fixture, STORE_PUT_STORED);
  put_all(fixture, STORE_PUT_REUSED);
  check_all(fixture);
  for (guint i = 0; i < N_CLUSTERS; i++)
    for (guint k = 0; k < i; k++)
      assert_false(store_chunk_id_equal(&fixture->ids[i], &fixture->ids[k]));
  reopen(fixture);
  check_all(fixture);
  put_all(fixture, STORE_PUT_REUSED);
  close_fixture(fixture);
  g_autofree char *index = path_of(fixture, "index");
  unlink(index);
  open_fixture(fixture);
  check_all(fixture);
  put_all(fixture, STORE_PUT_REUSED);
}

static Fixture *
with_weak_digests(void **state, guint8 mask)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  fixture->options.digest_mask = mask;
  open_fixture(fixture);
  return fixture;
}

static void
test_contents_whose_digests_collide_are_kept_apart(void **state)
{
  check_collisions(with_weak_digests(state, 0x80));
}

/* A mask of one bit on 15 bytes still tells contents apart; a look at the same digest needs contents chosen
 * for it. */
static void
test_one_digest_holds_many_contents_and_then_says_no_more(void **state)
{
  Fixture *fixture = with_weak_digests(state, 0x01);
  /* 2^15 digests: the birthday paradox gives collisions among a thousand small blobs. */
  GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  guint n_collided = 0;
  for (guint i = 0; i < 1000; i++) {
    StoreChunkId id;
    char text[STORE_CHUNK_ID_TEXT_SIZE];
    g_autofree char *blob = g_strdup_printf("blob number %u", i);
    StorePutOutcome outcome;
    assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, blob, strlen(blob), &id, &outcome, NULL, NULL));
    assert_int_equal(outcome, STORE_PUT_STORED);
    n_collided += id.bytes[15] != 0;
    assert_true(g_hash_table_add(seen, g_strdup(store_chunk_id_format(&id, text))));
    guint8 back[STORE_CHUNK_LENGTH_MAX];
    gsize length;
    assert_true(store_get(fixture->worker, &id, back, &length, NULL));
    assert_int_equal(length, strlen(blob));
    assert_memory_equal(back, blob, length);
  }
  assert_true(n_collided > 0);
  g_hash_table_unref(seen);
}

static void
test_damage_among_collided_contents_never_takes_anothers_place(void **state)
{
  Fixture *fixture = with_weak_digests(state, 0x01);
  StoreChunkId first = {{0}}, second = {{0}};
  g_autofree char *first_blob = NULL;
  g_autofree char *second_blob = NULL;
  /* Looks for two blobs of one digest. */
  GHashTable *blobs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  for (guint i = 0; !second_blob; i++) {
    char text[STORE_CHUNK_ID_TEXT_SIZE];
    char *blob = g_strdup_printf("blob number %u, long enough to be damaged", i);
    assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, blob, strlen(blob), &second, NULL, NULL, NULL));
    first = second;
    first.bytes[15] = second.bytes[15] > 0 ? second.bytes[15] - 1 : 0;
    const char *other = g_hash_table_lookup(blobs, store_chunk_id_format(&first, text));
    if (other && second.bytes[15] > 0) {
      first_blob = g_strdup(other);
      second_blob = blob;
    } else {
      g_hash_table_insert(blobs, g_strdup(store_chunk_id_format(&second, text)), blob);
    }
  }
  close_fixture(fixture);
  damage(fixture, &first);
  open_fixture(fixture);
  StoreChunkId again;
  StorePutOutcome outcome;
  guint8 back[STORE_CHUNK_LENGTH_MAX];
  gsize length;
  assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, first_blob, strlen(first_blob), &again, &outcome,
                        NULL, NULL));
  assert_int_equal(outcome, STORE_PUT_STORED);
  assert_int_not_equal(again.bytes[15], first.bytes[15]);
  assert_true(store_get(fixture->worker, &second, back, &length, NULL));
  assert_memory_equal(back, second_blob, length);
  assert_true(store_get(fixture->worker, &again, back, &length, NULL));
  assert_memory_equal(back, first_blob, length);
  assert_false(store_get(fixture->worker, &first, back, &length, NULL));
  g_hash_table_unref(blobs);
}

/* --- damage --- */

static void
test_a_damaged_chunk_is_named_and_healed_by_the_next_put(void **state)
{
  Fixture *fixture = *state;
  for (guint victim = 0; victim < 2; victim++) {
    put_all(fixture, victim == 0 ? STORE_PUT_STORED : STORE_PUT_REUSED);
    close_fixture(fixture);
    StoreLocation at = damage(fixture, &fixture->ids[victim]);
    open_fixture(fixture);
    g_autoptr(GError) error = NULL;
    char text[STORE_CHUNK_ID_TEXT_SIZE];
    g_autofree char *place = g_strdup_printf("pack %08x at offset %u", at.pack, at.offset);
    assert_false(cluster_is_readable(fixture->worker, victim, &fixture->ids[victim], &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
    assert_non_null(strstr(error->message, store_chunk_id_format(&fixture->ids[victim], text)));
    assert_non_null(strstr(error->message, place));
    StorePutOutcome outcome;
    StoreChunkId id;
    StoreTally tally = {0};
    assert_true(put_cluster(fixture->worker, victim, &id, &outcome, &tally));
    assert_int_equal(outcome, STORE_PUT_HEALED);
    assert_true(store_chunk_id_equal(&id, &fixture->ids[victim]));
    assert_true(tally.stored_bytes > 0);
    check_all(fixture);
    /* It stays healed, also when the index is made again from the packs, which have both copies. */
    close_fixture(fixture);
    g_autofree char *index = path_of(fixture, "index");
    unlink(index);
    open_fixture(fixture);
    check_all(fixture);
  }
}

static void
test_without_dedup_verify_known_chunks_are_reused_unread(void **state)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  fixture->options.dedup_verify = FALSE;
  open_fixture(fixture);
  put_all(fixture, STORE_PUT_STORED);
  put_all(fixture, STORE_PUT_REUSED);
  close_fixture(fixture);
  damage(fixture, &fixture->ids[0]);
  open_fixture(fixture);
  put_all(fixture, STORE_PUT_REUSED);
}

/* ---- checkpoints ---- */

static int
count_fdatasync(const CbtFileOps *ops, int fd)
{
  ++*(guint *) ops->user;
  return cbt_file_ops_default()->fdatasync(cbt_file_ops_default(), fd);
}

/* How far the index says that it is complete, as the next opening would be told. */
static StoreLocation
covered_end(const Fixture *fixture)
{
  g_autofree char *path = path_of(fixture, "index");
  g_autofree char *data = NULL;
  gsize length;
  StoreIndexHeader header;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  assert_true(store_index_header_decode((guint8 *) data, store_uuid(fixture->store), length, &header));
  return header.covered;
}

static void
test_a_flush_does_not_wait_for_a_checkpoint_under_way(void **state)
{
  Fixture *fixture = *state;
  CbtFileOps ops = *cbt_file_ops_default();
  guint n_syncs = 0;
  ops.fdatasync = count_fdatasync;
  ops.user = &n_syncs;
  fixture->options.ops = &ops;
  reopen(fixture);
  Store *store = fixture->store;
  StoreLocation before = covered_end(fixture);
  put_all(fixture, STORE_PUT_STORED);
  store->checkpoint_is_due = TRUE;
  n_syncs = 0;
  pthread_mutex_lock(&store->checkpoint_lock);
  assert_true(store_flush(store, NULL));
  pthread_mutex_unlock(&store->checkpoint_lock);
  /* It did what it is for, and left the checkpoint to another one. */
  assert_true(n_syncs > 0);
  assert_true(store->checkpoint_is_due);
  StoreLocation after = covered_end(fixture);
  assert_memory_equal(&after, &before, sizeof after);
  assert_true(store_flush(store, NULL));
  assert_false(store->checkpoint_is_due);
  after = covered_end(fixture);
  StoreLocation end = store_pack_end(store->packs);
  assert_int_equal(after.pack, end.pack);
  assert_int_equal(after.offset, end.offset);
  fixture->options.ops = NULL;
  reopen(fixture);
}

typedef struct {
  CbtFileOps ops;
  Fixture *fixture;
  gboolean is_armed;
} Late;

/* One more cluster is put when the first sync of a flush has begun. */
static int
fdatasync_beside_a_put(const CbtFileOps *ops, int fd)
{
  Late *late = ops->user;
  StorePutOutcome outcome;
  StoreChunkId id;
  if (late->is_armed) {
    late->is_armed = FALSE;
    assert_true(put_cluster(late->fixture->worker, N_CLUSTERS + 1, &id, &outcome, NULL));
    assert_int_equal(outcome, STORE_PUT_STORED);
  }
  return cbt_file_ops_default()->fdatasync(cbt_file_ops_default(), fd);
}

static void
test_a_checkpoint_does_not_cover_what_is_put_while_it_flushes(void **state)
{
  Fixture *fixture = *state;
  Late late = {.ops = *cbt_file_ops_default(), .fixture = fixture};
  late.ops.fdatasync = fdatasync_beside_a_put;
  late.ops.user = &late;
  fixture->options.ops = &late.ops;
  reopen(fixture);
  put_all(fixture, STORE_PUT_STORED);
  StoreLocation end = store_pack_end(fixture->store->packs);
  late.is_armed = TRUE;
  assert_true(store_checkpoint(fixture->store, NULL));
  assert_false(late.is_armed);
  StoreLocation covered = covered_end(fixture);
  assert_int_equal(covered.pack, end.pack);
  assert_int_equal(covered.offset, end.offset);
  fixture->options.ops = NULL;
  reopen(fixture);
}

/* ---- reading the packs again ---- */

typedef struct {
  CbtFileOps ops;
  Fixture *fixture;
  gboolean is_armed;
  StoreLocation end; /* of what was put before */
} Beside;

/* All is put once more when the packs have just begun to be read. */
static ssize_t
pread_beside_puts(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  Beside *beside = ops->user;
  if (beside->is_armed) {
    Store *store = beside->fixture->store;
    g_autoptr(StoreWorker) worker = store_worker_new(store);
    beside->is_armed = FALSE;
    assert_int_equal(pthread_mutex_trylock(&store->append_lock), 0);
    pthread_mutex_unlock(&store->append_lock);
    beside->end = store_pack_end(store->packs);
    for (guint i = 0; i < N_CLUSTERS; i += 2) {
      StoreChunkId id;
      StorePutOutcome outcome;
      assert_true(put_cluster(worker, i, &id, &outcome, NULL));
      assert_int_equal(outcome, STORE_PUT_STORED);
    }
  }
  return cbt_file_ops_default()->pread(cbt_file_ops_default(), fd, buffer, length, offset);
}

static void
test_puts_go_on_while_packs_are_read_again_and_stay_where_they_are(void **state)
{
  Fixture *fixture = *state;
  Beside beside = {.ops = *cbt_file_ops_default(), .fixture = fixture};
  beside.ops.pread = pread_beside_puts;
  beside.ops.user = &beside;
  fixture->options.ops = &beside.ops;
  reopen(fixture);
  Store *store = fixture->store;
  put_all(fixture, STORE_PUT_STORED);
  for (guint i = 0; i < N_CLUSTERS; i++)
    assert_true(store_index_remove(store->index, &fixture->ids[i]));
  beside.is_armed = TRUE;
  assert_true(cluster_is_readable(fixture->worker, 1, &fixture->ids[1], NULL));
  assert_false(beside.is_armed);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    StoreLocation at;
    assert_true(store_index_lookup(store->index, &fixture->ids[i], &at));
    gboolean is_new =
        at.pack > beside.end.pack || (at.pack == beside.end.pack && at.offset >= beside.end.offset);
    assert_int_equal(is_new, i % 2 == 0);
  }
  check_all(fixture);
  fixture->options.ops = NULL;
  reopen(fixture);
  check_all(fixture);
}

/* What is moved away is written through descriptors as if nothing had happened. */
static void
test_a_store_that_another_took_the_place_of_is_not_flushed(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *away = g_build_filename(fixture->folder, "away", NULL);
  g_autofree char *format = path_of(fixture, "format");
  StoreOptions options = STORE_OPTIONS_DEFAULT;
  g_autoptr(GError) error = NULL;
  put_all(fixture, STORE_PUT_STORED);
  assert_int_equal(rename(fixture->directory, away), 0);
  assert_false(store_flush(fixture->store, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_STATE));
  store_close(store_open(fixture->directory, &options, NULL));
  assert_false(store_check_in_place(fixture->store, NULL));
  store_test_folder_free(g_strdup(fixture->directory));
  assert_int_equal(rename(away, fixture->directory), 0);
  assert_true(store_flush(fixture->store, NULL));

  /* Another one, copied into the same folder: the lock's file stays. */
  StoreFormat other;
  assert_true(store_format_generate(&other, NULL));
  assert_true(store_format_save(cbt_file_ops_default(), format, &other, NULL));
  assert_false(store_flush(fixture->store, NULL));
  assert_true(store_format_save(cbt_file_ops_default(), format, &fixture->store->format, NULL));
  assert_true(store_flush(fixture->store, NULL));
  reopen(fixture);
  check_all(fixture);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_clusters_come_back_at_once_and_after_reopening),
      TEST_GROUPED(test_clusters_come_back_at_once_and_after_reopening),
      TEST(test_zeros_are_not_stored),
      TEST_GROUPED(test_zeros_are_not_stored),
      TEST(test_a_cluster_has_the_digest_of_its_own_chunk_alone),
      TEST(test_pages_and_blobs_of_any_length_come_back),
      TEST(test_the_tally_adds_up),
      TEST(test_a_chunk_that_is_not_there_is_not_found),
      TEST_GROUPED(test_a_chunk_that_is_not_there_is_not_found),
      TEST(test_workers_side_by_side_store_each_chunk_once),
      TEST_GROUPED(test_workers_side_by_side_store_each_chunk_once),
      TEST(test_workers_of_different_disks_share_chunks),
      TEST_GROUPED(test_workers_of_different_disks_share_chunks),
      TEST(test_contents_whose_digests_collide_are_kept_apart),
      TEST_GROUPED(test_contents_whose_digests_collide_are_kept_apart),
      TEST(test_one_digest_holds_many_contents_and_then_says_no_more),
      TEST(test_damage_among_collided_contents_never_takes_anothers_place),
      TEST(test_a_damaged_chunk_is_named_and_healed_by_the_next_put),
      TEST(test_without_dedup_verify_known_chunks_are_reused_unread),
      TEST(test_a_flush_does_not_wait_for_a_checkpoint_under_way),
      TEST_GROUPED(test_a_flush_does_not_wait_for_a_checkpoint_under_way),
      TEST(test_puts_go_on_while_packs_are_read_again_and_stay_where_they_are),
      TEST(test_a_store_that_another_took_the_place_of_is_not_flushed),
      TEST_GROUPED(test_a_store_that_another_took_the_place_of_is_not_flushed),
      TEST(test_a_checkpoint_does_not_cover_what_is_put_while_it_flushes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
