/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/unit/store/catalogue-fixture.h>

#include <glib/gstdio.h>

/* ---- opening ---- */

static void
test_open_sets_what_power_safety_needs(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(sqlite3_stmt) mode = catalogue_prepare(fixture->catalogue, NULL, "PRAGMA journal_mode", "");
  assert_int_equal(catalogue_step(fixture->catalogue, mode, NULL), CATALOGUE_ROW);
  assert_string_equal((const char *) sqlite3_column_text(mode, 0), "wal");
  assert_int_equal(number(fixture, "PRAGMA synchronous"), 1);
  assert_int_equal(number(fixture, "PRAGMA foreign_keys"), 1);
  assert_true(number(fixture, "PRAGMA busy_timeout") > 0);
  assert_int_equal(number(fixture, "PRAGMA user_version"), 7);
  assert_int_equal(number(fixture, "PRAGMA application_id"), CATALOGUE_APPLICATION_ID);
}

static void
test_new_file_is_private(void **state)
{
  Fixture *fixture = *state;
  GStatBuf st;
  assert_int_equal(g_stat(fixture->path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600);
}

static void
test_newer_schema_is_refused(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  execute(fixture, "PRAGMA user_version = 999");
  assert_null(catalogue_open(fixture->path, &error));
  g_autofree char *hint = error ? cbt_error_hint(error) : NULL;
  assert_non_null(hint);
  check_error(&error, CBT_ERROR_UNSUPPORTED, "999");
}

static void
test_migrations_run_once_each_and_keep_data(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = g_build_filename(fixture->folder, "old.sqlite", NULL);
  const char *const steps[] = {"CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('one')",
                               "ALTER TABLE t ADD COLUMN b TEXT; UPDATE t SET b = 'two'"};
  Catalogue old = {.path = path};
  assert_int_equal(sqlite3_open(path, &old.db), SQLITE_OK);
  assert_true(catalogue_schema_migrate(&old, steps, 1, NULL));
  assert_true(catalogue_schema_migrate(&old, steps, 1, NULL));
  assert_true(catalogue_schema_migrate(&old, steps, 2, NULL));
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(&old, NULL, "SELECT a || b FROM t", "");
  assert_int_equal(catalogue_step(&old, stmt, NULL), CATALOGUE_ROW);
  assert_string_equal((const char *) sqlite3_column_text(stmt, 0), "onetwo");
  g_clear_pointer(&stmt, sqlite3_finalize);
  assert_int_equal(sqlite3_close(old.db), SQLITE_OK);
}

static void
test_failed_migration_changes_nothing(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = g_build_filename(fixture->folder, "old.sqlite", NULL);
  g_autoptr(GError) error = NULL;
  const char *const steps[] = {"CREATE TABLE t (a TEXT)",
                               "CREATE TABLE u (a TEXT); CREATE TABLE t (again TEXT)"};
  Catalogue old = {.path = path};
  assert_int_equal(sqlite3_open(path, &old.db), SQLITE_OK);
  assert_false(catalogue_schema_migrate(&old, steps, 2, &error));
  check_error(&error, CBT_ERROR_FAILED, "version 2");
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      &old, NULL, "SELECT count(*), user_version FROM sqlite_schema, pragma_user_version", "");
  assert_int_equal(catalogue_step(&old, stmt, NULL), CATALOGUE_ROW);
  assert_int_equal(sqlite3_column_int64(stmt, 0), 1);
  assert_int_equal(sqlite3_column_int64(stmt, 1), 1);
  g_clear_pointer(&stmt, sqlite3_finalize);
  assert_int_equal(sqlite3_close(old.db), SQLITE_OK);
}

static void
test_file_that_is_no_database_is_corrupt(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = g_build_filename(fixture->folder, "other", NULL);
  g_autofree char *text = g_strnfill(5000, 'x');
  g_autoptr(GError) error = NULL;
  store_test_write(path, text, 5000);
  assert_null(catalogue_open(path, &error));
  check_error(&error, CBT_ERROR_CORRUPT, path);
}

