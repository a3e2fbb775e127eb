/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image files and block devices as sources: what is taken, what is refused, where the holes are. */
#include <cbt/source.h>

#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <tests/support/loop.h>
#include <time.h>

#include <cmocka.h>

#define KIB G_GUINT64_CONSTANT(1024)
#define MIB (KIB * 1024)

typedef struct {
  char *directory;
  char *path; /* of the image, which does not exist yet */
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->directory = g_dir_make_tmp("cbt-source-XXXXXX", NULL);
  fixture->path = g_build_filename(fixture->directory, "disk.raw", NULL);
  *state = fixture;
  return fixture->directory ? 0 : -1;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  g_unlink(fixture->path);
  g_rmdir(fixture->directory);
  g_free(fixture->path);
  g_free(fixture->directory);
  g_free(fixture);
  return 0;
}

static void
make_image(const char *path, guint64 size)
{
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t) size), 0);
}

static void
write_image(const char *path, guint64 offset, gsize length)
{
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC);
  assert_true(fd >= 0);
  g_autofree guint8 *data = g_malloc(length);
  memset(data, 0xa5, length);
  assert_true(cbt_pwrite_full(fd, data, length, offset));
  assert_int_equal(fsync(fd), 0);
}

static CbtSource *
open_source(const char *path)
{
  g_autoptr(GError) error = NULL;
  CbtSource *source = cbt_source_open_file(path, &error);
  assert_null(error);
  assert_non_null(source);
  return source;
}

/* PATH is refused with CODE, in a message that names it and says WHAT. */
static void
assert_refused(const char *path, CbtErrorCode code, const char *what)
{
  g_autoptr(GError) error = NULL;
  assert_null(cbt_source_open_file(path, &error));
  assert_non_null(error);
  assert_int_equal(cbt_error_code(error), code);
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  assert_non_null(strstr(message, path));
  assert_non_null(strstr(message, what));
  assert_non_null(hint);
}

static void
test_size_and_type_of_a_file(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB + 512);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  assert_int_equal(source->size, MIB + 512);
  assert_string_equal(source->klass->type, "file");
}

static void
test_what_is_no_disk_is_refused(void **state)
{
  Fixture *fixture = *state;
  assert_refused(fixture->directory, CBT_ERROR_INVALID, "a directory");
  assert_refused(fixture->path, CBT_ERROR_NOT_FOUND, "cannot open");
  assert_refused("/dev/null", CBT_ERROR_INVALID, "a character device");
  assert_int_equal(mkfifo(fixture->path, 0600), 0);
  assert_refused(fixture->path, CBT_ERROR_INVALID, "a FIFO"); /* and at once, without a writer */
}

static void
test_socket_is_refused(void **state)
{
  Fixture *fixture = *state;
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, fixture->path, sizeof address.sun_path);
  assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof address), 0);
  assert_refused(fixture->path, CBT_ERROR_INVALID, "a socket");
}

static void
test_bad_sizes_are_refused(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 0);
  assert_refused(fixture->path, CBT_ERROR_INVALID, "empty");
  make_image(fixture->path, 1000);
  assert_refused(fixture->path, CBT_ERROR_INVALID, "1000 bytes");
}

static void
test_too_large_is_refused(void **state G_GNUC_UNUSED)
{
  /* Few file systems have files that large; tmpfs does. */
  int fd = memfd_create("disk", MFD_CLOEXEC);
  assert_true(fd >= 0);
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
  assert_int_equal(ftruncate(fd, (off_t) (CBT_DISK_SIZE_MAX + 512)), 0);
  assert_refused(path, CBT_ERROR_INVALID, "too large");
  close(fd);
}

static void
test_unreadable_is_denied(void **state)
{
  Fixture *fixture = *state;
  if (geteuid() == 0)
    skip(); /* root reads everything */
  make_image(fixture->path, MIB);
  assert_int_equal(chmod(fixture->path, 0), 0);
  assert_refused(fixture->path, CBT_ERROR_DENIED, "cannot open");
}

static void
test_file_of_holes_is_one_hole(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 10 * MIB + 512);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  CbtExtent extent;
  gboolean hole;
  assert_true(cbt_source_next_extent(source, 0, source->size, &extent, &hole, NULL));
  assert_true(hole);
  assert_int_equal(extent.length, source->size);
  assert_true(cbt_source_next_extent(source, MIB, MIB, &extent, &hole, NULL));
  assert_true(hole);
  assert_int_equal(extent.offset, MIB);
  assert_int_equal(extent.length, MIB); /* no more than asked for */
}

