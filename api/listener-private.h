/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For api/: the listening Unix socket: claims its path, accepts, lets in whom it may, and sends the others
 * away with an answer.
 */
#pragma once

#include <api/router-private.h>
#include <gio/gio.h>

typedef struct ApiListener ApiListener;

/* A connection that may speak; (transfer none). TRUSTED: the peer is root or the server's own user. */
typedef void (*ApiAcceptFunc)(GSocketConnection *connection, gboolean trusted, gpointer user_data);

/* Errors as of api_server_new(). */
ApiListener *api_listener_new(const ApiServerOptions *options, ApiAcceptFunc accepted, gpointer user_data,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Stops accepting, drops those that were sent away, and removes the socket. */
void api_listener_free(ApiListener *listener);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ApiListener, api_listener_free)

/* A whole answer with the object ERROR (transfer none), after which the connection is closed. (transfer full)
 */
char *api_error_to_http(guint status, JsonNode *error);

/*
 * Answers CONNECTION with PROBLEM whatever the peer is still sending, and closes it. What comes in after that
 * is read and thrown away for some seconds, so that a peer in the middle of a large request finds the answer
 * instead of a broken pipe.
 */
void api_listener_refuse(ApiListener *listener, GSocketConnection *connection, const ApiProblem *problem);
