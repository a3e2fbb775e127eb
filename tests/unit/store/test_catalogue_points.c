/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/unit/store/catalogue-fixture.h>

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

/* A point of VM at TIME whose first disk has the id DISK_ID. */
static StorePoint *
add_point_of_disk(Fixture *fixture, const char *vm, gint64 time, const CbtUuid *disk_id)
{
  StorePoint *point = make_point(vm, time);
  ((StorePointDisk *) point->disks->pdata[0])->disk_id = *disk_id;
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
  return point;
}

static void
test_newest_point_of_a_disk_is_of_that_disk(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  const CbtUuid mine = {.bytes = {1}}, replaced = {.bytes = {2}};
  g_autoptr(StorePoint) newest = add_point_of_disk(fixture, "web", 200, &mine);
  g_autoptr(StorePoint) older = add_point_of_disk(fixture, "web", 100, &mine);
  g_autoptr(StorePoint) later = add_point_of_disk(fixture, "web", 300, &replaced);
  g_autoptr(StorePoint) other = add_point_of_disk(fixture, "db", 400, &mine);
  const char *name = ((StorePointDisk *) newest->disks->pdata[0])->name;
  g_autoptr(StorePoint) found =
      catalogue_latest_point_of_disk(fixture->catalogue, "web", name, &mine, &error);
  assert_non_null(found);
  assert_same_point(found, newest);
  assert_null(catalogue_latest_point_of_disk(fixture->catalogue, "web", "none", &mine, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "none");
  assert_null(catalogue_latest_point_of_disk(fixture->catalogue, "db", name, &replaced, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, name);
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
  point->damaged = 2345678;
  assert_true(catalogue_update_point(fixture->catalogue, point, NULL));
  g_autoptr(StorePoint) found = catalogue_get_point(fixture->catalogue, &point->uuid, NULL);
  assert_same_point(found, point);
  assert_int_equal(found->damaged, 2345678);
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
test_audit_goes_on_where_it_ended_until_the_base_is_gone(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  const CatalogueDisk *disk = web->disks->pdata[0];
  CbtUuid base = cbt_uuid_generate(), nil = {0};
  guint64 next = 1;
  assert_true(catalogue_get_audit(fixture->catalogue, &disk->id, "default", &next, NULL));
  assert_int_equal(next, 0);
  const CatalogueBase noted = {base, G_GUINT64_CONSTANT(1) << 33, NULL};
  assert_true(catalogue_note_base(fixture->catalogue, &disk->id, "default", &noted, NULL));
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &base, NULL));
  reopen(fixture);
  assert_true(catalogue_get_audit(fixture->catalogue, &disk->id, "default", &next, NULL));
  assert_int_equal(next, G_GUINT64_CONSTANT(1) << 33);
  assert_true(catalogue_set_base(fixture->catalogue, &disk->id, "default", &nil, NULL));
  assert_true(catalogue_get_audit(fixture->catalogue, &disk->id, "default", &next, NULL));
  assert_int_equal(next, 0);
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

static void
test_summary_tells_the_newest_good_and_what_is_damaged(void **state)
{
  Fixture *fixture = *state;
  CataloguePointSummary summary;
  g_autoptr(StorePoint) oldest = add_point(fixture, "web", 100);
  g_autoptr(StorePoint) good = add_point(fixture, "web", 200);
  g_autoptr(StorePoint) newest = add_point(fixture, "web", 300);
  g_autoptr(StorePoint) other = add_point(fixture, "db", 400);
  oldest->verified = 500;
  oldest->damaged = good->damaged = 0;
  good->verified = 0;
  newest->verified = 0;
  newest->damaged = 600;
  assert_true(catalogue_update_point(fixture->catalogue, oldest, NULL));
  assert_true(catalogue_update_point(fixture->catalogue, good, NULL));
  assert_true(catalogue_update_point(fixture->catalogue, newest, NULL));
  execute(fixture, "UPDATE points SET incremental = time > 100, reason = iif(time = 100, 'why', NULL)");
  assert_true(catalogue_summarize_points(fixture->catalogue, "web", &summary, NULL));
  assert_int_equal(summary.n_points, 3);
  assert_int_equal(summary.n_damaged, 1);
  assert_int_equal(summary.n_unverified, 1);
  assert_true(cbt_uuid_equal(&summary.latest, &newest->uuid));
  assert_int_equal(summary.latest_time, 300);
  assert_true(cbt_uuid_equal(&summary.good, &good->uuid));
  assert_int_equal(summary.good_time, 200);
  assert_int_equal(summary.verified, 500);
  assert_int_equal(summary.full_time, 100);
  assert_string_equal(summary.full_reason, "why");
  catalogue_point_summary_clear(&summary);
}

static void
test_summary_of_a_vm_without_points_is_empty(void **state)
{
  Fixture *fixture = *state;
  CataloguePointSummary summary;
  assert_true(catalogue_summarize_points(fixture->catalogue, "none", &summary, NULL));
  assert_int_equal(summary.n_points, 0);
  assert_int_equal(summary.good_time, 0);
  assert_null(summary.full_reason);
}

static void
test_changes_are_counted(void **state)
{
  Fixture *fixture = *state;
  guint64 before = catalogue_n_changes(fixture->catalogue);
  g_autoptr(GPtrArray) points = catalogue_list_points(fixture->catalogue, NULL, NULL);
  assert_int_equal(catalogue_n_changes(fixture->catalogue), before);
  g_autoptr(StorePoint) point = add_point(fixture, "web", 100);
  assert_true(catalogue_n_changes(fixture->catalogue) > before);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_summary_tells_the_newest_good_and_what_is_damaged),
      CATALOGUE_TEST(test_summary_of_a_vm_without_points_is_empty),
      CATALOGUE_TEST(test_changes_are_counted),
      CATALOGUE_TEST(test_point_comes_back_as_it_was),
      CATALOGUE_TEST(test_points_are_listed_newest_first),
      CATALOGUE_TEST(test_newest_point_of_a_disk_is_of_that_disk),
      CATALOGUE_TEST(test_point_twice_is_refused),
      CATALOGUE_TEST(test_insert_that_fails_half_way_leaves_nothing),
      CATALOGUE_TEST(test_invalid_point_is_refused),
      CATALOGUE_TEST(test_update_changes_note_protection_and_verified),
      CATALOGUE_TEST(test_removed_point_takes_its_rows),
      CATALOGUE_TEST(test_tampered_row_is_corrupt),
      CATALOGUE_TEST(test_resolve_takes_uuid_prefix_latest_and_number),
      CATALOGUE_TEST(test_resolve_refuses_what_fits_none_or_several),
      CATALOGUE_TEST(test_base_is_set_replaced_and_taken_away),
      CATALOGUE_TEST(test_audit_goes_on_where_it_ended_until_the_base_is_gone),
      CATALOGUE_TEST(test_base_of_unknown_disk_is_not_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
