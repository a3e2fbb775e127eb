/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The socket does not block; each wait is a poll of it and of the cancellable, up to the deadline. Only
 * connect() is blocking, in short slices: on a Unix socket whose backlog is full there is nothing to poll
 * for.
 */
#include <cbt/qemu/channel.h>

#include <cbt/qemu/frame.h>
#include <common/fd.h>
#include <common/json-text.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define READ_BYTES       65536
#define CONNECT_SLICE_US 100000
#define GRACE_US         1000000 /* behind a deadline, for what came already; a peer may send without end */

struct QemuChannel {
  int fd;
  char *path;
  QemuFrame *frame;
  GCancellable *cancellable; /* or NULL */
  gboolean has_markers;
  gboolean is_broken;
  gboolean ignores_cancel;
};

static gboolean
set_timed_out(GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "no answer in time");
  return FALSE;
}

static gboolean
set_cancelled(GError **error)
{
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled");
  return FALSE;
}

static gboolean
fill_address(struct sockaddr_un *address, const char *path, GError **error)
{
  memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address->sun_path)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "The path of the socket %s is too long", path);
    return FALSE;
  }
  memcpy(address->sun_path, path, strlen(path));
  return TRUE;
}

static gboolean
set_not_connected(const char *path, int errsv, GError **error)
{
  if (errsv == ENOENT || errsv == ECONNREFUSED)
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See whether the guest runs, and with this socket.",
                  "Nobody listens on %s", path);
  else
    cbt_set_error_errno(error, errsv, "Cannot connect to %s", path);
  return FALSE;
}

static gboolean
connect_slice(int fd, const struct sockaddr_un *address, gint64 left_us)
{
  gint64 slice = MIN(MAX(left_us, 1000), CONNECT_SLICE_US);
  struct timeval bound = {.tv_sec = 0, .tv_usec = slice};
  return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) == 0 &&
         connect(fd, (const struct sockaddr *) address, sizeof(*address)) == 0;
}

static gboolean
connect_by(QemuChannel *self, const struct sockaddr_un *address, gint64 deadline_us, GError **error)
{
  while (!connect_slice(self->fd, address, deadline_us - g_get_monotonic_time())) {
    int errsv = errno;
    if (g_cancellable_is_cancelled(self->cancellable))
      return set_cancelled(error);
    if (errsv != EAGAIN && errsv != EINTR)
      return set_not_connected(self->path, errsv, error);
    if (g_get_monotonic_time() >= deadline_us) {
      cbt_set_error(error, CBT_ERROR_UNREACHABLE,
                    "Others wait for it, too: see which programs use this socket.", "%s takes no connection",
                    self->path);
      return FALSE;
    }
  }
  return TRUE;
}

QemuChannel *
qemu_channel_adopt(int fd, const char *name, const QemuChannelKind *kind, GCancellable *cancellable)
{
  QemuChannel *self = g_new0(QemuChannel, 1);
  self->fd = fd;
  self->path = g_strdup(name);
  self->frame = qemu_frame_new(kind->max_bytes, kind->has_markers);
  self->has_markers = kind->has_markers;
  self->cancellable = cancellable ? g_object_ref(cancellable) : NULL;
  return self;
}

void
qemu_channel_set_cancellable(QemuChannel *self, GCancellable *cancellable)
{
  g_set_object(&self->cancellable, cancellable);
}

QemuChannel *
qemu_channel_open(const char *path, const QemuChannelKind *kind, gint64 deadline_us,
                  GCancellable *cancellable, GError **error)
{
  struct sockaddr_un address;
  if (!fill_address(&address, path, error))
    return NULL;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "Cannot make a socket");
    return NULL;
  }
  g_autoptr(QemuChannel) self = qemu_channel_adopt(fd, path, kind, cancellable);
  return connect_by(self, &address, deadline_us, error) ? g_steal_pointer(&self) : NULL;
}

