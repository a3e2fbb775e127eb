/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <cbt/qemu/steps.h>
#include <string.h>

static void
test_names_are_told_from_those_of_others(void **state)
{
  (void) state;
  static const struct {
    const char *name;
    gboolean is_ours;
    int index;
  } cases[] = {
      {"cbt-1-scr0", TRUE, 0},
      {"cbt-1-scr12", TRUE, 12},
      {"cbt-1-scr", TRUE, -1},
      {"cbt-1-scr1x", FALSE, 0},
      {"cbt-1-scr-1", FALSE, 0},
      {"cbt-1-scr 1", FALSE, 0},
      {"cbt-12-scr0", FALSE, 0},
      {"cbt-1-x-scr0", FALSE, 0},
      {"xcbt-1-scr0", FALSE, 0},
      {"cbt-1-scratch", FALSE, 0},
      {"cbt-1-scr99999999999", FALSE, 0},
      {"cbt-1", FALSE, 0},
      {"", FALSE, 0},
      {NULL, FALSE, 0},
  };
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    int index = -7;
    assert_int_equal(qemu_name_is(cases[i].name, "cbt-1", QEMU_NAME_SCRATCH, &index), cases[i].is_ours);
    assert_int_equal(index, cases[i].is_ours ? cases[i].index : -7);
  }
}

static void
test_longest_names_fit_into_qemu(void **state)
{
  (void) state;
  g_autofree char *prefix = g_strnfill(QEMU_PREFIX_MAX_BYTES, 'x');
  g_autofree char *marker = qemu_name(prefix, QEMU_NAME_STOPPED, -1);
  g_autofree char *numbered = qemu_name(prefix, QEMU_NAME_SNAP, 999);
  assert_true(qemu_prefix_check(prefix, NULL));
  assert_in_range(strlen(marker), 1, 31);
  assert_in_range(strlen(numbered), 1, 31);
}

static void
test_prefixes_that_qemu_would_refuse_are_invalid(void **state)
{
  (void) state;
  static const char *const bad[] = {NULL, "", "1a", "-a", "a b", "a/b", "a\"b", "xxxxxxxxxxxxxxxxxxxxx"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    assert_false(qemu_prefix_check(bad[i], &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
  assert_true(qemu_prefix_check("cbt-1a2b3c4d", NULL));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names_are_told_from_those_of_others),
      cmocka_unit_test(test_longest_names_fit_into_qemu),
      cmocka_unit_test(test_prefixes_that_qemu_would_refuse_are_invalid),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
