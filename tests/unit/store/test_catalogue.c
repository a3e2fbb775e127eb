/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <glib/gstdio.h>
#include <store/catalogue-private.h>
#include <string.h>
#include <tests/support/store-files.h>

typedef struct {
  char *folder;
  char *path;
  Catalogue *catalogue;
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->path = g_build_filename(fixture->folder, "catalogue.sqlite", NULL);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  *state = fixture;
  return fixture->catalogue ? 0 : -1;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  catalogue_close(fixture->catalogue);
  store_test_folder_free(fixture->folder);
  g_free(fixture->path);
  g_free(fixture);
  return 0;
}

static void
reopen(Fixture *fixture)
{
  catalogue_close(fixture->catalogue);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  assert_non_null(fixture->catalogue);
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  assert_int_equal((*error)->domain, CBT_ERROR);
  g_clear_error(error);
}

static void
execute(Fixture *fixture, const char *sql)
{
  assert_int_equal(sqlite3_exec(fixture->catalogue->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

static gint64
number(Fixture *fixture, const char *sql)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(fixture->catalogue, NULL, sql, "");
  assert_non_null(stmt);
  assert_int_equal(catalogue_step(fixture->catalogue, stmt, NULL), CATALOGUE_ROW);
  return sqlite3_column_int64(stmt, 0);
}

static CatalogueVm *
make_vm(const char *name)
{
  CatalogueVm *vm = catalogue_vm_new(name);
  g_autofree char *root = g_strdup_printf("/images/%s-root.raw", name);
  g_autofree char *data = g_strdup_printf("/images/%s-data.raw", name);
  catalogue_vm_add_disk(vm, "root", root, 65536);
  catalogue_vm_add_disk(vm, "data", data, 4096);
  g_ptr_array_add(vm->configs, g_strdup_printf("/etc/%s.conf", name));
  g_ptr_array_add(vm->configs, g_strdup("/etc/common.conf"));
  return vm;
}

static CatalogueVm *
add_vm(Fixture *fixture, const char *name)
{
  CatalogueVm *vm = make_vm(name);
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  return vm;
}

static StorePoint *
make_point(const char *vm, gint64 time)
{
  StorePoint *point = store_point_new();
  point->uuid = cbt_uuid_generate();
  point->vm = g_strdup(vm);
  point->time = time;
  point->incremental = TRUE;
  point->parent = cbt_uuid_generate();
  point->reason = g_strdup("disk data: the bitmap was lost");
  point->note = g_strdup("before the 'upgrade'; DROP TABLE points");
  for (guint i = 0; i < 2; i++) {
    StorePointDisk *disk = store_point_add_disk(point, i ? "data" : "root");
    disk->disk_id = cbt_uuid_generate();
    g_free(disk->path);
    disk->path = g_strdup("/images/a.raw");
    g_free(disk->bitmap);
    disk->bitmap = g_strdup(i ? "" : "default");
    disk->manifest.size = 1000000 + i;
    memset(&disk->manifest.root, (int) (i + 1), sizeof disk->manifest.root);
    disk->parent = i ? (CbtUuid){0} : cbt_uuid_generate();
    disk->reason = i ? g_strdup("the bitmap was lost") : NULL;
    disk->dirty = 11 + i;
    disk->zero = 12 + i;
    disk->reused = 13 + i;
    disk->stored = G_MAXINT64 - i;
  }
  StorePointConfig *config = store_point_add_config(point, "my vm.conf");
  memset(&config->id, 9, sizeof config->id);
  config->size = 77;
  return point;
}

static StorePoint *
add_point(Fixture *fixture, const char *vm, gint64 time)
{
  StorePoint *point = make_point(vm, time);
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
  return point;
}

static void
assert_same_vm(const CatalogueVm *a, const CatalogueVm *b)
{
  assert_string_equal(a->name, b->name);
  assert_int_equal(a->created, b->created);
  assert_int_equal(a->disks->len, b->disks->len);
  assert_int_equal(a->configs->len, b->configs->len);
  for (guint i = 0; i < a->disks->len; i++) {
    const CatalogueDisk *x = a->disks->pdata[i], *y = b->disks->pdata[i];
    assert_true(cbt_uuid_equal(&x->id, &y->id));
    assert_string_equal(x->name, y->name);
    assert_string_equal(x->path, y->path);
    assert_int_equal(x->granularity, y->granularity);
  }
  for (guint i = 0; i < a->configs->len; i++)
    assert_string_equal(a->configs->pdata[i], b->configs->pdata[i]);
}

/* Two points are the same if their texts are. */
static void
assert_same_point(const StorePoint *a, const StorePoint *b)
{
  gsize length;
  g_autofree char *x = store_point_encode(a, &length);
  g_autofree char *y = store_point_encode(b, &length);
  assert_string_equal(x, y);
}

/* ---- opening ---- */

static void
test_open_sets_what_power_safety_needs(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(sqlite3_stmt) mode = catalogue_prepare(fixture->catalogue, NULL, "PRAGMA journal_mode", "");
  assert_int_equal(catalogue_step(fixture->catalogue, mode, NULL), CATALOGUE_ROW);
  assert_string_equal((const char *) sqlite3_column_text(mode, 0), "wal");
  assert_int_equal(number(fixture, "PRAGMA synchronous"), 2);
  assert_int_equal(number(fixture, "PRAGMA foreign_keys"), 1);
  assert_true(number(fixture, "PRAGMA busy_timeout") > 0);
  assert_int_equal(number(fixture, "PRAGMA user_version"), 1);
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

/* ---- points ---- */

static void
test_point_comes_back_as_it_was(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1700000000000000);
  reopen(fixture);
  g_autoptr(StorePoint) found = catalogue_get_point(fixture->catalogue, &point->uuid, NULL);
  assert_non_null(found);
  assert_same_point(found, point);
}

static void
test_points_are_listed_newest_first(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePoint) second = add_point(fixture, "web", 200);
  g_autoptr(StorePoint) first = add_point(fixture, "web", 100);
  g_autoptr(StorePoint) other = add_point(fixture, "db", 150);
  g_autoptr(StorePoint) same_time = add_point(fixture, "web", 200);
  g_autoptr(GPtrArray) web = catalogue_list_points(fixture->catalogue, "web", NULL);
  g_autoptr(GPtrArray) all = catalogue_list_points(fixture->catalogue, NULL, NULL);
  g_autoptr(GPtrArray) none = catalogue_list_points(fixture->catalogue, "none", NULL);
  assert_int_equal(web->len, 3);
  assert_same_point(web->pdata[0], same_time);
  assert_same_point(web->pdata[1], second);
  assert_same_point(web->pdata[2], first);
  assert_int_equal(all->len, 4);
  assert_same_point(all->pdata[2], other);
  assert_int_equal(none->len, 0);
}

static void
test_point_twice_is_refused(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1);
  assert_false(catalogue_insert_point(fixture->catalogue, point, &error));
  check_error(&error, CBT_ERROR_EXISTS, "cannot add recovery point");
}

