/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For api/: a connection whose input shows libsoup the head of a request only when all of it is there, and
 * another one in its place if libsoup would leak: 3.2 loses the path, of up to 100 KiB, when it cannot tell
 * the length of the body. The other one is refused for the same reason.
 */
#pragma once

#include <gio/gio.h>

/* Of SOCKET, which it takes a reference of (transfer full). */
GSocketConnection *api_connection_new(GSocket *socket);