static void
test_database_of_another_program_is_left_alone(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *path = g_build_filename(fixture->folder, "other.sqlite", NULL);
  g_autoptr(GError) error = NULL;
  sqlite3 *db;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  assert_int_equal(sqlite3_exec(db, "CREATE TABLE bookmarks (url TEXT)", NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
  assert_null(catalogue_open(path, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "another program");
}

/* A row or its entry in an index: that it opens means that the one that is listed is found. */
static void
test_a_key_that_an_index_has_wrong_is_corrupt(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePoint) point = add_point(fixture, "web", 5);
  g_autofree char *data = NULL;
  gsize length, n_refused = 0;
  char text[CBT_UUID_TEXT_SIZE];
  cbt_uuid_format(&point->uuid, text);
  g_clear_pointer(&fixture->catalogue, catalogue_close);
  assert_true(g_file_get_contents(fixture->path, &data, &length, NULL));
  for (gsize at = 0; at + strlen(text) <= length; at++) {
    if (memcmp(data + at, text, strlen(text)) != 0)
      continue;
    g_autoptr(GError) error = NULL;
    store_test_flip(fixture->path, at + 3, 1);
    g_autoptr(Catalogue) catalogue = catalogue_open(fixture->path, &error);
    if (!catalogue)
      check_error(&error, CBT_ERROR_CORRUPT, fixture->path);
    n_refused += !catalogue;
    g_clear_pointer(&catalogue, catalogue_close);
    store_test_flip(fixture->path, at + 3, 1);
  }
  assert_int_equal(n_refused, 2);
}

static void
test_damaged_pages_are_corrupt_not_a_crash(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  for (gint64 i = 0; i < 200; i++)
    store_point_free(add_point(fixture, "web", i));
  g_clear_pointer(&fixture->catalogue, catalogue_close);
  guint64 size = store_test_file_size(fixture->path);
  g_autofree guint8 *junk = g_malloc(size);
  g_autofree char *good = NULL;
  gsize length;
  assert_true(g_file_get_contents(fixture->path, &good, &length, NULL));
  store_test_fill_random(junk, size, 1);
  memcpy(junk, good, 4096); /* the header page is sound */
  store_test_write(fixture->path, junk, size);
  fixture->catalogue = catalogue_open(fixture->path, &error);
  g_autoptr(GPtrArray) points = NULL;
  if (fixture->catalogue)
    points = catalogue_list_points(fixture->catalogue, NULL, &error);
  assert_null(points);
  check_error(&error, CBT_ERROR_CORRUPT, fixture->path);
}

static void
test_folder_that_is_missing_is_an_error(void **state)
{
  g_autoptr(GError) error = NULL;
  (void) state;
  assert_null(catalogue_open("/nonexistent/catalogue.sqlite", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "/nonexistent/catalogue.sqlite");
}

static void
test_locked_database_is_busy(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) vm = make_vm("web");
  sqlite3 *other;
  assert_int_equal(sqlite3_open(fixture->path, &other), SQLITE_OK);
  assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
  sqlite3_busy_timeout(fixture->catalogue->db, 1);
  assert_false(catalogue_insert_vm(fixture->catalogue, vm, &error));
  check_error(&error, CBT_ERROR_BUSY, fixture->path);
  sqlite3_close(other);
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
}

static void
test_full_disk_is_no_space_and_leaves_nothing(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autofree char *limit =
      g_strdup_printf("PRAGMA max_page_count = %d", (int) number(fixture, "PRAGMA page_count"));
  g_autoptr(StorePoint) point = make_point("web", 1);
  g_free(point->note);
  point->note = g_strnfill(100000, 'n');
  execute(fixture, limit);
  assert_false(catalogue_insert_point(fixture->catalogue, point, &error));
  check_error(&error, CBT_ERROR_NO_SPACE, fixture->path);
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 0);
  execute(fixture, "PRAGMA max_page_count = 1000000");
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
}

/* ---- vms ---- */

static void
test_vm_comes_back_as_it_was(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autoptr(CatalogueVm) db = add_vm(fixture, "db");
  reopen(fixture);
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "web", NULL);
  assert_non_null(found);
  assert_same_vm(found, web);
  g_autoptr(GPtrArray) all = catalogue_list_vms(fixture->catalogue, NULL);
  assert_int_equal(all->len, 2);
  assert_same_vm(all->pdata[0], db);
  assert_same_vm(all->pdata[1], web);
}

