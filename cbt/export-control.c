/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control socket of an export: one thread, one poll() over the listener, a wake-up descriptor and the
 * peers. The thread may wait for a drain, which is bounded; it never waits for a peer: replies are sent
 * without blocking, and a peer that does not take its reply is dropped.
 *
 * A message that is not even a request (no magic) drops its peer; anything else gets an error in reply. The
 * front of request and reply, up to `code` and `message`, stays as it is in all versions, so that a newer
 * daemon can read why it is refused.
 */
#include <cbt/export-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define MAX_PEERS        32u
#define BACKLOG          16
#define RETIRED_RETRY_MS 1000

struct CbtControlServer {
  /* constant after creation */
  CbtExport *export;
  char *path;
  int listen_fd;
  int wake_fd; /* becomes readable when the thread shall end */
  pthread_t thread;
  /* owned by the thread */
  CbtControlPeer *peers[MAX_PEERS];
  guint n_peers;
  CbtRetired retired;
};

/* --- messages --- */

static void
close_fds(CbtControlFds *fds)
{
  for (guint i = 0; i < fds->n_fds; i++)
    cbt_clear_fd(&fds->fds[i]);
  fds->n_fds = 0;
}

static void
take_fds(struct msghdr *message, CbtControlFds *fds)
{
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    gsize n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (gsize i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      if (fds->n_fds < CBT_CONTROL_MAX_FDS)
        fds->fds[fds->n_fds++] = fd;
      else
        close(fd);
    }
  }
}

/* The true length of the message, whatever fitted into REQUEST; 0 at the end, -1 with errno. */
static ssize_t
receive(int socket_fd, CbtControlRequest *request, CbtControlFds *fds)
{
  union {
    char bytes[CMSG_SPACE(CBT_CONTROL_MAX_FDS * sizeof(int))];
    struct cmsghdr align;
  } control;
  struct iovec iov = {.iov_base = request, .iov_len = sizeof *request};
  struct msghdr message = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  memset(request, 0, sizeof *request);
  ssize_t n = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
  if (n >= 0)
    take_fds(&message, fds);
  return n;
}

static gboolean
check_request(const CbtControlRequest *request, gsize length, GError **error)
{
  if (request->version != CBT_CONTROL_VERSION) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Restart the export with the version of the daemon.",
                  "this export speaks control protocol version %u, not %u", CBT_CONTROL_VERSION,
                  request->version);
    return FALSE;
  }
  if (length == sizeof *request)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a control request has %zu bytes, not %zu", sizeof *request,
                length);
  return FALSE;
}

static void
answer(CbtControlServer *server, CbtControlPeer *peer, const CbtControlRequest *request, gsize length,
       CbtControlFds *fds, CbtControlReply *reply)
{
  g_autoptr(GError) error = NULL;
  memset(reply, 0, sizeof *reply);
  reply->magic = CBT_CONTROL_MAGIC;
  reply->version = CBT_CONTROL_VERSION;
  reply->pid = getpid();
  if (check_request(request, length, &error))
    cbt_control_peer_handle(server->export, peer, &server->retired, request, fds, reply);
  else
    cbt_control_reply_error(reply, error);
}

/* FALSE if the peer is to be dropped. */
static gboolean
serve_peer(CbtControlServer *server, CbtControlPeer *peer)
{
  CbtControlRequest request;
  CbtControlReply reply;
  CbtControlFds fds = {.n_fds = 0};
  ssize_t n = receive(peer->fd, &request, &fds);
  if (n < 0)
    return errno == EAGAIN || errno == EINTR;
  gboolean is_request = (gsize) n >= offsetof(CbtControlRequest, op) && request.magic == CBT_CONTROL_MAGIC;
  if (is_request)
    answer(server, peer, &request, (gsize) n, &fds, &reply);
  close_fds(&fds);
  gboolean sent = is_request &&
                  send(peer->fd, &reply, sizeof reply, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t) sizeof reply;
  /* The answer first: the peer may be holding the writes of other disks. */
  if (is_request && request.op == CBT_CONTROL_RELEASE)
    cbt_control_peer_released(server->export, peer);
  return sent;
}

/* --- peers --- */

static gboolean
is_allowed(int fd)
{
  struct ucred peer;
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
         (peer.uid == 0 || peer.uid == geteuid());
}

static void
accept_peer(CbtControlServer *server)
{
  CBT_AUTO_FD int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE))
    g_usleep(10 * 1000); /* or poll() would say the same again at once */
  if (fd < 0 || !is_allowed(fd) || server->n_peers == MAX_PEERS)
    return;
  CbtControlPeer *peer = g_new0(CbtControlPeer, 1);
  peer->fd = cbt_steal_fd(&fd);
  server->peers[server->n_peers++] = peer;
}

