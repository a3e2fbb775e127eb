/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For api/ and its tests: who is at the other end of a Unix socket. */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

typedef struct {
  uid_t uid;
  gid_t gid;
} ApiPeer;

#define API_NO_GROUP ((gid_t) -1)

gboolean api_peer_get(GSocket *socket, ApiPeer *peer);
/* Root, the user of this process, and members of GROUP (API_NO_GROUP: nobody else): by primary group, by the
 * groups that the peer's process has, or by the group database. */
gboolean api_peer_is_allowed(GSocket *socket, const ApiPeer *peer, gid_t group);
/* Root, and the user of this process, who can do without it all that it can do. */
gboolean api_peer_is_trusted(const ApiPeer *peer);
/* The id of the group NAME. FALSE with CBT_ERROR_NOT_FOUND. */
gboolean api_peer_find_group(const char *name, gid_t *group, GError **error) G_GNUC_WARN_UNUSED_RESULT;