static void
test_vm_twice_is_refused_by_name(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  assert_false(catalogue_insert_vm(fixture->catalogue, web, &error));
  check_error(&error, CBT_ERROR_EXISTS, "vm 'web'");
}

static void
test_image_in_use_is_refused_by_vm_and_disk(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autoptr(CatalogueVm) other = catalogue_vm_new("other");
  catalogue_vm_add_disk(other, "first", "/images/first.raw", 65536);
  catalogue_vm_add_disk(other, "second", "/images/web-data.raw", 65536);
  assert_false(catalogue_insert_vm(fixture->catalogue, other, &error));
  check_error(&error, CBT_ERROR_EXISTS, "web/data");
  assert_null(catalogue_get_vm(fixture->catalogue, "other", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "other");
  assert_int_equal(number(fixture, "SELECT count(*) FROM disks"), 2);
}

static void
test_vm_with_bad_parts_is_refused(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) bad_name = catalogue_vm_new("a/b");
  assert_false(catalogue_insert_vm(fixture->catalogue, bad_name, &error));
  check_error(&error, CBT_ERROR_INVALID, "a/b");
  g_autoptr(CatalogueVm) bad_disk = catalogue_vm_new("web");
  catalogue_vm_add_disk(bad_disk, "..", "/a", 65536);
  assert_false(catalogue_insert_vm(fixture->catalogue, bad_disk, &error));
  check_error(&error, CBT_ERROR_INVALID, "..");
  g_autoptr(CatalogueVm) relative = catalogue_vm_new("web");
  catalogue_vm_add_disk(relative, "root", "a.raw", 65536);
  assert_false(catalogue_insert_vm(fixture->catalogue, relative, &error));
  check_error(&error, CBT_ERROR_INVALID, "a.raw");
  g_autoptr(CatalogueVm) twice = catalogue_vm_new("web");
  catalogue_vm_add_disk(twice, "root", "/a", 65536);
  catalogue_vm_add_disk(twice, "root", "/b", 65536);
  assert_false(catalogue_insert_vm(fixture->catalogue, twice, &error));
  check_error(&error, CBT_ERROR_EXISTS, "root");
  g_autoptr(CatalogueVm) same_config = catalogue_vm_new("web");
  g_ptr_array_add(same_config->configs, g_strdup("/etc/a"));
  g_ptr_array_add(same_config->configs, g_strdup("/etc/a"));
  assert_false(catalogue_insert_vm(fixture->catalogue, same_config, &error));
  check_error(&error, CBT_ERROR_EXISTS, "/etc/a");
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 0);
}

static void
test_removed_vm_takes_all_but_its_points(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autoptr(CatalogueVm) db = add_vm(fixture, "db");
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1);
  const CatalogueDisk *disk = web->disks->pdata[0];
  CatalogueExport export = {"web", "root", 42, "/run/nbd", "/run/control"};
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &point->uuid, NULL));
  assert_true(catalogue_save_export(fixture->catalogue, &export, NULL));
  assert_true(catalogue_remove_vm(fixture->catalogue, "web", NULL));
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 1);
  assert_int_equal(number(fixture, "SELECT count(*) FROM disks"), 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vm_configs"), 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM bases"), 0);
  assert_int_equal(number(fixture, "SELECT count(*) FROM exports"), 0);
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 1);
  assert_false(catalogue_remove_vm(fixture->catalogue, "web", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "web");
}

