/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/uuid.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_text_and_bytes_are_one(void **state G_GNUC_UNUSED)
{
  CbtUuid uuid;
  char text[CBT_UUID_TEXT_SIZE];
  assert_true(cbt_uuid_parse("01234567-89AB-cdef-0123-456789abcdef", &uuid));
  assert_int_equal(uuid.bytes[0], 0x01);
  assert_int_equal(uuid.bytes[15], 0xef);
  assert_string_equal(cbt_uuid_format(&uuid, text), "01234567-89ab-cdef-0123-456789abcdef");
}

static void
test_what_is_no_uuid_is_refused(void **state G_GNUC_UNUSED)
{
  static const char *const bad[] = {"",
                                    "01234567-89ab-cdef-0123-456789abcde",
                                    "0123456789abcdef0123456789abcdef",
                                    "01234567-89ab-cdef-0123-456789abcdefa",
                                    "g1234567-89ab-cdef-0123-456789abcdef",
                                    "{01234567-89ab-cdef-0123-456789abcdef}"};
  CbtUuid uuid;
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
    assert_false(cbt_uuid_parse(bad[i], &uuid));
}

static void
test_generated_uuids_differ_and_are_not_nil(void **state G_GNUC_UNUSED)
{
  CbtUuid a = cbt_uuid_generate(), b = cbt_uuid_generate(), nil = {{0}};
  assert_true(cbt_uuid_equal(&a, &a));
  assert_false(cbt_uuid_equal(&a, &b));
  assert_false(cbt_uuid_is_nil(&a));
  assert_true(cbt_uuid_is_nil(&nil));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_and_bytes_are_one),
      cmocka_unit_test(test_what_is_no_uuid_is_refused),
      cmocka_unit_test(test_generated_uuids_differ_and_are_not_nil),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
