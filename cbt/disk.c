/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/disk.h>

#include <cbt/control-message.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* More than any request may take: a short hold, and a few syncs of a bitmap file. */
#define CALL_TIMEOUT_S    20
#define RETRY_INTERVAL_US 10000

struct CbtDisk {
  int socket;          /* -1: open here */
  int image_fd;        /* -1: connected */
  CbtTracker *tracker; /* NULL: connected */
  CbtDiskIdentity identity;
  gint64 owner_pid;
};

static CbtDisk *
disk_new(void)
{
  CbtDisk *disk = g_new0(CbtDisk, 1);
  disk->socket = disk->image_fd = -1;
  return disk;
}

void
cbt_disk_close(CbtDisk *disk)
{
  g_autoptr(GError) error = NULL;
  if (disk->tracker && !cbt_tracker_close(disk->tracker, &error))
    g_warning("cannot close the bitmaps: %s", error->message);
  cbt_clear_fd(&disk->socket);
  cbt_clear_fd(&disk->image_fd);
  g_free(disk);
}

/* ---- connected
 * ------------------------------------------------------------------------------------------------ */

static int
connect_once(const char *path)
{
  const struct timeval timeout = {.tv_sec = CALL_TIMEOUT_S};
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, path, sizeof address.sun_path);
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
      connect(fd, (struct sockaddr *) &address, sizeof address) != 0)
    return -1;
  return cbt_steal_fd(&fd);
}

static int
connect_until(const char *path, guint timeout_ms, GError **error)
{
  gint64 deadline = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  for (;;) {
    int fd = connect_once(path);
    if (fd >= 0)
      return fd;
    int errsv = errno;
    if (g_get_monotonic_time() + RETRY_INTERVAL_US > deadline) {
      cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See cbt-backup export list, and the export's log.",
                    "the export behind %s does not answer: %s", path, g_strerror(errsv));
      return -1;
    }
    g_usleep(RETRY_INTERVAL_US);
  }
}

CbtDisk *
cbt_disk_connect(const char *control_socket, guint timeout_ms, GError **error)
{
  g_autoptr(CbtDisk) disk = disk_new();
  CbtControlRequest request;
  g_autofree CbtControlReply *reply = g_new0(CbtControlReply, 1);
  disk->socket = connect_until(control_socket, timeout_ms, error);
  cbt_control_request_init(&request, CBT_CONTROL_HELLO, NULL);
  if (disk->socket < 0 || !cbt_disk_call(disk, &request, NULL, reply, error))
    return NULL;
  disk->identity = reply->identity;
  disk->owner_pid = reply->pid;
  return g_steal_pointer(&disk);
}

static gboolean
set_unreachable(const char *what, int errsv, GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See cbt-backup export list, and the export's log.",
                "the export does not answer: %s: %s", what, g_strerror(errsv));
  return FALSE;
}

static gboolean
call_export(CbtDisk *disk, const CbtControlRequest *request, CbtSession *session, CbtControlReply *reply,
            GError **error)
{
  int fds[CBT_CONTROL_MAX_FDS] = {-1, -1};
  guint n_fds = session ? 2 : 0;
  if (session) {
    fds[0] = cbt_session_memory_fd(session);
    fds[1] = cbt_session_fleece_fd(session);
  }
  if (!cbt_control_send(disk->socket, request, sizeof *request, fds, n_fds))
    return set_unreachable("cannot send", errno, error);
  gssize n = cbt_control_receive(disk->socket, reply, sizeof *reply, fds);
  int errsv = n < 0 ? errno : EPIPE;
  for (guint i = 0; i < CBT_CONTROL_MAX_FDS; i++)
    cbt_clear_fd(&fds[i]);
  if (n <= 0)
    return set_unreachable("no reply", errsv, error);
  if (n == sizeof *reply && reply->magic == CBT_CONTROL_MAGIC && reply->version == CBT_CONTROL_VERSION &&
      reply->n_bitmaps <= CBT_TRACKER_MAX_BITMAPS)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Stop the export and start it again.",
                "the export is of another version than this daemon");
  return FALSE;
}

/* ---- open here
 * ------------------------------------------------------------------------------------------------ */

CbtDisk *
cbt_disk_open(const char *image_path, const char *bitmap_directory, const CbtUuid *disk_id, GError **error)
{
  g_autoptr(CbtDisk) disk = disk_new();
  disk->image_fd = open(image_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (disk->image_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", image_path);
    return NULL;
  }
  if (!cbt_disk_identity_from_fd(disk->image_fd, disk_id, &disk->identity, error))
    return NULL;
  disk->tracker = cbt_tracker_open(cbt_file_ops_default(), bitmap_directory, disk->image_fd, disk_id, error);
  disk->owner_pid = getpid();
  return disk->tracker ? g_steal_pointer(&disk) : NULL;
}

/* With no export there are no writes to hold, and an instant is any moment. */
static gboolean
call_here(CbtDisk *disk, const CbtControlRequest *request, CbtControlReply *reply)
{
  CbtControlRequest freeze;
  memset(reply, 0, sizeof *reply);
  switch (request->op) {
  case CBT_CONTROL_HOLD:
  case CBT_CONTROL_RELEASE:
  case CBT_CONTROL_END:
    reply->code = -1;
    return TRUE;
  case CBT_CONTROL_BEGIN:
    cbt_control_request_init(&freeze, CBT_CONTROL_APPLY, request->name);
    freeze.event = CBT_BITMAP_CREATE_SUCCESSOR;
    freeze.pending = request->pending;
    cbt_control_execute(disk->tracker, &freeze, reply);
    return TRUE;
  default:
    cbt_control_execute(disk->tracker, request, reply);
    return TRUE;
  }
}

/* ---- both
 * ----------------------------------------------------------------------------------------------------- */

gboolean
cbt_disk_is_exported(const CbtDisk *disk)
{
  return disk->tracker == NULL;
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
  g_autofree CbtControlReply *own = reply ? NULL : g_new0(CbtControlReply, 1);
  if (!reply)
    reply = own;
  if (!(disk->tracker ? call_here(disk, request, reply) : call_export(disk, request, session, reply, error)))
    return FALSE;
  if (reply->code < 0)
    return TRUE;
  reply->message[sizeof reply->message - 1] = '\0';
  g_set_error_literal(error, CBT_ERROR, reply->code, reply->message);
  return FALSE;
}

gboolean
cbt_disk_apply(CbtDisk *disk, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
               const char *reason, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_APPLY, bitmap);
  request.event = event;
  if (pending)
    request.pending = *pending;
  if (reason)
    g_strlcpy(request.reason, reason, sizeof request.reason);
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

gboolean
cbt_disk_info(CbtDisk *disk, const char *bitmap, CbtBitmapInfo *info, GError **error)
{
  CbtControlRequest request;
  g_autofree CbtControlReply *reply = g_new0(CbtControlReply, 1);
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!cbt_disk_call(disk, &request, NULL, reply, error))
    return FALSE;
  for (guint i = 0; i < reply->n_bitmaps; i++)
    if (strcmp(reply->bitmaps[i].name, bitmap) == 0) {
      *info = reply->bitmaps[i];
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-backup bitmap list; add one with cbt-backup bitmap add.",
                "the disk has no bitmap '%s'", bitmap);
  return FALSE;
}
