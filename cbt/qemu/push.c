/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qemu-nbd takes a listening socket as descriptor 3 by the protocol of sd_listen_fds(3), for which LISTEN_PID
 * must be its own id: a shell sets it. The image is descriptor 4. A connection is made before it starts, so
 * that there is no moment in which it could wait for a first client for ever: it accepts even one that is
 * closed already.
 */
#include <cbt/qemu/push.h>

#include <cbt/qemu/listen.h>
#include <cbt/qemu/scratch.h>
#include <common/fd.h>
#include <errno.h>
#include <libnbd.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#define POLL_US   5000
#define FD_SOCKET 3
#define FD_IMAGE  4

struct QemuPush {
  QemuPushOptions options; /* with copies of the texts */
  char *image_options;     /* as of qemu-nbd --image-opts */
  int image_fd;
  int client_fd;             /* until it is taken */
  GPid server;               /* 0: none */
  struct nbd_handle *holder; /* of the server that is read from */
};

static gint64
deadline_of(const QemuPush *self)
{
  return g_get_monotonic_time() + (gint64) self->options.timeout_ms * 1000;
}

/* Runs ARGV (transfer full) with SOCKET_FD (or -1) and the image. */
static gboolean
spawn(QemuPush *self, GPtrArray *argv, int socket_fd, GPid *pid, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(GPtrArray) owned = argv;
  const int sources[] = {self->image_fd, socket_fd}, targets[] = {FD_IMAGE, FD_SOCKET};
  g_ptr_array_add(argv, NULL);
  if (g_spawn_async_with_pipes_and_fds(
          NULL, (const char *const *) argv->pdata, NULL,
          G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, -1, -1,
          -1, sources, targets, socket_fd >= 0 ? 2 : 1, pid, NULL, NULL, NULL, &local))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, "It is in the package qemu-utils.", "Cannot start %s: %s",
                (const char *) owned->pdata[0], local->message);
  return FALSE;
}

/* Waits for PID until the deadline; *is_over, and then *status. */
static void
wait_for_end(GPid pid, gint64 deadline_us, gboolean *is_over, int *status)
{
  pid_t result;
  while ((result = waitpid(pid, status, WNOHANG)) == 0 || (result < 0 && errno == EINTR)) {
    if (g_get_monotonic_time() >= deadline_us)
      break;
    g_usleep(POLL_US);
  }
  *is_over = result != 0;
}

static void
kill_server(QemuPush *self)
{
  if (!self->server)
    return;
  kill(self->server, SIGKILL);
  while (waitpid(self->server, NULL, 0) < 0 && errno == EINTR)
    ;
  g_spawn_close_pid(self->server);
  self->server = 0;
}

static GPtrArray *
words(const char *first, ...)
{
  GPtrArray *array = g_ptr_array_new_with_free_func(g_free);
  va_list args;
  va_start(args, first);
  for (const char *word = first; word; word = va_arg(args, const char *))
    g_ptr_array_add(array, g_strdup(word));
  va_end(args);
  return array;
}

