/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <store/format.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>

static StoreFormat
example(void)
{
  StoreFormat format = {.version = 1, .created = 1700000000000000};
  for (guint i = 0; i < sizeof format.uuid.bytes; i++)
    format.uuid.bytes[i] = (guint8) (0xa0 + i);
  for (guint i = 0; i < STORE_SECRET_SIZE; i++)
    format.secret[i] = (guint8) i;
  return format;
}

static void
test_encoding_is_the_golden_one(void **state G_GNUC_UNUSED)
{
  guint8 bytes[STORE_FORMAT_SIZE];
  StoreFormat format = example();
  store_format_encode(&format, bytes);
  store_test_golden("store-format-v1", "store.md", bytes, sizeof bytes);
}

static void
test_decode_gives_what_was_encoded(void **state G_GNUC_UNUSED)
{
  guint8 bytes[STORE_FORMAT_SIZE];
  StoreFormat format = example();
  StoreFormat decoded;
  store_format_encode(&format, bytes);
  assert_true(store_format_decode(bytes, sizeof bytes, "x", &decoded, NULL));
  assert_int_equal(decoded.version, 1);
  assert_true(cbt_uuid_equal(&format.uuid, &decoded.uuid));
  assert_int_equal(format.created, decoded.created);
  assert_memory_equal(format.secret, decoded.secret, STORE_SECRET_SIZE);
}

static void
test_every_flipped_bit_and_every_truncation_is_refused(void **state G_GNUC_UNUSED)
{
  guint8 bytes[STORE_FORMAT_SIZE];
  StoreFormat format = example();
  StoreFormat decoded;
  store_format_encode(&format, bytes);
  for (guint bit = 0; bit < 8 * STORE_FORMAT_SIZE; bit++) {
    bytes[bit / 8] ^= (guint8) (1 << bit % 8);
    assert_false(store_format_decode(bytes, sizeof bytes, "x", &decoded, NULL));
    bytes[bit / 8] ^= (guint8) (1 << bit % 8);
  }
  for (guint length = 0; length < STORE_FORMAT_SIZE; length++)
    assert_false(store_format_decode(bytes, length, "x", &decoded, NULL));
}

static void
test_a_newer_version_is_refused_by_its_number(void **state G_GNUC_UNUSED)
{
  guint8 bytes[STORE_FORMAT_SIZE];
  StoreFormat format = example();
  StoreFormat decoded;
  g_autoptr(GError) error = NULL;
  store_format_encode(&format, bytes);
  cbt_put_u32(bytes + STORE_FORMAT_AT_VERSION, 7);
  assert_false(store_format_decode(bytes, sizeof bytes, "/s/format", &decoded, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error->message, "/s/format"));
  assert_non_null(strstr(error->message, "version 7"));
  g_autofree char *hint = cbt_error_hint(error);
  assert_non_null(strstr(hint, "Upgrade"));
}

static void
test_save_is_all_or_nothing_whatever_call_fails(void **state G_GNUC_UNUSED)
{
  char *folder = store_test_folder_new();
  g_autofree char *path = g_build_filename(folder, "format", NULL);
  StoreFaultOps *faults = store_fault_ops_new();
  StoreFormat format = example();
  StoreFormat loaded;
  gboolean saved = FALSE;
  for (guint n = 1; !saved; n++) {
    store_fault_ops_arm(faults, n, TRUE, EIO);
    saved = store_format_save(store_fault_ops_table(faults), path, &format, NULL);
    g_autoptr(GError) error = NULL;
    if (!store_format_load(cbt_file_ops_default(), path, &loaded, &error))
      assert_int_equal(cbt_error_code(error), CBT_ERROR_NOT_FOUND);
  }
  assert_true(store_format_load(cbt_file_ops_default(), path, &loaded, NULL));
  store_fault_ops_free(faults);
  store_test_folder_free(folder);
}

static void
test_generated_identities_differ(void **state G_GNUC_UNUSED)
{
  StoreFormat a, b;
  assert_true(store_format_generate(&a, NULL));
  assert_int_equal(a.version, STORE_FORMAT_VERSION);
  assert_true(store_format_generate(&b, NULL));
  assert_memory_not_equal(a.secret, b.secret, STORE_SECRET_SIZE);
  assert_false(cbt_uuid_equal(&a.uuid, &b.uuid));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_encoding_is_the_golden_one),
      cmocka_unit_test(test_decode_gives_what_was_encoded),
      cmocka_unit_test(test_every_flipped_bit_and_every_truncation_is_refused),
      cmocka_unit_test(test_a_newer_version_is_refused_by_its_number),
      cmocka_unit_test(test_save_is_all_or_nothing_whatever_call_fails),
      cmocka_unit_test(test_generated_identities_differ),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
