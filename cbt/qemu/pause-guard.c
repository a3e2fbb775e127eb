/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The child is a fork without an exec: between them it makes system calls only, for other threads may have
 * held any lock. It keeps two descriptors: what it inherited of locks and sockets must not outlive the parent
 * in it.
 */
#include <cbt/qemu/pause-guard.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONT      "{\"execute\": \"cont\"}\n"
#define ANSWER_MS 1000 /* so long the connection is kept for QEMU to read it */

struct QemuPauseGuard {
  pid_t pid;
  int pipe_fd; /* a byte: all is well; its end: we are gone */
};

static void
move_fd(int from, int to)
{
  if (from != to && dup2(from, to) < 0)
    _exit(1);
}

/* In the child. */
static void
guard(int pipe_fd, int monitor_fd, int limit_ms)
{
  char byte;
  const int pipe_place = 3, monitor_place = 4;
  /* Via places that neither of them has, so that none is overwritten. */
  int safe_pipe = fcntl(pipe_fd, F_DUPFD, 16), safe_monitor = fcntl(monitor_fd, F_DUPFD, 16);
  if (safe_pipe < 0 || safe_monitor < 0)
    _exit(1);
  move_fd(safe_pipe, pipe_place);
  move_fd(safe_monitor, monitor_place);
  syscall(SYS_close_range, 5u, ~0u, 0u);
  syscall(SYS_close_range, 0u, 2u, 0u);
  setsid();
  struct pollfd parent = {.fd = pipe_place, .events = POLLIN};
  int ready;
  do
    ready = poll(&parent, 1, limit_ms);
  while (ready < 0 && errno == EINTR);
  if (ready > 0 && read(pipe_place, &byte, 1) == 1)
    _exit(0);
  if (send(monitor_place, CONT, strlen(CONT), MSG_NOSIGNAL) > 0) {
    struct pollfd answer = {.fd = monitor_place, .events = POLLIN};
    poll(&answer, 1, ANSWER_MS);
  }
  _exit(0);
}

QemuPauseGuard *
qemu_pause_guard_new(const Qmp *qmp, guint limit_ms, GError **error)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    cbt_set_error_errno(error, errno, "cannot make a pipe");
    return NULL;
  }
  pid_t pid = fork();
  if (pid == 0) {
    close(ends[1]);
    guard(ends[0], qmp_fd(qmp), (int) limit_ms);
  }
  close(ends[0]);
  if (pid < 0) {
    cbt_set_error_errno(error, errno, "cannot start a process that watches over the pause of the guest");
    close(ends[1]);
    return NULL;
  }
  QemuPauseGuard *self = g_new0(QemuPauseGuard, 1);
  *self = (QemuPauseGuard){.pid = pid, .pipe_fd = ends[1]};
  return self;
}

void
qemu_pause_guard_free(QemuPauseGuard *self)
{
  if (!self)
    return;
  if (write(self->pipe_fd, "", 1) != 1)
    g_debug("the guard of a pause has ended already");
  close(self->pipe_fd);
  while (waitpid(self->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  g_free(self);
}
