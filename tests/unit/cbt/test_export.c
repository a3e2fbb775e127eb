/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "export-fixture.h"
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static void
test_open_refuses_what_is_no_disk(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  fixture_make_image(f, 1000);
  expect_code(cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error,
              CBT_ERROR_INVALID);
  fixture_make_image(f, 0);
  expect_code(cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error,
              CBT_ERROR_INVALID);
  unlink(f->image);
  expect_code(cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error,
              CBT_ERROR_NOT_FOUND);
}

static void
test_every_kind_of_change_is_marked(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  g_autofree guint8 *data = g_malloc(C);
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  memset(data, 'x', C);
  assert_int_equal(cbt_export_write(f->export, data, 2, C - 1, FALSE), 0);
  assert_int_equal(dirty_bytes(disk, "b"), 2 * C);
  assert_int_equal(cbt_export_write(f->export, data, 512, 4 * C, TRUE), 0);
  assert_int_equal(dirty_bytes(disk, "b"), 3 * C);
  assert_int_equal(cbt_export_trim(f->export, 4096, 6 * C, TRUE), 0);
  assert_int_equal(dirty_bytes(disk, "b"), 4 * C);
  assert_int_equal(cbt_export_zero(f->export, 4096, 8 * C, TRUE, FALSE), 0);
  assert_int_equal(dirty_bytes(disk, "b"), 5 * C);
  int result = cbt_export_zero(f->export, LAST_LENGTH, IMAGE_SIZE - LAST_LENGTH, FALSE, TRUE);
  assert_true(result == 0 || result == EOPNOTSUPP);
  assert_int_equal(dirty_bytes(disk, "b"), 5 * C + LAST_LENGTH);
  assert_int_equal(cbt_export_flush(f->export), 0);
}

static void
test_data_read_is_data_written(void **state)
{
  Fixture *f = *state;
  g_autofree guint8 *data = g_malloc(C), *back = g_malloc(C);
  fixture_serve(f);
  assert_int_equal(cbt_export_size(f->export), IMAGE_SIZE);
  memset(data, 'x', C);
  assert_int_equal(cbt_export_write(f->export, data, C, 1000, FALSE), 0);
  assert_int_equal(cbt_export_read(f->export, back, C, 1000), 0);
  assert_memory_equal(data, back, C);
  assert_int_equal(cbt_export_zero(f->export, C, 1000, TRUE, FALSE), 0);
  memset(data, 0, C);
  assert_int_equal(cbt_export_read(f->export, back, C, 1000), 0);
  assert_memory_equal(data, back, C);
}

static void
test_change_that_fails_is_marked_all_the_same(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  struct rlimit before, low;
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = (struct rlimit){.rlim_cur = C, .rlim_max = before.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
  int result = cbt_export_write(f->export, "x", 1, 3 * C, FALSE);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(result, EFBIG);
  assert_int_equal(dirty_bytes(disk, "b"), C);
}

static void
test_extents_tell_holes_from_data(void **state)
{
  Fixture *f = *state;
  guint64 length = 0;
  gboolean hole = FALSE;
  fixture_serve(f);
  assert_int_equal(cbt_export_write(f->export, "x", 1, 4 * C, FALSE), 0);
  assert_int_equal(cbt_export_extent(f->export, 0, IMAGE_SIZE, &length, &hole), 0);
  assert_true(hole && length == 4 * C);
  assert_int_equal(cbt_export_extent(f->export, C, 2 * C, &length, &hole), 0);
  assert_true(hole && length == 2 * C);
  assert_int_equal(cbt_export_extent(f->export, 4 * C, IMAGE_SIZE - 4 * C, &length, &hole), 0);
  assert_true(!hole && length >= 512 && length <= C);
  assert_int_equal(cbt_export_extent(f->export, IMAGE_SIZE - 512, 512, &length, &hole), 0);
  assert_true(hole && length == 512);
}

static void
test_image_cut_short_is_a_read_error(void **state)
{
  Fixture *f = *state;
  guint8 data[512];
  fixture_serve(f);
  assert_int_equal(truncate(f->image, C), 0);
  assert_int_equal(cbt_export_read(f->export, data, sizeof data, 2 * C), EIO);
  assert_int_equal(truncate(f->image, IMAGE_SIZE), 0);
}

/* --- control socket --- */

static void
test_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat st;
  g_strlcpy(address.sun_path, f->control, sizeof address.sun_path);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof address), 0);
  close(fd); /* leaves its name behind */
  fixture_serve(f);
  assert_int_equal(stat(f->control, &st), 0);
  assert_int_equal(st.st_mode & 07777, 0600);

  g_autofree char *other_image = g_strconcat(f->image, "2", NULL);
  g_autofree char *other_bitmaps = g_strconcat(f->bitmaps, "2", NULL);
  assert_int_equal(truncate(f->image, IMAGE_SIZE), 0);
  assert_true(g_file_set_contents(other_image, "", 0, NULL));
  assert_int_equal(truncate(other_image, C), 0);
  CbtExport *second = cbt_export_open(other_image, other_bitmaps, NULL, &f->disk_id, &error);
  expect_ok(second != NULL, &error);
  assert_false(cbt_export_serve_control(second, f->control, &error));
  g_clear_error(&error);
  cbt_export_close(second);
  assert_int_equal(access(f->control, F_OK), 0);

  g_clear_pointer(&f->export, cbt_export_close);
  assert_int_equal(access(f->control, F_OK), -1);
}