static void
test_insert_that_fails_half_way_leaves_nothing(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = make_point("web", 1);
  execute(fixture,
          "CREATE TRIGGER refuse BEFORE INSERT ON point_configs BEGIN SELECT RAISE(ABORT, 'refused'); END");
  assert_false(catalogue_insert_point(fixture->catalogue, point, &error));
  check_error(&error, CBT_ERROR_FAILED, "refused");
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 0);
  assert_int_equal(number(fixture, "SELECT count(*) FROM point_disks"), 0);
  execute(fixture, "DROP TRIGGER refuse");
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
}

static void
test_invalid_point_is_refused(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = make_point("web", 1);
  store_point_add_disk(point, "root");
  assert_false(catalogue_insert_point(fixture->catalogue, point, &error));
  check_error(&error, CBT_ERROR_INVALID, "'root'");
}

static void
test_update_changes_note_protection_and_verified(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1);
  g_autoptr(StorePoint) bystander = add_point(fixture, "web", 2);
  g_free(point->note);
  point->note = NULL;
  point->is_protected = TRUE;
  point->verified = 1234567;
  assert_true(catalogue_update_point(fixture->catalogue, point, NULL));
  g_autoptr(StorePoint) found = catalogue_get_point(fixture->catalogue, &point->uuid, NULL);
  assert_same_point(found, point);
  g_autoptr(StorePoint) other = catalogue_get_point(fixture->catalogue, &bystander->uuid, NULL);
  assert_same_point(other, bystander);
  g_autoptr(StorePoint) unknown = make_point("web", 1);
  assert_false(catalogue_update_point(fixture->catalogue, unknown, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "recovery point");
}

