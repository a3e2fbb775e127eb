/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A libsoup session whose only peer is the socket. It gets no proxy resolver, which would load GIO modules
 * for nothing. */
#include <api/client.h>

#include <api/json.h>
#include <gio/gunixoutputstream.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <libsoup/soup.h>
#include <string.h>
#include <sys/un.h>

#define STREAM_BLOCK (1 << 20)

struct ApiClient {
  char *socket_path;
  SoupSession *session; /* made with the first call */
};

ApiClient *
api_client_new(const char *socket_path)
{
  ApiClient *self = g_new0(ApiClient, 1);
  self->socket_path = g_strdup(socket_path);
  return self;
}

void
api_client_free(ApiClient *self)
{
  if (!self)
    return;
  g_clear_object(&self->session);
  g_free(self->socket_path);
  g_free(self);
}

static gboolean
open_session(ApiClient *self, GError **error)
{
  if (self->session)
    return TRUE;
  if (strlen(self->socket_path) >= sizeof(((struct sockaddr_un *) NULL)->sun_path)) {
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, "Name another one with --socket.",
                  "The path of the socket %s is too long", self->socket_path);
    return FALSE;
  }
  g_autoptr(GSocketAddress) address = g_unix_socket_address_new(self->socket_path);
  self->session = soup_session_new_with_options("remote-connectable", address, "proxy-resolver", NULL, NULL);
  return TRUE;
}

static SoupMessage *
new_message(const char *method, const char *path, JsonNode *body, GError **error)
{
  g_autofree char *uri = g_strconcat("http://localhost", path, NULL);
  SoupMessage *message = soup_message_new(method, uri);
  if (!message) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' cannot be asked for", path);
    return NULL;
  }
  if (body) {
    char *text = api_json_to_text(body);
    g_autoptr(GBytes) bytes = g_bytes_new_take(text, strlen(text));
    soup_message_set_request_body_from_bytes(message, "application/json", bytes);
  }
  return message;
}

/* The unit comes with packages, and may not be there; nor may systemd. */
static char *
how_to_start(void)
{
  static const char *const folders[] = {"/etc", "/usr/lib", "/lib", "/usr/local/lib"};
  gboolean is_booted = g_access("/run/systemd/system", F_OK) == 0, has_unit = FALSE;
  for (guint i = 0; is_booted && i < G_N_ELEMENTS(folders); i++) {
    g_autofree char *path = g_build_filename(folders[i], "systemd/system/cbt-backupd.service", NULL);
    has_unit |= g_access(path, F_OK) == 0;
  }
  return g_strdup_printf("Start it with: %s. If it runs with another --runtime-dir, name its socket with "
                         "--socket PATH or CBT_BACKUP_SOCKET.",
                         has_unit ? "systemctl start cbt-backupd" : "cbt-backupd");
}

static void
set_unreachable(ApiClient *self, const GError *cause, GError **error)
{
  g_autofree char *start = how_to_start();
  if (g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
    cbt_set_error(error, CBT_ERROR_UNREACHABLE,
                  "Run this as root, or join the group of the daemon's configuration.",
                  "No permission to talk to the daemon on %s", self->socket_path);
  else if (g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
           g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED))
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, start, "The daemon does not answer on %s", self->socket_path);
  else
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, start, "The daemon does not answer on %s: %s",
                  self->socket_path, cause->message);
}

static const char *
text_member(JsonObject *object, const char *key)
{
  const char *text = NULL;
  return api_json_get_string(object, key, FALSE, &text, NULL) ? text : NULL;
}

/* Sets ERROR from {"error":{...}}; from STATUS alone if NODE is nothing of the kind. */
static void
set_from_answer(guint status, JsonNode *node, GError **error)
{
  JsonObject *outer = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
  JsonNode *inner = outer ? json_object_get_member(outer, "error") : NULL;
  const char *message = NULL, *hint = NULL;
  CbtErrorCode code = CBT_ERROR_FAILED;
  if (inner && JSON_NODE_HOLDS_OBJECT(inner)) {
    JsonObject *object = json_node_get_object(inner);
    code = cbt_error_code_from_name(text_member(object, "code"));
    message = text_member(object, "message");
    hint = text_member(object, "hint");
  }
  if (message)
    cbt_set_error(error, code, hint, "%s", message);
  else
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "The daemon answered with status %u", status);
}

static JsonNode *
parse_answer(SoupMessage *message, GBytes *bytes, GError **error)
{
  gsize length;
  const char *text = g_bytes_get_data(bytes, &length);
  guint status = soup_message_get_status(message);
  gboolean good = SOUP_STATUS_IS_SUCCESSFUL(status);
  if (good && length == 0)
    return json_node_init_null(json_node_alloc());
  g_autoptr(JsonNode) node =
      length > 0 ? api_json_from_text(text, (gssize) length, good ? error : NULL) : NULL;
  if (good)
    return g_steal_pointer(&node);
  set_from_answer(status, node, error);
  return NULL;
}

JsonNode *
api_client_call(ApiClient *self, const char *method, const char *path, JsonNode *body, GError **error)
{
  if (!open_session(self, error))
    return NULL;
  g_autoptr(SoupMessage) message = new_message(method, path, body, error);
  if (!message)
    return NULL;
  g_autoptr(GError) local = NULL;
  g_autoptr(GBytes) bytes = soup_session_send_and_read(self->session, message, NULL, &local);
  if (!bytes) {
    set_unreachable(self, local, error);
    return NULL;
  }
  return parse_answer(message, bytes, error);
}

static gboolean
copy_to_fd(GInputStream *input, int fd, GError **error)
{
  g_autofree guint8 *buffer = g_malloc(STREAM_BLOCK);
  g_autoptr(GOutputStream) output = g_unix_output_stream_new(fd, FALSE);
  g_autoptr(GError) local = NULL;
  gssize n;
  while ((n = g_input_stream_read(input, buffer, STREAM_BLOCK, NULL, &local)) > 0)
    if (!g_output_stream_write_all(output, buffer, (gsize) n, NULL, NULL, &local))
      break;
  if (!local)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_IO, n > 0 ? NULL : "See cbt-backup job list for the reason.", "%s: %s",
                n > 0 ? "Cannot write" : "The daemon's answer was cut off", local->message);
  return FALSE;
}

gboolean
api_client_stream(ApiClient *self, const char *path, int fd, GError **error)
{
  if (!open_session(self, error))
    return FALSE;
  g_autoptr(SoupMessage) message = new_message("GET", path, NULL, error);
  if (!message)
    return FALSE;
  g_autoptr(GError) local = NULL;
  g_autoptr(GInputStream) input = soup_session_send(self->session, message, NULL, &local);
  if (!input) {
    set_unreachable(self, local, error);
    return FALSE;
  }
  if (SOUP_STATUS_IS_SUCCESSFUL(soup_message_get_status(message)))
    return copy_to_fd(input, fd, error);
  g_autoptr(GOutputStream) text = g_memory_output_stream_new_resizable();
  g_output_stream_splice(text, input, G_OUTPUT_STREAM_SPLICE_CLOSE_TARGET, NULL, NULL);
  g_autoptr(GBytes) bytes = g_memory_output_stream_steal_as_bytes(G_MEMORY_OUTPUT_STREAM(text));
  g_autoptr(JsonNode) none = parse_answer(message, bytes, error);
  return FALSE;
}
