/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/unit/store/catalogue-fixture.h>

static CatalogueLease
make_lease(const CatalogueVm *vm, guint disk, const char *bitmap, gint64 expires)
{
  CatalogueLease lease = {.id = cbt_uuid_generate(), .expires = expires};
  lease.disk_id = ((CatalogueDisk *) vm->disks->pdata[disk])->id;
  g_strlcpy(lease.bitmap, bitmap, sizeof lease.bitmap);
  return lease;
}

static void
assert_kept(Fixture *fixture, const CatalogueLease *lease)
{
  CatalogueLease found;
  assert_true(catalogue_get_lease(fixture->catalogue, &lease->disk_id, lease->bitmap, &found, NULL));
  assert_memory_equal(&found, lease, sizeof found);
}

static void
assert_none(Fixture *fixture, const CatalogueLease *lease)
{
  CatalogueLease found;
  assert_true(catalogue_get_lease(fixture->catalogue, &lease->disk_id, lease->bitmap, &found, NULL));
  assert_true(cbt_uuid_is_nil(&found.id));
}

static void
test_lease_is_saved_replaced_and_survives_a_restart(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  CatalogueLease first = make_lease(vm, 0, "vendor", 1000), second = make_lease(vm, 0, "vendor", 2000);
  assert_none(fixture, &first);
  assert_true(catalogue_save_lease(fixture->catalogue, &first, NULL));
  assert_kept(fixture, &first);
  assert_true(catalogue_save_lease(fixture->catalogue, &second, NULL));
  reopen(fixture);
  assert_kept(fixture, &second);
}

static void
test_leases_of_bitmaps_and_disks_are_independent(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  CatalogueLease leases[] = {make_lease(vm, 0, "vendor", 30), make_lease(vm, 0, "default", 10),
                             make_lease(vm, 1, "vendor", 20)};
  for (guint i = 0; i < G_N_ELEMENTS(leases); i++)
    assert_true(catalogue_save_lease(fixture->catalogue, &leases[i], NULL));
  for (guint i = 0; i < G_N_ELEMENTS(leases); i++)
    assert_kept(fixture, &leases[i]);
  const CatalogueLease *l = &leases[0];
  assert_true(catalogue_remove_lease(fixture->catalogue, &l->disk_id, l->bitmap, &l->id, NULL));
  assert_none(fixture, &leases[0]);
  assert_kept(fixture, &leases[1]);
  assert_kept(fixture, &leases[2]);
}

static void
test_leases_are_listed_in_the_order_of_their_end(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  CatalogueLease late = make_lease(vm, 0, "vendor", 30), soon = make_lease(vm, 1, "vendor", 10);
  g_autoptr(GArray) none = catalogue_list_leases(fixture->catalogue, NULL);
  assert_int_equal(none->len, 0);
  assert_true(catalogue_save_lease(fixture->catalogue, &late, NULL));
  assert_true(catalogue_save_lease(fixture->catalogue, &soon, NULL));
  g_autoptr(GArray) both = catalogue_list_leases(fixture->catalogue, NULL);
  assert_int_equal(both->len, 2);
  assert_memory_equal(&g_array_index(both, CatalogueLease, 0), &soon, sizeof soon);
  assert_memory_equal(&g_array_index(both, CatalogueLease, 1), &late, sizeof late);
}

/* Who ends a lease late must not take away the one that came after it. */
static void
test_remove_spares_another_lease(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  CatalogueLease old = make_lease(vm, 0, "vendor", 1000), now = make_lease(vm, 0, "vendor", 2000);
  assert_true(catalogue_save_lease(fixture->catalogue, &old, NULL));
  assert_true(catalogue_save_lease(fixture->catalogue, &now, NULL));
  assert_true(catalogue_remove_lease(fixture->catalogue, &old.disk_id, old.bitmap, &old.id, NULL));
  assert_kept(fixture, &now);
}

static void
test_leases_go_with_their_disk(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web");
  g_autoptr(CatalogueVm) db = add_vm(fixture, "db");
  CatalogueLease of_web = make_lease(web, 0, "vendor", 1), of_db = make_lease(db, 0, "vendor", 1);
  assert_true(catalogue_save_lease(fixture->catalogue, &of_web, NULL));
  assert_true(catalogue_save_lease(fixture->catalogue, &of_db, NULL));
  assert_true(catalogue_remove_vm(fixture->catalogue, "web", NULL));
  assert_int_equal(number(fixture, "SELECT count(*) FROM leases"), 1);
  assert_kept(fixture, &of_db);
}

static void
test_lease_of_an_unknown_disk_is_not_found(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  CatalogueLease lease = {cbt_uuid_generate(), "vendor", cbt_uuid_generate(), 1};
  assert_false(catalogue_save_lease(fixture->catalogue, &lease, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "vendor");
}

static void
test_a_damaged_lease_is_an_error_not_a_lease(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  CatalogueLease lease = make_lease(vm, 0, "vendor", 1), found;
  assert_true(catalogue_save_lease(fixture->catalogue, &lease, NULL));
  execute(fixture, "UPDATE leases SET id = 'nonsense'");
  assert_false(catalogue_get_lease(fixture->catalogue, &lease.disk_id, "vendor", &found, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "id");
  execute(fixture, "UPDATE leases SET bitmap = '../vendor'");
  assert_null(catalogue_list_leases(fixture->catalogue, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "../vendor");
}

static void
test_a_catalogue_without_leases_gets_the_table(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  execute(fixture, "DROP INDEX points_by_state; DROP INDEX points_full;"
                   "DROP TABLE policies; DROP TABLE leases; ALTER TABLE points DROP COLUMN damaged; DROP TABLE journal; ALTER TABLE bases DROP COLUMN instance;"
                   "ALTER TABLE vms DROP COLUMN qmp; ALTER TABLE vms DROP COLUMN qga; ALTER TABLE vms DROP COLUMN follows;"
                   "ALTER TABLE disks DROP COLUMN node; ALTER TABLE disks DROP COLUMN format;"
                   "ALTER TABLE disks DROP COLUMN size; ALTER TABLE points DROP COLUMN consistency;"
                   "ALTER TABLE points DROP COLUMN consistency_reason; ALTER TABLE points DROP COLUMN frozen_ms;"
                   "PRAGMA user_version = 2");
  reopen(fixture);
  CatalogueLease lease = make_lease(vm, 0, "vendor", 1);
  assert_true(catalogue_save_lease(fixture->catalogue, &lease, NULL));
  assert_kept(fixture, &lease);
  assert_int_equal(number(fixture, "SELECT count(*) FROM vms"), 1);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_lease_is_saved_replaced_and_survives_a_restart),
      CATALOGUE_TEST(test_leases_of_bitmaps_and_disks_are_independent),
      CATALOGUE_TEST(test_leases_are_listed_in_the_order_of_their_end),
      CATALOGUE_TEST(test_remove_spares_another_lease),
      CATALOGUE_TEST(test_leases_go_with_their_disk),
      CATALOGUE_TEST(test_lease_of_an_unknown_disk_is_not_found),
      CATALOGUE_TEST(test_a_damaged_lease_is_an_error_not_a_lease),
      CATALOGUE_TEST(test_a_catalogue_without_leases_gets_the_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
