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

#define MARK      "cbt-pause-guard" /* the id of the command, which its answer has */
#define CONT      "{\"execute\": \"cont\", \"id\": \"" MARK "\"}\n"
#define ANSWER_MS 60000 /* QEMU may hang in a drain of its disks */
#define LOOK_MS   50
#define END_MS    1000

enum { PARENT = 3, MONITOR }; /* places of descriptors in the child */

struct QemuPauseGuard {
  int fd; /* a byte: all is well; its end: we are gone. And the other way: the end of the guard */
};

static void
move_fd(int from, int to)
{
  if (from != to && dup2(from, to) < 0)
    _exit(1);
}

static int
wait_for(int fd, int timeout_ms)
{
  struct pollfd wait = {.fd = fd, .events = POLLIN};
  int ready;
  do
    ready = poll(&wait, 1, timeout_ms);
  while (ready < 0 && errno == EINTR);
  return ready;
}

/* Whether the parent says, within the time, that all is well. *is_gone: it never will. */
static gboolean
is_disarmed(int timeout_ms, gboolean *is_gone)
{
  char byte;
  if (wait_for(PARENT, timeout_ms) <= 0)
    return FALSE;
  *is_gone = read(PARENT, &byte, 1) != 1;
  return !*is_gone;
}

/*
 * Whether the answer has come, or none can come any more. What is for a parent that lives is left for it to
 * read, and it may read the answer, too: then it is to say that all is well.
 */
static gboolean
is_answered(char *seen, gsize size, gboolean is_alone)
{
  gssize n = recv(MONITOR, seen, size, MSG_PEEK | MSG_DONTWAIT);
  if (n <= 0)
    return n == 0 || (errno != EAGAIN && errno != EINTR);
  if (memmem(seen, (gsize) n, MARK, strlen(MARK)))
    return TRUE;
  /* The last bytes may be the begin of the mark. */
  if (is_alone && n > (gssize) strlen(MARK))
    n = recv(MONITOR, seen, (gsize) n - strlen(MARK), MSG_DONTWAIT);
  return FALSE;
}

/* What is sent is short: QEMU's socket takes all or nothing of it. */
static void
guard(int limit_ms)
{
  static char seen[65536];
  gboolean is_gone = FALSE, is_sent = FALSE;
  if (is_disarmed(limit_ms, &is_gone))
    return;
  for (int passed_ms = 0; passed_ms < ANSWER_MS; passed_ms += LOOK_MS) {
    if (!is_sent)
      is_sent = send(MONITOR, CONT, strlen(CONT), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
    if (is_answered(seen, sizeof seen, is_gone))
      return;
    if (is_gone)
      poll(NULL, 0, LOOK_MS);
    else if (is_disarmed(LOOK_MS, &is_gone))
      return;
  }
}

/* In the child. */
static G_GNUC_NORETURN void
run(int parent_fd, int monitor_fd, int limit_ms)
{
  /* Via places that neither of them has, so that none is overwritten. */
  int safe_parent = fcntl(parent_fd, F_DUPFD, 16), safe_monitor = fcntl(monitor_fd, F_DUPFD, 16);
  if (safe_parent < 0 || safe_monitor < 0)
    _exit(1);
  move_fd(safe_parent, PARENT);
  move_fd(safe_monitor, MONITOR);
  syscall(SYS_close_range, MONITOR + 1u, ~0u, 0u);
  syscall(SYS_close_range, 0u, PARENT - 1u, 0u);
  setsid();
  /* So that nobody has to wait for the guard. */
  pid_t pid = _Fork();
  if (pid != 0)
    _exit(pid < 0);
  guard(limit_ms);
  _exit(0);
}

/* Both forks. */
static gboolean
start(int parent_fd, int monitor_fd, int limit_ms, GError **error)
{
  int status = 0;
  pid_t pid = fork();
  if (pid == 0)
    run(parent_fd, monitor_fd, limit_ms);
  int number = pid < 0 ? errno : EAGAIN;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return TRUE;
  cbt_set_error_errno(error, number, "cannot start a process that watches over the pause of the guest");
  return FALSE;
}

QemuPauseGuard *
qemu_pause_guard_new(const Qmp *qmp, guint limit_ms, GError **error)
{
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    cbt_set_error_errno(error, errno, "cannot make a pair of sockets");
    return NULL;
  }
  gboolean ok = start(ends[0], qmp_fd(qmp), (int) limit_ms, error);
  close(ends[0]);
  if (!ok) {
    close(ends[1]);
    return NULL;
  }
  QemuPauseGuard *self = g_new0(QemuPauseGuard, 1);
  self->fd = ends[1];
  return self;
}

/* While the guard has the connection, QEMU takes no other. */
void
qemu_pause_guard_disarm(QemuPauseGuard *self)
{
  if (send(self->fd, "", 1, MSG_NOSIGNAL) != 1)
    g_debug("the guard of a pause has ended already");
  else if (wait_for(self->fd, END_MS) <= 0)
    g_debug("the guard of a pause takes its time to end");
  qemu_pause_guard_give_up(self);
}

void
qemu_pause_guard_give_up(QemuPauseGuard *self)
{
  close(self->fd);
  g_free(self);
}
