/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/name.h>

#include <common/error.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_harmless_names_are_taken(void **state G_GNUC_UNUSED)
{
  static const char *const good[] = {"a", "9", "_", "vm-100", "web.example_1+x", "A..B"};
  for (guint i = 0; i < G_N_ELEMENTS(good); i++)
    assert_true(cbt_name_is_valid(good[i]));
}

static void
test_names_that_could_leave_the_folder_are_refused(void **state G_GNUC_UNUSED)
{
  static const char *const bad[] = {"",     ".",   "..",         "../a", "a/b",   "/a",
                                    "-rf",  "+a",  ".a",         "a b",  "a\n",   "a\tb",
                                    "a\\b", "a:b", "n\xc3\xa4m", "a*",   "$HOME", "\x7f"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
    assert_false(cbt_name_is_valid(bad[i]));
}

static void
test_length_limit_is_exact(void **state G_GNUC_UNUSED)
{
  char name[CBT_NAME_MAX + 2] = {0};
  memset(name, 'a', CBT_NAME_MAX);
  assert_true(cbt_name_is_valid(name));
  name[CBT_NAME_MAX] = 'a';
  assert_false(cbt_name_is_valid(name));
}

static void
test_check_names_what_is_wrong(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  assert_true(cbt_name_check("vm", "web", &error));
  assert_null(error);
  assert_false(cbt_name_check("vm", "a/b", &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  assert_string_equal(message, "vm name 'a/b' is not valid");
  assert_non_null(hint);
}

static void
test_texts_with_anything_unprintable_are_escaped(void **state G_GNUC_UNUSED)
{
  static const struct {
    const char *text, *shown;
  } cases[] = {{"a b", "a b"},
               {"n\xc3\xa4m", "n\xc3\xa4m"},
               {"a\nb", "a\\nb"},
               {"\x1b[2J", "\\033[2J"},
               {"\x7f", "\\177"},
               {"n\xe4m", "n\\344m"},
               {"\xc2\x9b"
                "2J",
                "\\302\\2332J"},
               {"a\xe2\x80\xae"
                "b",
                "a\\342\\200\\256b"}};
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autofree char *shown = cbt_printable(cases[i].text);
    assert_string_equal(shown, cases[i].shown);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_harmless_names_are_taken),
      cmocka_unit_test(test_names_that_could_leave_the_folder_are_refused),
      cmocka_unit_test(test_length_limit_is_exact),
      cmocka_unit_test(test_check_names_what_is_wrong),
      cmocka_unit_test(test_texts_with_anything_unprintable_are_escaped),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
