/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/control-message.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

typedef union {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(CBT_CONTROL_MAX_FDS * sizeof(int))];
} FdSpace;

gboolean
cbt_control_send(int socket, const void *message, gsize length, const int *fds, guint n_fds)
{
  struct iovec iov = {.iov_base = (void *) message, .iov_len = length};
  struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
  FdSpace space = {0};
  if (n_fds > 0) {
    header.msg_control = space.bytes;
    header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
  }
  ssize_t n;
  do
    n = sendmsg(socket, &header, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t) length;
}

static void
take_fds(struct msghdr *header, int fds[CBT_CONTROL_MAX_FDS])
{
  for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
    if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
      continue;
    gsize n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(cmsg), MIN(n, CBT_CONTROL_MAX_FDS) * sizeof(int));
  }
}

gssize
cbt_control_receive(int socket, void *message, gsize capacity, int fds[CBT_CONTROL_MAX_FDS])
{
  struct iovec iov = {.iov_base = message, .iov_len = capacity};
  FdSpace space;
  struct msghdr header = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof space.bytes};
  for (guint i = 0; i < CBT_CONTROL_MAX_FDS; i++)
    fds[i] = -1;
  ssize_t n;
  do
    n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return -1;
  take_fds(&header, fds);
  if (!(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
    return n;
  for (guint i = 0; i < CBT_CONTROL_MAX_FDS; i++)
    if (fds[i] >= 0)
      close(fds[i]);
  errno = EPROTO;
  return -1;
}
