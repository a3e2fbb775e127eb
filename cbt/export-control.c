/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control server of an export: one thread, a poll loop, a few connections. It alone changes tracker and
 * session, each time with the gate held, so that changes see the old or the new, never something between.
 *
 * A hold and a session belong to the connection that asked for them and end with it. A session's memory is
 * freed only when the gate was drained after it was taken off, for a change inside may still be using it.
 */
#include <cbt/export-private.h>

#include <cbt/control-message.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define MAX_CONNECTIONS 16
#define MAX_HOLD_MS     10000
#define SHORT_HOLD_MS   2000
#define SEND_TIMEOUT_S  5

typedef struct {
  int fd;       /* -1: free */
  guint64 hold; /* 0: none */
  gboolean has_session;
} Connection;

struct ExportControl {
  CbtExport *export;
  pthread_t thread;
  char *path;
  int listen_fd;
  int stop_fd;
  Connection connections[MAX_CONNECTIONS];
};

/* ---- with the gate held
 * --------------------------------------------------------------------------------------- */

/* What is done inside of the gate, and what came of it. */
typedef struct {
  CbtExport *export;
  const CbtControlRequest *request;
  CbtControlReply *reply;
  CbtSession *session; /* in: to be started; out: to be freed */
  GError *error;
} Action;

static void
execute(gpointer data)
{
  Action *action = data;
  cbt_control_execute(action->export->tracker, action->request, action->reply);
}

static void
take_session(gpointer data)
{
  Action *action = data;
  action->session = g_steal_pointer(&action->export->session);
}

static void
begin(gpointer data)
{
  Action *action = data;
  const CbtControlRequest *request = action->request;
  CbtBitmapFile *file = cbt_tracker_find(action->export->tracker, request->name, &action->error);
  if (!file || !cbt_tracker_apply(action->export->tracker, request->name, CBT_BITMAP_CREATE_SUCCESSOR,
                                  &request->pending, NULL, &action->error))
    return;
  if (!action->session)
    return;
  cbt_session_start(action->session, request->whole ? NULL : cbt_bitmap_file_parent(file));
  action->export->session = g_steal_pointer(&action->session);
}

/* Runs FUNC in a hold of its own, or in that of CONNECTION if it has one. */
static gboolean
run_held(CbtExport *export, const Connection *connection, CbtGateFunc func, Action *action, GError **error)
{
  if (connection && connection->hold && cbt_gate_run_held(export->gate, connection->hold, func, action))
    return TRUE;
  guint64 hold = cbt_gate_hold(export->gate, SHORT_HOLD_MS, error);
  if (hold == 0)
    return FALSE;
  gboolean ran = cbt_gate_run_held(export->gate, hold, func, action);
  cbt_gate_release(export->gate, hold, NULL);
  if (!ran)
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "writes could not be held");
  return ran;
}

/* ---- requests
 * ------------------------------------------------------------------------------------------------- */

static gboolean
do_execute(ExportControl *control, Connection *connection, const CbtControlRequest *request,
           int *fds G_GNUC_UNUSED, CbtControlReply *reply, GError **error)
{
  Action action = {.export = control->export, .request = request, .reply = reply};
  return run_held(control->export, connection, execute, &action, error);
}

/* These only read, and bits may be set meanwhile. */
static gboolean
do_read(ExportControl *control, Connection *connection G_GNUC_UNUSED, const CbtControlRequest *request,
        int *fds G_GNUC_UNUSED, CbtControlReply *reply, GError **error G_GNUC_UNUSED)
{
  cbt_control_execute(control->export->tracker, request, reply);
  return TRUE;
}

static gboolean
do_hold(ExportControl *control, Connection *connection, const CbtControlRequest *request,
        int *fds G_GNUC_UNUSED, CbtControlReply *reply G_GNUC_UNUSED, GError **error)
{
  if (connection->hold && cbt_gate_is_held_by(control->export->gate, connection->hold)) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "this connection holds already");
    return FALSE;
  }
  connection->hold = cbt_gate_hold(control->export->gate, CLAMP(request->timeout_ms, 1, MAX_HOLD_MS), error);
  return connection->hold != 0;
}

static gboolean
do_release(ExportControl *control, Connection *connection, const CbtControlRequest *request G_GNUC_UNUSED,
           int *fds G_GNUC_UNUSED, CbtControlReply *reply, GError **error)
{
  guint64 hold = connection->hold;
  connection->hold = 0;
  if (hold != 0 && cbt_gate_release(control->export->gate, hold, &reply->value))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, NULL, hold ? "the hold had ended by itself" : "there is no hold");
  return FALSE;
}

