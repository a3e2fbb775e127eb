/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel notes the peer's user and groups when it connects. The groups of its process (SO_PEERGROUPS) are
 * what counts for the file mode of the socket as well; the group database is only asked where the kernel
 * cannot tell.
 */
#include <api/peer-private.h>

#include <common/error.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

#define GROUPS_MAX 65536 /* NGROUPS_MAX of Linux */

gboolean
api_peer_get(GSocket *socket, ApiPeer *peer)
{
  struct ucred credentials;
  socklen_t length = sizeof credentials;
  if (getsockopt(g_socket_get_fd(socket), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return FALSE;
  *peer = (ApiPeer){.uid = credentials.uid, .gid = credentials.gid};
  return TRUE;
}

static gboolean
contains(const gid_t *groups, gsize n_groups, gid_t group)
{
  for (gsize i = 0; i < n_groups; i++)
    if (groups[i] == group)
      return TRUE;
  return FALSE;
}

static gboolean
database_has(const ApiPeer *peer, gid_t group)
{
  struct passwd entry, *found = NULL;
  char buffer[16384];
  if (getpwuid_r(peer->uid, &entry, buffer, sizeof buffer, &found) != 0 || !found)
    return FALSE;
  int n_groups = GROUPS_MAX;
  g_autofree gid_t *groups = g_new(gid_t, GROUPS_MAX);
  if (getgrouplist(entry.pw_name, entry.pw_gid, groups, &n_groups) < 0)
    return FALSE;
  return contains(groups, (gsize) n_groups, group);
}

static gboolean
is_member(GSocket *socket, const ApiPeer *peer, gid_t group)
{
  socklen_t length = GROUPS_MAX * sizeof(gid_t);
  g_autofree gid_t *groups = g_malloc(length);
  if (peer->gid == group)
    return TRUE;
  if (getsockopt(g_socket_get_fd(socket), SOL_SOCKET, SO_PEERGROUPS, groups, &length) == 0)
    return contains(groups, length / sizeof(gid_t), group);
  return database_has(peer, group);
}

gboolean
api_peer_is_trusted(const ApiPeer *peer)
{
  return peer->uid == 0 || peer->uid == geteuid();
}

gboolean
api_peer_is_allowed(GSocket *socket, const ApiPeer *peer, gid_t group)
{
  if (api_peer_is_trusted(peer))
    return TRUE;
  return group != API_NO_GROUP && is_member(socket, peer, group);
}

gboolean
api_peer_find_group(const char *name, gid_t *group, GError **error)
{
  struct group entry, *found = NULL;
  gsize size = 1024;
  g_autofree char *buffer = g_malloc(size);
  int errsv;
  while ((errsv = getgrnam_r(name, &entry, buffer, size, &found)) == ERANGE && size < (1 << 24))
    buffer = g_realloc(buffer, size *= 2);
  if (!found) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "Create it, or name another group in the configuration.",
                  "There is no group '%s'%s%s", name, errsv ? ": " : "", errsv ? g_strerror(errsv) : "");
    return FALSE;
  }
  *group = found->gr_gid;
  return TRUE;
}
