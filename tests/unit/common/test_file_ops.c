/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Full I/O, and the atomic replace with call n failing, for every n: what is left must be the old file or the
 * new one, and nothing beside it.
 */
#include <common/file-ops.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* --- a table that fails, shortens and interrupts --- */

typedef struct {
  int fail_at; /* the call that fails, from 1; 0: none */
  int n_calls;
  int interrupt; /* this many EINTR before a read or write does something */
  GString *log;  /* a letter for each call */
} Faults;

static gboolean
fails(const CbtFileOps *ops, char letter)
{
  Faults *faults = ops->user;
  g_string_append_c(faults->log, letter);
  errno = ENOSPC;
  return ++faults->n_calls == faults->fail_at;
}

static gboolean
interrupted(const CbtFileOps *ops)
{
  Faults *faults = ops->user;
  errno = EINTR;
  return faults->interrupt-- > 0;
}

static int
fault_open(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  return fails(ops, 'o') ? -1 : cbt_file_ops_default()->open(ops, path, flags, mode);
}

static int
fault_close(const CbtFileOps *ops, int fd)
{
  gboolean failed = fails(ops, 'c');
  int result = close(fd);
  errno = ENOSPC;
  return failed ? -1 : result;
}

static ssize_t
fault_pread(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  return interrupted(ops) ? -1 : pread(fd, buffer, MIN(length, 3), offset);
}

static ssize_t
fault_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  if (interrupted(ops) || fails(ops, 'w'))
    return -1;
  return pwrite(fd, buffer, MIN(length, 3), offset);
}

static int
fault_fdatasync(const CbtFileOps *ops, int fd)
{
  return fails(ops, 's') ? -1 : fdatasync(fd);
}

static int
fault_rename(const CbtFileOps *ops, const char *from, const char *to)
{
  return fails(ops, 'r') ? -1 : rename(from, to);
}

static int
fault_unlink(const CbtFileOps *ops G_GNUC_UNUSED, const char *path)
{
  return unlink(path);
}

static int
fault_fsync_dir(const CbtFileOps *ops, const char *path)
{
  return fails(ops, 'd') ? -1 : cbt_file_ops_default()->fsync_dir(ops, path);
}

static CbtFileOps
fault_ops(Faults *faults)
{
  return (CbtFileOps){
      .open = fault_open,
      .close = fault_close,
      .pread = fault_pread,
      .pwrite = fault_pwrite,
      .fdatasync = fault_fdatasync,
      .rename = fault_rename,
      .unlink = fault_unlink,
      .fsync_dir = fault_fsync_dir,
      .user = faults,
  };
}

/* --- a folder --- */

typedef struct {
  char *directory;
  char *path;
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->directory = g_dir_make_tmp("cbt-file-ops-XXXXXX", NULL);
  fixture->path = g_build_filename(fixture->directory, "file", NULL);
  *state = fixture;
  return fixture->directory ? 0 : -1;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  g_unlink(fixture->path);
  int result = g_rmdir(fixture->directory); /* fails if anything else was left there */
  g_free(fixture->path);
  g_free(fixture->directory);
  g_free(fixture);
  return result;
}

static void
assert_contents(const char *path, const char *expected)
{
  gsize length;
  g_autofree char *data = cbt_file_read(cbt_file_ops_default(), path, 100, &length, NULL);
  assert_non_null(data);
  assert_int_equal(length, strlen(expected));
  assert_string_equal(data, expected);
}

/* --- the tests --- */

