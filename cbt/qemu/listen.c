/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/listen.h>

#include <common/fd.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 64

static int
open_socket(const char *path, struct sockaddr_un *address, GError **error)
{
  memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address->sun_path)) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Choose a folder with a shorter name for sockets.",
                  "The path of the socket %s is too long", path);
    return -1;
  }
  memcpy(address->sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    cbt_set_error_errno(error, errno, "Cannot make a socket");
  return fd;
}

int
qemu_listen(const char *path, GError **error)
{
  struct sockaddr_un address;
  CBT_AUTO_FD int fd = open_socket(path, &address, error);
  if (fd < 0)
    return -1;
  unlink(path);
  if (fchmod(fd, 0600) == 0 && bind(fd, (struct sockaddr *) &address, sizeof(address)) == 0 &&
      listen(fd, BACKLOG) == 0)
    return cbt_steal_fd(&fd);
  cbt_set_error_errno(error, errno, "Cannot listen on %s", path);
  return -1;
}

int
qemu_connect(const char *path, GError **error)
{
  struct sockaddr_un address;
  CBT_AUTO_FD int fd = open_socket(path, &address, error);
  if (fd < 0)
    return -1;
  if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
    return cbt_steal_fd(&fd);
  cbt_set_error_errno(error, errno, "Cannot connect to %s", path);
  return -1;
}
