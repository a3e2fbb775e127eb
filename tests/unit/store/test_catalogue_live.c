/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the catalogue and the files of the store keep of vms whose QEMU has the disks. */
#include <tests/unit/store/catalogue-fixture.h>

#include <store/vm.h>

static CatalogueVm *
make_live_vm(void)
{
  CatalogueVm *vm = catalogue_vm_new("web");
  vm->qmp = g_strdup("/run/web.qmp");
  vm->qga = g_strdup("/run/web.qga");
  vm->follows = TRUE;
  catalogue_vm_add_live_disk(vm, "root", "/images/web.qcow2", "drive0", "qcow2", 1 << 30, 65536);
  catalogue_vm_add_live_disk(vm, "data", "rbd:pool/web", "data0", "raw", 12345 * 512, 65536);
  return vm;
}

static void
assert_same_live_vm(const CatalogueVm *found, const CatalogueVm *vm)
{
  assert_true(catalogue_vm_is_live(found));
  assert_string_equal(found->qmp, vm->qmp);
  assert_string_equal(found->qga, vm->qga);
  assert_int_equal(found->follows, vm->follows);
  assert_int_equal(found->disks->len, vm->disks->len);
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *a = found->disks->pdata[i], *b = vm->disks->pdata[i];
    assert_true(cbt_uuid_equal(&a->id, &b->id));
    assert_string_equal(a->path, b->path);
    assert_string_equal(a->qmp, vm->qmp);
    assert_string_equal(a->node, b->node);
    assert_string_equal(a->format, b->format);
    assert_int_equal(a->size, b->size);
  }
}

static void
test_live_vm_comes_back_from_the_catalogue_and_from_its_file(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = make_live_vm();
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  reopen(fixture);
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "web", NULL);
  assert_same_live_vm(found, vm);
  gsize length;
  const StoreVm record = {vm, NULL};
  g_autofree char *text = store_vm_encode(&record, &length);
  g_autoptr(StoreVm) decoded = store_vm_decode(text, length, NULL);
  assert_non_null(decoded);
  assert_same_live_vm(decoded->vm, vm);
}

static void
test_disk_is_added_later_and_follows_what_qemu_says(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = make_live_vm();
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  CatalogueDisk *added = catalogue_vm_add_live_disk(vm, "plugged", "/images/p.raw", "p0", "raw", 512, 65536);
  assert_true(catalogue_insert_disk(fixture->catalogue, vm, added, NULL));
  added->size = 1024;
  g_free(added->path);
  added->path = g_strdup("/images/overlay.qcow2");
  assert_true(catalogue_update_disk(fixture->catalogue, added, NULL));
  g_autoptr(CatalogueVm) found = catalogue_get_vm(fixture->catalogue, "web", NULL);
  assert_same_live_vm(found, vm);

  g_autoptr(GError) error = NULL;
  CatalogueDisk *twice =
      catalogue_vm_add_live_disk(vm, "other", "/images/web.qcow2", "p1", "raw", 512, 65536);
  assert_false(catalogue_insert_disk(fixture->catalogue, vm, twice, &error));
  check_error(&error, CBT_ERROR_EXISTS, "web/root");
  assert_false(catalogue_update_disk(fixture->catalogue, twice, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "other");
}

static void
test_sockets_are_absolute_paths(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = make_live_vm();
  g_autoptr(GError) error = NULL;
  g_free(vm->qga);
  vm->qga = g_strdup("web.qga");
  assert_false(catalogue_insert_vm(fixture->catalogue, vm, &error));
  check_error(&error, CBT_ERROR_INVALID, "web.qga");
  gsize length;
  const StoreVm record = {vm, NULL};
  g_autofree char *text = store_vm_encode(&record, &length);
  assert_null(store_vm_decode(text, length, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "qga");
}

static void
test_journal_has_the_last_step_of_each_vm(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = make_live_vm();
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  assert_true(catalogue_journal_note(fixture->catalogue, "web", 7, "blockdev-add", NULL));
  assert_true(catalogue_journal_note(fixture->catalogue, "web", 7, "transaction", NULL));
  assert_true(catalogue_journal_note(fixture->catalogue, "nobody", 8, "transaction", NULL));
  reopen(fixture);
  g_autoptr(GPtrArray) entries = catalogue_journal_list(fixture->catalogue, NULL);
  assert_int_equal(entries->len, 1);
  const CatalogueJournalEntry *entry = entries->pdata[0];
  assert_string_equal(entry->vm, "web");
  assert_string_equal(entry->step, "transaction");
  assert_int_equal(entry->job, 7);
  assert_true(catalogue_journal_clear(fixture->catalogue, "web", NULL));
  g_autoptr(GPtrArray) none = catalogue_journal_list(fixture->catalogue, NULL);
  assert_int_equal(none->len, 0);
}

static void
test_instance_is_of_the_base_of_a_bitmap(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = make_live_vm();
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  const CatalogueDisk *disk = vm->disks->pdata[0];
  const CatalogueBase base = {cbt_uuid_generate(), 0, "boot/12/34"};
  char *none = NULL;
  assert_true(catalogue_get_instance(fixture->catalogue, &disk->id, "default", &none, NULL));
  assert_null(none);
  assert_true(catalogue_note_base(fixture->catalogue, &disk->id, "default", &base, NULL));
  g_autofree char *found = NULL;
  assert_true(catalogue_get_instance(fixture->catalogue, &disk->id, "default", &found, NULL));
  assert_string_equal(found, "boot/12/34");
}

static void
test_consistency_of_a_point_is_kept(void **state)
{
  Fixture *fixture = *state;
  for (guint i = 0; i < STORE_N_CONSISTENCIES; i++) {
    g_autoptr(StorePoint) point = store_point_new();
    point->uuid = cbt_uuid_generate();
    point->vm = g_strdup("web");
    point->time = 1700000000000000 + i;
    point->consistency = i;
    point->consistency_reason = i == STORE_CONSISTENCY_APP ? NULL : g_strdup("the agent does not answer");
    point->frozen_ms = i * 17;
    assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
    g_autoptr(StorePoint) found = catalogue_get_point(fixture->catalogue, &point->uuid, NULL);
    assert_true(store_point_equal(found, point));
    assert_int_equal(found->consistency, i);
    gsize length;
    g_autofree char *text = store_point_encode(point, &length);
    g_autoptr(StorePoint) decoded = store_point_decode(text, length, NULL);
    assert_int_equal(decoded->consistency, i);
    assert_int_equal(decoded->frozen_ms, i * 17);
    assert_int_equal(g_strcmp0(decoded->consistency_reason, point->consistency_reason), 0);
  }
  g_autoptr(GError) error = NULL;
  assert_int_equal(
      sqlite3_exec(fixture->catalogue->db, "UPDATE points SET consistency = 9", NULL, NULL, NULL), SQLITE_OK);
  assert_null(catalogue_list_points(fixture->catalogue, NULL, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "consistency");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      CATALOGUE_TEST(test_live_vm_comes_back_from_the_catalogue_and_from_its_file),
      CATALOGUE_TEST(test_disk_is_added_later_and_follows_what_qemu_says),
      CATALOGUE_TEST(test_sockets_are_absolute_paths),
      CATALOGUE_TEST(test_journal_has_the_last_step_of_each_vm),
      CATALOGUE_TEST(test_instance_is_of_the_base_of_a_bitmap),
      CATALOGUE_TEST(test_consistency_of_a_point_is_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