static CbtSession *
attach_session(ExportControl *control, int *fds, GError **error)
{
  CbtExport *export = control->export;
  if (export->session) {
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "another backup of this disk is under way");
    return NULL;
  }
  if (fds[0] < 0 || fds[1] < 0) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a session needs its memory and its fleece file");
    return NULL;
  }
  return cbt_session_attach(cbt_steal_fd(&fds[0]), cbt_steal_fd(&fds[1]), export->size, error);
}

static gboolean
do_begin(ExportControl *control, Connection *connection, const CbtControlRequest *request, int *fds,
         CbtControlReply *reply G_GNUC_UNUSED, GError **error)
{
  Action action = {.export = control->export, .request = request};
  action.session = attach_session(control, fds, error);
  if (!action.session)
    return FALSE;
  gboolean ran =
      connection->hold != 0 && cbt_gate_run_held(control->export->gate, connection->hold, begin, &action);
  if (!ran)
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "the hold ended before the backup began");
  else if (action.error)
    g_propagate_error(error, action.error);
  connection->has_session = ran && !action.error;
  g_clear_pointer(&action.session, cbt_session_free);
  return connection->has_session;
}

/* Until writes could be drained, the session stays; a drain waits for changes that the image makes slow, not
 * for others. */
static gboolean
end_session(ExportControl *control, Connection *connection, GError **error)
{
  Action action = {.export = control->export};
  if (connection->has_session && !run_held(control->export, connection, take_session, &action, error))
    return FALSE;
  connection->has_session = FALSE;
  g_clear_pointer(&action.session, cbt_session_free);
  return TRUE;
}

static gboolean
do_end(ExportControl *control, Connection *connection, const CbtControlRequest *request G_GNUC_UNUSED,
       int *fds G_GNUC_UNUSED, CbtControlReply *reply G_GNUC_UNUSED, GError **error)
{
  return end_session(control, connection, error);
}

typedef gboolean (*RequestFunc)(ExportControl *control, Connection *connection,
                                const CbtControlRequest *request, int *fds, CbtControlReply *reply,
                                GError **error);

static const RequestFunc request_funcs[CBT_N_CONTROL_OPS] = {
    [CBT_CONTROL_HELLO] = do_read,     [CBT_CONTROL_LIST] = do_read,     [CBT_CONTROL_ADD] = do_execute,
    [CBT_CONTROL_REMOVE] = do_execute, [CBT_CONTROL_APPLY] = do_execute, [CBT_CONTROL_MERGE] = do_execute,
    [CBT_CONTROL_HOLD] = do_hold,      [CBT_CONTROL_BEGIN] = do_begin,   [CBT_CONTROL_RELEASE] = do_release,
    [CBT_CONTROL_END] = do_end,
};

static void
handle_request(ExportControl *control, Connection *connection, CbtControlRequest *request, gsize length,
               int *fds, CbtControlReply *reply)
{
  g_autoptr(GError) error = NULL;
  reply->magic = CBT_CONTROL_MAGIC;
  reply->version = CBT_CONTROL_VERSION;
  reply->code = -1;
  if (length != sizeof *request || request->magic != CBT_CONTROL_MAGIC ||
      request->version != CBT_CONTROL_VERSION)
    cbt_set_error(&error, CBT_ERROR_UNSUPPORTED,
                  "Restart the export: it is of another version than the daemon.",
                  "the request is of another protocol version");
  else if (request->op >= CBT_N_CONTROL_OPS)
    cbt_set_error(&error, CBT_ERROR_INVALID, NULL, "request %u is not known", request->op);
  else if (request_funcs[request->op](control, connection, request, fds, reply, &error))
    return;
  cbt_control_reply_error(reply, error);
}

/* ---- connections
 * ---------------------------------------------------------------------------------------------- */

static void
close_connection(ExportControl *control, Connection *connection)
{
  g_autoptr(GError) error = NULL;
  if (connection->hold)
    cbt_gate_release(control->export->gate, connection->hold, NULL);
  connection->hold = 0;
  /* Whoever is in the gate gets out of it in the end, or the image is dead; waiting holds up this thread
   * alone. */
  while (!end_session(control, connection, &error))
    g_clear_error(&error);
  cbt_clear_fd(&connection->fd);
}

