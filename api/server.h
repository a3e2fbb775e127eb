/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The HTTP server: JSON requests over a Unix socket, handed to a table of routes that the daemon fills.
 *
 * It checks who is calling (root, the server's own user, members of the configured group: others get 403),
 * bounds the request (1 MiB of body: 413, by its Content-Length before any of it is read; a
 * chunked one: 411), finds the route (404; 405 with Allow), parses JSON, refuses unknown keys and query
 * parameters by name (400), and turns errors into
 * {"error":{"code","message","hint"}}. A POST, PUT or PATCH without a length has no body; a route with body
 * keys answers it with 411, unless they are optional. A connection serves one request.
 *
 * A request has 20 seconds to come in, and its answer a minute to be taken. At most 256 connections are open,
 * the last 64 of them for root and the server's own user; others get 503.
 *
 * Threads: the main-loop thread only. A handler may reply later: it keeps the request, and exactly one reply
 * ends it. A client that went away is no error.
 */
#pragma once

#include <common/error.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>

typedef struct ApiServer ApiServer;
typedef struct ApiRequest ApiRequest;

typedef void (*ApiHandler)(ApiRequest *request, gpointer user_data);

typedef struct {
  const char *method; /* "GET", ... */
  const char *path;   /* "/v1/vms/{vm}/disks/{disk}" */
  ApiHandler handler;
  const char *body_keys;  /* the keys that the JSON body may have, space-separated; NULL: takes no body. With
                             a '?' before the first, a request without a length is one without a body */
  const char *query_keys; /* query parameters, the same way; NULL: none */
} ApiRoute;

typedef struct {
  const char *socket_path;
  const char *group;       /* (nullable) its members may connect; the socket is then 0660, else 0600 */
  guint request_timeout_s; /* for a request to come in as a whole; 0: 20 */
} ApiServerOptions;

/* ROUTES end with a NULL method and outlive the server, as USER_DATA does. Errors: BUSY if another server
 * answers on the socket (a stale one is replaced), NOT_FOUND for an unknown group, DENIED, IO. */
ApiServer *api_server_new(const ApiServerOptions *options, const ApiRoute *routes, gpointer user_data,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Closes connections and removes the socket. */
void api_server_free(ApiServer *server);

/* {name} of the path, unescaped; never NULL for a name that the route has. (transfer none), as all below. */
const char *api_request_param(ApiRequest *request, const char *name);
/* A query parameter or NULL. */
const char *api_request_query(ApiRequest *request, const char *name);
/* The body, an object; an empty one if there was none. */
JsonObject *api_request_body(ApiRequest *request);

/* Whether the client is root, or the server's own user. */
gboolean api_request_is_trusted(ApiRequest *request);

/* Ends REQUEST. BODY (transfer full) may be NULL for 204. */
void api_request_reply(ApiRequest *request, guint status, JsonNode *body);
/* Ends REQUEST with ERROR (transfer full), its status from the code table. */
void api_request_reply_error(ApiRequest *request, GError *error);
typedef struct ApiStream ApiStream;
/* Ends REQUEST with a body of unknown length, which whoever has the stream writes: 200 OK, in chunks. NULL if
 * the client left. Main thread. */
ApiStream *api_request_reply_stream(ApiRequest *request, const char *content_type) G_GNUC_WARN_UNUSED_RESULT;
/* One chunk; waits for a slow client. CANCELLED; IO if the client left, or takes nothing for a minute. Any
 * thread, one at a time, as finish. */
gboolean api_stream_write(ApiStream *stream, const guint8 *data, gsize length, GCancellable *cancellable,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends the body; without it the client sees that it was cut off. */
gboolean api_stream_finish(ApiStream *stream, GCancellable *cancellable,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Answers with PROBLEM instead, if nothing was written yet. No thread may be writing. */
void api_stream_fail(ApiStream *stream, const GError *problem);
/* Says that nothing more comes, as soon as the writing thread is done. */
void api_stream_shutdown(ApiStream *stream);
/* Closes the connection. Main thread. */
void api_stream_free(ApiStream *stream);

/* Ends REQUEST with TEXT that is not JSON; CONTENT_TYPE is for example "text/plain; version=0.0.4". */
void api_request_reply_text(ApiRequest *request, guint status, const char *content_type, const char *text);