static void
test_runs_tell_data_from_holes(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 10 * MIB);
  write_image(fixture->path, 2 * MIB, MIB);
  write_image(fixture->path, 10 * MIB - 64 * KIB, 64 * KIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);

  static const guint64 ends[] = {2 * MIB, 3 * MIB, 10 * MIB - 64 * KIB, 10 * MIB};
  CbtExtent extent = {0};
  gboolean hole;
  for (guint i = 0; i < G_N_ELEMENTS(ends); i++) {
    guint64 offset = extent.offset + extent.length;
    assert_true(cbt_source_next_extent(source, offset, source->size - offset, &extent, &hole, NULL));
    assert_int_equal(extent.offset + extent.length, ends[i]);
    assert_int_equal(hole, i % 2 == 0);
  }
}

static void
test_truncated_file_ends_in_a_hole(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB);
  write_image(fixture->path, 0, 2 * MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  assert_int_equal(truncate(fixture->path, (off_t) MIB), 0);
  CbtExtent extent;
  gboolean hole;
  assert_true(cbt_source_next_extent(source, MIB, MIB, &extent, &hole, NULL));
  assert_true(hole);
  assert_int_equal(extent.length, MIB);
  gboolean changed;
  assert_true(cbt_source_check_changed(source, &changed, NULL));
  assert_true(changed); /* which is how the caller learns of it */
}

static void
test_descriptors_read_the_image_and_wait(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  write_image(fixture->path, 0, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  int fd = cbt_source_fd(source, FALSE);
  guint8 byte = 0;
  assert_int_equal(cbt_pread_full(fd, &byte, 1, MIB - 1), 1);
  assert_int_equal(byte, 0xa5);
  assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
  assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
  int direct = cbt_source_fd(source, TRUE);
  assert_true(direct == -1 || (fcntl(direct, F_GETFL) & O_DIRECT));
}

static gboolean
is_changed(CbtSource *source)
{
  gboolean changed = FALSE;
  assert_true(cbt_source_check_changed(source, &changed, NULL));
  return changed;
}

static void
set_mtime(const char *path, time_t seconds, long nanoseconds)
{
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = nanoseconds}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void
test_untouched_image_has_not_changed(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  assert_false(is_changed(source));
  assert_int_equal(chmod(fixture->path, 0640), 0); /* says nothing of the data */
  assert_false(is_changed(source));
}

static void
test_new_time_or_size_is_a_change(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  set_mtime(fixture->path, 1000, 1);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  set_mtime(fixture->path, 1000, 2); /* one nanosecond is enough */
  assert_true(is_changed(source));
  set_mtime(fixture->path, 1000, 1);
  assert_false(is_changed(source));
  assert_int_equal(truncate(fixture->path, (off_t) (2 * MIB)), 0);
  set_mtime(fixture->path, 1000, 1);
  assert_true(is_changed(source));
}

static void
test_replaced_or_removed_image_is_a_change(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  set_mtime(fixture->path, 1000, 1);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autofree char *other = g_strconcat(fixture->path, ".new", NULL);
  make_image(other, MIB);
  set_mtime(other, 1000, 1);
  assert_int_equal(rename(other, fixture->path), 0);
  assert_true(is_changed(source));
  assert_int_equal(unlink(fixture->path), 0);
  assert_true(is_changed(source));
}

static void
test_block_device_is_all_data(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 3 * MIB + 512);
  char *device = test_loop_attach(fixture->path);
  if (!device)
    skip();
  {
    g_autoptr(CbtSource) source = open_source(device);
    assert_string_equal(source->klass->type, "block");
    assert_int_equal(source->size, 3 * MIB + 512);
    CbtExtent extent;
    gboolean hole;
    assert_true(cbt_source_next_extent(source, 0, source->size, &extent, &hole, NULL));
    assert_false(hole);
    assert_int_equal(extent.length, source->size);
    assert_false(is_changed(source));
  }
  test_loop_detach(device);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_size_and_type_of_a_file),
      TEST(test_what_is_no_disk_is_refused),
      TEST(test_socket_is_refused),
      TEST(test_bad_sizes_are_refused),
      TEST(test_too_large_is_refused),
      TEST(test_unreadable_is_denied),
      TEST(test_file_of_holes_is_one_hole),
      TEST(test_runs_tell_data_from_holes),
      TEST(test_truncated_file_ends_in_a_hole),
      TEST(test_descriptors_read_the_image_and_wait),
      TEST(test_untouched_image_has_not_changed),
      TEST(test_new_time_or_size_is_a_change),
      TEST(test_replaced_or_removed_image_is_a_change),
      TEST(test_block_device_is_all_data),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
