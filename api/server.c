/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libsoup parses and writes HTTP; the listener brings it connections of peers that may speak. One request a
 * connection: every answer says "Connection: close".
 *
 * A request is judged twice. When its headers are there: a body that is too large, of unknown length, or
 * badly measured is refused at once, by taking the connection away from libsoup, which would read all of it
 * first. When the body is there: route, query, JSON, keys, then the handler. The message is paused until the
 * reply.
 */
#include <api/server.h>

#include <api/caller-private.h>
#include <api/json.h>
#include <api/json-private.h>
#include <api/listener-private.h>
#include <api/stream-private.h>
#include <libsoup/soup.h>
#include <string.h>

#define BODY_MAX  (1024 * 1024)
#define REQUEST_S 20 /* from the connection to the last byte of the request, if nothing else is said */
#define ANSWER_S  60 /* for the client to take an answer */
#define JSON_TYPE "application/json"

struct ApiServer {
  ApiListener *listener;
  SoupServer *soup;
  const ApiRoute *routes;
  gpointer user_data;
  guint request_timeout_s;
};

struct ApiRequest {
  SoupServerMessage *message;
  GSocketAddress *address; /* that has the caller */
  ApiCaller *caller;
  gulong disconnected_id;
  gboolean is_gone; /* the client left: the reply is dropped */
  GHashTable *params;
  GHashTable *query;
  JsonObject *body;
};

/* Answers */

static void
set_body(SoupServerMessage *message, const char *type, const char *text)
{
  soup_message_body_truncate(soup_server_message_get_response_body(message));
  if (text)
    soup_server_message_set_response(message, type, SOUP_MEMORY_COPY, text, strlen(text));
  else
    soup_message_headers_remove(soup_server_message_get_response_headers(message), "Content-Type");
}

static void
set_body_json(SoupServerMessage *message, JsonNode *node)
{
  g_autofree char *json = node ? api_json_to_text(node) : NULL;
  g_autofree char *line = node ? g_strconcat(json, "\n", NULL) : NULL;
  set_body(message, JSON_TYPE, line);
}

static void
set_answer(SoupServerMessage *message, guint status, JsonNode *node)
{
  soup_server_message_set_status(message, status, NULL);
  set_body_json(message, node);
}

static void
set_answer_problem(SoupServerMessage *message, const ApiProblem *problem)
{
  g_autoptr(JsonNode) node = api_json_new_error(problem->code, problem->message, problem->hint);
  if (problem->allow)
    soup_message_headers_replace(soup_server_message_get_response_headers(message), "Allow", problem->allow);
  set_answer(message, problem->status, node);
}

/* Requests */

static void
request_free(ApiRequest *request)
{
  g_signal_handler_disconnect(request->message, request->disconnected_id);
  g_object_unref(request->message);
  g_object_unref(request->address);
  g_hash_table_unref(request->params);
  g_hash_table_unref(request->query);
  g_clear_pointer(&request->body, json_object_unref);
  g_free(request);
}

static void
on_disconnected(SoupServerMessage *message, gpointer user_data)
{
  (void) message;
  ApiRequest *request = user_data;
  request->is_gone = TRUE;
}

static ApiRequest *
request_new(SoupServerMessage *message)
{
  ApiRequest *request = g_new0(ApiRequest, 1);
  request->message = g_object_ref(message);
  request->address = g_object_ref(soup_server_message_get_remote_address(message));
  request->caller = api_caller_of(message);
  request->params = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  request->query = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  request->disconnected_id = g_signal_connect(message, "disconnected", G_CALLBACK(on_disconnected), request);
  return request;
}

/* Ends REQUEST; its answer is set. */
static void
request_end(ApiRequest *request)
{
  api_caller_set_deadline(request->caller, ANSWER_S);
  if (!request->is_gone)
    soup_server_message_unpause(request->message);
  request_free(request);
}

static void
end_with_problem(ApiRequest *request, const ApiProblem *problem)
{
  set_answer_problem(request->message, problem);
  request_end(request);
}

static void
set_invalid(ApiProblem *problem, const GError *error)
{
  g_autofree char *message = cbt_error_message(error);
  api_problem_set(problem, 400, "invalid", NULL, "%s", message);
}

