/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <store/format.h>
#include <store/index-format.h>
#include <store/pack-format.h>
#include <store/store.h>
#include <sys/wait.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>
#include <unistd.h>

#define N_CLUSTERS 24

typedef struct {
  char *folder; /* the store is a folder in it */
  char *directory;
  Store *store;
  StoreWorker *worker;
  StoreOptions options;
  StoreChunkId ids[N_CLUSTERS];
} Fixture;

static void
open_fixture(Fixture *fixture)
{
  g_autoptr(GError) error = NULL;
  fixture->store = store_open(fixture->directory, &fixture->options, &error);
  if (error)
    print_message("%s\n", error->message);
  assert_non_null(fixture->store);
  fixture->worker = store_worker_new(fixture->store);
}

static void
close_fixture(Fixture *fixture)
{
  g_clear_pointer(&fixture->worker, store_worker_free);
  g_clear_pointer(&fixture->store, store_close);
}

static void
reopen(Fixture *fixture)
{
  close_fixture(fixture);
  open_fixture(fixture);
}

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->directory = g_build_filename(fixture->folder, "store", NULL);
  fixture->options = (StoreOptions){.dedup_verify = TRUE, .pack_size = 300000};
  open_fixture(fixture);
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  store_test_folder_free(fixture->folder);
  g_free(fixture->directory);
  g_free(fixture);
  return 0;
}

static char *
path_of(const Fixture *fixture, const char *name)
{
  return g_build_filename(fixture->directory, name, NULL);
}

/* Cluster I: every other one does not compress. */
static void
cluster_of(guint i, guint8 data[CBT_CLUSTER_SIZE])
{
  if (i % 2)
    store_test_fill_random(data, CBT_CLUSTER_SIZE, i);
  else
    store_test_fill_text(data, CBT_CLUSTER_SIZE, i);
}

static gboolean
put_cluster(StoreWorker *worker, guint i, StoreChunkId *id, StorePutOutcome *outcome, StoreTally *tally)
{
  guint8 data[CBT_CLUSTER_SIZE];
  cluster_of(i, data);
  return store_put(worker, STORE_CHUNK_DATA, data, sizeof data, id, outcome, tally, NULL);
}

static gboolean
cluster_is_readable(StoreWorker *worker, guint i, const StoreChunkId *id, GError **error)
{
  guint8 expected[CBT_CLUSTER_SIZE];
  guint8 data[STORE_CHUNK_LENGTH_MAX];
  gsize length = 0;
  cluster_of(i, expected);
  if (!store_get(worker, id, data, &length, error))
    return FALSE;
  assert_int_equal(length, sizeof expected);
  assert_memory_equal(data, expected, sizeof expected);
  return TRUE;
}

static void
put_all(Fixture *fixture, StorePutOutcome expected)
{
  for (guint i = 0; i < N_CLUSTERS; i++) {
    StorePutOutcome outcome;
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], &outcome, NULL));
    assert_int_equal(outcome, expected);
  }
}

static void
check_all(Fixture *fixture)
{
  for (guint i = 0; i < N_CLUSTERS; i++)
    assert_true(cluster_is_readable(fixture->worker, i, &fixture->ids[i], NULL));
}

/* Where the record of ID stands, found by reading the packs. */
typedef struct {
  StoreChunkId id;
  StoreLocation at;
  guint n;
} Wanted;

static gboolean
note_wanted(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Wanted *wanted = user_data;
  if (store_chunk_id_equal(&info->id, &wanted->id)) {
    wanted->at = *location;
    wanted->n++;
  }
  return TRUE;
}

static Wanted
locate(const Fixture *fixture, const StoreChunkId *id)
{
  g_autofree char *packs = path_of(fixture, "packs");
  g_autofree char *format_path = path_of(fixture, "format");
  StoreFormat format;
  Wanted wanted = {.id = *id};
  assert_true(store_format_load(cbt_file_ops_default(), format_path, &format, NULL));
  StorePackSet *set = store_pack_set_open(NULL, packs, &format.uuid, 0, NULL);
  assert_true(store_pack_scan(set, NULL, note_wanted, &wanted, NULL, NULL));
  store_pack_set_close(set);
  return wanted;
}

/* Damages the stored copy of ID; the store is closed. */
static StoreLocation
damage(const Fixture *fixture, const StoreChunkId *id)
{
  Wanted wanted = locate(fixture, id);
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", fixture->directory, wanted.at.pack);
  assert_true(wanted.n > 0);
  store_test_flip(path, wanted.at.offset + STORE_RECORD_HEADER_SIZE + 30, 2);
  return wanted.at;
}

/* --- round trips --- */

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

