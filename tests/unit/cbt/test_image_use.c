/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The locks are of open descriptions: two of one process stand against each other as two programs do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/image-use.h>
#include <common/error.h>
#include <common/fd.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>

static char *
make_image(void)
{
  g_autoptr(GError) error = NULL;
  char *path = NULL;
  int fd = g_file_open_tmp("cbt-image-XXXXXX", &path, &error);
  assert_true(fd >= 0);
  cbt_clear_fd(&fd);
  return path;
}

/* As QEMU locks byte BYTE. */
static void
lock_byte(int fd, int byte)
{
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

static gboolean
can_open(const char *path, CbtImageUse use)
{
  g_autoptr(GError) error = NULL;
  CBT_AUTO_FD int fd = cbt_image_open(path, use, "a hint", &error);
  g_autofree char *hint = error ? cbt_error_hint(error) : NULL;
  if (fd >= 0)
    return TRUE;
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_BUSY));
  assert_non_null(strstr(error->message, path));
  assert_string_equal(hint, "a hint");
  return FALSE;
}

static gboolean
can_read(const char *path)
{
  g_autoptr(GError) error = NULL;
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  return cbt_image_check_use(fd, path, CBT_IMAGE_READ, NULL, &error);
}

static void
test_uses_exclude_each_other_until_the_last_close(void **state G_GNUC_UNUSED)
{
  static const CbtImageUse uses[] = {CBT_IMAGE_EXPORT, CBT_IMAGE_REPLACE};
  g_autofree char *path = make_image();
  for (guint i = 0; i < G_N_ELEMENTS(uses); i++) {
    int fd = cbt_image_open(path, uses[i], NULL, NULL);
    assert_true(fd >= 0);
    assert_false(can_open(path, CBT_IMAGE_EXPORT));
    assert_false(can_open(path, CBT_IMAGE_REPLACE));
    assert_false(can_read(path));
    cbt_clear_fd(&fd);
    assert_true(can_open(path, CBT_IMAGE_EXPORT));
    assert_true(can_read(path));
  }
  g_unlink(path);
}

static void
test_each_lock_of_qemu_stands_against_what_it_excludes(void **state G_GNUC_UNUSED)
{
  static const struct {
    int byte;
    gboolean read, export, replace;
  } cases[] = {
      {100, TRUE, TRUE, FALSE},   /* reads */
      {101, FALSE, FALSE, FALSE}, /* writes */
      {102, TRUE, TRUE, FALSE},   /* writes what is there already */
      {103, FALSE, FALSE, FALSE}, /* resizes */
      {200, FALSE, FALSE, FALSE}, /* nobody else may read */
      {201, TRUE, TRUE, FALSE},   /* nobody else may write */
      {203, TRUE, TRUE, FALSE},   /* nobody else may resize */
      {0, TRUE, TRUE, TRUE},      /* not one of these */
      {99, TRUE, TRUE, TRUE},
  };
  g_autofree char *path = make_image();
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    lock_byte(fd, cases[i].byte);
    assert_int_equal(can_read(path), cases[i].read);
    assert_int_equal(can_open(path, CBT_IMAGE_EXPORT), cases[i].export);
    assert_int_equal(can_open(path, CBT_IMAGE_REPLACE), cases[i].replace);
  }
  g_unlink(path);
}

static void
test_missing_image_is_not_made(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *path = make_image();
  g_unlink(path);
  assert_int_equal(cbt_image_open(path, CBT_IMAGE_EXPORT, NULL, &error), -1);
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND));
  assert_int_not_equal(g_access(path, F_OK), 0);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_uses_exclude_each_other_until_the_last_close),
      cmocka_unit_test(test_each_lock_of_qemu_stands_against_what_it_excludes),
      cmocka_unit_test(test_missing_image_is_not_made),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