static void
drop_peer(CbtControlServer *server, guint index)
{
  CbtControlPeer *peer = server->peers[index];
  cbt_control_peer_drop(server->export, peer, &server->retired);
  cbt_clear_fd(&peer->fd);
  g_free(peer);
  server->peers[index] = server->peers[--server->n_peers];
}

/* --- thread --- */

static guint
fill_poll(const CbtControlServer *server, struct pollfd *fds)
{
  fds[0] = (struct pollfd){.fd = server->wake_fd, .events = POLLIN};
  fds[1] = (struct pollfd){.fd = server->listen_fd, .events = POLLIN};
  for (guint i = 0; i < server->n_peers; i++)
    fds[2 + i] = (struct pollfd){.fd = server->peers[i]->fd, .events = POLLIN};
  return 2 + server->n_peers;
}

/* Backwards, so that dropping one moves none that is still to come. */
static void
serve_ready(CbtControlServer *server, const struct pollfd *fds)
{
  for (guint i = server->n_peers; i-- > 0;)
    if (fds[2 + i].revents != 0 && !serve_peer(server, server->peers[i]))
      drop_peer(server, i);
  if (fds[1].revents != 0)
    accept_peer(server);
}

static void *
control_thread(void *user_data)
{
  CbtControlServer *server = user_data;
  struct pollfd fds[2 + MAX_PEERS];
  for (;;) {
    int timeout_ms = cbt_retired_free_drained(&server->retired) ? -1 : RETIRED_RETRY_MS;
    int n = poll(fds, fill_poll(server, fds), timeout_ms);
    if (n > 0 && fds[0].revents != 0)
      return NULL;
    if (n > 0)
      serve_ready(server, fds);
  }
}

/* Signals are for the threads of the program around us. */
static int
start_thread(CbtControlServer *server)
{
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int result = pthread_create(&server->thread, NULL, control_thread, server);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return result;
}

/* --- socket --- */

static gboolean
fill_address(struct sockaddr_un *address, const char *path, GError **error)
{
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  if (strlen(path) < sizeof address->sun_path) {
    memcpy(address->sun_path, path, strlen(path) + 1);
    return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the socket path %s has more than %zu bytes", path,
                sizeof address->sun_path - 1);
  return FALSE;
}

/* Removes a socket that nobody listens on. Whatever else stands at PATH is left for bind() to complain about.
 */
static gboolean
remove_stale(const struct sockaddr_un *address, GError **error)
{
  struct stat st;
  if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
    return TRUE;
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connect(fd, (const struct sockaddr *) address, sizeof *address) == 0 || errno == EAGAIN) {
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "another process listens on %s", address->sun_path);
    return FALSE;
  }
  unlink(address->sun_path);
  return TRUE;
}

/* The mode of the socket before bind() is the mode of the file: there is no moment with another one. */
static int
listen_at(const char *path, GError **error)
{
  struct sockaddr_un address;
  if (!fill_address(&address, path, error) || !remove_stale(&address, error))
    return -1;
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *) &address, sizeof address) != 0 ||
      listen(fd, BACKLOG) != 0) {
    cbt_set_error_errno(error, errno, "cannot listen on %s", path);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

static void
server_free(CbtControlServer *server)
{
  if (server->listen_fd >= 0)
    unlink(server->path);
  cbt_clear_fd(&server->listen_fd);
  cbt_clear_fd(&server->wake_fd);
  g_clear_pointer(&server->retired.sessions, g_ptr_array_unref);
  g_free(server->path);
  g_free(server);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtControlServer, server_free)

static void
free_session(gpointer session)
{
  cbt_session_free(session);
}

CbtControlServer *
cbt_control_server_start(CbtExport *export, const char *path, GError **error)
{
  g_autoptr(CbtControlServer) server = g_new0(CbtControlServer, 1);
  server->export = export;
  server->path = g_strdup(path);
  server->listen_fd = -1;
  server->retired.export = export;
  server->retired.sessions = g_ptr_array_new_with_free_func(free_session);
  server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->wake_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot make an eventfd");
    return NULL;
  }
  server->listen_fd = listen_at(path, error);
  if (server->listen_fd < 0)
    return NULL;
  int result = start_thread(server);
  if (result != 0) {
    cbt_set_error_errno(error, result, "cannot start the control thread");
    return NULL;
  }
  return g_steal_pointer(&server);
}

void
cbt_control_server_stop(CbtControlServer *server)
{
  eventfd_write(server->wake_fd, 1);
  pthread_join(server->thread, NULL);
  while (server->n_peers > 0)
    drop_peer(server, server->n_peers - 1);
  server_free(server);
}
