/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "export-fixture.h"
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static void
test_disk_without_export_is_served_here(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  CbtUuid pending = cbt_uuid_generate();
  g_autoptr(CbtDisk) disk = cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error);
  expect_ok(disk != NULL, &error);
  assert_false(cbt_disk_is_exported(disk));
  assert_int_equal(cbt_disk_owner_pid(disk), getpid());
  assert_int_equal(cbt_disk_identity(disk)->size, IMAGE_SIZE);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  expect_ok(hold(disk, LONG_MS, &error), &error);
  expect_ok(begin(disk, "b", TRUE, NULL, &error), &error);
  expect_ok(simple(disk, CBT_CONTROL_RELEASE, &error), &error);
  expect_ok(simple(disk, CBT_CONTROL_END, &error), &error);
  expect_ok(cbt_disk_info(disk, "b", &info, &error), &error);
  assert_int_equal(info.state, CBT_BITMAP_FROZEN);
  expect_ok(cbt_disk_apply(disk, "b", CBT_BITMAP_ABDICATE, NULL, NULL, &error), &error);
  expect_code(!cbt_disk_apply(disk, "b", CBT_BITMAP_ABDICATE, &pending, "again", &error), &error,
              CBT_ERROR_STATE);
  expect_code(!cbt_disk_info(disk, "other", &info, &error), &error, CBT_ERROR_NOT_FOUND);
}

static void
test_one_owner_at_a_time(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtDisk *disk = cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error);
  expect_ok(disk != NULL, &error);
  expect_code(cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error, CBT_ERROR_BUSY);
  expect_code(cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error,
              CBT_ERROR_BUSY);
  cbt_disk_close(disk);
  fixture_serve(f);
  expect_code(cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error, CBT_ERROR_BUSY);
}

static void
test_open_names_a_missing_image(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  unlink(f->image);
  expect_code(cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error) == NULL, &error,
              CBT_ERROR_NOT_FOUND);
}

static void
test_connected_disk_is_the_same_disk(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  fixture_serve(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  assert_true(cbt_disk_is_exported(disk));
  assert_int_equal(cbt_disk_owner_pid(disk), getpid());
  assert_int_equal(cbt_disk_identity(disk)->size, IMAGE_SIZE);
  assert_true(cbt_uuid_equal(&cbt_disk_identity(disk)->disk_id, &f->disk_id));
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  expect_code(!add_bitmap(disk, "b", C, &error), &error, CBT_ERROR_EXISTS);
  expect_code(!add_bitmap(disk, "../b", C, &error), &error, CBT_ERROR_INVALID);
  assert_int_equal(dirty_bytes(disk, "b"), 0);
}

static void
begin_held(const Fixture *f, CbtDisk *disk, const char *bitmap, CbtSession *session)
{
  g_autoptr(GError) error = NULL;
  expect_ok(hold(disk, LONG_MS, &error), &error);
  expect_ok(begin(disk, bitmap, TRUE, session, &error), &error);
  expect_ok(simple(disk, CBT_CONTROL_RELEASE, &error), &error);
  assert_int_equal(cbt_export_write(f->export, "x", 1, 0, FALSE), 0);
}

static void
test_one_session_at_a_time_until_its_end(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  fixture_serve(f);
  g_autoptr(CbtDisk) first = fixture_connect(f);
  g_autoptr(CbtDisk) second = fixture_connect(f);
  g_autoptr(CbtSession) session = fixture_session(f, 0);
  g_autoptr(CbtSession) late = fixture_session(f, 0);
  expect_ok(add_bitmap(first, "a", C, &error), &error);
  expect_ok(add_bitmap(first, "b", C, &error), &error);
  begin_held(f, first, "a", session);
  expect_ok(hold(second, LONG_MS, &error), &error);
  expect_code(!begin(second, "b", TRUE, late, &error), &error, CBT_ERROR_BUSY);
  expect_ok(simple(second, CBT_CONTROL_RELEASE, &error), &error);
  expect_code(!simple(second, CBT_CONTROL_END, &error), &error, CBT_ERROR_STATE);
  expect_ok(simple(first, CBT_CONTROL_END, &error), &error);
  begin_held(f, second, "b", late);
}

static void
test_dropped_connection_ends_session_and_hold(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  fixture_serve(f);
  CbtDisk *lost = fixture_connect(f);
  g_autoptr(CbtSession) session = fixture_session(f, 0);
  g_autoptr(CbtSession) next = fixture_session(f, 0);
  expect_ok(add_bitmap(lost, "a", C, &error), &error);
  begin_held(f, lost, "a", session);
  expect_ok(hold(lost, LONG_MS, &error), &error);
  gint64 start = g_get_monotonic_time();
  cbt_disk_close(lost);
  assert_int_equal(cbt_export_write(f->export, "x", 1, 5 * C, FALSE), 0);
  assert_true(g_get_monotonic_time() - start < (gint64) LONG_MS * 1000);

  g_autoptr(CbtDisk) disk = fixture_connect(f);
  expect_ok(cbt_disk_info(disk, "a", &info, &error), &error);
  assert_int_equal(info.state, CBT_BITMAP_FROZEN); /* who froze it, settles it */
  expect_ok(cbt_disk_apply(disk, "a", CBT_BITMAP_RECLAIM, NULL, NULL, &error), &error);
  begin_held(f, disk, "a", next);
}

/* An export in a process of its own; writes a byte when it serves. Returns its pid. */
static pid_t
fork_export(Fixture *f)
{
  int ready[2];
  char byte;
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork();
  if (pid == 0) {
    f->export = cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, NULL);
    if (f->export == NULL || !cbt_export_serve_control(f->export, f->control, NULL) ||
        write(ready[1], "r", 1) != 1)
      _exit(1);
    for (guint64 at = 0;; at = (at + C) % (4 * C))
      if (cbt_export_write(f->export, "x", 1, at, FALSE) != 0)
        _exit(1);
  }
  close(ready[1]);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  return pid;
}

