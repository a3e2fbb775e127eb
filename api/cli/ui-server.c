/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Answers of the daemon are passed on as they come, block by block, so that events do not wait for their end.
 */
#include "ui-server.h"

#include <common/error.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <string.h>
#include <sys/random.h>

#define SECRET_BYTES 32
#define BLOCK        (64 * 1024)
#define COOKIE       "cbt-backup-ui"
#define API          "/api"
#define POLICY                                                                                               \
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "            \
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#define UNREACHABLE                                                                                          \
  "{\"error\":{\"code\":\"unreachable\",\"message\":\"The daemon does not answer\",\"hint\":"                \
  "\"cbt-backup doctor\"}}\n"

struct UiServer {
  GSocketService *listener;
  SoupServer *server;
  SoupSession *daemon;
  guint port;
  char *token; /* NULL: it was used */
  char *cookie;
};

static const struct {
  const char *path;
  const char *resource;
  const char *type;
} files[] = {
    {"/", "/ui/index.html", "text/html; charset=utf-8"},
    {"/app.css", "/ui/app.css", "text/css; charset=utf-8"},
    {"/app.js", "/ui/app.js", "text/javascript; charset=utf-8"},
    {"/icon.svg", "/ui/icon.svg", "image/svg+xml"},
};

/* ---- secrets ---- */

/* NULL if the kernel has none. */
static char *
make_secret(void)
{
  guint8 bytes[SECRET_BYTES];
  GString *text = g_string_new(NULL);
  if (getrandom(bytes, sizeof bytes, 0) != (gssize) sizeof bytes) {
    g_string_free(text, TRUE);
    return NULL;
  }
  for (gsize i = 0; i < sizeof bytes; i++)
    g_string_append_printf(text, "%02x", bytes[i]);
  return g_string_free(text, FALSE);
}

/* In the same time wherever they differ. */
static gboolean
is_secret(const char *secret, const char *given)
{
  if (!secret || !given || strlen(given) != strlen(secret))
    return FALSE;
  guint differ = 0;
  for (gsize i = 0; secret[i]; i++)
    differ |= (guint) (secret[i] ^ given[i]);
  return differ == 0;
}

/* ---- who asks ---- */

static gboolean
is_our_host(const UiServer *server, SoupServerMessage *message)
{
  const char *host = soup_message_headers_get_list(soup_server_message_get_request_headers(message), "Host");
  g_autofree char *address = g_strdup_printf("127.0.0.1:%u", server->port);
  g_autofree char *name = g_strdup_printf("localhost:%u", server->port);
  return g_strcmp0(host, address) == 0 || g_strcmp0(host, name) == 0;
}

static gboolean
has_cookie(const UiServer *server, SoupServerMessage *message)
{
  const char *all = soup_message_headers_get_list(soup_server_message_get_request_headers(message), "Cookie");
  g_auto(GStrv) cookies = g_strsplit_set(all ? all : "", ";,", -1);
  gboolean found = FALSE;
  for (char **cookie = cookies; *cookie; cookie++) {
    g_strstrip(*cookie);
    found |= g_str_has_prefix(*cookie, COOKIE "=") && is_secret(server->cookie, *cookie + strlen(COOKIE "="));
  }
  return found;
}

/* ---- answers of our own ---- */

static void
set_headers(SoupServerMessage *message)
{
  static const char *const headers[][2] = {
      {"Content-Security-Policy", POLICY},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
      {"Cache-Control", "no-store"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(headers); i++)
    soup_message_headers_replace(soup_server_message_get_response_headers(message), headers[i][0],
                                 headers[i][1]);
}

static void
answer_text(SoupServerMessage *message, guint status, const char *type, const char *text)
{
  soup_server_message_set_status(message, status, NULL);
  soup_server_message_set_response(message, type, SOUP_MEMORY_COPY, text, strlen(text));
}

static void
refuse(SoupServerMessage *message, guint status, const char *text)
{
  answer_text(message, status, "text/plain; charset=utf-8", text);
}

static void
answer_file(SoupServerMessage *message, const char *path)
{
  for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
    if (strcmp(files[i].path, path) != 0)
      continue;
    g_autoptr(GBytes) bytes = g_resources_lookup_data(files[i].resource, G_RESOURCE_LOOKUP_FLAGS_NONE, NULL);
    soup_server_message_set_status(message, SOUP_STATUS_OK, NULL);
    soup_message_headers_set_content_type(soup_server_message_get_response_headers(message), files[i].type,
                                          NULL);
    soup_message_body_append_bytes(soup_server_message_get_response_body(message), bytes);
    return;
  }
  refuse(message, SOUP_STATUS_NOT_FOUND, "There is no such page.\n");
}

static void
go_to_page(SoupServerMessage *message)
{
  soup_message_headers_replace(soup_server_message_get_response_headers(message), "Location", "/");
  soup_server_message_set_status(message, SOUP_STATUS_SEE_OTHER, NULL);
}

/* The token becomes a cookie, and leaves the address. */
static void
take_token(UiServer *server, SoupServerMessage *message, const char *token)
{
  if (!is_secret(server->token, token)) {
    refuse(message, SOUP_STATUS_FORBIDDEN,
           "This address was used already, or is of another run. Start 'cbt-backup ui' again.\n");
    return;
  }
  SoupMessageHeaders *headers = soup_server_message_get_response_headers(message);
  g_autofree char *cookie = g_strdup_printf(COOKIE "=%s; Path=/; HttpOnly; SameSite=Strict", server->cookie);
  g_clear_pointer(&server->token, g_free);
  soup_message_headers_append(headers, "Set-Cookie", cookie);
  go_to_page(message);
}

/* ---- what is passed on ---- */

/* Lists and single things; an archive is a job, and many bytes. */
static gboolean
may_pass(const char *path)
{
  static const char *const roots[] = {"status",   "vms",     "points", "jobs",
                                      "policies", "exports", "doctor", NULL};
  g_auto(GStrv) parts = g_strsplit(path, "/", -1);
  guint n = g_strv_length(parts);
  for (const char *c = path; *c; c++)
    if (strchr("?#%", *c) || g_ascii_iscntrl(*c)) /* in an address it would mean something else */
      return FALSE;
  return n >= 3 && strcmp(parts[1], "v1") == 0 && g_strv_contains(roots, parts[2]) &&
         strcmp(parts[n - 1], "archive") != 0 && !g_strv_contains((const char *const *) parts, "..");
}

typedef struct {
  SoupServerMessage *message;
  SoupMessage *question;
  GInputStream *input; /* NULL until the daemon answered */
  GCancellable *cancellable;
  gulong disconnected_id;
} Pass;

static void
on_disconnected(SoupServerMessage *message G_GNUC_UNUSED, gpointer pass)
{
  g_cancellable_cancel(((Pass *) pass)->cancellable);
}

/* Ends the answer, unless nobody is there to get it. */
static void
pass_end(Pass *pass)
{
  g_signal_handler_disconnect(pass->message, pass->disconnected_id);
  if (!g_cancellable_is_cancelled(pass->cancellable)) {
    soup_message_body_complete(soup_server_message_get_response_body(pass->message));
    soup_server_message_unpause(pass->message);
  }
  g_object_unref(pass->message);
  g_object_unref(pass->question);
  g_clear_object(&pass->input);
  g_object_unref(pass->cancellable);
  g_free(pass);
}

static void
on_block(GObject *input, GAsyncResult *result, gpointer data)
{
  Pass *pass = data;
  g_autoptr(GBytes) bytes = g_input_stream_read_bytes_finish(G_INPUT_STREAM(input), result, NULL);
  if (!bytes || g_bytes_get_size(bytes) == 0 || g_cancellable_is_cancelled(pass->cancellable)) {
    pass_end(pass);
    return;
  }
  soup_message_body_append_bytes(soup_server_message_get_response_body(pass->message), bytes);
  soup_server_message_unpause(pass->message);
  g_input_stream_read_bytes_async(pass->input, BLOCK, G_PRIORITY_DEFAULT, pass->cancellable, on_block, pass);
}

static void
on_answer(GObject *session, GAsyncResult *result, gpointer data)
{
  Pass *pass = data;
  pass->input = soup_session_send_finish(SOUP_SESSION(session), result, NULL);
  if (!pass->input) {
    if (!g_cancellable_is_cancelled(pass->cancellable))
      answer_text(pass->message, SOUP_STATUS_BAD_GATEWAY, "application/json", UNREACHABLE);
    pass_end(pass);
    return;
  }
  SoupMessageHeaders *headers = soup_server_message_get_response_headers(pass->message);
  const char *type =
      soup_message_headers_get_one(soup_message_get_response_headers(pass->question), "Content-Type");
  soup_server_message_set_status(pass->message, soup_message_get_status(pass->question), NULL);
  soup_message_headers_replace(headers, "Content-Type", type ? type : "application/json");
  soup_message_headers_set_encoding(headers, SOUP_ENCODING_CHUNKED);
  soup_message_body_set_accumulate(soup_server_message_get_response_body(pass->message), FALSE);
  g_input_stream_read_bytes_async(pass->input, BLOCK, G_PRIORITY_DEFAULT, pass->cancellable, on_block, pass);
}

static void
pass_on(UiServer *server, SoupServerMessage *message)
{
  GUri *uri = soup_server_message_get_uri(message);
  const char *query = g_uri_get_query(uri);
  g_autofree char *target = g_strdup_printf("http://localhost%s%s%s", g_uri_get_path(uri) + strlen(API),
                                            query ? "?" : "", query ? query : "");
  SoupMessage *question = soup_message_new("GET", target);
  if (!question) {
    refuse(message, SOUP_STATUS_BAD_REQUEST, "That cannot be asked for.\n");
    return;
  }
  Pass *pass = g_new0(Pass, 1);
  *pass = (Pass){g_object_ref(message), question, NULL, g_cancellable_new(), 0};
  pass->disconnected_id = g_signal_connect(message, "disconnected", G_CALLBACK(on_disconnected), pass);
  soup_server_message_pause(message);
  soup_session_send_async(server->daemon, question, G_PRIORITY_DEFAULT, pass->cancellable, on_answer, pass);
}

/* ---- the server ---- */

static void
on_request(SoupServer *soup G_GNUC_UNUSED, SoupServerMessage *message, const char *path, GHashTable *query,
           gpointer data)
{
  UiServer *server = data;
  const char *token = query ? g_hash_table_lookup(query, "token") : NULL;
  set_headers(message);
  if (!is_our_host(server, message)) {
    refuse(message, SOUP_STATUS_FORBIDDEN, "This is not the host that was asked for.\n");
  } else if (strcmp(soup_server_message_get_method(message), "GET") != 0) {
    soup_message_headers_replace(soup_server_message_get_response_headers(message), "Allow", "GET");
    refuse(message, SOUP_STATUS_METHOD_NOT_ALLOWED, "This page only shows.\n");
  } else if (token && strcmp(path, "/") == 0 && has_cookie(server, message)) { /* the address once more */
    go_to_page(message);
  } else if (token && strcmp(path, "/") == 0) {
    take_token(server, message, token);
  } else if (!has_cookie(server, message)) {
    refuse(message, SOUP_STATUS_FORBIDDEN, "Open the address that 'cbt-backup ui' printed.\n");
  } else if (!g_str_has_prefix(path, API "/")) {
    answer_file(message, path);
  } else if (g_str_has_prefix(g_uri_get_path(soup_server_message_get_uri(message)), API "/") &&
             may_pass(path + strlen(API))) {
    pass_on(server, message);
  } else {
    refuse(message, SOUP_STATUS_NOT_FOUND, "That is not shown here.\n");
  }
}

/* libsoup's own way to listen loses a socket object for each connection. */
static gboolean
on_connection(GSocketService *service G_GNUC_UNUSED, GSocketConnection *connection,
              GObject *source G_GNUC_UNUSED, gpointer data)
{
  g_autoptr(GSocketAddress) here = g_socket_connection_get_local_address(connection, NULL);
  g_autoptr(GSocketAddress) there = g_socket_connection_get_remote_address(connection, NULL);
  g_autoptr(GError) error = NULL;
  if (!soup_server_accept_iostream(((UiServer *) data)->server, G_IO_STREAM(connection), here, there, &error))
    g_debug("a connection is dropped: %s", error->message);
  return TRUE;
}

static gboolean
listen_on(UiServer *server, guint port, GError **error)
{
  g_autoptr(GInetAddress) loopback = g_inet_address_new_loopback(G_SOCKET_FAMILY_IPV4);
  g_autoptr(GSocketAddress) address = g_inet_socket_address_new(loopback, (guint16) port), effective = NULL;
  g_autoptr(GError) local = NULL;
  if (!g_socket_listener_add_address(G_SOCKET_LISTENER(server->listener), address, G_SOCKET_TYPE_STREAM,
                                     G_SOCKET_PROTOCOL_TCP, NULL, &effective, &local)) {
    cbt_set_error(error, CBT_ERROR_FAILED, "Name another one with --port.",
                  "Cannot listen on 127.0.0.1:%u: %s", port, local->message);
    return FALSE;
  }
  server->port = g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(effective));
  g_signal_connect(server->listener, "incoming", G_CALLBACK(on_connection), server);
  return TRUE;
}

