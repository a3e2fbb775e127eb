/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ways to reach a tracker, one call. Every send and receive has a time-out, so that an export that hangs
 * costs a job and not the daemon. After any failure of the connection it is closed for good: a late reply
 * must not be taken for the answer to another request, and the close tells the export to let go of our hold
 * and session.
 */
#include <cbt/disk.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define CALL_TIMEOUT_MS 10000u /* above what the export itself may wait: see AUTO_HOLD_MS there */

#define RETRY_INTERVAL_US 10000

struct CbtDisk {
  /* constant after creation */
  char *name; /* for messages: the socket or the image */
  CbtDiskIdentity identity;
  gint64 owner_pid;
  gboolean is_exported;
  /* exported */
  int socket_fd; /* -1 after a failure */
  /* opened here */
  int image_fd;
  CbtTracker *tracker;
};

static CbtDisk *
disk_alloc(const char *name, gboolean is_exported)
{
  CbtDisk *disk = g_new0(CbtDisk, 1);
  disk->name = g_strdup(name);
  disk->is_exported = is_exported;
  disk->socket_fd = -1;
  disk->image_fd = -1;
  return disk;
}

void
cbt_disk_close(CbtDisk *disk)
{
  g_autoptr(GError) error = NULL;
  if (disk == NULL)
    return;
  if (disk->tracker != NULL && !cbt_tracker_close(disk->tracker, &error))
    g_message("%s: the bitmaps did not close clean: %s", disk->name, error->message);
  cbt_clear_fd(&disk->socket_fd);
  cbt_clear_fd(&disk->image_fd);
  g_free(disk->name);
  g_free(disk);
}

/* --- an export's --- */

static void
set_timeout(int socket_fd, guint timeout_ms)
{
  struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t) (timeout_ms % 1000) * 1000};
  setsockopt(socket_fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(socket_fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

static gboolean
set_unreachable(CbtDisk *disk, const char *what, int errsv, GError **error)
{
  cbt_clear_fd(&disk->socket_fd);
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See whether the export of the disk is running.",
                "the export at %s does not answer: %s%s%s", disk->name, what, errsv != 0 ? ": " : "",
                errsv == EAGAIN ? "timed out" : (errsv != 0 ? g_strerror(errsv) : ""));
  return FALSE;
}

static gboolean
send_request(CbtDisk *disk, const CbtControlRequest *request, const CbtSession *session, GError **error)
{
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec iov = {.iov_base = (void *) request, .iov_len = sizeof *request};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  if (session != NULL) {
    int fds[2] = {cbt_session_memory_fd(session), cbt_session_fleece_fd(session)};
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(header), fds, sizeof fds);
  }
  ssize_t n;
  do
    n = sendmsg(disk->socket_fd, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t) sizeof *request || set_unreachable(disk, "cannot send", n < 0 ? errno : 0, error);
}

static void
terminate_texts(CbtControlReply *reply)
{
  reply->message[sizeof reply->message - 1] = '\0';
  reply->n_bitmaps = MIN(reply->n_bitmaps, CBT_TRACKER_MAX_BITMAPS);
  for (guint i = 0; i < reply->n_bitmaps; i++) {
    reply->bitmaps[i].name[CBT_NAME_MAX] = '\0';
    reply->bitmaps[i].reason[CBT_REASON_MAX] = '\0';
  }
}

static gboolean
receive_reply(CbtDisk *disk, CbtControlReply *reply, GError **error)
{
  ssize_t n;
  memset(reply, 0, sizeof *reply);
  do
    n = recv(disk->socket_fd, reply, sizeof *reply, MSG_TRUNC);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return set_unreachable(disk, "cannot receive", errno, error);
  if (n == 0)
    return set_unreachable(disk, "it closed the connection", 0, error);
  if (reply->magic != CBT_CONTROL_MAGIC)
    return set_unreachable(disk, "what is there is no export", 0, error);
  if (reply->version != CBT_CONTROL_VERSION || n != (ssize_t) sizeof *reply) {
    cbt_clear_fd(&disk->socket_fd);
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Restart the export with the version of the daemon.",
                  "the export at %s speaks control protocol version %u, not %u", disk->name, reply->version,
                  CBT_CONTROL_VERSION);
    return FALSE;
  }
  terminate_texts(reply);
  return TRUE;
}

static gboolean
call_export(CbtDisk *disk, const CbtControlRequest *request, const CbtSession *session,
            CbtControlReply *reply, GError **error)
{
  if (disk->socket_fd < 0)
    return set_unreachable(disk, "the connection was lost", 0, error);
  return send_request(disk, request, session, error) && receive_reply(disk, reply, error);
}

/* An export that is just starting has no socket yet, or one on which nobody listens. */
static gboolean
is_starting(int errsv)
{
  return errsv == ENOENT || errsv == ECONNREFUSED || errsv == EAGAIN;
}

static int
connect_once(const struct sockaddr_un *address, guint timeout_ms)
{
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  set_timeout(fd, timeout_ms);
  if (connect(fd, (const struct sockaddr *) address, sizeof *address) != 0)
    return -1;
  return cbt_steal_fd(&fd);
}

