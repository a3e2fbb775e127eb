/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "catalogue-fixture.h"

#include <glib/gstdio.h>
#include <store/catalogue-rebuild.h>

#define NOW       ((gint64) 5000)
#define DAILY     "schedule=daily 02:30; bitmap=default; keep-daily=7; gc=yes; enabled=yes"
#define DAILY_TOO "keep-daily=7; gc=yes; enabled=yes; bitmap=default; schedule=daily 02:30"
#define EVERY     "schedule=every 15m; bitmap=default; gc=yes; enabled=no"

static GPtrArray *
vms_new(void)
{
  return g_ptr_array_new_with_free_func((GDestroyNotify) store_vm_free);
}

static GPtrArray *
points_new(void)
{
  return g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
}

/* A point of the vm's first disk on its bitmap "default". */
static StorePoint *
point_of(const CatalogueVm *vm, gint64 time)
{
  StorePoint *point = make_point(vm->name, time);
  StorePointDisk *root = point->disks->pdata[0];
  root->disk_id = ((CatalogueDisk *) vm->disks->pdata[0])->id;
  return point;
}

static CbtUuid
base_of(Fixture *fixture, const CatalogueVm *vm, const char *bitmap)
{
  CbtUuid base;
  const CatalogueDisk *root = vm->disks->pdata[0];
  assert_true(catalogue_get_base(fixture->catalogue, &root->id, bitmap, &base, NULL));
  return base;
}

static void
replace(Fixture *fixture, const GPtrArray *vms, const GPtrArray *points, guint n_problems)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
  if (!catalogue_replace(fixture->catalogue, vms, points, NOW, problems, &error))
    fail_msg("%s", error->message);
  assert_int_equal(problems->len, n_problems);
}

static void
test_new_catalogue_is_empty_until_something_is_added(void **state)
{
  gboolean is_empty = FALSE;
  Fixture *fixture = *state;
  assert_true(catalogue_is_empty(fixture->catalogue, &is_empty, NULL) && is_empty);
  g_autoptr(StorePoint) point = add_point(fixture, "a", 1);
  assert_true(catalogue_is_empty(fixture->catalogue, &is_empty, NULL) && !is_empty);
}

static void
test_all_comes_back_newest_first_with_the_newest_as_base(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  CatalogueVm *vm = make_vm("a");
  g_ptr_array_add(vms, store_vm_new(vm, NULL));
  const gint64 times[] = {30, 10, 50, 20, 40};
  for (guint i = 0; i < G_N_ELEMENTS(times); i++)
    g_ptr_array_add(points, point_of(vm, times[i]));
  replace(fixture, vms, points, 0);
  reopen(fixture);
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "a", NULL);
  assert_non_null(found);
  assert_same_vm(found, vm);
  g_autoptr(GPtrArray) listed = catalogue_list_points(fixture->catalogue, "a", NULL);
  assert_int_equal(listed->len, 5);
  for (guint i = 0; i < listed->len; i++)
    assert_int_equal(((StorePoint *) listed->pdata[i])->time, 50 - 10 * (int) i);
  assert_same_point(listed->pdata[0], points->pdata[2]);
  CbtUuid base = base_of(fixture, vm, "default");
  assert_true(cbt_uuid_equal(&base, &((StorePoint *) points->pdata[2])->uuid));
}

static void
test_each_bitmap_has_its_own_base_and_none_is_one_of_strangers(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  CatalogueVm *vm = make_vm("a");
  g_ptr_array_add(vms, store_vm_new(vm, NULL));
  StorePoint *weekly = point_of(vm, 10), *daily = point_of(vm, 20);
  StorePointDisk *root = weekly->disks->pdata[0];
  g_free(root->bitmap);
  root->bitmap = g_strdup("weekly");
  g_ptr_array_add(points, weekly);
  g_ptr_array_add(points, daily);
  g_ptr_array_add(points, make_point("a", 30)); /* of disks that are not registered */
  replace(fixture, vms, points, 0);
  CbtUuid base = base_of(fixture, vm, "weekly"), other = base_of(fixture, vm, "default");
  assert_true(cbt_uuid_equal(&base, &weekly->uuid));
  assert_true(cbt_uuid_equal(&other, &daily->uuid));
  assert_int_equal(number(fixture, "SELECT count(*) FROM bases"), 2);
}