static void
test_killed_export_is_unreachable_and_its_bits_remain(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  pid_t pid = fork_export(f);
  g_autoptr(CbtDisk) disk = fixture_connect(f);
  assert_int_equal(cbt_disk_owner_pid(disk), pid);
  expect_ok(add_bitmap(disk, "b", C, &error), &error);
  while (dirty_bytes(disk, "b") < 4 * C)
    ;
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  expect_code(!simple(disk, CBT_CONTROL_LIST, &error), &error, CBT_ERROR_UNREACHABLE);
  expect_code(!simple(disk, CBT_CONTROL_LIST, &error), &error, CBT_ERROR_UNREACHABLE);
  expect_code(cbt_disk_connect(f->control, 50, &error) == NULL, &error, CBT_ERROR_UNREACHABLE);

  g_autoptr(CbtDisk) local = cbt_disk_open(f->image, f->bitmaps, NULL, &f->disk_id, &error);
  expect_ok(local != NULL, &error);
  assert_int_equal(dirty_bytes(local, "b"), 4 * C);
}

static void *
serve_late(void *user_data)
{
  g_usleep(30 * 1000);
  fixture_serve(user_data);
  return NULL;
}

static void
test_export_that_is_just_starting_is_waited_for(void **state)
{
  Fixture *f = *state;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, serve_late, f), 0);
  cbt_disk_close(fixture_connect(f));
  pthread_join(thread, NULL);
}

/* --- owners that are not what they should be --- */

static int
listen_as_owner(const Fixture *f)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, f->control, sizeof address.sun_path);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof address), 0);
  assert_int_equal(listen(fd, 4), 0);
  return fd;
}

static void
test_silent_owner_is_unreachable_after_the_timeout(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  int fd = listen_as_owner(f);
  expect_code(cbt_disk_connect(f->control, 50, &error) == NULL, &error, CBT_ERROR_UNREACHABLE);
  close(fd);
}

typedef struct {
  int listen_fd;
  guint32 magic, version;
  gsize length;
} Impostor;

static void *
answer_once(void *user_data)
{
  Impostor *impostor = user_data;
  CbtControlRequest request;
  CbtControlReply reply = {.magic = impostor->magic, .version = impostor->version, .code = -1};
  int fd = accept(impostor->listen_fd, NULL, NULL);
  if (recv(fd, &request, sizeof request, 0) > 0)
    send(fd, &reply, impostor->length, MSG_NOSIGNAL);
  close(fd);
  return NULL;
}

static void
test_owner_of_another_version_is_unsupported(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  const struct {
    Impostor impostor;
    CbtErrorCode code;
  } cases[] = {
      {{0, CBT_CONTROL_MAGIC, CBT_CONTROL_VERSION + 1, 600}, CBT_ERROR_UNSUPPORTED},
      {{0, CBT_CONTROL_MAGIC, CBT_CONTROL_VERSION + 1, sizeof(CbtControlReply)}, CBT_ERROR_UNSUPPORTED},
      {{0, CBT_CONTROL_MAGIC, CBT_CONTROL_VERSION, 600}, CBT_ERROR_UNSUPPORTED},
      {{0, 12345, CBT_CONTROL_VERSION, sizeof(CbtControlReply)}, CBT_ERROR_UNREACHABLE},
  };
  int fd = listen_as_owner(f);
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    pthread_t thread;
    Impostor impostor = cases[i].impostor;
    impostor.listen_fd = fd;
    assert_int_equal(pthread_create(&thread, NULL, answer_once, &impostor), 0);
    expect_code(cbt_disk_connect(f->control, LONG_MS, &error) == NULL, &error, cases[i].code);
    pthread_join(thread, NULL);
  }
  close(fd);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_disk_without_export_is_served_here, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_one_owner_at_a_time, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_open_names_a_missing_image, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_connected_disk_is_the_same_disk, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(test_one_session_at_a_time_until_its_end, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_dropped_connection_ends_session_and_hold, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_killed_export_is_unreachable_and_its_bits_remain, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_export_that_is_just_starting_is_waited_for, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_silent_owner_is_unreachable_after_the_timeout, fixture_setup,
                                      fixture_teardown),
      cmocka_unit_test_setup_teardown(test_owner_of_another_version_is_unsupported, fixture_setup,
                                      fixture_teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
