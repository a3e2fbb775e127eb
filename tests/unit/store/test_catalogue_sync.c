/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/unit/store/catalogue-fixture.h>

#include <errno.h>

#define LOG_ROOM (G_GUINT64_CONSTANT(8) << 20) /* more than the log has when it is copied in time */

/* A job of about SIZE bytes. */
static void
add_job(Fixture *fixture, gsize size)
{
  g_autofree char *json = g_strnfill(size, 'j');
  CatalogueJob job = {.type = (char *) "gc", .status = (char *) "done", .json = json};
  assert_true(catalogue_save_job(fixture->catalogue, &job, NULL));
}

static guint64
log_size(const Fixture *fixture)
{
  g_autofree char *path = g_strconcat(fixture->path, "-wal", NULL);
  return store_test_file_size(path);
}

static void
test_log_is_copied_by_a_sync_and_never_by_a_commit(void **state)
{
  Fixture *fixture = *state;
  assert_true(catalogue_sync(fixture->catalogue, NULL));
  guint64 before = store_test_file_size(fixture->path);
  for (guint i = 0; i < 10; i++)
    add_job(fixture, 1 << 20);
  assert_int_equal(store_test_file_size(fixture->path), before);
  assert_true(catalogue_sync(fixture->catalogue, NULL));
  assert_true(store_test_file_size(fixture->path) >= before + (10 << 20));
}

static void
test_log_stays_small_where_it_is_synced(void **state)
{
  Fixture *fixture = *state;
  for (guint i = 0; i < 40; i++) {
    add_job(fixture, 1 << 20);
    assert_true(catalogue_sync(fixture->catalogue, NULL));
  }
  assert_true(log_size(fixture) < LOG_ROOM);
}

static void
count(gpointer n)
{
  ++*(guint *) n;
}

static void
test_commits_are_told_and_reading_is_not(void **state)
{
  Fixture *fixture = *state;
  guint n = 0;
  catalogue_on_commit(fixture->catalogue, count, &n);
  add_job(fixture, 1);
  assert_int_equal(n, 1);
  g_ptr_array_unref(catalogue_list_jobs(fixture->catalogue, 10, NULL));
  assert_int_equal(n, 1);
  catalogue_on_commit(fixture->catalogue, NULL, NULL);
  add_job(fixture, 1);
  assert_int_equal(n, 1);
}

typedef struct {
  Catalogue *catalogue;
  atomic_int goes_on;
  gboolean ok; /* of the thread until it has ended */
} Syncing;

static void *
sync_until_told(void *data)
{
  Syncing *syncing = data;
  while (syncing->ok && atomic_load(&syncing->goes_on))
    syncing->ok = catalogue_sync(syncing->catalogue, NULL);
  return NULL;
}

static void
test_another_thread_syncs_what_is_being_written(void **state)
{
  Fixture *fixture = *state;
  pthread_t thread;
  Syncing syncing = {.catalogue = fixture->catalogue, .goes_on = TRUE, .ok = TRUE};
  assert_int_equal(pthread_create(&thread, NULL, sync_until_told, &syncing), 0);
  for (guint i = 0; i < 500; i++)
    add_job(fixture, 20000);
  atomic_store(&syncing.goes_on, FALSE);
  pthread_join(thread, NULL);
  assert_true(syncing.ok);
  reopen(fixture);
  assert_int_equal(number(fixture, "SELECT count(*) FROM jobs"), 500);
}

static int
fail_fdatasync(const CbtFileOps *ops, int fd)
{
  guint *n_left = ops->user;
  if (*n_left == 0)
    return cbt_file_ops_default()->fdatasync(ops, fd);
  --*n_left;
  errno = EIO;
  return -1;
}

/* The kernel would tell of a lost page once: the sync after that one proves nothing about it. */
static void
test_after_a_sync_that_failed_only_a_copy_is_believed(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  guint n_left = 1;
  CbtFileOps ops = *cbt_file_ops_default();
  ops.fdatasync = fail_fdatasync;
  ops.user = &n_left;
  assert_true(catalogue_sync(fixture->catalogue, NULL));
  catalogue_sync_set_ops(fixture->catalogue, &ops);
  guint64 before = store_test_file_size(fixture->path);
  add_job(fixture, 1 << 20);
  assert_false(catalogue_sync(fixture->catalogue, &error));
  check_error(&error, CBT_ERROR_IO, "cannot make catalogue");
  assert_int_equal(store_test_file_size(fixture->path), before);
  assert_true(catalogue_sync(fixture->catalogue, NULL));
  guint64 copied = store_test_file_size(fixture->path);
  assert_true(copied >= before + (1 << 20));
  add_job(fixture, 1 << 20);
  assert_true(catalogue_sync(fixture->catalogue, NULL));
  assert_int_equal(store_test_file_size(fixture->path), copied);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_log_is_copied_by_a_sync_and_never_by_a_commit),
      CATALOGUE_TEST(test_log_stays_small_where_it_is_synced),
      CATALOGUE_TEST(test_commits_are_told_and_reading_is_not),
      CATALOGUE_TEST(test_another_thread_syncs_what_is_being_written),
      CATALOGUE_TEST(test_after_a_sync_that_failed_only_a_copy_is_believed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