static gboolean
connect_socket(CbtDisk *disk, guint timeout_ms, GError **error)
{
  gint64 deadline = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(disk->name) >= sizeof address.sun_path) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the socket path %s has more than %zu bytes", disk->name,
                  sizeof address.sun_path - 1);
    return FALSE;
  }
  memcpy(address.sun_path, disk->name, strlen(disk->name) + 1);
  while ((disk->socket_fd = connect_once(&address, timeout_ms)) < 0) {
    int errsv = errno;
    if (!is_starting(errsv) || g_get_monotonic_time() + RETRY_INTERVAL_US > deadline)
      return set_unreachable(disk, "cannot connect", errsv, error);
    g_usleep(RETRY_INTERVAL_US);
  }
  return TRUE;
}

/* Asks the owner, whoever it is, who it is. */
static gboolean
say_hello(CbtDisk *disk, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_HELLO, NULL);
  if (!cbt_disk_call(disk, &request, NULL, &reply, error))
    return FALSE;
  disk->identity = reply.identity;
  disk->owner_pid = reply.pid;
  return TRUE;
}

CbtDisk *
cbt_disk_connect(const char *control_socket, guint timeout_ms, GError **error)
{
  g_autoptr(CbtDisk) disk = disk_alloc(control_socket, TRUE);
  if (!connect_socket(disk, MAX(timeout_ms, 1), error) || !say_hello(disk, error))
    return NULL;
  set_timeout(disk->socket_fd, CALL_TIMEOUT_MS);
  return g_steal_pointer(&disk);
}

/* --- our own --- */

CbtDisk *
cbt_disk_open(const char *image_path, const char *bitmap_directory, const char *witness_directory,
              const CbtUuid *disk_id, GError **error)
{
  g_autoptr(CbtDisk) disk = disk_alloc(image_path, FALSE);
  disk->image_fd = open(image_path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (disk->image_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", image_path);
    return NULL;
  }
  disk->tracker = cbt_tracker_open(cbt_file_ops_default(), bitmap_directory, witness_directory,
                                   disk->image_fd, disk_id, error);
  return disk->tracker != NULL && cbt_tracker_set_idle(disk->tracker, error) && say_hello(disk, error)
             ? g_steal_pointer(&disk)
             : NULL;
}

/* With no guest there is nothing to hold, and a backup needs no session: HOLD, RELEASE and END just succeed,
 * which HELLO does too. */
static void
call_tracker(CbtDisk *disk, const CbtControlRequest *request, CbtControlReply *reply)
{
  CbtControlRequest local = *request;
  if (request->op == CBT_CONTROL_BEGIN) {
    local.op = CBT_CONTROL_APPLY;
    local.event = CBT_BITMAP_CREATE_SUCCESSOR;
  } else if (request->op == CBT_CONTROL_HOLD || request->op == CBT_CONTROL_RELEASE ||
             request->op == CBT_CONTROL_END) {
    local.op = CBT_CONTROL_HELLO;
  }
  cbt_control_execute(disk->tracker, &local, reply);
  cbt_tracker_settle(disk->tracker);
}

/* --- both --- */

gboolean
cbt_disk_is_exported(const CbtDisk *disk)
{
  return disk->is_exported;
}

gboolean
cbt_disk_is_lost(const CbtDisk *disk)
{
  struct pollfd poll_fd = {.fd = disk->socket_fd};
  return disk->is_exported && (disk->socket_fd < 0 || (poll(&poll_fd, 1, 0) > 0 &&
                                                       (poll_fd.revents & (POLLHUP | POLLERR | POLLNVAL))));
}

const CbtDiskIdentity *
cbt_disk_identity(const CbtDisk *disk)
{
  return &disk->identity;
}

gint64
cbt_disk_owner_pid(const CbtDisk *disk)
{
  return disk->owner_pid;
}

gboolean
cbt_disk_call(CbtDisk *disk, const CbtControlRequest *request, CbtSession *session, CbtControlReply *reply,
              GError **error)
{
  CbtControlReply ignored;
  if (reply == NULL)
    reply = &ignored;
  if (!disk->is_exported)
    call_tracker(disk, request, reply);
  else if (!call_export(disk, request, session, reply, error))
    return FALSE;
  if (reply->code == -1)
    return TRUE;
  g_set_error_literal(error, CBT_ERROR,
                      reply->code >= 0 && reply->code < CBT_N_ERRORS ? reply->code : CBT_ERROR_FAILED,
                      reply->message);
  return FALSE;
}

gboolean
cbt_disk_apply(CbtDisk *disk, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
               const char *reason, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_APPLY, bitmap);
  request.event = event;
  if (pending != NULL)
    request.pending = *pending;
  if (reason != NULL)
    g_strlcpy(request.reason, reason, sizeof request.reason);
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

gboolean
cbt_disk_info(CbtDisk *disk, const char *bitmap, CbtBitmapInfo *info, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!cbt_disk_call(disk, &request, NULL, &reply, error))
    return FALSE;
  for (guint i = 0; i < reply.n_bitmaps; i++)
    if (strcmp(reply.bitmaps[i].name, bitmap) == 0) {
      *info = reply.bitmaps[i];
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "%s has no bitmap '%s'", disk->name, bitmap);
  return FALSE;
}