static void
test_removed_point_takes_its_rows(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1);
  g_autoptr(StorePoint) kept = add_point(fixture, "web", 2);
  assert_true(catalogue_remove_point(fixture->catalogue, &point->uuid, NULL));
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 1);
  assert_int_equal(number(fixture, "SELECT count(*) FROM point_disks"), 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM point_configs"), 1);
  assert_false(catalogue_remove_point(fixture->catalogue, &point->uuid, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, cbt_uuid_format(&point->uuid, text));
  assert_null(catalogue_get_point(fixture->catalogue, &point->uuid, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, text);
}

static void
test_tampered_row_is_corrupt(void **state)
{
  Fixture *fixture = *state;
  const char *const changes[] = {
      "UPDATE points SET parent = 'nonsense'",
      "UPDATE points SET vm = '../x'",
      "UPDATE point_disks SET root = 'zz'",
      "UPDATE point_disks SET size = -1",
      "UPDATE point_disks SET name = 'a/b' WHERE position = 0",
      "UPDATE point_configs SET name = '../../etc/passwd'",
  };
  g_autoptr(StorePoint) point = add_point(fixture, "web", 1);
  for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
    g_autoptr(GError) error = NULL;
    execute(fixture, "BEGIN");
    execute(fixture, changes[i]);
    assert_null(catalogue_get_point(fixture->catalogue, &point->uuid, &error));
    check_error(&error, CBT_ERROR_CORRUPT, "catalogue");
    execute(fixture, "ROLLBACK");
  }
}

static void
assert_resolves(Fixture *fixture, const char *text, const StorePoint *point)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) found = catalogue_resolve_point(fixture->catalogue, text, &error);
  if (!found)
    fail_msg("'%s': %s", text, error->message);
  assert_true(cbt_uuid_equal(&found->uuid, &point->uuid));
}

static StorePoint *
add_named_point(Fixture *fixture, const char *uuid, gint64 time)
{
  StorePoint *point = make_point("web", time);
  assert_true(cbt_uuid_parse(uuid, &point->uuid));
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
  return point;
}

static void
test_resolve_takes_uuid_prefix_latest_and_number(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePoint) old = add_named_point(fixture, "abcd1111-0000-4000-8000-000000000001", 1);
  g_autoptr(StorePoint) new = add_named_point(fixture, "abcd2222-0000-4000-8000-000000000002", 2);
  assert_resolves(fixture, "abcd1111-0000-4000-8000-000000000001", old);
  assert_resolves(fixture, "ABCD2222-0000-4000-8000-000000000002", new);
  assert_resolves(fixture, "abcd1", old);
  assert_resolves(fixture, "AbCd2222-00", new);
  assert_resolves(fixture, "web@latest", new);
  assert_resolves(fixture, "web@0", new);
  assert_resolves(fixture, "web@1", old);
}

static void
test_resolve_refuses_what_fits_none_or_several(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  const char *const none[] = {
      "web@2",
      "web@-1",
      "web@",
      "web@x",
      "web@99999999999999999999",
      "db@latest",
      "@latest",
      "",
      "abc",
      "web",
      "abce",
      "%",
      "____",
      "abcd1111-0000-4000-8000-0000000000011",
  };
  g_autoptr(StorePoint) old = add_named_point(fixture, "abcd1111-0000-4000-8000-000000000001", 1);
  g_autoptr(StorePoint) new = add_named_point(fixture, "abcd2222-0000-4000-8000-000000000002", 2);
  assert_null(catalogue_resolve_point(fixture->catalogue, "abcd", &error));
  check_error(&error, CBT_ERROR_INVALID, "'abcd' fits 2");
  for (guint i = 0; i < G_N_ELEMENTS(none); i++) {
    assert_null(catalogue_resolve_point(fixture->catalogue, none[i], &error));
    check_error(&error, CBT_ERROR_NOT_FOUND, none[i]);
  }
}

