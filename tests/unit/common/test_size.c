/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/size.h>

#include <common/error.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_sizes_parse(void **state G_GNUC_UNUSED)
{
  static const struct {
    const char *text;
    guint64 bytes;
  } good[] = {
      {"0", 0},
      {"65536", 65536},
      {"512B", 512},
      {"64K", 65536},
      {"64k", 65536},
      {"64KB", 65536},
      {"64KiB", 65536},
      {"1M", 1 << 20},
      {"3GiB", G_GUINT64_CONSTANT(3) << 30},
      {"2T", G_GUINT64_CONSTANT(2) << 40},
      {"1P", G_GUINT64_CONSTANT(1) << 50},
      {"7E", G_GUINT64_CONSTANT(7) << 60},
      {"9223372036854775807", G_MAXINT64},
  };
  for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
    guint64 bytes = 1;
    assert_true(cbt_size_parse(good[i].text, &bytes, NULL));
    assert_true(bytes == good[i].bytes);
  }
}

static void
test_what_is_no_size_is_refused(void **state G_GNUC_UNUSED)
{
  static const char *const bad[] = {"",
                                    " 1",
                                    "-1",
                                    "+1",
                                    "K",
                                    "1X",
                                    "1KK",
                                    "1 K",
                                    "1K ",
                                    "0x10",
                                    "1.5.5G",
                                    "1iB",
                                    "1Ki",
                                    "1KiBB",
                                    "8E",
                                    "16E",
                                    "9223372036854775808",
                                    "18446744073709551616",
                                    "99999999999999999999999"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    guint64 bytes;
    assert_false(cbt_size_parse(bad[i], &bytes, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
    assert_non_null(strstr(error->message, bad[i]));
  }
}

static void
assert_format(guint64 bytes, const char *expected)
{
  g_autofree char *text = cbt_size_format(bytes);
  assert_string_equal(text, expected);
}

static void
test_sizes_are_shown_in_their_unit(void **state G_GNUC_UNUSED)
{
  assert_format(0, "0 B");
  assert_format(1023, "1023 B");
  assert_format(1024, "1.0 KiB");
  assert_format(65536, "64.0 KiB");
  assert_format(G_GUINT64_CONSTANT(3) << 29, "1.5 GiB");
  assert_format(G_GUINT64_CONSTANT(1) << 50, "1.0 PiB");
  assert_format(G_MAXUINT64, "16.0 EiB");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes_parse),
      cmocka_unit_test(test_what_is_no_size_is_refused),
      cmocka_unit_test(test_sizes_are_shown_in_their_unit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
