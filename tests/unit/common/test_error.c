/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/error.h>

#include <errno.h>
#include <gio/gio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_each_code_has_its_own_name_and_a_status(void **state G_GNUC_UNUSED)
{
  for (int code = 0; code < CBT_N_ERRORS; code++) {
    assert_non_null(cbt_error_code_name(code));
    assert_int_equal(cbt_error_code_from_name(cbt_error_code_name(code)), code);
    assert_in_range(cbt_error_http_status(code), 400, 599);
    assert_in_range(cbt_error_exit_status(code), 1, 125);
  }
}

static void
test_unknown_codes_and_names_are_failed(void **state G_GNUC_UNUSED)
{
  assert_string_equal(cbt_error_code_name(-1), "failed");
  assert_string_equal(cbt_error_code_name(CBT_N_ERRORS), "failed");
  assert_int_equal(cbt_error_http_status(9999), 500);
  assert_int_equal(cbt_error_code_from_name("no-such-code"), CBT_ERROR_FAILED);
  assert_int_equal(cbt_error_code_from_name(NULL), CBT_ERROR_FAILED);
}

static void
test_hint_travels_with_the_message(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  cbt_set_error(&error, CBT_ERROR_BUSY, "Wait 100%.", "disk '%s' is busy", "a");
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  assert_int_equal(cbt_error_code(error), CBT_ERROR_BUSY);
  assert_string_equal(message, "disk 'a' is busy");
  assert_string_equal(hint, "Wait 100%.");
}

static void
test_message_without_hint_is_whole(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  cbt_set_error(&error, CBT_ERROR_IO, NULL, "lost");
  g_autofree char *message = cbt_error_message(error);
  assert_string_equal(message, "lost");
  assert_null(cbt_error_hint(error));
  cbt_set_error(NULL, CBT_ERROR_IO, NULL, "nobody listens");
}

static void
test_errno_gives_code_and_text(void **state G_GNUC_UNUSED)
{
  static const struct {
    int errsv;
    CbtErrorCode code;
  } cases[] = {{ENOSPC, CBT_ERROR_NO_SPACE},
               {EDQUOT, CBT_ERROR_NO_SPACE},
               {ENOENT, CBT_ERROR_NOT_FOUND},
               {EACCES, CBT_ERROR_DENIED},
               {EBUSY, CBT_ERROR_BUSY},
               {EIO, CBT_ERROR_IO},
               {ECONNREFUSED, CBT_ERROR_UNREACHABLE},
               {ENOSYS, CBT_ERROR_UNSUPPORTED}};
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    cbt_set_error_errno(&error, cases[i].errsv, "cannot open %s", "x");
    g_autofree char *expected = g_strdup_printf("cannot open x: %s", g_strerror(cases[i].errsv));
    g_autofree char *message = cbt_error_message(error);
    g_autofree char *hint = cbt_error_hint(error);
    assert_int_equal(cbt_error_code(error), cases[i].code);
    assert_string_equal(message, expected);
    assert_int_equal(hint != NULL, cases[i].code == CBT_ERROR_NO_SPACE);
  }
}

static void
test_foreign_errors_are_mapped(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) cancelled = g_error_new_literal(G_IO_ERROR, G_IO_ERROR_CANCELLED, "x");
  g_autoptr(GError) missing = g_error_new_literal(G_FILE_ERROR, G_FILE_ERROR_NOENT, "x");
  g_autoptr(GError) full = g_error_new_literal(G_IO_ERROR, G_IO_ERROR_NO_SPACE, "x");
  g_autoptr(GError) other = g_error_new_literal(G_MARKUP_ERROR, 3, "x");
  assert_int_equal(cbt_error_code(cancelled), CBT_ERROR_CANCELLED);
  assert_int_equal(cbt_error_code(missing), CBT_ERROR_NOT_FOUND);
  assert_int_equal(cbt_error_code(full), CBT_ERROR_NO_SPACE);
  assert_int_equal(cbt_error_code(other), CBT_ERROR_FAILED);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_code_has_its_own_name_and_a_status),
      cmocka_unit_test(test_unknown_codes_and_names_are_failed),
      cmocka_unit_test(test_hint_travels_with_the_message),
      cmocka_unit_test(test_message_without_hint_is_whole),
      cmocka_unit_test(test_errno_gives_code_and_text),
      cmocka_unit_test(test_foreign_errors_are_mapped),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