static int
connect_raw(const Fixture *f)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval timeout = {.tv_sec = 10};
  g_strlcpy(address.sun_path, f->control, sizeof address.sun_path);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(fd, (struct sockaddr *) &address, sizeof address), 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  return fd;
}

/* Sends LENGTH bytes; returns the code of the reply, or -2 if the connection was closed instead. */
static int
send_raw(const Fixture *f, const void *data, gsize length)
{
  CbtControlReply reply;
  int fd = connect_raw(f);
  assert_int_equal(send(fd, data, length, MSG_NOSIGNAL), (ssize_t) length);
  ssize_t n = recv(fd, &reply, sizeof reply, 0);
  int errsv = errno;
  close(fd);
  if (n == 0 || (n < 0 && errsv == ECONNRESET))
    return -2;
  assert_int_equal(n, (ssize_t) sizeof reply);
  assert_int_equal(reply.magic, CBT_CONTROL_MAGIC);
  assert_int_equal(reply.version, CBT_CONTROL_VERSION);
  return reply.code;
}

static void
test_malformed_requests_get_an_error_or_a_close(void **state)
{
  Fixture *f = *state;
  CbtControlRequest request;
  guint8 huge[3 * sizeof request];
  fixture_serve(f);
  assert_int_equal(send_raw(f, "garbage", 7), -2);
  assert_int_equal(send_raw(f, "x", 1), -2);
  memset(huge, 'h', sizeof huge);
  assert_int_equal(send_raw(f, huge, sizeof huge), -2);

  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  assert_int_equal(send_raw(f, &request, sizeof request), -1);
  request.version++;
  assert_int_equal(send_raw(f, &request, sizeof request), CBT_ERROR_UNSUPPORTED);
  request.version--;
  request.op = 12345;
  assert_int_equal(send_raw(f, &request, sizeof request), CBT_ERROR_UNSUPPORTED);
  for (guint32 op = 0; op < CBT_N_CONTROL_OPS; op++) {
    memset(&request, 0xff, sizeof request);
    request.magic = CBT_CONTROL_MAGIC;
    request.version = CBT_CONTROL_VERSION;
    request.op = op;
    int code = send_raw(f, &request, sizeof request);
    gboolean reads_nothing = op == CBT_CONTROL_HELLO || op == CBT_CONTROL_LIST;
    assert_true(reads_nothing ? code == -1 : code >= 0);
  }
  cbt_disk_close(fixture_connect(f));
}

static guint
count_open_fds(void)
{
  guint n = 0;
  g_autoptr(GDir) directory = g_dir_open("/proc/self/fd", 0, NULL);
  while (g_dir_read_name(directory) != NULL)
    n++;
  return n;
}

