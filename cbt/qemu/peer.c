/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sock_diag(7) tells the inode of the socket that ours is connected to; whoever has it open shows it in
 * /proc/PID/fd as "socket:[INODE]". A kernel without sock_diag for Unix sockets leaves only who listened.
 */
#include <cbt/qemu/peer.h>

#include <common/fd.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  struct nlmsghdr header;
  struct unix_diag_req request;
} PeerRequest;

/* 0 if it is not told. */
static guint32
parse_peer(const struct nlmsghdr *header, gsize length)
{
  if (!NLMSG_OK(header, length) || header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      header->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
    return 0;
  const struct unix_diag_msg *message = NLMSG_DATA(header);
  const struct rtattr *attribute = (const struct rtattr *) (message + 1);
  guint left = header->nlmsg_len - (guint) NLMSG_LENGTH(sizeof *message);
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
    if (attribute->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(attribute) >= sizeof(guint32))
      return *(const guint32 *) RTA_DATA(attribute);
  return 0;
}

/* The inode of the socket at the other end of FD; 0 if that is not told. */
static guint32
peer_inode(int fd)
{
  struct stat own;
  union {
    struct nlmsghdr header;
    char bytes[1024];
  } answer;
  CBT_AUTO_FD int diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (diag < 0 || fstat(fd, &own) != 0)
    return 0;
  const PeerRequest ask = {
      .header = {.nlmsg_len = sizeof ask, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
      .request = {.sdiag_family = AF_UNIX,
                  .udiag_states = G_MAXUINT32,
                  .udiag_ino = (guint32) own.st_ino,
                  .udiag_show = UDIAG_SHOW_PEER,
                  .udiag_cookie = {G_MAXUINT32, G_MAXUINT32}}};
  if (send(diag, &ask, sizeof ask, 0) != (gssize) sizeof ask)
    return 0;
  gssize got = recv(diag, &answer, sizeof answer, 0);
  return got > 0 ? parse_peer(&answer.header, (gsize) got) : 0;
}

/* Whether process PID has open what WANTED is of, or the socket WANTED_LINK; either may be NULL. */
static gboolean
process_has(const char *pid, const struct stat *wanted, const char *wanted_link)
{
  g_autofree char *folder = g_strdup_printf("/proc/%s/fd", pid);
  g_autoptr(GDir) fds = g_dir_open(folder, 0, NULL);
  const char *name;
  while (fds && (name = g_dir_read_name(fds))) {
    struct stat found;
    g_autofree char *fd = g_build_filename(folder, name, NULL);
    g_autofree char *target = wanted_link ? g_file_read_link(fd, NULL) : NULL;
    if ((target && strcmp(target, wanted_link) == 0) ||
        (wanted && stat(fd, &found) == 0 && found.st_dev == wanted->st_dev && found.st_ino == wanted->st_ino))
      return TRUE;
  }
  return FALSE;
}

/* Where PATH is for process PID (transfer full), if it has that open; else NULL. */
static char *
find_open(const char *pid, const char *path)
{
  struct stat wanted;
  g_autofree char *link = g_strdup_printf("/proc/%s/cwd", pid);
  g_autofree char *folder = g_path_is_absolute(path) ? NULL : g_file_read_link(link, NULL);
  g_autofree char *found = g_path_is_absolute(path) ? g_strdup(path)
                           : folder                 ? g_build_filename(folder, path, NULL)
                                                    : NULL;
  return found && stat(found, &wanted) == 0 && process_has(pid, &wanted, NULL) ? g_steal_pointer(&found)
                                                                               : NULL;
}

static char *
find_by_listener(int fd, const char *path)
{
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0)
    return NULL;
  g_autofree char *pid = g_strdup_printf("%d", (int) peer.pid);
  return find_open(pid, path);
}

static char *
find_by_holders(int fd, const char *path)
{
  guint32 inode = peer_inode(fd);
  g_autofree char *link = g_strdup_printf("socket:[%" G_GUINT32_FORMAT "]", inode);
  g_autoptr(GDir) processes = inode ? g_dir_open("/proc", 0, NULL) : NULL;
  const char *pid;
  char *found = NULL;
  while (!found && processes && (pid = g_dir_read_name(processes)))
    if (g_ascii_isdigit(*pid) && process_has(pid, NULL, link))
      found = find_open(pid, path);
  return found;
}

char *
qemu_peer_find(Qmp *qmp, const char *path)
{
  char *found = find_by_listener(qmp_fd(qmp), path);
  return found ? found : find_by_holders(qmp_fd(qmp), path);
}

gboolean
qemu_peer_has_open(Qmp *qmp, const char *path)
{
  g_autofree char *found = g_path_is_absolute(path) ? qemu_peer_find(qmp, path) : NULL;
  return found != NULL;
}