static void
test_what_is_not_in_the_store_goes_and_what_is_equal_keeps_its_rows(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) gone = add_vm(fixture, "gone");
  g_autoptr(CatalogueVm) changed = add_vm(fixture, "changed");
  CatalogueVm *kept = add_vm(fixture, "kept");
  g_autoptr(StorePoint) old = add_point(fixture, "kept", 5);
  const CatalogueExport export = {"kept", "root", 7, "s", "c"};
  const CatalogueDisk *root = kept->disks->pdata[0];
  StorePoint *point = point_of(kept, 9);
  assert_true(catalogue_save_export(fixture->catalogue, &export, NULL));
  const CatalogueBase base = {point->uuid, 99, NULL};
  assert_true(catalogue_note_base(fixture->catalogue, &root->id, "default", &base, NULL));
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  CatalogueVm *now = make_vm("changed");
  g_ptr_array_add(vms, store_vm_new(kept, DAILY));
  g_ptr_array_add(vms, store_vm_new(now, NULL));
  g_ptr_array_add(points, point);
  replace(fixture, vms, points, 0);
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "changed", NULL);
  assert_same_vm(found, now);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM exports"), 1);
  assert_int_equal(number(fixture, "SELECT audit_next FROM bases"), 99);
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 1);
}

static void
assert_policy(Fixture *fixture, const char *vm, const char *text, gint64 done_until, gint64 last_run)
{
  g_autoptr(StorePolicy) policy = catalogue_get_policy(fixture->catalogue, vm, NULL);
  assert_non_null(policy);
  g_autofree char *found = store_policy_encode(policy);
  assert_string_equal(found, text);
  assert_int_equal(policy->done_until, done_until);
  assert_int_equal(policy->last_run, last_run);
}

/* One that ran at 300, and has nothing to do from before 200. */
static void
add_policy(Fixture *fixture, const char *vm, const char *text)
{
  g_autoptr(StorePolicy) policy = store_policy_decode(vm, text, NULL);
  policy->done_until = 200;
  policy->last_run = 300;
  assert_true(catalogue_save_policy(fixture->catalogue, policy, NULL));
}

static void
test_policies_come_back_and_nothing_is_owed_from_before(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  g_ptr_array_add(vms, store_vm_new(make_vm("a"), DAILY));
  g_ptr_array_add(vms, store_vm_new(make_vm("b"), NULL));
  g_ptr_array_add(vms, store_vm_new(make_vm("c"), EVERY));
  replace(fixture, vms, points, 0);
  reopen(fixture);
  assert_policy(fixture, "a", DAILY, NOW, 0);
  assert_policy(fixture, "c", EVERY, NOW, 0);
  assert_int_equal(number(fixture, "SELECT count(*) FROM policies"), 2);
}

static void
test_policy_that_is_the_same_keeps_what_it_did_also_if_its_vm_changes(void **state)
{
  Fixture *fixture = *state;
  CatalogueVm *equal = add_vm(fixture, "equal"), *other = add_vm(fixture, "other");
  g_autoptr(CatalogueVm) changed = add_vm(fixture, "changed"), none = add_vm(fixture, "none");
  add_policy(fixture, "equal", DAILY);
  add_policy(fixture, "changed", DAILY);
  add_policy(fixture, "other", EVERY);
  add_policy(fixture, "none", EVERY);
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  g_ptr_array_add(vms, store_vm_new(equal, DAILY_TOO));
  g_ptr_array_add(vms, store_vm_new(make_vm("changed"), DAILY));
  g_ptr_array_add(vms, store_vm_new(other, DAILY));
  g_ptr_array_add(vms, store_vm_new(make_vm("none"), NULL));
  replace(fixture, vms, points, 1);
  assert_policy(fixture, "equal", DAILY, 200, 300);
  assert_policy(fixture, "changed", DAILY, 200, 300);
  assert_policy(fixture, "other", DAILY, NOW, 0);
  assert_null(catalogue_get_policy(fixture->catalogue, "none", NULL));
}