static gboolean
add_bitmap(QemuPush *self, GError **error)
{
  GPid pid;
  int status = 0;
  gboolean is_over;
  g_autofree char *image = g_strdup_printf("/dev/fd/%d", FD_IMAGE);
  g_autofree char *granularity = g_strdup_printf("%d", QEMU_PUSH_GRANULARITY);
  if (!spawn(self,
             words("qemu-img", "bitmap", "--add", "-f", "qcow2", "-g", granularity, image,
                   self->options.bitmap, NULL),
             -1, &pid, error))
    return FALSE;
  wait_for_end(pid, deadline_of(self), &is_over, &status);
  if (!is_over) {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  g_spawn_close_pid(pid);
  if (is_over && WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_IO, NULL, "qemu-img cannot add a bitmap to a scratch image in %s",
                self->options.scratch_dir);
  return FALSE;
}

/* Starts a server, and connects to it: *client_fd (transfer full). With READ-ONLY options the socket keeps
 * its name. */
static gboolean
start_server(QemuPush *self, gboolean is_read_only, int *client_fd, GError **error)
{
  CBT_AUTO_FD int socket_fd = qemu_listen(self->options.socket_path, error);
  CBT_AUTO_FD int client = socket_fd >= 0 ? qemu_connect(self->options.socket_path, error) : -1;
  if (client < 0)
    return FALSE;
  GPtrArray *argv = words("sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh", "qemu-nbd",
                          "--image-opts", self->image_options, NULL);
  if (is_read_only) {
    g_ptr_array_add(argv, g_strdup("--read-only"));
    g_ptr_array_add(argv, g_strdup("--shared=0"));
    if (self->options.bitmap)
      g_ptr_array_add(argv, g_strdup_printf("--bitmap=%s", self->options.bitmap));
  } else {
    unlink(self->options.socket_path); /* nobody but QEMU writes there */
    g_ptr_array_add(argv, g_strdup("--cache=unsafe"));
    g_ptr_array_add(argv, g_strdup("--discard=unmap"));
  }
  if (!spawn(self, argv, socket_fd, &self->server, error))
    return FALSE;
  *client_fd = cbt_steal_fd(&client);
  return TRUE;
}

static gboolean
prepare_image(QemuPush *self, GError **error)
{
  QemuScratch scratch = {.folder = self->options.scratch_dir,
                         .size_bytes = self->options.size_bytes,
                         .limit_bytes = self->options.limit_bytes,
                         .is_qcow2 = TRUE};
  if (scratch.limit_bytes)
    self->image_options = g_strdup_printf("driver=qcow2,file.driver=raw,file.size=%" G_GUINT64_FORMAT
                                          ",file.file.driver=file,file.file.filename=/dev/fd/%d",
                                          scratch.limit_bytes, FD_IMAGE);
  else
    self->image_options = g_strdup_printf("driver=qcow2,file.driver=file,file.filename=/dev/fd/%d", FD_IMAGE);
  self->image_fd = qemu_scratch_open(&scratch, error);
  return self->image_fd >= 0 && (!self->options.bitmap || add_bitmap(self, error));
}

QemuPush *
qemu_push_new(const QemuPushOptions *options, GError **error)
{
  QemuPush *self = g_new0(QemuPush, 1);
  self->options = *options;
  self->options.scratch_dir = g_strdup(options->scratch_dir);
  self->options.socket_path = g_strdup(options->socket_path);
  self->options.bitmap = g_strdup(options->bitmap);
  self->image_fd = self->client_fd = -1;
  if (prepare_image(self, error) && start_server(self, FALSE, &self->client_fd, error))
    return self;
  qemu_push_free(self);
  return NULL;
}

int
qemu_push_steal_client(QemuPush *self)
{
  return cbt_steal_fd(&self->client_fd);
}

static gboolean
wait_for_writer(QemuPush *self, GError **error)
{
  int status = 0;
  gboolean is_over = TRUE;
  if (self->server)
    wait_for_end(self->server, deadline_of(self), &is_over, &status);
  if (!is_over) {
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "The server that a disk was pushed to does not end");
    return FALSE;
  }
  gboolean is_good = self->server && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  self->server = 0;
  if (!is_good)
    cbt_set_error(error, CBT_ERROR_IO, NULL, "The server that a disk was pushed to failed");
  return is_good;
}

/* Negotiates on FD (transfer full), so that the server does not take it for a client that hangs. */
static gboolean
hold(QemuPush *self, int fd, GError **error)
{
  gint64 deadline_us = deadline_of(self);
  self->holder = nbd_create();
  gboolean is_good = self->holder && nbd_aio_connect_socket(self->holder, fd) == 0;
  if (!is_good)
    close(fd);
  while (is_good && nbd_aio_is_connecting(self->holder) == 1) {
    gint64 left_ms = (deadline_us - g_get_monotonic_time()) / 1000;
    is_good = left_ms > 0 && nbd_poll(self->holder, (int) left_ms) >= 0;
  }
  is_good = is_good && nbd_aio_is_ready(self->holder) == 1;
  if (!is_good)
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "The server of what was pushed does not answer: %s",
                  nbd_get_error() ? nbd_get_error() : "it ended");
  return is_good;
}

gboolean
qemu_push_finish(QemuPush *self, char **uri, GError **error)
{
  int fd;
  g_autofree char *path = g_uri_escape_string(self->options.socket_path, "/", FALSE);
  if (!wait_for_writer(self, error) || !start_server(self, TRUE, &fd, error) || !hold(self, fd, error))
    return FALSE;
  *uri = g_strdup_printf("nbd+unix:///?socket=%s", path);
  return TRUE;
}

void
qemu_push_abort(QemuPush *self)
{
  if (!self->holder)
    kill_server(self);
}

void
qemu_push_free(QemuPush *self)
{
  if (!self)
    return;
  cbt_clear_fd(&self->client_fd);
  g_clear_pointer(&self->holder, nbd_close);
  kill_server(self);
  cbt_clear_fd(&self->image_fd);
  unlink(self->options.socket_path);
  g_free((char *) self->options.scratch_dir);
  g_free((char *) self->options.socket_path);
  g_free((char *) self->options.bitmap);
  g_free(self->image_options);
  g_free(self);
}