static void
test_full_io_goes_on_after_short_and_interrupted_calls(void **state)
{
  Fixture *fixture = *state;
  Faults faults = {.interrupt = 2, .log = g_string_new(NULL)};
  CbtFileOps ops = fault_ops(&faults);
  CBT_AUTO_FD int fd = open(fixture->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_true(cbt_file_pwrite_full(&ops, fd, "0123456789", 10, 5));
  char buffer[16] = "";
  faults.interrupt = 2;
  assert_int_equal(cbt_file_pread_full(&ops, fd, buffer, 10, 5), 10);
  assert_string_equal(buffer, "0123456789");
  assert_int_equal(cbt_file_pread_full(&ops, fd, buffer, 16, 9), 6); /* to the end, and no further */
  assert_int_equal(cbt_file_pread_full(&ops, fd, buffer, 16, 100), 0);
  g_string_free(faults.log, TRUE);
}

static void
test_failed_io_gives_errno(void **state G_GNUC_UNUSED)
{
  char byte = 0;
  errno = 0;
  assert_int_equal(cbt_pread_full(-1, &byte, 1, 0), -1);
  assert_int_equal(errno, EBADF);
  assert_false(cbt_pwrite_full(-1, &byte, 1, 0));
}

static void
test_replace_writes_syncs_renames_in_that_order(void **state)
{
  Fixture *fixture = *state;
  Faults faults = {.log = g_string_new(NULL)};
  CbtFileOps ops = fault_ops(&faults);
  assert_true(cbt_file_replace(&ops, fixture->path, "new", 3, 0640, NULL));
  assert_string_equal(faults.log->str, "owscrd");
  struct stat st;
  assert_int_equal(stat(fixture->path, &st), 0);
  assert_int_equal(st.st_mode & 0777 & ~0640, 0);
  assert_contents(fixture->path, "new");
  g_string_free(faults.log, TRUE);
}

static void
test_replace_that_fails_leaves_old_or_new(void **state)
{
  Fixture *fixture = *state;
  for (int n = 1; n <= 6; n++) {
    g_autoptr(GError) error = NULL;
    assert_true(cbt_file_replace(cbt_file_ops_default(), fixture->path, "old", 3, 0600, NULL));
    Faults faults = {.fail_at = n, .log = g_string_new(NULL)};
    CbtFileOps ops = fault_ops(&faults);
    assert_false(cbt_file_replace(&ops, fixture->path, "new", 3, 0600, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_NO_SPACE);
    assert_non_null(strstr(error->message, fixture->path));
    gboolean renamed = n > 5; /* only the sync of the folder comes after the rename */
    assert_contents(fixture->path, renamed ? "new" : "old");
    g_autofree char *temporary = g_strconcat(fixture->path, ".tmp", NULL);
    assert_int_not_equal(access(temporary, F_OK), 0);
    g_string_free(faults.log, TRUE);
  }
}

static void
test_read_takes_up_to_its_limit(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  gsize length = 0;
  assert_true(cbt_file_replace(cbt_file_ops_default(), fixture->path, "a\0b\0", 4, 0600, NULL));
  g_autofree char *data = cbt_file_read(cbt_file_ops_default(), fixture->path, 4, &length, NULL);
  assert_int_equal(length, 4);
  assert_memory_equal(data, "a\0b\0", 5); /* with a NUL behind it */
  assert_null(cbt_file_read(cbt_file_ops_default(), fixture->path, 3, &length, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_TOO_LARGE);
}

static void
assert_unreadable(const char *path, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  gsize length;
  assert_null(cbt_file_read(cbt_file_ops_default(), path, 100, &length, &error));
  assert_int_equal(cbt_error_code(error), code);
  assert_non_null(strstr(error->message, path));
}

static void
test_read_refuses_what_is_no_file(void **state)
{
  Fixture *fixture = *state;
  assert_unreadable(fixture->path, CBT_ERROR_NOT_FOUND);
  assert_unreadable(fixture->directory, CBT_ERROR_INVALID);
  assert_int_equal(mkfifo(fixture->path, 0600), 0);
  assert_unreadable(fixture->path, CBT_ERROR_INVALID); /* at once, without a writer */
}

static void
test_auto_fd_closes_and_steals(void **state G_GNUC_UNUSED)
{
  int seen, kept;
  {
    CBT_AUTO_FD int closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CBT_AUTO_FD int stolen = open("/dev/null", O_RDONLY | O_CLOEXEC);
    seen = closed;
    kept = cbt_steal_fd(&stolen);
    assert_int_equal(stolen, -1);
  }
  assert_int_equal(fcntl(seen, F_GETFD), -1);
  assert_int_equal(fcntl(kept, F_GETFD), FD_CLOEXEC);
  cbt_clear_fd(&kept);
  assert_int_equal(kept, -1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_full_io_goes_on_after_short_and_interrupted_calls),
      TEST(test_failed_io_gives_errno),
      TEST(test_replace_writes_syncs_renames_in_that_order),
      TEST(test_replace_that_fails_leaves_old_or_new),
      TEST(test_read_takes_up_to_its_limit),
      TEST(test_read_refuses_what_is_no_file),
      TEST(test_auto_fd_closes_and_steals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