void
qemu_channel_close(QemuChannel *self)
{
  if (!self)
    return;
  cbt_clear_fd(&self->fd);
  qemu_frame_free(self->frame);
  g_clear_object(&self->cancellable);
  g_free(self->path);
  g_free(self);
}

void
qemu_channel_drop(QemuChannel *self)
{
  self->is_broken = TRUE;
  shutdown(self->fd, SHUT_RDWR);
}

gboolean
qemu_channel_is_sound(const QemuChannel *self)
{
  return !self->is_broken;
}

int
qemu_channel_fd(const QemuChannel *self)
{
  return self->fd;
}

const char *
qemu_channel_path(const QemuChannel *self)
{
  return self->path;
}

static gboolean
set_broken(QemuChannel *self, int errsv, GError **error)
{
  self->is_broken = TRUE;
  if (errsv == 0 || errsv == ECONNRESET || errsv == EPIPE)
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "the connection was closed at the other end");
  else
    cbt_set_error_errno(error, errsv, "the connection failed");
  return FALSE;
}

void
qemu_channel_ignore_cancel(QemuChannel *self, gboolean ignore)
{
  self->ignores_cancel = ignore;
}

static gboolean
is_cancelled(QemuChannel *self)
{
  return !self->ignores_cancel && g_cancellable_is_cancelled(self->cancellable);
}

/* The time left, rounded up, as poll() wants it. */
static int
left_ms(gint64 deadline_us)
{
  gint64 left = (deadline_us - g_get_monotonic_time() + 999) / 1000;
  return (int) CLAMP(left, 0, G_MAXINT);
}

/* Waits for EVENTS of the socket; for nothing but the time if they are 0. *is_ready is FALSE at the deadline.
 */
static gboolean
wait_for(QemuChannel *self, short events, gint64 deadline_us, gboolean *is_ready, GError **error)
{
  GPollFD fds[2] = {{.fd = events ? self->fd : -1, .events = (gushort) events}};
  guint n = 1;
  if (is_cancelled(self))
    return set_cancelled(error);
  if (self->cancellable && !self->ignores_cancel && g_cancellable_make_pollfd(self->cancellable, &fds[1]))
    n = 2;
  int result;
  do {
    result = g_poll(fds, n, left_ms(deadline_us));
  } while (result < 0 && errno == EINTR);
  if (n == 2)
    g_cancellable_release_fd(self->cancellable);
  if (is_cancelled(self))
    return set_cancelled(error);
  *is_ready = result > 0;
  return TRUE;
}

gboolean
qemu_channel_pause(QemuChannel *self, gint64 until_us, GError **error)
{
  gboolean is_ready;
  return wait_for(self, 0, until_us, &is_ready, error);
}