static void
test_policy_that_cannot_be_read_is_named_and_its_vm_comes(void **state)
{
  Fixture *fixture = *state;
  CatalogueVm *known = add_vm(fixture, "known"), *damaged = add_vm(fixture, "damaged");
  add_policy(fixture, "known", EVERY);
  add_policy(fixture, "damaged", EVERY);
  execute(fixture, "UPDATE policies SET schedule = 'now and then' WHERE vm = 'damaged'");
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  g_ptr_array_add(vms, store_vm_new(make_vm("a"), DAILY "; keep-centennial=1"));
  g_ptr_array_add(vms, store_vm_new(known, "nonsense"));
  g_ptr_array_add(vms, store_vm_new(damaged, DAILY));
  replace(fixture, vms, points, 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 3);
  assert_null(catalogue_get_policy(fixture->catalogue, "a", NULL));
  assert_policy(fixture, "known", EVERY, 200, 300);
  assert_policy(fixture, "damaged", DAILY, NOW, 0);
}

static void
test_vm_whose_image_another_one_has_is_left_out(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  CatalogueVm *thief = catalogue_vm_new("thief");
  catalogue_vm_add_disk(thief, "other", "/images/own.raw", 65536);
  catalogue_vm_add_disk(thief, "root", "/images/a-root.raw", 65536);
  g_ptr_array_add(vms, store_vm_new(make_vm("a"), NULL));
  g_ptr_array_add(vms, store_vm_new(thief, DAILY));
  g_ptr_array_add(vms, store_vm_new(make_vm("b"), NULL));
  replace(fixture, vms, points, 1);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 2);
  assert_int_equal(number(fixture, "SELECT count(*) FROM disks"), 4);
}

static void
test_replace_that_fails_changes_nothing(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "a");
  g_autoptr(StorePoint) point = add_point(fixture, "a", 5);
  g_autoptr(GPtrArray) vms = vms_new();
  g_autoptr(GPtrArray) points = points_new();
  g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(GError) error = NULL;
  g_ptr_array_add(vms, store_vm_new(make_vm("b"), NULL));
  StorePoint *first = make_point("b", 1), *second = make_point("b", 2);
  second->uuid = first->uuid;
  g_ptr_array_add(points, first);
  g_ptr_array_add(points, second);
  assert_false(catalogue_replace(fixture->catalogue, vms, points, NOW, problems, &error));
  check_error(&error, CBT_ERROR_EXISTS, "uuid");
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "a", NULL);
  assert_same_vm(found, vm);
  assert_int_equal(number(fixture, "SELECT count(*) FROM points"), 1);
}

static void
test_file_that_was_removed_is_written_again(void **state)
{
  Fixture *fixture = *state;
  gboolean was_gone = TRUE;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "a");
  assert_true(catalogue_ensure_file(fixture->catalogue, &was_gone, NULL));
  assert_false(was_gone);
  g_autofree char *log = g_strconcat(fixture->path, "-wal", NULL);
  assert_int_equal(g_unlink(fixture->path), 0);
  g_unlink(log);
  assert_true(catalogue_ensure_file(fixture->catalogue, &was_gone, NULL));
  assert_true(was_gone);
  g_autoptr(CatalogueVm) more = add_vm(fixture, "b");
  reopen(fixture);
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "a", NULL);
  assert_same_vm(found, vm);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 2);
}

static void
test_file_is_set_aside_under_a_name_with_the_time(void **state)
{
  Fixture *fixture = *state;
  g_autofree char *to = NULL;
  g_autofree char *none = NULL;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "a");
  catalogue_close(fixture->catalogue);
  fixture->catalogue = NULL;
  assert_true(catalogue_set_aside(fixture->path, &to, NULL));
  assert_true(g_str_has_prefix(to, fixture->path) && store_test_file_size(to) > 0);
  assert_true(catalogue_set_aside(fixture->path, &none, NULL));
  assert_null(none);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 0);
}