/* The bytes of the body as an object without unknown keys; an empty one if there are none. */
static JsonObject *
parse_body(GBytes *bytes, const char *allowed, GError **error)
{
  gsize length;
  const char *text = g_bytes_get_data(bytes, &length);
  if (length == 0)
    return json_object_new();
  g_autoptr(JsonNode) node = api_json_from_text(text, (gssize) length, error);
  if (!node)
    return NULL;
  if (!JSON_NODE_HOLDS_OBJECT(node)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "The body must be a JSON object");
    return NULL;
  }
  if (!api_json_check_keys(json_node_get_object(node), allowed, error))
    return NULL;
  return json_node_dup_object(node);
}

static gboolean
has_length(SoupServerMessage *message)
{
  return soup_message_headers_get_one(soup_server_message_get_request_headers(message), "Content-Length") !=
         NULL;
}

static gboolean
method_sends_body(const char *method)
{
  static const char *const senders[] = {"POST", "PUT", "PATCH", NULL};
  return g_strv_contains(senders, method);
}

static gboolean
read_body(ApiRequest *request, const ApiRoute *route, ApiProblem *problem)
{
  gboolean optional = route->body_keys && route->body_keys[0] == '?';
  const char *allowed = route->body_keys ? route->body_keys + optional : "";
  if (*allowed && !optional && method_sends_body(route->method) && !has_length(request->message)) {
    api_problem_set(problem, 411, "length-required", NULL, "%s needs a Content-Length here", route->method);
    return FALSE;
  }
  g_autoptr(GError) error = NULL;
  g_autoptr(GBytes) bytes = soup_message_body_flatten(soup_server_message_get_request_body(request->message));
  request->body = parse_body(bytes, allowed, &error);
  if (!request->body)
    set_invalid(problem, error);
  return request->body != NULL;
}

/* The route of REQUEST, with its parameters, query and body read. */
static const ApiRoute *
prepare(ApiServer *self, ApiRequest *request, ApiProblem *problem)
{
  GUri *uri = soup_server_message_get_uri(request->message);
  const char *method = soup_server_message_get_method(request->message);
  const ApiRoute *route =
      api_router_find(self->routes, method, g_uri_get_path(uri), request->params, problem);
  if (!route || !api_router_parse_query(g_uri_get_query(uri), route->query_keys, request->query, problem) ||
      !read_body(request, route, problem))
    return NULL;
  return route;
}

static void
on_request(SoupServer *soup, SoupServerMessage *message, const char *path, GHashTable *form,
           gpointer user_data)
{
  (void) soup, (void) path, (void) form;
  ApiServer *self = user_data;
  g_auto(ApiProblem) problem = {0};
  ApiRequest *request = request_new(message);
  soup_server_message_pause(message);
  api_caller_set_deadline(request->caller, 0);
  const ApiRoute *route = prepare(self, request, &problem);
  if (route)
    route->handler(request, self->user_data);
  else
    end_with_problem(request, &problem);
}

/* Headers */

/* FALSE with PROBLEM set if the body must not even be read. */
static gboolean
check_length(SoupMessageHeaders *headers, ApiProblem *problem)
{
  if (soup_message_headers_get_one(headers, "Transfer-Encoding")) {
    api_problem_set(problem, 411, "length-required", NULL,
                    "Send a Content-Length instead of a Transfer-Encoding");
    return FALSE;
  }
  const char *text = soup_message_headers_get_list(headers, "Content-Length");
  guint64 length = 0;
  g_autoptr(GError) error = NULL;
  if (!text)
    return TRUE;
  if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &length, &error) &&
      !g_error_matches(error, G_NUMBER_PARSER_ERROR, G_NUMBER_PARSER_ERROR_OUT_OF_BOUNDS)) {
    api_problem_set(problem, 400, "invalid", NULL, "The Content-Length is not a number");
    return FALSE;
  }
  if (error || length > BODY_MAX) {
    api_problem_set(problem, 413, cbt_error_code_name(CBT_ERROR_TOO_LARGE), NULL,
                    "The body is larger than %d bytes", BODY_MAX);
    return FALSE;
  }
  return TRUE;
}

