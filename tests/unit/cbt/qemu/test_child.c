/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <cbt/qemu/child.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#define SOON_MS 20000 /* long enough for a machine that is busy */

/* `cat` of descriptor 3, which ends when its other end is closed; and holds descriptor 4, which tells when it
 * is gone. */
typedef struct {
  int input[2], life[2];
  QemuChild *child;
} Cat;

static void *
start_cat(void *data)
{
  Cat *cat = data;
  const char *const argv[] = {"sh", "-c", "exec cat <&3", NULL};
  const int sources[] = {cat->input[0], cat->life[1]}, targets[] = {3, 4};
  QemuChildFds fds = {.sources = sources, .targets = targets, .n = 2};
  cat->child = qemu_child_start_with_fds(argv, TRUE, &fds, NULL);
  return NULL;
}

static void
open_cat(Cat *cat)
{
  assert_int_equal(pipe2(cat->input, O_CLOEXEC), 0);
  assert_int_equal(pipe2(cat->life, O_CLOEXEC), 0);
}

static void
close_cat(Cat *cat)
{
  for (guint i = 0; i < 2; i++) {
    cbt_clear_fd(&cat->input[i]);
    cbt_clear_fd(&cat->life[i]);
  }
}

static void
test_child_outlives_the_thread_that_started_it(void **state)
{
  (void) state;
  Cat cat = {0};
  pthread_t thread;
  open_cat(&cat);
  assert_int_equal(pthread_create(&thread, NULL, start_cat, &cat), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  assert_non_null(cat.child);
  assert_false(qemu_child_wait(cat.child, 100));
  cbt_clear_fd(&cat.input[1]);
  assert_true(qemu_child_wait(cat.child, SOON_MS));
  assert_true(qemu_child_succeeded(cat.child));
  assert_true(qemu_child_wait(cat.child, 0)); /* it is known from now on */
  qemu_child_free(cat.child);
  close_cat(&cat);
}

static void
test_child_ends_with_its_object(void **state)
{
  (void) state;
  Cat cat = {0};
  char byte;
  open_cat(&cat);
  start_cat(&cat);
  assert_non_null(cat.child);
  cbt_clear_fd(&cat.life[1]);
  qemu_child_free(cat.child);
  assert_int_equal(read(cat.life[0], &byte, 1), 0);
  close_cat(&cat);
}

static void
test_child_ends_when_its_process_is_killed(void **state)
{
  (void) state;
  Cat cat = {0};
  char byte;
  open_cat(&cat);
  pid_t process = fork();
  if (process == 0) {
    start_cat(&cat);
    raise(SIGKILL);
  }
  assert_int_equal(waitpid(process, NULL, 0), process);
  cbt_clear_fd(&cat.life[1]);
  assert_int_equal(read(cat.life[0], &byte, 1), 0); /* hangs if it lives on */
  close_cat(&cat);
}

static void
test_program_that_is_not_there_is_unsupported(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  const char *const argv[] = {"no-such-program", NULL};
  assert_null(qemu_child_start(argv, TRUE, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error->message, "no-such-program"));
  qemu_child_free(NULL);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_child_outlives_the_thread_that_started_it),
      cmocka_unit_test(test_child_ends_with_its_object),
      cmocka_unit_test(test_child_ends_when_its_process_is_killed),
      cmocka_unit_test(test_program_that_is_not_there_is_unsupported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