static void
test_image_is_found_by_path(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autofree char *user = catalogue_find_image(fixture->catalogue, "/images/web-data.raw");
  assert_string_equal(user, "web/data");
  assert_null(catalogue_find_image(fixture->catalogue, "/images/web-data.ra"));
}

/* ---- jobs ---- */

static CatalogueJob *
add_job(Fixture *fixture, const char *vm, const char *status)
{
  CatalogueJob *job = g_new0(CatalogueJob, 1);
  job->type = g_strdup("backup");
  job->vm = g_strdup(vm);
  job->status = g_strdup(status);
  job->json = g_strdup("{\"a\":1}");
  assert_true(catalogue_save_job(fixture->catalogue, job, NULL));
  assert_true(job->id > 0);
  return job;
}

static void
test_job_is_saved_and_updated(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueJob) job = add_job(fixture, "web", "queued");
  g_free(job->status);
  job->status = g_strdup("done");
  g_free(job->json);
  job->json = g_strdup("{}");
  gint64 id = job->id;
  assert_true(catalogue_save_job(fixture->catalogue, job, NULL));
  assert_int_equal(job->id, id);
  reopen(fixture);
  g_autoptr(CatalogueJob) found = catalogue_get_job(fixture->catalogue, id, NULL);
  assert_int_equal(found->id, id);
  assert_string_equal(found->type, "backup");
  assert_string_equal(found->vm, "web");
  assert_string_equal(found->status, "done");
  assert_string_equal(found->json, "{}");
}

static void
test_job_without_vm_is_kept_so(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueJob) job = add_job(fixture, NULL, "done");
  g_autoptr(CatalogueJob) found = catalogue_get_job(fixture->catalogue, job->id, NULL);
  assert_null(found->vm);
}