/* Whatever page is made nonsense, it is noticed at once, or nothing is wrong with what is read. */
static void
test_damaged_page_is_noticed_at_open(void **state)
{
  Fixture *fixture = *state;
  for (guint i = 0; i < 200; i++) {
    g_autoptr(StorePoint) point = add_point(fixture, "a", i);
  }
  catalogue_close(fixture->catalogue);
  fixture->catalogue = NULL;
  guint64 size = store_test_file_size(fixture->path);
  g_autofree char *sound = NULL;
  gsize length;
  assert_true(g_file_get_contents(fixture->path, &sound, &length, NULL));
  guint n_noticed = 0;
  for (guint64 page = 0; page < size; page += 4096) {
    g_autoptr(GError) error = NULL;
    for (guint64 at = page; at < page + 64; at++)
      store_test_flip(fixture->path, at, 0xff);
    g_autoptr(Catalogue) catalogue = catalogue_open(fixture->path, &error);
    if (!catalogue) {
      assert_int_equal(error->code, CBT_ERROR_CORRUPT);
      assert_non_null(strstr(error->message, "--rebuild-catalogue"));
      n_noticed++;
    }
    g_clear_pointer(&catalogue, catalogue_close);
    store_test_write(fixture->path, sound, length);
  }
  assert_int_equal(n_noticed, size / 4096);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  assert_non_null(fixture->catalogue);
}

static void
test_full_database_gets_its_room_and_tries_again(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) first = add_point(fixture, "a", 1);
  g_autofree char *room = g_strconcat(fixture->path, ".room", NULL);
  assert_int_equal(store_test_file_size(room), 4 << 20);
  g_autofree char *limit =
      g_strdup_printf("PRAGMA max_page_count = %" G_GINT64_FORMAT, number(fixture, "PRAGMA page_count"));
  execute(fixture, limit);
  CatalogueJob job = {.type = (char *) "backup", .vm = (char *) "a", .status = (char *) "done"};
  job.json = g_strnfill(100000, 'x');
  assert_false(catalogue_save_job(fixture->catalogue, &job, &error));
  check_error(&error, CBT_ERROR_NO_SPACE, "full");
  assert_int_equal(job.id, 0);
  assert_false(g_file_test(room, G_FILE_TEST_EXISTS));
  execute(fixture, "PRAGMA max_page_count = 100000");
  assert_true(catalogue_save_job(fixture->catalogue, &job, NULL));
  assert_int_equal(number(fixture, "SELECT count(*) FROM jobs"), 1);
  g_free(job.json);
  reopen(fixture);
  assert_int_equal(store_test_file_size(room), 4 << 20);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_new_catalogue_is_empty_until_something_is_added),
      CATALOGUE_TEST(test_all_comes_back_newest_first_with_the_newest_as_base),
      CATALOGUE_TEST(test_each_bitmap_has_its_own_base_and_none_is_one_of_strangers),
      CATALOGUE_TEST(test_what_is_not_in_the_store_goes_and_what_is_equal_keeps_its_rows),
      CATALOGUE_TEST(test_policies_come_back_and_nothing_is_owed_from_before),
      CATALOGUE_TEST(test_policy_that_is_the_same_keeps_what_it_did_also_if_its_vm_changes),
      CATALOGUE_TEST(test_policy_that_cannot_be_read_is_named_and_its_vm_comes),
      CATALOGUE_TEST(test_vm_whose_image_another_one_has_is_left_out),
      CATALOGUE_TEST(test_replace_that_fails_changes_nothing),
      CATALOGUE_TEST(test_file_that_was_removed_is_written_again),
      CATALOGUE_TEST(test_file_is_set_aside_under_a_name_with_the_time),
      CATALOGUE_TEST(test_damaged_page_is_noticed_at_open),
      CATALOGUE_TEST(test_full_database_gets_its_room_and_tries_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
