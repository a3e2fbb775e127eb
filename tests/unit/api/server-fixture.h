/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A server in a child process, and ways to talk to it. */
#pragma once
#include <api/client.h>
#include <api/json.h>
#include <api/server.h>
#include <api/stream-private.h>

#include <errno.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define DEADLINE_MS 20000
#define MIB         (1024 * 1024)

typedef struct {
  char *dir;
  char *path;
  pid_t server;
} Fixture;

/* The server */

static int n_later; /* requests of /v1/later that were answered */

static G_GNUC_UNUSED JsonNode *
new_object(const char *key, const char *value)
{
  JsonObject *object = json_object_new();
  json_object_set_string_member(object, key, value);
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, object);
  return node;
}

static G_GNUC_UNUSED void
handle_echo(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  JsonNode *node = new_object("name", api_request_param(request, "name"));
  JsonObject *object = json_node_get_object(node);
  if (api_request_query(request, "q"))
    json_object_set_string_member(object, "q", api_request_query(request, "q"));
  json_object_set_object_member(object, "body", json_object_ref(api_request_body(request)));
  api_request_reply(request, 200, node);
}

static G_GNUC_UNUSED gboolean
answer_later(gpointer request)
{
  n_later++;
  api_request_reply(request, 200, new_object("late", "yes"));
  return G_SOURCE_REMOVE;
}

static G_GNUC_UNUSED void
handle_later(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_timeout_add(50, answer_later, request);
}

static G_GNUC_UNUSED void
handle_count(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_autofree char *count = g_strdup_printf("%d", n_later);
  api_request_reply(request, 200, new_object("later", count));
}

static G_GNUC_UNUSED void
handle_never(ApiRequest *request, gpointer user_data)
{
  g_ptr_array_add(user_data, request); /* answered when the server is gone */
}

static G_GNUC_UNUSED void
handle_error(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  GError *error = NULL;
  cbt_set_error(&error, cbt_error_code_from_name(api_request_param(request, "code")), "Try again.",
                "It went wrong");
  api_request_reply_error(request, error);
}

static G_GNUC_UNUSED void
handle_nothing(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 204, NULL);
}

static G_GNUC_UNUSED void
handle_metrics(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply_text(request, 200, "text/plain; version=0.0.4", "cbt_up 1\n");
}

static G_GNUC_UNUSED void
handle_large(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_autofree char *text = g_strnfill(8 * MIB, 'x');
  api_request_reply(request, 200, new_object("text", text));
}

/* What became of the stream that was asked for last. */
static char *stream_end;

typedef struct {
  ApiStream *stream;
  GError *error;
} Streaming;

static G_GNUC_UNUSED gboolean
on_stream_ended(gpointer data)
{
  Streaming *streaming = data;
  g_free(stream_end);
  stream_end = g_strdup(streaming->error->message);
  g_error_free(streaming->error);
  api_stream_free(streaming->stream);
  g_free(streaming);
  return G_SOURCE_REMOVE;
}

static G_GNUC_UNUSED gpointer
stream_for_ever(gpointer data)
{
  Streaming *streaming = data;
  static const guint8 block[65536];
  while (api_stream_write(streaming->stream, block, sizeof block, NULL, &streaming->error))
    continue;
  g_idle_add(on_stream_ended, streaming);
  return NULL;
}

/* A stream without an end, for who reads it. */
static G_GNUC_UNUSED void
handle_stream(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  Streaming *streaming = g_new0(Streaming, 1);
  streaming->stream = api_request_reply_stream(request, "application/octet-stream");
  api_stream_set_patience(streaming->stream, 300);
  g_thread_unref(g_thread_new("stream", stream_for_ever, streaming));
}

static G_GNUC_UNUSED void
handle_stream_end(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 200, new_object("end", stream_end ? stream_end : ""));
}

static const ApiRoute routes[] = {
    {"GET", "/v1/echo/{name}", handle_echo, NULL, "q"},
    {"POST", "/v1/echo/{name}", handle_echo, "a b", NULL},
    {"PATCH", "/v1/echo/{name}", handle_echo, "a", NULL},
    {"POST", "/v1/plain/{name}", handle_echo, NULL, NULL},
    {"POST", "/v1/optional/{name}", handle_echo, "?a", NULL},
    {"GET", "/v1/later", handle_later, NULL, NULL},
    {"GET", "/v1/count", handle_count, NULL, NULL},
    {"GET", "/v1/never", handle_never, NULL, NULL},
    {"GET", "/v1/error/{code}", handle_error, NULL, NULL},
    {"DELETE", "/v1/nothing", handle_nothing, NULL, NULL},
    {"GET", "/metrics", handle_metrics, NULL, NULL},
    {"GET", "/v1/large", handle_large, NULL, NULL},
    {"GET", "/v1/stream", handle_stream, NULL, NULL},
    {"GET", "/v1/stream-end", handle_stream_end, NULL, NULL},
    {0},
};

static G_GNUC_UNUSED gboolean
on_term(gpointer loop)
{
  g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

static G_GNUC_UNUSED void
serve(const char *path, int ready_fd, const char *group)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) pending = g_ptr_array_new();
  const char *timeout_s = g_getenv("CBT_TEST_REQUEST_S");
  ApiServerOptions options = {
      .socket_path = path, .group = group, .request_timeout_s = timeout_s ? (guint) atoi(timeout_s) : 0};
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  /* Not removed: a second SIGTERM, from tear_down(), would then end the server on its way out. */
  g_unix_signal_add(SIGTERM, on_term, loop);
  ApiServer *server = api_server_new(&options, routes, pending, &error);
  if (!server || write(ready_fd, "r", 1) != 1)
    exit(99);
  g_main_loop_run(loop);
  api_server_free(server);
  for (guint i = 0; i < pending->len; i++)
    answer_later(pending->pdata[i]);
}