static void
test_an_index_that_is_gone_short_or_anothers_costs_nothing(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *index = path_of(fixture, "index");
  static const gint64 lengths[] = {-1, 0, 100, 4096, 10000};
  put_all(fixture, STORE_PUT_STORED);
  for (guint i = 0; i < G_N_ELEMENTS(lengths) + 2; i++) {
    close_fixture(fixture);
    if (i == G_N_ELEMENTS(lengths))
      store_test_flip(index, STORE_INDEX_AT_UUID, 1);
    else if (i > G_N_ELEMENTS(lengths))
      store_test_write(index, "no index", 8);
    else if (lengths[i] < 0)
      unlink(index);
    else
      store_test_truncate(index, (guint64) lengths[i]);
    open_fixture(fixture);
    StoreStatistics statistics;
    store_statistics(fixture->store, &statistics);
    assert_int_equal(statistics.n_recovered, N_CLUSTERS);
    check_all(fixture);
    put_all(fixture, STORE_PUT_REUSED);
  }
}

static void
test_wrong_index_entries_are_seen_through(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *index = path_of(fixture, "index");
  put_all(fixture, STORE_PUT_STORED);
  guint64 size = store_test_file_size(index);
  for (guint round = 0; round < 4; round++) {
    close_fixture(fixture);
    for (guint64 at = STORE_INDEX_HEADER_SIZE; at < size; at += 24) {
      /* The offset, the pack or the id of every entry, or all that makes it one. */
      static const guint fields[] = {17, 21, 0, 18};
      store_test_flip(index, at + fields[round], round == 3 ? 0xff : 1);
    }
    open_fixture(fixture);
    check_all(fixture);
    put_all(fixture, STORE_PUT_REUSED);
  }
}

static void
test_put_never_trusts_a_wrong_index_entry(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *index = path_of(fixture, "index");
  put_all(fixture, STORE_PUT_STORED);
  close_fixture(fixture);
  guint64 size = store_test_file_size(index);
  for (guint64 at = STORE_INDEX_HEADER_SIZE; at < size; at += 24)
    store_test_flip(index, at + 17, 1);
  open_fixture(fixture);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], NULL, NULL));
    assert_true(cluster_is_readable(fixture->worker, i, &fixture->ids[i], NULL));
  }
}

static void
test_a_pack_that_is_gone_is_told_and_replaced_by_puts(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *pack = path_of(fixture, "packs/00000002.pack");
  put_all(fixture, STORE_PUT_STORED);
  close_fixture(fixture);
  unlink(pack);
  open_fixture(fixture);
  guint n_lost = 0;
  for (guint i = 0; i < N_CLUSTERS; i++) {
    g_autoptr(GError) error = NULL;
    if (!cluster_is_readable(fixture->worker, i, &fixture->ids[i], &error)) {
      assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
      n_lost++;
    }
  }
  assert_in_range(n_lost, 1, N_CLUSTERS - 1);
  for (guint i = 0; i < N_CLUSTERS; i++)
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], NULL, NULL));
  check_all(fixture);
}

/* --- format and lock --- */

static void
test_a_newer_format_is_refused_by_name(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = path_of(fixture, "format");
  g_autoptr(GError) error = NULL;
  close_fixture(fixture);
  store_test_flip(path, STORE_FORMAT_AT_VERSION, 8);
  assert_null(store_open(fixture->directory, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error->message, "version 9"));
}

static void
test_a_secret_is_never_made_over_packs(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = path_of(fixture, "format");
  put_all(fixture, STORE_PUT_STORED);
  close_fixture(fixture);
  for (guint i = 0; i < 2; i++) {
    g_autoptr(GError) error = NULL;
    if (i == 0)
      store_test_flip(path, 100, 1);
    else
      unlink(path);
    assert_null(store_open(fixture->directory, NULL, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
    g_autofree char *hint = cbt_error_hint(error);
    assert_non_null(hint);
  }
  assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void
test_a_store_is_open_once(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  assert_null(store_open(fixture->directory, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_BUSY);
  reopen(fixture);
}

/* --- crashes --- */

/* Puts all clusters, flushes after each fourth, and tells through TOLD how many were flushed; then dies. */
static void
put_and_die(const Fixture *fixture, int told, gboolean by_signal)
{
  Store *store = store_open(fixture->directory, &fixture->options, NULL);
  StoreWorker *worker = store ? store_worker_new(store) : NULL;
  for (guint8 i = 0; worker && i < N_CLUSTERS - 2; i++) {
    StoreChunkId id;
    if (!put_cluster(worker, i, &id, NULL, NULL))
      _exit(1);
    if (i % 4 == 3 && (!store_flush(store, NULL) || write(told, &i, 1) != 1))
      _exit(1);
  }
  if (by_signal)
    raise(SIGKILL);
  _exit(0);
}

static void
check_killed(Fixture *fixture, gboolean by_signal, gboolean without_index)
{
  int pipe_fds[2];
  guint8 last = 0xff;
  close_fixture(fixture);
  assert_int_equal(pipe(pipe_fds), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0)
    put_and_die(fixture, pipe_fds[1], by_signal);
  close(pipe_fds[1]);
  while (read(pipe_fds[0], &last, 1) == 1)
    ;
  close(pipe_fds[0]);
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_int_equal(last, 19);
  g_autofree char *index = path_of(fixture, "index");
  if (without_index)
    unlink(index);
  open_fixture(fixture);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    StorePutOutcome outcome;
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], &outcome, NULL));
    if (i <= last)
      assert_int_equal(outcome, STORE_PUT_REUSED);
  }
  check_all(fixture);
  reopen(fixture);
  check_all(fixture);
}

