/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PR_SET_PDEATHSIG is about the thread that forked, not about its process. So each child has a thread that
 * forks it and then does nothing but wait for it.
 *
 * A child that cannot be killed, because it hangs in the kernel on storage that does not answer, is left to
 * its thread: both share what the last of them frees.
 */
#include <cbt/qemu/child.h>

#include <common/fd.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_MS    5000u
#define OUTPUT_MAX (16 << 20)

/* What the child's thread and its owner share. */
typedef struct {
  /* Constant after creation. */
  char **argv;
  gboolean dies_with_us;
  int output_fd, errors_fd; /* memory */
  const QemuChildFds *fds;  /* of the owner, until it is started */
  pid_t self;
  /* Protected by lock. */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  gboolean is_started; /* or failed to */
  GError *error;       /* of the start */
  GPid pid;            /* 0: it has been waited for */
  int status;
  /* Atomic. */
  guint n_users;
} Shared;

struct QemuChild {
  Shared *shared;
};

static void
shared_release(Shared *shared)
{
  if (__atomic_sub_fetch(&shared->n_users, 1, __ATOMIC_ACQ_REL) > 0)
    return;
  g_strfreev(shared->argv);
  cbt_clear_fd(&shared->output_fd);
  cbt_clear_fd(&shared->errors_fd);
  g_clear_error(&shared->error);
  pthread_cond_destroy(&shared->changed);
  pthread_mutex_destroy(&shared->lock);
  g_free(shared);
}

/* The thread */

/* Between fork and exec: async-signal-safe calls only. */
static void
setup_child(gpointer user_data)
{
  const Shared *shared = user_data;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (!shared->dies_with_us)
    return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != shared->self)
    _exit(127); /* we died before that */
}

static gboolean
spawn(Shared *shared, GPid *pid, GError **error)
{
  g_auto(GStrv) environment = g_environ_setenv(g_get_environ(), "LC_ALL", "C", TRUE);
  environment = g_environ_unsetenv(environment, "G_DEBUG");
  return g_spawn_async_with_pipes_and_fds(
      "/", (const char *const *) shared->argv, (const char *const *) environment,
      G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, setup_child, shared, -1, shared->output_fd,
      shared->errors_fd, shared->fds->sources, shared->fds->targets, shared->fds->n, pid, NULL, NULL, NULL,
      error);
}

static void
note_started(Shared *shared, GPid pid, GError *error)
{
  pthread_mutex_lock(&shared->lock);
  shared->is_started = TRUE;
  shared->pid = pid;
  shared->error = error;
  pthread_cond_broadcast(&shared->changed);
  pthread_mutex_unlock(&shared->lock);
}

/* The pid is not free for others until waitpid() has returned, and nobody kills it once it is 0: waited for
 * in two steps. */
static void
wait_for_end(Shared *shared, GPid pid)
{
  siginfo_t info;
  while (waitid(P_PID, (id_t) pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR)
    continue;
  pthread_mutex_lock(&shared->lock);
  while (waitpid(pid, &shared->status, 0) < 0 && errno == EINTR)
    continue;
  shared->pid = 0;
  pthread_cond_broadcast(&shared->changed);
  pthread_mutex_unlock(&shared->lock);
}

static void *
child_thread(void *user_data)
{
  Shared *shared = user_data;
  GPid pid = 0;
  GError *error = NULL;
  gboolean is_running = spawn(shared, &pid, &error);
  note_started(shared, pid, error);
  if (is_running)
    wait_for_end(shared, pid);
  shared_release(shared);
  return NULL;
}

/* Its owner */

static Shared *
shared_new(const char *const *argv, gboolean dies_with_us)
{
  Shared *shared = g_new0(Shared, 1);
  pthread_condattr_t attributes;
  shared->n_users = 1;
  shared->argv = g_strdupv((char **) argv);
  shared->dies_with_us = dies_with_us;
  shared->self = getpid();
  shared->output_fd = memfd_create("output", MFD_CLOEXEC);
  shared->errors_fd = memfd_create("errors", MFD_CLOEXEC);
  pthread_mutex_init(&shared->lock, NULL);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&shared->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  return shared;
}

static gboolean
start_thread(Shared *shared, GError **error)
{
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  __atomic_add_fetch(&shared->n_users, 1, __ATOMIC_RELAXED);
  int result = pthread_create(&thread, &attributes, child_thread, shared);
  pthread_attr_destroy(&attributes);
  if (result == 0)
    return TRUE;
  shared_release(shared);
  cbt_set_error_errno(error, result, "cannot start a thread");
  return FALSE;
}

/* Waits until the thread has tried. */
static gboolean
check_started(Shared *shared, GError **error)
{
  pthread_mutex_lock(&shared->lock);
  while (!shared->is_started)
    pthread_cond_wait(&shared->changed, &shared->lock);
  pthread_mutex_unlock(&shared->lock);
  if (!shared->error)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Install qemu-utils.", "cannot run %s: %s", shared->argv[0],
                shared->error->message);
  return FALSE;
}

QemuChild *
qemu_child_start_with_fds(const char *const *argv, gboolean dies_with_us, const QemuChildFds *fds,
                          GError **error)
{
  QemuChild *child = g_new0(QemuChild, 1);
  child->shared = shared_new(argv, dies_with_us);
  child->shared->fds = fds;
  if (child->shared->output_fd < 0 || child->shared->errors_fd < 0)
    cbt_set_error_errno(error, errno, "cannot keep the output of %s", argv[0]);
  else if (start_thread(child->shared, error) && check_started(child->shared, error))
    return child;
  qemu_child_free(child);
  return NULL;
}

QemuChild *
qemu_child_start(const char *const *argv, gboolean dies_with_us, GError **error)
{
  static const QemuChildFds none = {0};
  return qemu_child_start_with_fds(argv, dies_with_us, &none, error);
}

gboolean
qemu_child_wait(QemuChild *child, guint timeout_ms)
{
  Shared *shared = child->shared;
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += (long) (timeout_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  pthread_mutex_lock(&shared->lock);
  int result = 0;
  while (shared->pid != 0 && result == 0)
    result = pthread_cond_timedwait(&shared->changed, &shared->lock, &until);
  gboolean has_ended = shared->pid == 0;
  pthread_mutex_unlock(&shared->lock);
  return has_ended;
}

gboolean
qemu_child_succeeded(const QemuChild *child)
{
  return WIFEXITED(child->shared->status) && WEXITSTATUS(child->shared->status) == 0;
}

static char *
read_text(int fd)
{
  g_autofree char *text = g_malloc0(OUTPUT_MAX + 1);
  gsize length = 0;
  gssize n;
  while (length < OUTPUT_MAX && (n = pread(fd, text + length, OUTPUT_MAX - length, (off_t) length)) > 0)
    length += (gsize) n;
  return g_utf8_make_valid(text, (gssize) strlen(text));
}

char *
qemu_child_output(const QemuChild *child)
{
  return read_text(child->shared->output_fd);
}

char *
qemu_child_errors(const QemuChild *child)
{
  return g_strchomp(read_text(child->shared->errors_fd));
}

static void
kill_child(Shared *shared)
{
  pthread_mutex_lock(&shared->lock);
  if (shared->pid != 0)
    kill(shared->pid, SIGKILL);
  pthread_mutex_unlock(&shared->lock);
}

void
qemu_child_free(QemuChild *child)
{
  if (!child)
    return;
  kill_child(child->shared);
  qemu_child_wait(child, KILL_MS);
  shared_release(child->shared);
  g_free(child);
}
