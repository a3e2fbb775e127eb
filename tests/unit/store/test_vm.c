/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <store/vm.h>
#include <string.h>
#include <tests/support/fault-ops.h>
#include <tests/support/store-files.h>

#define GOLDEN_PATH CBT_GOLDEN_DIR "/vm-v1.vm"
#define POLICY      "schedule=daily 02:30; bitmap=default; keep-daily=7; gc=yes; enabled=yes"

static int
setup(void **state)
{
  *state = store_test_folder_new();
  return 0;
}

static int
teardown(void **state)
{
  store_test_folder_free(*state);
  return 0;
}

static void
add_disk(CatalogueVm *vm, const char *name, const char *path, const char *id, guint64 granularity)
{
  CatalogueDisk *disk = catalogue_vm_add_disk(vm, name, path, granularity);
  assert_true(cbt_uuid_parse(id, &disk->id));
}

/* The vm that the golden file shows. */
static StoreVm *
make_record(void)
{
  CatalogueVm *vm = catalogue_vm_new("web");
  vm->created = 1700000000123456;
  add_disk(vm, "root", "/images/web root.raw", "11111111-2222-4333-8444-555555555555", 65536);
  add_disk(vm, "data", "/images/\377.raw", "66666666-7777-4888-8999-aaaaaaaaaaaa", 4096);
  g_ptr_array_add(vm->configs, g_strdup("/etc/web [1].conf"));
  g_ptr_array_add(vm->configs, g_strdup("/etc/caf\303\251.conf"));
  return store_vm_new(vm, POLICY);
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->domain != CBT_ERROR || (*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

/* The golden text with FROM (it must be there) replaced by TO, sealed anew and decoded. */
static StoreVm *
decode_changed(const char *from, const char *to, GError **error)
{
  g_autoptr(StoreVm) record = make_record();
  gsize length;
  g_autofree char *text = store_vm_encode(record, &length);
  text[length - strlen("# xxh3-64: 0123456789abcdef\n")] = '\0';
  g_autoptr(GString) body = g_string_new(text);
  if (g_string_replace(body, from, to, 1) != 1)
    fail_msg("'%s' is not in the text", from);
  g_autofree char *sealed = g_strdup_printf("%s# xxh3-64: %016" G_GINT64_MODIFIER "x\n", body->str,
                                            cbt_checksum64(body->str, body->len));
  return store_vm_decode(sealed, strlen(sealed), error);
}

static void
test_golden_file_is_decoded_and_encoded_alike(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) made = make_record();
  gsize length, golden_length;
  g_autofree char *encoded = store_vm_encode(made, &length);
  if (g_getenv("CBT_UPDATE_GOLDEN"))
    assert_true(g_file_set_contents(GOLDEN_PATH, encoded, (gssize) length, NULL));
  g_autofree char *golden = NULL;
  assert_true(g_file_get_contents(GOLDEN_PATH, &golden, &golden_length, NULL));
  assert_string_equal(encoded, golden);
  g_autoptr(StoreVm) decoded = store_vm_decode(golden, golden_length, &error);
  assert_null(error);
  assert_true(store_vm_equal(made, decoded));
}

static void
test_document_shows_the_golden_file(void **state)
{
  (void) state;
  g_autofree char *golden = NULL;
  g_autofree char *page = NULL;
  assert_true(g_file_get_contents(GOLDEN_PATH, &golden, NULL, NULL));
  assert_true(g_file_get_contents(CBT_GOLDEN_DIR "/../../docs/formats/vm.md", &page, NULL, NULL));
  assert_non_null(strstr(page, golden));
}

static void
test_decode_gives_every_field_back(void **state)
{
  (void) state;
  g_autoptr(StoreVm) made = make_record();
  gsize length;
  g_autofree char *text = store_vm_encode(made, &length);
  g_autoptr(StoreVm) record = store_vm_decode(text, length, NULL);
  assert_non_null(record);
  assert_string_equal(record->vm->name, "web");
  assert_int_equal(record->vm->created, 1700000000123456);
  assert_string_equal(record->policy, POLICY);
  assert_int_equal(record->vm->disks->len, 2);
  const CatalogueDisk *root = record->vm->disks->pdata[0], *data = record->vm->disks->pdata[1];
  assert_string_equal(root->name, "root");
  assert_string_equal(root->path, "/images/web root.raw");
  assert_int_equal(root->granularity, 65536);
  assert_string_equal(data->path, "/images/\377.raw");
  assert_int_equal(data->granularity, 4096);
  assert_true(cbt_uuid_equal(&data->id, &((CatalogueDisk *) made->vm->disks->pdata[1])->id));
  assert_int_equal(record->vm->configs->len, 2);
  assert_string_equal(record->vm->configs->pdata[0], "/etc/web [1].conf");
  assert_string_equal(record->vm->configs->pdata[1], "/etc/caf\303\251.conf");
}

static void
test_what_is_absent_stays_absent(void **state)
{
  (void) state;
  g_autoptr(StoreVm) made = store_vm_new(catalogue_vm_new("web"), NULL);
  gsize length;
  g_autofree char *text = store_vm_encode(made, &length);
  g_autoptr(StoreVm) record = store_vm_decode(text, length, NULL);
  assert_non_null(record);
  assert_null(record->policy);
  assert_int_equal(record->vm->disks->len, 0);
  assert_int_equal(record->vm->configs->len, 0);
}

static void
test_every_flipped_bit_and_truncation_is_detected(void **state)
{
  (void) state;
  g_autoptr(StoreVm) made = make_record();
  gsize length;
  g_autofree char *text = store_vm_encode(made, &length);
  for (gsize i = 0; i < length; i++) {
    g_autoptr(GError) error = NULL;
    for (guint bit = 0; bit < 8; bit++) {
      text[i] = (char) (text[i] ^ (1 << bit));
      assert_null(store_vm_decode(text, length, &error));
      check_error(&error, CBT_ERROR_CORRUPT, "checksum");
      text[i] = (char) (text[i] ^ (1 << bit));
    }
    g_autofree char *copy = g_memdup2(text, i); /* so that a read behind it is seen */
    assert_null(store_vm_decode(copy ? copy : "", i, &error));
    check_error(&error, CBT_ERROR_CORRUPT, "checksum");
  }
}

static void
test_sealed_nonsense_is_refused_by_key(void **state)
{
  (void) state;
  static const struct {
    const char *from, *to, *named;
  } cases[] = {
      {"name=web", "name=../web", "../web"},
      {"name=web\n", "", "'name'"},
      {"created=1700000000123456", "created=-1", "'created'"},
      {"[disk root]", "[disk ../root]", "../root"},
      {"[disk data]", "[disk ]", "disk"},
      {"id=1111", "id=1", "'id'"},
      {"id=11111111-2222-4333-8444-555555555555", "id=00000000-0000-0000-0000-000000000000", "'id'"},
      {"id=11111111-2222-4333-8444-555555555555", "id=66666666-7777-4888-8999-aaaaaaaaaaaa", "twice"},
      {"path=/images/web", "path=images/web", "'path'"},
      {"path-hex=2f", "path-hex=", "'path-hex'"},
      {"path-hex=2f", "path-hex=2f00", "'path-hex'"},
      {"path-hex=2f", "path-hex=2", "'path-hex'"},
      {"granularity=65536", "granularity=65535", "'granularity'"},
      {"granularity=65536", "granularity=2048", "'granularity'"},
      {"granularity=65536", "granularity=33554432", "'granularity'"},
      {"granularity=65536\n", "", "'granularity'"},
      {"path=/etc/web", "path=etc/web", "'path'"},
      {"text=", "text=\\q", "'text'"},
      {"format=1\n", "", "'format'"},
      {"[vm]", "[point]", "[vm]"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreVm) record = decode_changed(cases[i].from, cases[i].to, &error);
    if (record)
      fail_msg("taken: '%s' for '%s'", cases[i].to, cases[i].from);
    check_error(&error, CBT_ERROR_CORRUPT, cases[i].named);
  }
}

static void
test_newer_format_is_unsupported_and_unknown_groups_are_ignored(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  assert_null(decode_changed("format=1", "format=2", &error));
  check_error(&error, CBT_ERROR_UNSUPPORTED, "format 2");
  g_autoptr(StoreVm) group = decode_changed("[disk data]", "[later]\nkey=1\n\n[disk data]", NULL);
  assert_non_null(group);
  assert_int_equal(group->vm->disks->len, 2);
}

static void
test_saved_vm_is_loaded_listed_and_removed(void **state)
{
  g_autofree char *folder = g_build_filename(*state, "vms", NULL);
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) record = make_record();
  g_autoptr(GPtrArray) none = store_vm_list(folder, NULL);
  assert_int_equal(none->len, 0);
  assert_true(store_vm_save(ops, folder, record, NULL));
  assert_true(store_vm_save(ops, folder, record, NULL));
  g_autoptr(StoreVm) found = store_vm_load(ops, folder, "web", NULL);
  assert_true(found && store_vm_equal(record, found));
  g_autoptr(GPtrArray) one = store_vm_list(folder, NULL);
  assert_int_equal(one->len, 1);
  assert_string_equal(one->pdata[0], "web");
  assert_true(store_vm_remove(ops, folder, "web", NULL));
  assert_false(store_vm_remove(ops, folder, "web", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "web.vm");
}

static void
test_damaged_file_is_named_and_can_be_set_aside(void **state)
{
  const char *folder = *state;
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  g_autofree char *to = NULL;
  g_autofree char *path = g_build_filename(folder, "web.vm", NULL);
  g_autoptr(StoreVm) record = make_record();
  assert_true(store_vm_save(ops, folder, record, NULL));
  store_test_flip(path, 30, 4);
  assert_null(store_vm_load(ops, folder, "web", &error));
  check_error(&error, CBT_ERROR_CORRUPT, path);
  assert_true(store_vm_set_aside(ops, folder, "web", &to, NULL));
  assert_true(g_str_has_prefix(to, path));
  assert_true(store_test_file_size(to) > 0);
  g_autoptr(GPtrArray) names = store_vm_list(folder, NULL);
  assert_int_equal(names->len, 0);
}

static void
test_vm_that_could_not_be_read_back_is_not_saved(void **state)
{
  const char *folder = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) record = make_record();
  ((CatalogueDisk *) record->vm->disks->pdata[0])->granularity = 5000;
  assert_false(store_vm_save(cbt_file_ops_default(), folder, record, &error));
  check_error(&error, CBT_ERROR_INVALID, "granularity");
  g_autoptr(StoreVm) huge = store_vm_new(catalogue_vm_new("web"), NULL);
  huge->policy = g_strnfill(STORE_POINT_LENGTH_MAX, 'n');
  assert_false(store_vm_save(cbt_file_ops_default(), folder, huge, &error));
  check_error(&error, CBT_ERROR_TOO_LARGE, "bytes");
}

