/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/duration.h>

#include <common/error.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_durations_parse(void **state G_GNUC_UNUSED)
{
  static const struct {
    const char *text;
    guint64 seconds;
  } good[] = {{"0", 0},     {"1", 1},       {"90s", 90},   {"10m", 600},
              {"2h", 7200}, {"7d", 604800}, {"007m", 420}, {"2147483647", G_MAXINT32}};
  for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
    guint64 seconds = 77;
    assert_true(cbt_duration_parse(good[i].text, &seconds, NULL));
    assert_true(seconds == good[i].seconds);
  }
}

static void
test_what_is_no_duration_is_refused(void **state G_GNUC_UNUSED)
{
  static const char *const bad[] = {
      "",    " 1",  "-1",   "+1",         "m",      "1x",  "1M",
      "1 m", "1m ", "1.5h", "2147483648", "99999d", "1hm", "18446744073709551617"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    guint64 seconds;
    assert_false(cbt_duration_parse(bad[i], &seconds, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
    assert_non_null(strstr(error->message, bad[i]));
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_durations_parse),
      cmocka_unit_test(test_what_is_no_duration_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