/* As send(); FD, if there is one, goes with the first byte: unix(7), SCM_RIGHTS. */
static ssize_t
send_with_fd(int socket_fd, const guint8 *bytes, gsize length, int fd)
{
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec part = {.iov_base = (void *) bytes, .iov_len = length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
  }
  return sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static gboolean
send_some(QemuChannel *self, const guint8 *bytes, gsize length, int fd, gsize *n_sent, gint64 deadline_us,
          GError **error)
{
  ssize_t n = send_with_fd(self->fd, bytes, length, fd);
  if (n >= 0) {
    *n_sent = (gsize) n;
    return TRUE;
  }
  *n_sent = 0;
  if (errno == EINTR)
    return TRUE;
  if (errno != EAGAIN)
    return set_broken(self, errno, error);
  gboolean is_ready;
  if (!wait_for(self, G_IO_OUT, deadline_us, &is_ready, error))
    return FALSE;
  return is_ready ? TRUE : set_timed_out(error);
}

static gboolean
send_all(QemuChannel *self, const void *bytes, gsize length, int fd, gint64 deadline_us, GError **error)
{
  gsize done = 0;
  if (self->is_broken)
    return set_broken(self, 0, error);
  while (done < length) {
    gsize n;
    if (!send_some(self, (const guint8 *) bytes + done, length - done, done == 0 ? fd : -1, &n, deadline_us,
                   error)) {
      self->is_broken |= done > 0; /* half a message is there for ever */
      return FALSE;
    }
    done += n;
  }
  return TRUE;
}

gboolean
qemu_channel_send(QemuChannel *self, const void *bytes, gsize length, gint64 deadline_us, GError **error)
{
  return send_all(self, bytes, length, -1, deadline_us, error);
}

gboolean
qemu_channel_send_object_with_fd(QemuChannel *self, JsonObject *object, int fd, gint64 deadline_us,
                                 GError **error)
{
  g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
  g_autofree char *text = cbt_json_escape(json_to_string(node, FALSE));
  g_autofree char *line = g_strconcat(text, "\n", NULL);
  return send_all(self, line, strlen(line), fd, deadline_us, error);
}

gboolean
qemu_channel_send_object(QemuChannel *self, JsonObject *object, gint64 deadline_us, GError **error)
{
  return qemu_channel_send_object_with_fd(self, object, -1, deadline_us, error);
}

static gboolean
read_some(QemuChannel *self, gint64 deadline_us, GError **error)
{
  guint8 bytes[READ_BYTES];
  gboolean is_ready;
  if (!wait_for(self, G_IO_IN, deadline_us, &is_ready, error))
    return FALSE;
  if (!is_ready)
    return set_timed_out(error);
  ssize_t n = recv(self->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return TRUE;
  if (n <= 0)
    return set_broken(self, n < 0 ? errno : 0, error);
  qemu_frame_feed(self->frame, bytes, (gsize) n);
  return TRUE;
}

JsonObject *
qemu_channel_receive(QemuChannel *self, gint64 deadline_us, GError **error)
{
  while (!self->is_broken) {
    JsonObject *message;
    if (g_get_monotonic_time() > deadline_us + GRACE_US) {
      set_timed_out(error);
      return NULL;
    }
    if (!qemu_frame_next(self->frame, &message, error)) {
      self->is_broken = !self->has_markers;
      return NULL;
    }
    if (message)
      return message;
    if (!read_some(self, deadline_us, error))
      return NULL;
  }
  set_broken(self, 0, error);
  return NULL;
}

void
qemu_channel_skip(QemuChannel *self)
{
  qemu_frame_skip(self->frame);
}

gboolean
qemu_channel_has_input(QemuChannel *self)
{
  guint8 bytes[READ_BYTES];
  ssize_t n = recv(self->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n > 0)
    qemu_frame_feed(self->frame, bytes, (gsize) n);
  return qemu_frame_has_bytes(self->frame);
}

/* Counts the connections of the listener at PATH (proc(5), /proc/net/unix): state 3 is accepted, 2 waits for
 * it. */
static void
count_connections(const char *path, guint *n_accepted, guint *n_waiting)
{
  g_autofree char *text = NULL;
  *n_accepted = *n_waiting = 0;
  if (!g_file_get_contents("/proc/net/unix", &text, NULL, NULL))
    return;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (guint i = 0; lines[i]; i++) {
    unsigned state;
    int at = 0;
    if (sscanf(lines[i], "%*x: %*x %*x %*x %*x %x %*u %n", &state, &at) != 1 || at == 0 ||
        strcmp(lines[i] + at, path) != 0)
      continue;
    *n_accepted += state == 3;
    *n_waiting += state == 2;
  }
}

QemuSilence
qemu_channel_explain_silence(QemuChannel *self)
{
  struct sockaddr_un peer = {0}; /* as the listener was bound, which may be a relative path */
  socklen_t length = sizeof(peer) - 1;
  guint n_accepted, n_waiting;
  if (getpeername(self->fd, (struct sockaddr *) &peer, &length) != 0 || peer.sun_path[0] == '\0')
    return QEMU_SILENCE_UNKNOWN;
  count_connections(peer.sun_path, &n_accepted, &n_waiting);
  if (n_waiting == 0)
    return QEMU_SILENCE_UNKNOWN;
  return n_accepted > 0 ? QEMU_SILENCE_TAKEN : QEMU_SILENCE_HANGING;
}