static void
serve_connection(ExportControl *control, Connection *connection)
{
  CbtControlRequest request;
  int fds[CBT_CONTROL_MAX_FDS];
  gssize n = cbt_control_receive(connection->fd, &request, sizeof request, fds);
  gboolean ok = n > 0;
  if (ok) {
    g_autofree CbtControlReply *reply = g_new0(CbtControlReply, 1);
    request.name[sizeof request.name - 1] = request.source[sizeof request.source - 1] = '\0';
    request.reason[sizeof request.reason - 1] = '\0';
    handle_request(control, connection, &request, (gsize) n, fds, reply);
    ok = cbt_control_send(connection->fd, reply, sizeof *reply, NULL, 0);
  }
  for (guint i = 0; i < CBT_CONTROL_MAX_FDS; i++)
    cbt_clear_fd(&fds[i]);
  if (!ok)
    close_connection(control, connection);
}

static gboolean
is_allowed(int fd)
{
  struct ucred peer;
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
         (peer.uid == 0 || peer.uid == geteuid());
}

static void
accept_connection(ExportControl *control)
{
  CBT_AUTO_FD int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
  const struct timeval timeout = {.tv_sec = SEND_TIMEOUT_S};
  if (fd < 0 || !is_allowed(fd) || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
    return;
  for (guint i = 0; i < MAX_CONNECTIONS; i++)
    if (control->connections[i].fd < 0) {
      control->connections[i] = (Connection){.fd = cbt_steal_fd(&fd)};
      return;
    }
}

static gboolean
serve_once(ExportControl *control)
{
  struct pollfd fds[MAX_CONNECTIONS + 2] = {{.fd = control->stop_fd, .events = POLLIN},
                                            {.fd = control->listen_fd, .events = POLLIN}};
  for (guint i = 0; i < MAX_CONNECTIONS; i++)
    fds[i + 2] = (struct pollfd){.fd = control->connections[i].fd, .events = POLLIN};
  if (poll(fds, G_N_ELEMENTS(fds), -1) < 0)
    return errno == EINTR;
  if (fds[0].revents)
    return FALSE;
  for (guint i = 0; i < MAX_CONNECTIONS; i++)
    if (fds[i + 2].revents)
      serve_connection(control, &control->connections[i]);
  if (fds[1].revents)
    accept_connection(control);
  return TRUE;
}

static void *
control_thread(void *data)
{
  ExportControl *control = data;
  while (serve_once(control))
    continue;
  for (guint i = 0; i < MAX_CONNECTIONS; i++)
    if (control->connections[i].fd >= 0)
      close_connection(control, &control->connections[i]);
  return NULL;
}

static int
listen_on(const char *path, GError **error)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (g_strlcpy(address.sun_path, path, sizeof address.sun_path) >= sizeof address.sun_path) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the socket path %s is too long", path);
    return -1;
  }
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  unlink(path);
  if (fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof address) == 0 && chmod(path, 0600) == 0 &&
      listen(fd, MAX_CONNECTIONS) == 0)
    return cbt_steal_fd(&fd);
  cbt_set_error_errno(error, errno, "cannot listen on %s", path);
  return -1;
}

gboolean
cbt_export_serve_control(CbtExport *export, const char *socket_path, GError **error)
{
  CBT_AUTO_FD int listen_fd = listen_on(socket_path, error);
  if (listen_fd < 0)
    return FALSE;
  ExportControl *control = g_new0(ExportControl, 1);
  control->export = export;
  control->path = g_strdup(socket_path);
  control->listen_fd = cbt_steal_fd(&listen_fd);
  control->stop_fd = eventfd(0, EFD_CLOEXEC);
  for (guint i = 0; i < MAX_CONNECTIONS; i++)
    control->connections[i].fd = -1;
  export->control = control;
  int failed = pthread_create(&control->thread, NULL, control_thread, control);
  if (failed != 0)
    cbt_set_error_errno(error, failed, "cannot start a thread");
  return failed == 0;
}

void
cbt_export_control_stop(ExportControl *control)
{
  guint64 one = 1;
  while (write(control->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
    continue;
  pthread_join(control->thread, NULL);
  unlink(control->path);
  cbt_clear_fd(&control->listen_fd);
  cbt_clear_fd(&control->stop_fd);
  g_free(control->path);
  g_free(control);
}
