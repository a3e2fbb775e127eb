/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qemu-nbd takes a listening socket as descriptor 3 by the protocol of sd_listen_fds(3), for which LISTEN_PID
 * must be its own id: a shell sets it. The image is descriptor 4. The first server ends when its client
 * leaves, which also stores the bitmap.
 */
#include <cbt/qemu/push.h>

#include <cbt/qemu/child.h>
#include <cbt/qemu/listen.h>
#include <cbt/qemu/scratch.h>
#include <common/fd.h>

#define FD_SOCKET 3
#define FD_IMAGE  4
#define IMAGE     "/dev/fd/4"
#define SHELL     "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\""

struct QemuPush {
  QemuPushOptions options; /* with copies of the texts */
  char *image_options;     /* of qemu-nbd --image-opts */
  int image_fd;
  int client_fd;     /* until it is taken */
  QemuChild *writer; /* until QEMU has left */
  QemuChild *reader;
};

/* Runs ARGV with the image, and SOCKET_FD or -1. */
static QemuChild *
start(const QemuPush *self, const char *const *argv, int socket_fd, GError **error)
{
  const int sources[] = {self->image_fd, socket_fd}, targets[] = {FD_IMAGE, FD_SOCKET};
  QemuChildFds fds = {.sources = sources, .targets = targets, .n = socket_fd >= 0 ? 2 : 1};
  return qemu_child_start_with_fds(argv, TRUE, &fds, error);
}

static gboolean
ended_well(QemuPush *self, QemuChild *child, const char *what, GError **error)
{
  if (!qemu_child_wait(child, self->options.timeout_ms)) {
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "%s does not end", what);
    return FALSE;
  }
  if (qemu_child_succeeded(child))
    return TRUE;
  g_autofree char *said = qemu_child_errors(child);
  cbt_set_error(error, CBT_ERROR_IO, "See how much room the scratch folder has.", "%s failed: %s", what,
                said);
  return FALSE;
}

static gboolean
add_bitmap(QemuPush *self, GError **error)
{
  g_autofree char *granularity = g_strdup_printf("%d", QEMU_PUSH_GRANULARITY);
  const char *const argv[] = {
      "qemu-img", "bitmap", "--add", "-f", "qcow2", "-g", granularity, IMAGE, self->options.bitmap, NULL};
  QemuChild *child = start(self, argv, -1, error);
  gboolean is_added = child && ended_well(self, child, "Adding a bitmap to a scratch image", error);
  qemu_child_free(child);
  return is_added;
}

/* On success *client_fd (transfer full) is connected to it. */
static QemuChild *
start_writer(QemuPush *self, int *client_fd, GError **error)
{
  const char *const argv[] = {
      "sh", "-c", SHELL, "sh", "qemu-nbd", "--cache=unsafe", "--image-opts", self->image_options, NULL};
  CBT_AUTO_FD int socket_fd = qemu_listen(self->options.socket_path, error);
  CBT_AUTO_FD int client = socket_fd >= 0 ? qemu_connect(self->options.socket_path, error) : -1;
  if (client < 0)
    return NULL;
  unlink(self->options.socket_path); /* nobody but QEMU writes there */
  QemuChild *child = start(self, argv, socket_fd, error);
  if (child)
    *client_fd = cbt_steal_fd(&client);
  return child;
}

static QemuChild *
start_reader(QemuPush *self, GError **error)
{
  g_autofree char *bitmap =
      self->options.bitmap ? g_strdup_printf("--bitmap=%s", self->options.bitmap) : NULL;
  const char *const argv[] = {
      "sh",           "-c",         SHELL,         "sh",           "qemu-nbd",
      "--persistent", "--shared=0", "--read-only", "--image-opts", self->image_options,
      bitmap,         NULL};
  CBT_AUTO_FD int socket_fd = qemu_listen(self->options.socket_path, error);
  return socket_fd >= 0 ? start(self, argv, socket_fd, error) : NULL;
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
                                          ",file.file.driver=file,file.file.filename=" IMAGE,
                                          scratch.limit_bytes);
  else
    self->image_options = g_strdup("driver=qcow2,file.driver=file,file.filename=" IMAGE);
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
  if (prepare_image(self, error) && (self->writer = start_writer(self, &self->client_fd, error)))
    return self;
  qemu_push_free(self);
  return NULL;
}

int
qemu_push_steal_client(QemuPush *self)
{
  return cbt_steal_fd(&self->client_fd);
}

gboolean
qemu_push_finish(QemuPush *self, char **uri, GError **error)
{
  g_autofree char *path = g_uri_escape_string(self->options.socket_path, "/", FALSE);
  if (!self->writer) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "The server that a disk was pushed to was ended");
    return FALSE;
  }
  if (!ended_well(self, self->writer, "The server that a disk was pushed to", error))
    return FALSE;
  self->reader = start_reader(self, error);
  if (!self->reader)
    return FALSE;
  *uri = g_strdup_printf("nbd+unix:///?socket=%s", path);
  return TRUE;
}

gboolean
qemu_push_check_room(const QemuPush *self, GError **error)
{
  return qemu_scratch_check_room(self->image_fd, self->options.scratch_dir, self->options.limit_bytes, error);
}

void
qemu_push_abort(QemuPush *self)
{
  g_clear_pointer(&self->writer, qemu_child_free);
}

void
qemu_push_free(QemuPush *self)
{
  if (!self)
    return;
  cbt_clear_fd(&self->client_fd);
  qemu_child_free(self->writer);
  qemu_child_free(self->reader);
  cbt_clear_fd(&self->image_fd);
  unlink(self->options.socket_path);
  g_free((char *) self->options.scratch_dir);
  g_free((char *) self->options.socket_path);
  g_free((char *) self->options.bitmap);
  g_free(self->image_options);
  g_free(self);
}