static void
refuse(ApiServer *self, SoupServerMessage *message, const ApiProblem *problem)
{
  api_caller_set_deadline(api_caller_of(message), 0);
  g_autoptr(GIOStream) stream = soup_server_message_steal_connection(message);
  g_autoptr(GSocketConnection) connection = NULL;
  g_object_get(stream, "base-iostream", &connection, NULL);
  api_listener_refuse(self->listener, connection, problem);
}

static void
on_headers(SoupServerMessage *message, gpointer user_data)
{
  ApiServer *self = user_data;
  g_auto(ApiProblem) problem = {0};
  SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
  soup_message_headers_remove(headers, "Range"); /* libsoup would answer with parts of the JSON */
  if (!check_length(headers, &problem))
    refuse(self, message, &problem);
}

static void
on_started(SoupServer *soup, SoupServerMessage *message, gpointer user_data)
{
  (void) soup;
  soup_message_headers_replace(soup_server_message_get_response_headers(message), "Connection", "close");
  /* Stays if libsoup cannot make sense of the request; it then sets a status of its own. */
  g_autoptr(JsonNode) node =
      api_json_new_error("invalid", "The request is not HTTP/1.1 as understood here", NULL);
  set_body_json(message, node);
  g_signal_connect(message, "got-headers", G_CALLBACK(on_headers), user_data);
}

static void
on_accepted(GSocketConnection *connection, gboolean trusted, gpointer user_data)
{
  ApiServer *self = user_data;
  g_autoptr(GError) error = NULL;
  g_autoptr(GSocketAddress) address = api_caller_new(connection, trusted, self->request_timeout_s);
  if (!soup_server_accept_iostream(self->soup, G_IO_STREAM(connection), address, address, &error))
    g_warning("Cannot serve a connection: %s", error->message);
}

/* Life */

ApiServer *
api_server_new(const ApiServerOptions *options, const ApiRoute *routes, gpointer user_data, GError **error)
{
  ApiServer *self = g_new0(ApiServer, 1);
  self->routes = routes;
  self->user_data = user_data;
  self->request_timeout_s = options->request_timeout_s ? options->request_timeout_s : REQUEST_S;
  self->listener = api_listener_new(options, on_accepted, self, error);
  if (!self->listener) {
    g_free(self);
    return NULL;
  }
  self->soup = soup_server_new("raw-paths", TRUE, NULL);
  soup_server_add_handler(self->soup, NULL, on_request, self, NULL);
  soup_server_add_handler(self->soup, "*", on_request, self, NULL); /* OPTIONS * */
  g_signal_connect(self->soup, "request-started", G_CALLBACK(on_started), self);
  return self;
}

void
api_server_free(ApiServer *self)
{
  if (!self)
    return;
  soup_server_disconnect(self->soup);
  g_object_unref(self->soup);
  api_listener_free(self->listener);
  g_free(self);
}

/* What handlers use */

const char *
api_request_param(ApiRequest *request, const char *name)
{
  return g_hash_table_lookup(request->params, name);
}

const char *
api_request_query(ApiRequest *request, const char *name)
{
  return g_hash_table_lookup(request->query, name);
}

gboolean
api_request_is_trusted(ApiRequest *request)
{
  return api_caller_is_trusted(request->caller);
}

JsonObject *
api_request_body(ApiRequest *request)
{
  return request->body;
}

void
api_request_reply(ApiRequest *request, guint status, JsonNode *body)
{
  set_answer(request->message, status, body);
  g_clear_pointer(&body, json_node_unref);
  request_end(request);
}

void
api_request_reply_text(ApiRequest *request, guint status, const char *content_type, const char *text)
{
  soup_server_message_set_status(request->message, status, NULL);
  set_body(request->message, content_type, text);
  request_end(request);
}

void
api_request_reply_error(ApiRequest *request, GError *error)
{
  g_autoptr(JsonNode) node = api_json_from_error(error);
  set_answer(request->message, (guint) cbt_error_http_status((int) cbt_error_code(error)), node);
  g_error_free(error);
  request_end(request);
}

ApiStream *
api_request_reply_stream(ApiRequest *request, const char *content_type)
{
  ApiStream *stream = NULL;
  if (!request->is_gone) {
    g_autoptr(GIOStream) connection = soup_server_message_steal_connection(request->message);
    stream = api_stream_new(connection, content_type);
  }
  request_free(request);
  return stream;
}