UiServer *
ui_server_new(guint port, const char *socket_path, GError **error)
{
  g_autoptr(GSocketAddress) daemon = g_unix_socket_address_new(socket_path);
  UiServer *server = g_new0(UiServer, 1);
  server->token = make_secret();
  server->cookie = make_secret();
  server->server = soup_server_new("server-header", NULL, NULL);
  server->daemon = soup_session_new_with_options("remote-connectable", daemon, "proxy-resolver", NULL,
                                                 "max-conns", 32, "max-conns-per-host", 32, NULL);
  server->listener = g_socket_service_new();
  soup_server_add_handler(server->server, NULL, on_request, server, NULL);
  if (server->token && server->cookie && listen_on(server, port, error))
    return server;
  if (error && !*error)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "The kernel gives no random bytes");
  ui_server_free(server);
  return NULL;
}

void
ui_server_free(UiServer *server)
{
  g_socket_service_stop(server->listener);
  g_socket_listener_close(G_SOCKET_LISTENER(server->listener));
  g_object_unref(server->listener);
  soup_server_disconnect(server->server);
  soup_session_abort(server->daemon);
  g_object_unref(server->server);
  g_object_unref(server->daemon);
  g_free(server->token);
  g_free(server->cookie);
  g_free(server);
}

char *
ui_server_url(const UiServer *server)
{
  return g_strdup_printf("http://127.0.0.1:%u/?token=%s", server->port, server->token ? server->token : "");
}