static G_GNUC_UNUSED void
start_server(Fixture *f, const char *group)
{
  int ready[2];
  char byte;
  assert_int_equal(pipe(ready), 0);
  f->server = fork();
  assert_true(f->server >= 0);
  if (f->server == 0) {
    g_autofree char *fd = g_strdup_printf("%d", ready[1]);
    execl("/proc/self/exe", "test_server", "--serve", f->path, fd, group, NULL);
    _exit(98);
  }
  close(ready[1]); /* a server that failed leaves the end of the file */
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
}

static G_GNUC_UNUSED int
set_up_folder(void **state)
{
  Fixture *f = g_new0(Fixture, 1);
  f->dir = g_dir_make_tmp("cbt-api-XXXXXX", NULL);
  f->path = g_build_filename(f->dir, "api.sock", NULL);
  *state = f;
  return 0;
}

static G_GNUC_UNUSED int
set_up(void **state)
{
  set_up_folder(state);
  start_server(*state, NULL);
  return 0;
}

/* The server must end cleanly, and remove its socket. */
static G_GNUC_UNUSED int
tear_down(void **state)
{
  Fixture *f = *state;
  int status = 0, failed = 0;
  if (f->server > 0) {
    kill(f->server, SIGTERM);
    failed = waitpid(f->server, &status, 0) != f->server || status != 0 || access(f->path, F_OK) == 0;
  }
  if (failed)
    g_printerr("the server ended with %d\n", status);
  unlink(f->path);
  failed |= rmdir(f->dir) != 0;
  g_free(f->path);
  g_free(f->dir);
  g_free(f);
  return failed;
}

/* Raw bytes */

static G_GNUC_UNUSED int
connect_raw(const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, path, sizeof address.sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(connect(fd, (struct sockaddr *) &address, sizeof address), 0);
  return fd;
}

/* Sends what the server takes. */
static G_GNUC_UNUSED void
send_raw(int fd, const char *data, gsize length)
{
  while (length > 0) {
    gssize sent = send(fd, data, length, MSG_NOSIGNAL);
    if (sent < 0)
      return;
    data += sent;
    length -= (gsize) sent;
  }
}

/* All until the server closes. */
static G_GNUC_UNUSED char *
receive_raw(int fd)
{
  GString *answer = g_string_new(NULL);
  char buffer[65536];
  gssize got;
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  do {
    assert_int_equal(poll(&ready, 1, DEADLINE_MS), 1);
    got = recv(fd, buffer, sizeof buffer, 0);
    if (got > 0)
      g_string_append_len(answer, buffer, got);
  } while (got > 0);
  return g_string_free(answer, FALSE);
}

static G_GNUC_UNUSED char *
exchange(Fixture *f, const char *data, gsize length)
{
  int fd = connect_raw(f->path);
  send_raw(fd, data, length);
  char *answer = receive_raw(fd);
  close(fd);
  return answer;
}

/* The JSON behind the header. */
static G_GNUC_UNUSED void
assert_json(const char *answer)
{
  g_autoptr(GError) error = NULL;
  const char *body = strstr(answer, "\r\n\r\n");
  assert_non_null(body);
  assert_true(g_str_has_suffix(body, "}\n"));
  g_autoptr(JsonNode) node = api_json_from_text(body + 4, -1, &error);
  assert_null(error);
  assert_non_null(g_strstr_len(answer, body - answer, "Content-Type: application/json\r\n"));
}

static G_GNUC_UNUSED void
assert_answer(Fixture *f, const char *request, int status, const char *part)
{
  g_autofree char *answer = exchange(f, request, strlen(request));
  g_autofree char *wanted = g_strdup_printf(" %d ", status);
  if (!g_str_has_prefix(answer, "HTTP/1.") || strncmp(answer + 8, wanted, 5) != 0 || !strstr(answer, part))
    fail_msg("%s was answered with %s, not %d and %s", request, answer, status, part);
  assert_json(answer);
}

#define HOST "Host: x\r\n"

/* Tests through the client */

static G_GNUC_UNUSED JsonNode *
call(Fixture *f, const char *method, const char *path, const char *body, GError **error)
{
  g_autoptr(ApiClient) client = api_client_new(f->path);
  g_autoptr(JsonNode) node = body ? api_json_from_text(body, -1, NULL) : NULL;
  return api_client_call(client, method, path, node, error);
}

static G_GNUC_UNUSED void
assert_call(Fixture *f, const char *method, const char *path, const char *body, const char *wanted)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = call(f, method, path, body, &error);
  if (!node)
    fail_msg("%s %s: %s", method, path, error->message);
  g_autofree char *text = api_json_to_text(node);
  assert_string_equal(text, wanted);
}

static G_GNUC_UNUSED void
assert_call_fails(Fixture *f, const char *method, const char *path, const char *body, CbtErrorCode code,
                  const char *part)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = call(f, method, path, body, &error);
  assert_null(node);
  if (error->code != (int) code || !strstr(error->message, part))
    fail_msg("%s %s: %d %s", method, path, error->code, error->message);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
