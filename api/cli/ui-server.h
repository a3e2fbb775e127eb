/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server of `ui`: a page, and behind /api/ what of the daemon's API only reads, on loopback.
 *
 * Who may ask: whoever has the token that the command printed, once; after that its browser has a cookie,
 * which no script can read and no other site can make the browser send. The name in Host must be ours, so
 * that no other site can become us by its DNS. Only GET passes. What is asked of the daemon is asked with the
 * rights of the user who runs the command.
 *
 * Threads: that of the default main context.
 */
#pragma once

#include <glib.h>

typedef struct UiServer UiServer;

/* Listens on 127.0.0.1; PORT 0 is any that is free. SOCKET_PATH is the daemon's. FAILED names the port. */
UiServer *ui_server_new(guint port, const char *socket_path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void ui_server_free(UiServer *server);
/* With the token (transfer full). */
char *ui_server_url(const UiServer *server);