/* ---- bases ---- */

static void
test_base_is_set_replaced_and_taken_away(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  const CatalogueDisk *disk = web->disks->pdata[0], *other = web->disks->pdata[1];
  CbtUuid first = cbt_uuid_generate(), second = cbt_uuid_generate(), nil = {0}, base;
  assert_true(catalogue_get_base(fixture->catalogue, &disk->id, "default", &base, NULL));
  assert_true(cbt_uuid_is_nil(&base));
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &first, NULL));
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "weekly", &first, NULL));
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &second, NULL));
  reopen(fixture);
  assert_true(catalogue_get_base(fixture->catalogue, &disk->id, "default", &base, NULL));
  assert_true(cbt_uuid_equal(&base, &second));
  assert_true(catalogue_get_base(fixture->catalogue, &disk->id, "weekly", &base, NULL));
  assert_true(cbt_uuid_equal(&base, &first));
  assert_true(catalogue_get_base(fixture->catalogue, &other->id, "default", &base, NULL));
  assert_true(cbt_uuid_is_nil(&base));
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &nil, NULL));
  assert_true(catalogue_get_base(fixture->catalogue, &disk->id, "default", &base, NULL));
  assert_true(cbt_uuid_is_nil(&base));
}

static void
test_base_of_unknown_disk_is_not_found(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  CbtUuid id = cbt_uuid_generate(), base = cbt_uuid_generate();
  assert_false(catalogue_set_base(fixture->catalogue, &id, "default", &base, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "default");
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_open_sets_what_power_safety_needs),
      TEST(test_new_file_is_private),
      TEST(test_newer_schema_is_refused),
      TEST(test_migrations_run_once_each_and_keep_data),
      TEST(test_failed_migration_changes_nothing),
      TEST(test_file_that_is_no_database_is_corrupt),
      TEST(test_database_of_another_program_is_left_alone),
      TEST(test_damaged_pages_are_corrupt_not_a_crash),
      TEST(test_folder_that_is_missing_is_an_error),
      TEST(test_locked_database_is_busy),
      TEST(test_full_disk_is_no_space_and_leaves_nothing),
      TEST(test_vm_comes_back_as_it_was),
      TEST(test_vm_twice_is_refused_by_name),
      TEST(test_image_in_use_is_refused_by_vm_and_disk),
      TEST(test_vm_with_bad_parts_is_refused),
      TEST(test_removed_vm_takes_all_but_its_points),
      TEST(test_image_is_found_by_path),
      TEST(test_point_comes_back_as_it_was),
      TEST(test_points_are_listed_newest_first),
      TEST(test_point_twice_is_refused),
      TEST(test_insert_that_fails_half_way_leaves_nothing),
      TEST(test_invalid_point_is_refused),
      TEST(test_update_changes_note_protection_and_verified),
      TEST(test_removed_point_takes_its_rows),
      TEST(test_tampered_row_is_corrupt),
      TEST(test_resolve_takes_uuid_prefix_latest_and_number),
      TEST(test_resolve_refuses_what_fits_none_or_several),
      TEST(test_base_is_set_replaced_and_taken_away),
      TEST(test_base_of_unknown_disk_is_not_found),
      TEST(test_job_is_saved_and_updated),
      TEST(test_job_without_vm_is_kept_so),
      TEST(test_unknown_job_is_not_found),
      TEST(test_jobs_are_listed_newest_first_up_to_the_limit),
      TEST(test_old_finished_jobs_are_dropped_but_never_their_ids),
      TEST(test_exports_are_saved_replaced_listed_and_removed),
      TEST(test_export_of_unknown_vm_is_not_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
