/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/child.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_US 5000

struct QemuChild {
  /* constant while the thread starts it */
  const char *const *argv;
  const QemuChildFds *fds;
  pid_t parent;
  pthread_t thread;
  /* protected by lock */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  gboolean is_tried, is_over;
  /* set by the thread before is_tried */
  GPid pid; /* 0: did not start */
  GError *error;
  /* of the owner */
  gboolean is_reaped;
  int status;
};

/* In the child, between fork and exec. */
static void
bind_to_thread(gpointer data)
{
  const QemuChild *self = data;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != self->parent)
    _exit(127);
}

static void
spawn(QemuChild *self)
{
  if (!g_spawn_async_with_pipes_and_fds(
          NULL, self->argv, NULL,
          G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL, bind_to_thread, self,
          -1, -1, -1, self->fds->sources, self->fds->targets, self->fds->n, &self->pid, NULL, NULL, NULL,
          &self->error))
    self->pid = 0;
}

static void *
keep(void *data)
{
  QemuChild *self = data;
  spawn(self);
  pthread_mutex_lock(&self->lock);
  self->is_tried = TRUE;
  pthread_cond_broadcast(&self->changed);
  while (!self->is_over)
    pthread_cond_wait(&self->changed, &self->lock);
  pthread_mutex_unlock(&self->lock);
  return NULL;
}

static void
wait_until_tried(QemuChild *self)
{
  pthread_mutex_lock(&self->lock);
  while (!self->is_tried)
    pthread_cond_wait(&self->changed, &self->lock);
  pthread_mutex_unlock(&self->lock);
}

QemuChild *
qemu_child_start(const char *const *argv, const QemuChildFds *fds, GError **error)
{
  QemuChild *self = g_new0(QemuChild, 1);
  self->argv = argv;
  self->fds = fds;
  self->parent = getpid();
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, NULL);
  if (pthread_create(&self->thread, NULL, keep, self) != 0)
    abort(); /* as GLib does */
  wait_until_tried(self);
  if (self->pid)
    return self;
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "Cannot start %s: %s", argv[0], self->error->message);
  qemu_child_free(self);
  return NULL;
}

gboolean
qemu_child_wait(QemuChild *self, gint64 deadline_us, int *status)
{
  while (!self->is_reaped) {
    pid_t result = waitpid(self->pid, &self->status, WNOHANG);
    self->is_reaped = result == self->pid || (result < 0 && errno != EINTR);
    if (self->is_reaped)
      break;
    if (g_get_monotonic_time() >= deadline_us)
      return FALSE;
    g_usleep(POLL_US);
  }
  *status = self->status;
  return TRUE;
}

void
qemu_child_kill(QemuChild *self)
{
  if (!self->is_reaped)
    kill(self->pid, SIGKILL);
}

void
qemu_child_free(QemuChild *self)
{
  int status;
  if (!self)
    return;
  if (self->pid) {
    qemu_child_kill(self);
    qemu_child_wait(self, G_MAXINT64, &status);
    g_spawn_close_pid(self->pid);
  }
  pthread_mutex_lock(&self->lock);
  self->is_over = TRUE;
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
  pthread_join(self->thread, NULL);
  pthread_cond_destroy(&self->changed);
  pthread_mutex_destroy(&self->lock);
  g_clear_error(&self->error);
  g_free(self);
}