static void
test_descriptors_that_nobody_asked_for_are_closed(void **state)
{
  Fixture *f = *state;
  CbtControlRequest request;
  CbtControlReply reply;
  union {
    char bytes[CMSG_SPACE(7 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  fixture_serve(f);
  int fd = connect_raw(f);
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  assert_int_equal(send(fd, &request, sizeof request, 0), (ssize_t) sizeof request);
  assert_int_equal(recv(fd, &reply, sizeof reply, 0), (ssize_t) sizeof reply);
  guint before = count_open_fds();
  struct iovec iov = {.iov_base = &request, .iov_len = sizeof request};
  struct msghdr message = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(7 * sizeof(int));
  for (guint i = 0; i < 7; i++)
    memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
  assert_int_equal(sendmsg(fd, &message, 0), (ssize_t) sizeof request);
  ssize_t n = recv(fd, &reply, sizeof reply, 0);
  assert_true(n == (ssize_t) sizeof reply || n == 0);
  close(fd);
  g_autoptr(CbtDisk) disk = fixture_connect(f); /* it is past that message, and alive */
  assert_true(count_open_fds() <= before + 1);
}

/* --- holds and sessions --- */

static void
test_requests_of_others_wait_for_no_hold(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  fixture_serve(f);
  g_autoptr(CbtDisk) holder = fixture_connect(f);
  g_autoptr(CbtDisk) other = fixture_connect(f);
  g_autoptr(CbtSession) session = fixture_session(f, 0);
  expect_ok(hold(holder, LONG_MS, &error), &error);
  expect_code(!hold(other, LONG_MS, &error), &error, CBT_ERROR_BUSY);
  expect_code(!add_bitmap(other, "b", C, &error), &error, CBT_ERROR_BUSY);
  expect_ok(simple(other, CBT_CONTROL_LIST, &error), &error);
  expect_code(!begin(other, "b", TRUE, session, &error), &error, CBT_ERROR_STATE);
  expect_code(!simple(other, CBT_CONTROL_RELEASE, &error), &error, CBT_ERROR_STATE);
  expect_ok(add_bitmap(holder, "b", C, &error), &error); /* under its own hold */
  expect_ok(simple(holder, CBT_CONTROL_RELEASE, &error), &error);
  expect_code(!simple(holder, CBT_CONTROL_RELEASE, &error), &error, CBT_ERROR_STATE);
  expect_code(!simple(holder, CBT_CONTROL_END, &error), &error, CBT_ERROR_STATE);
}

static void
test_begin_after_the_hold_ended_changes_nothing(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  g_autoptr(CbtSession) session = fixture_session(f, 0);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  expect_code(!begin(disk, "b", TRUE, session, &error), &error, CBT_ERROR_STATE);
  expect_ok(hold(disk, 20, &error), &error);
  assert_int_equal(cbt_export_write(f->export, "x", 1, 0, FALSE), 0); /* waits until the hold has ended */
  expect_code(!begin(disk, "b", TRUE, session, &error), &error, CBT_ERROR_STATE);
  expect_code(!simple(disk, CBT_CONTROL_RELEASE, &error), &error, CBT_ERROR_STATE);
  expect_ok(cbt_disk_info(disk, "b", &info, &error), &error);
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
}

static void
test_begin_needs_a_session_that_fits(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  expect_ok(hold(disk, LONG_MS, &error), &error);
  g_autoptr(CbtSession) small = cbt_session_new(C, f->directory, 0, &error);
  expect_code(!begin(disk, "b", TRUE, small, &error), &error, CBT_ERROR_INVALID);
  g_autoptr(CbtSession) good = fixture_session(f, 0);
  expect_code(!begin(disk, "unknown", TRUE, good, &error), &error, CBT_ERROR_NOT_FOUND);
  expect_ok(cbt_disk_info(disk, "b", &info, &error), &error);
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  expect_ok(begin(disk, "b", TRUE, good, &error), &error);
  expect_ok(simple(disk, CBT_CONTROL_RELEASE, &error), &error);
}

static void
test_guest_writes_on_when_the_fleece_is_full(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  g_autofree guint8 *data = g_malloc(8 * C);
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  memset(data, 'x', 8 * C);
  assert_int_equal(cbt_export_write(f->export, data, 8 * C, 0, FALSE), 0);
  g_autoptr(CbtSession) session = fixture_session(f, 3 * C);
  expect_ok(hold(disk, LONG_MS, &error), &error);
  expect_ok(begin(disk, "b", FALSE, session, &error), &error);
  expect_ok(simple(disk, CBT_CONTROL_RELEASE, &error), &error);
  memset(data, 'y', 8 * C);
  assert_int_equal(cbt_export_write(f->export, data, 8 * C, 0, FALSE), 0);
  expect_code(!cbt_session_check(session, &error), &error, CBT_ERROR_NO_SPACE);
  expect_ok(simple(disk, CBT_CONTROL_END, &error), &error);
  expect_ok(cbt_disk_apply(disk, "b", CBT_BITMAP_RECLAIM, NULL, NULL, &error), &error);
  assert_int_equal(dirty_bytes(disk, "b"), 8 * C);
}

static void
test_bitmap_of_a_session_is_changed_by_its_peer_only(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  fixture_serve(f);
  g_autoptr(CbtDisk) owner = fixture_connect(f);
  g_autoptr(CbtDisk) other = fixture_connect(f);
  expect_ok(add_bitmap(owner, "b", C, &error), &error);
  expect_ok(add_bitmap(owner, "free", C, &error), &error);
  g_autoptr(CbtSession) session = fixture_session(f, 0);
  expect_ok(hold(owner, LONG_MS, &error), &error);
  expect_ok(begin(owner, "b", FALSE, session, &error), &error);
  expect_ok(simple(owner, CBT_CONTROL_RELEASE, &error), &error);
  expect_code(!cbt_disk_apply(other, "b", CBT_BITMAP_RECLAIM, NULL, NULL, &error), &error, CBT_ERROR_BUSY);
  expect_code(!cbt_disk_apply(other, "b", CBT_BITMAP_ABDICATE, NULL, NULL, &error), &error, CBT_ERROR_BUSY);
  expect_ok(cbt_disk_apply(other, "free", CBT_BITMAP_CLEAR, NULL, NULL, &error), &error);
  expect_ok(simple(owner, CBT_CONTROL_END, &error), &error);
  expect_ok(cbt_disk_apply(other, "b", CBT_BITMAP_RECLAIM, NULL, NULL, &error), &error);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_open_refuses_what_is_no_disk, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_every_kind_of_change_is_marked, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_data_read_is_data_written, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_change_that_fails_is_marked_all_the_same, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_extents_tell_holes_from_data, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_image_cut_short_is_a_read_error, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_stale_socket_is_replaced_and_a_live_one_is_not, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_malformed_requests_get_an_error_or_a_close, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_descriptors_that_nobody_asked_for_are_closed, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_requests_of_others_wait_for_no_hold, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_begin_after_the_hold_ended_changes_nothing, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_begin_needs_a_session_that_fits, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_bitmap_of_a_session_is_changed_by_its_peer_only, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_guest_writes_on_when_the_fleece_is_full, fixture_setup,
                                      fixture_teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