static void
test_unknown_job_is_not_found(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  CatalogueJob job = {7, "backup", "web", "done", "{}"};
  assert_null(catalogue_get_job(fixture->catalogue, 7, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "job 7");
  assert_false(catalogue_save_job(fixture->catalogue, &job, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "job 7");
}

static void
test_jobs_are_listed_newest_first_up_to_the_limit(void **state)
{
  Fixture *fixture = *state;
  gint64 last = 0;
  for (guint i = 0; i < 5; i++) {
    g_autoptr(CatalogueJob) job = add_job(fixture, "web", i % 2 ? "done" : i ? "active" : "queued");
    last = job->id;
  }
  g_autoptr(GPtrArray) two = catalogue_list_jobs(fixture->catalogue, 2, NULL);
  assert_int_equal(two->len, 2);
  assert_int_equal(((CatalogueJob *) two->pdata[0])->id, last);
  assert_int_equal(((CatalogueJob *) two->pdata[1])->id, last - 1);
  g_autoptr(GPtrArray) all = catalogue_list_jobs(fixture->catalogue, G_MAXUINT, NULL);
  assert_int_equal(all->len, 5);
  g_autoptr(GPtrArray) unfinished = catalogue_list_unfinished_jobs(fixture->catalogue, NULL);
  assert_int_equal(unfinished->len, 3);
  assert_string_equal(((CatalogueJob *) unfinished->pdata[0])->status, "queued");
}

static void
test_old_finished_jobs_are_dropped_but_never_their_ids(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueJob) finished = add_job(fixture, "web", "done");
  g_autoptr(CatalogueJob) running = add_job(fixture, "web", "active");
  execute(fixture, "UPDATE sqlite_sequence SET seq = 20000 WHERE name = 'jobs'");
  g_autoptr(CatalogueJob) newest = add_job(fixture, "web", "queued");
  assert_int_equal(newest->id, 20001);
  assert_null(catalogue_get_job(fixture->catalogue, finished->id, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "job");
  g_autoptr(CatalogueJob) kept = catalogue_get_job(fixture->catalogue, running->id, NULL);
  assert_non_null(kept);
  execute(fixture, "DELETE FROM jobs");
  g_autoptr(CatalogueJob) next = add_job(fixture, "web", "queued");
  assert_int_equal(next->id, 20002);
}

/* ---- exports ---- */

static void
test_exports_are_saved_replaced_listed_and_removed(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autoptr(CatalogueVm) db = add_vm(fixture, "db");
  CatalogueExport root = {"web", "root", 1, "/run/1", "/run/c1"};
  CatalogueExport again = {"web", "root", 2, "/run/2", "/run/c2"};
  CatalogueExport other = {"db", "root", 3, "/run/3", "/run/c3"};
  assert_true(catalogue_save_export(fixture->catalogue, &root, NULL));
  assert_true(catalogue_save_export(fixture->catalogue, &again, NULL));
  assert_true(catalogue_save_export(fixture->catalogue, &other, NULL));
  g_autoptr(GPtrArray) of_web = catalogue_list_exports(fixture->catalogue, "web", NULL);
  g_autoptr(GPtrArray) all = catalogue_list_exports(fixture->catalogue, NULL, NULL);
  assert_int_equal(all->len, 2);
  assert_int_equal(of_web->len, 1);
  const CatalogueExport *found = of_web->pdata[0];
  assert_string_equal(found->vm, "web");
  assert_string_equal(found->disk, "root");
  assert_int_equal(found->pid, 2);
  assert_string_equal(found->socket, "/run/2");
  assert_string_equal(found->control, "/run/c2");
  assert_true(catalogue_remove_exports(fixture->catalogue, "web", NULL));
  assert_true(catalogue_remove_exports(fixture->catalogue, "web", NULL));
  g_autoptr(GPtrArray) left = catalogue_list_exports(fixture->catalogue, NULL, NULL);
  assert_int_equal(left->len, 1);
}

static void
test_export_of_unknown_vm_is_not_found(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  CatalogueExport export = {"web", "root", 1, "/run/1", "/run/c1"};
  assert_false(catalogue_save_export(fixture->catalogue, &export, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "web/root");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_open_sets_what_power_safety_needs),
      CATALOGUE_TEST(test_new_file_is_private),
      CATALOGUE_TEST(test_newer_schema_is_refused),
      CATALOGUE_TEST(test_migrations_run_once_each_and_keep_data),
      CATALOGUE_TEST(test_failed_migration_changes_nothing),
      CATALOGUE_TEST(test_file_that_is_no_database_is_corrupt),
      CATALOGUE_TEST(test_database_of_another_program_is_left_alone),
      CATALOGUE_TEST(test_a_key_that_an_index_has_wrong_is_corrupt),
      CATALOGUE_TEST(test_damaged_pages_are_corrupt_not_a_crash),
      CATALOGUE_TEST(test_folder_that_is_missing_is_an_error),
      CATALOGUE_TEST(test_locked_database_is_busy),
      CATALOGUE_TEST(test_full_disk_is_no_space_and_leaves_nothing),
      CATALOGUE_TEST(test_vm_comes_back_as_it_was),
      CATALOGUE_TEST(test_vm_twice_is_refused_by_name),
      CATALOGUE_TEST(test_image_in_use_is_refused_by_vm_and_disk),
      CATALOGUE_TEST(test_vm_with_bad_parts_is_refused),
      CATALOGUE_TEST(test_removed_vm_takes_all_but_its_points),
      CATALOGUE_TEST(test_image_is_found_by_path),
      CATALOGUE_TEST(test_job_is_saved_and_updated),
      CATALOGUE_TEST(test_job_without_vm_is_kept_so),
      CATALOGUE_TEST(test_unknown_job_is_not_found),
      CATALOGUE_TEST(test_jobs_are_listed_newest_first_up_to_the_limit),
      CATALOGUE_TEST(test_old_finished_jobs_are_dropped_but_never_their_ids),
      CATALOGUE_TEST(test_exports_are_saved_replaced_listed_and_removed),
      CATALOGUE_TEST(test_export_of_unknown_vm_is_not_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
