/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a store survives: lost and wrong indexes and packs, kills, failing disks, power cuts. */
#include "store-fixture.h"

#include <store/store-private.h>

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

/* As a power cut leaves a pack whose table came to the disk, but not what it lists. */
static void
test_a_later_record_that_is_damaged_hides_no_sound_one(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *index = path_of(fixture, "index");
  StorePutOutcome outcome;
  put_all(fixture, STORE_PUT_STORED);
  close_fixture(fixture);
  StoreLocation first = damage(fixture, &fixture->ids[3]);
  open_fixture(fixture);
  assert_true(put_cluster(fixture->worker, 3, &fixture->ids[3], &outcome, NULL));
  assert_int_equal(outcome, STORE_PUT_HEALED);
  assert_true(store_pack_seal(fixture->store->packs, NULL));
  close_fixture(fixture);
  StoreLocation second = damage(fixture, &fixture->ids[3]);
  assert_int_not_equal(first.pack, second.pack);
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", fixture->directory, first.pack);
  store_test_flip(path, first.offset + STORE_RECORD_HEADER_SIZE + 30, 2);
  for (guint i = 0; i < 2; i++) {
    open_fixture(fixture); /* first with an index that names the second one */
    check_all(fixture);
    close_fixture(fixture);
    unlink(index);
  }
  open_fixture(fixture);
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
  assert_non_null(strstr(error->message, "version 10"));
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
      store_fault_ops_power_cut(faults, NULL);
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

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_an_index_that_is_gone_short_or_anothers_costs_nothing),
      TEST_GROUPED(test_an_index_that_is_gone_short_or_anothers_costs_nothing),
      TEST(test_wrong_index_entries_are_seen_through),
      TEST_GROUPED(test_wrong_index_entries_are_seen_through),
      TEST(test_put_never_trusts_a_wrong_index_entry),
      TEST_GROUPED(test_put_never_trusts_a_wrong_index_entry),
      TEST(test_a_pack_that_is_gone_is_told_and_replaced_by_puts),
      TEST(test_a_later_record_that_is_damaged_hides_no_sound_one),
      TEST(test_a_newer_format_is_refused_by_name),
      TEST(test_a_secret_is_never_made_over_packs),
      TEST(test_a_store_is_open_once),
      TEST(test_a_killed_process_loses_nothing_flushed),
      TEST_GROUPED(test_a_killed_process_loses_nothing_flushed),
      TEST(test_a_killed_process_and_a_lost_index_lose_nothing_flushed),
      TEST_GROUPED(test_a_killed_process_and_a_lost_index_lose_nothing_flushed),
      TEST(test_any_call_that_fails_once_leaves_the_store_sound),
      TEST_GROUPED(test_any_call_that_fails_once_leaves_the_store_sound),
      TEST(test_a_disk_that_fails_for_ever_loses_nothing_flushed),
      TEST_GROUPED(test_a_disk_that_fails_for_ever_loses_nothing_flushed),
      TEST(test_a_power_cut_at_any_call_loses_nothing_flushed),
      TEST_GROUPED(test_a_power_cut_at_any_call_loses_nothing_flushed),
      TEST(test_a_power_cut_after_a_failed_call_loses_nothing_flushed),
      TEST_GROUPED(test_a_power_cut_after_a_failed_call_loses_nothing_flushed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