static void
test_save_leaves_the_old_or_the_new_whatever_fails(void **state)
{
  const char *folder = *state;
  for (guint n = 1;; n++) {
    CbtFaultOps faults;
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreVm) old = make_record();
    g_autoptr(StoreVm) new = make_record();
    new->vm->created++;
    assert_true(store_vm_save(cbt_file_ops_default(), folder, old, NULL));
    cbt_fault_ops_init(&faults);
    cbt_fault_ops_arm(&faults, n, ENOSPC, CBT_FAULT_TORN);
    gboolean ok = store_vm_save(&faults.ops, folder, new, &error);
    gboolean failed = cbt_fault_ops_disarm(&faults);
    g_autoptr(StoreVm) found = store_vm_load(cbt_file_ops_default(), folder, "web", NULL);
    assert_non_null(found);
    assert_true(store_vm_equal(found, new) || (!ok && store_vm_equal(found, old)));
    if (!failed)
      break;
    if (!ok)
      check_error(&error, CBT_ERROR_NO_SPACE, "web.vm");
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden_file_is_decoded_and_encoded_alike),
      cmocka_unit_test(test_document_shows_the_golden_file),
      cmocka_unit_test(test_decode_gives_every_field_back),
      cmocka_unit_test(test_what_is_absent_stays_absent),
      cmocka_unit_test(test_every_flipped_bit_and_truncation_is_detected),
      cmocka_unit_test(test_sealed_nonsense_is_refused_by_key),
      cmocka_unit_test(test_newer_format_is_unsupported_and_unknown_groups_are_ignored),
      cmocka_unit_test_setup_teardown(test_saved_vm_is_loaded_listed_and_removed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_damaged_file_is_named_and_can_be_set_aside, setup, teardown),
      cmocka_unit_test_setup_teardown(test_vm_that_could_not_be_read_back_is_not_saved, setup, teardown),
      cmocka_unit_test_setup_teardown(test_save_leaves_the_old_or_the_new_whatever_fails, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