static void
test_a_killed_process_loses_nothing_flushed(void **state)
{
  check_killed(*state, TRUE, FALSE);
}

static void
test_a_killed_process_and_a_lost_index_lose_nothing_flushed(void **state)
{
  check_killed(*state, FALSE, TRUE);
}

/* --- failing disks --- */

typedef struct {
  guint32 put;     /* a bit for each cluster whose put succeeded */
  guint32 durable; /* those that a successful flush covered */
} Progress;

static gboolean
fault_run(Fixture *fixture, StoreFaultOps *faults, Progress *progress)
{
  StoreOptions options = fixture->options;
  options.ops = store_fault_ops_table(faults);
  *progress = (Progress){0};
  Store *store = store_open(fixture->directory, &options, NULL);
  if (!store)
    return FALSE;
  StoreWorker *worker = store_worker_new(store);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    StoreChunkId *id = &fixture->ids[i];
    if (put_cluster(worker, i, id, NULL, NULL) || put_cluster(worker, i, id, NULL, NULL))
      progress->put |= 1u << i;
    if (i % 6 == 5 && (store_flush(store, NULL) || store_flush(store, NULL)))
      progress->durable = progress->put;
    if (i % 6 == 5)
      cluster_is_readable(worker, i - 3, &fixture->ids[i - 3], NULL);
  }
  store_worker_free(worker);
  store_close(store);
  return TRUE;
}

static void
check_after_faults(Fixture *fixture, const Progress *progress)
{
  open_fixture(fixture);
  for (guint i = 0; i < N_CLUSTERS; i++)
    if (progress->durable & 1u << i)
      assert_true(cluster_is_readable(fixture->worker, i, &fixture->ids[i], NULL));
  for (guint i = 0; i < N_CLUSTERS; i++)
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  check_all(fixture);
  close_fixture(fixture);
}

static void
check_faults(void **state, gboolean for_ever, gboolean power_cut)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  gboolean has_failed = TRUE;
  for (guint n = 1; has_failed; n++) {
    StoreFaultOps *faults = store_fault_ops_new();
    Progress progress;
    char *directory = fixture->directory;
    fixture->directory = g_strdup_printf("%s/%u", fixture->folder, n);
    store_fault_ops_arm(faults, n, for_ever, n % 2 ? ENOSPC : EIO);
    gboolean opened = fault_run(fixture, faults, &progress);
    has_failed = store_fault_ops_has_failed(faults);
    if (!has_failed || (!for_ever && opened))
      assert_int_equal(progress.durable, (1u << N_CLUSTERS) - 1);
    if (power_cut)
      store_fault_ops_power_cut(faults);
    check_after_faults(fixture, &progress);
    store_fault_ops_free(faults);
    g_free(fixture->directory);
    fixture->directory = directory;
  }
}

static void
test_any_call_that_fails_once_leaves_the_store_sound(void **state)
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_clusters_come_back_at_once_and_after_reopening),
      TEST(test_zeros_are_not_stored),
      TEST(test_pages_and_blobs_of_any_length_come_back),
      TEST(test_the_tally_adds_up),
      TEST(test_a_chunk_that_is_not_there_is_not_found),
      TEST(test_workers_side_by_side_store_each_chunk_once),
      TEST(test_workers_of_different_disks_share_chunks),
      TEST(test_contents_whose_digests_collide_are_kept_apart),
      TEST(test_one_digest_holds_many_contents_and_then_says_no_more),
      TEST(test_damage_among_collided_contents_never_takes_anothers_place),
      TEST(test_a_damaged_chunk_is_named_and_healed_by_the_next_put),
      TEST(test_without_dedup_verify_known_chunks_are_reused_unread),
      TEST(test_an_index_that_is_gone_short_or_anothers_costs_nothing),
      TEST(test_wrong_index_entries_are_seen_through),
      TEST(test_put_never_trusts_a_wrong_index_entry),
      TEST(test_a_pack_that_is_gone_is_told_and_replaced_by_puts),
      TEST(test_a_newer_format_is_refused_by_name),
      TEST(test_a_secret_is_never_made_over_packs),
      TEST(test_a_store_is_open_once),
      TEST(test_a_killed_process_loses_nothing_flushed),
      TEST(test_a_killed_process_and_a_lost_index_lose_nothing_flushed),
      TEST(test_any_call_that_fails_once_leaves_the_store_sound),
      TEST(test_a_disk_that_fails_for_ever_loses_nothing_flushed),
      TEST(test_a_power_cut_at_any_call_loses_nothing_flushed),
      TEST(test_a_power_cut_after_a_failed_call_loses_nothing_flushed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
