/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server with a small route table runs in a child process, which is this program again, so that its leaks
 * and crashes are seen in its exit status; the tests talk to it with the client and with raw bytes.
 */
#include <api/client.h>
#include <api/json.h>
#include <api/server.h>

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

static JsonNode *
new_object(const char *key, const char *value)
{
  JsonObject *object = json_object_new();
  json_object_set_string_member(object, key, value);
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, object);
  return node;
}

static void
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

static gboolean
answer_later(gpointer request)
{
  n_later++;
  api_request_reply(request, 200, new_object("late", "yes"));
  return G_SOURCE_REMOVE;
}

static void
handle_later(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_timeout_add(50, answer_later, request);
}

static void
handle_count(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_autofree char *count = g_strdup_printf("%d", n_later);
  api_request_reply(request, 200, new_object("later", count));
}

static void
handle_never(ApiRequest *request, gpointer user_data)
{
  g_ptr_array_add(user_data, request); /* answered when the server is gone */
}

static void
handle_error(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  GError *error = NULL;
  cbt_set_error(&error, cbt_error_code_from_name(api_request_param(request, "code")), "Try again.",
                "It went wrong");
  api_request_reply_error(request, error);
}

static void
handle_nothing(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 204, NULL);
}

static void
handle_metrics(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply_text(request, 200, "text/plain; version=0.0.4", "cbt_up 1\n");
}

static void
handle_large(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  g_autofree char *text = g_strnfill(8 * MIB, 'x');
  api_request_reply(request, 200, new_object("text", text));
}

static const ApiRoute routes[] = {
    {"GET", "/v1/echo/{name}", handle_echo, NULL, "q"},
    {"POST", "/v1/echo/{name}", handle_echo, "a b", NULL},
    {"PATCH", "/v1/echo/{name}", handle_echo, "a", NULL},
    {"POST", "/v1/plain/{name}", handle_echo, NULL, NULL},
    {"GET", "/v1/later", handle_later, NULL, NULL},
    {"GET", "/v1/count", handle_count, NULL, NULL},
    {"GET", "/v1/never", handle_never, NULL, NULL},
    {"GET", "/v1/error/{code}", handle_error, NULL, NULL},
    {"DELETE", "/v1/nothing", handle_nothing, NULL, NULL},
    {"GET", "/metrics", handle_metrics, NULL, NULL},
    {"GET", "/v1/large", handle_large, NULL, NULL},
    {0},
};

static gboolean
on_term(gpointer loop)
{
  g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

static void
serve(const char *path, int ready_fd, const char *group)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) pending = g_ptr_array_new();
  ApiServerOptions options = {.socket_path = path, .group = group};
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  guint term = g_unix_signal_add(SIGTERM, on_term, loop);
  ApiServer *server = api_server_new(&options, routes, pending, &error);
  if (!server || write(ready_fd, "r", 1) != 1)
    exit(99);
  g_main_loop_run(loop);
  api_server_free(server);
  for (guint i = 0; i < pending->len; i++)
    answer_later(pending->pdata[i]);
  g_source_remove(term);
}

static void
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

static int
set_up_folder(void **state)
{
  Fixture *f = g_new0(Fixture, 1);
  f->dir = g_dir_make_tmp("cbt-api-XXXXXX", NULL);
  f->path = g_build_filename(f->dir, "api.sock", NULL);
  *state = f;
  return 0;
}

static int
set_up(void **state)
{
  set_up_folder(state);
  start_server(*state, NULL);
  return 0;
}

/* libsoup (3.2.3, parse_headers()) leaks the path of a request whose length or Transfer-Encoding it cannot
 * make sense of. */
static int
set_up_without_leak_check(void **state)
{
  set_up_folder(state);
  g_autofree char *before = g_strdup(g_getenv("ASAN_OPTIONS"));
  g_setenv("ASAN_OPTIONS", "detect_leaks=0", TRUE);
  start_server(*state, NULL);
  if (before)
    g_setenv("ASAN_OPTIONS", before, TRUE);
  else
    g_unsetenv("ASAN_OPTIONS");
  return 0;
}

/* The server must end cleanly, and remove its socket. */
static int
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

static int
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
static void
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
static char *
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

static char *
exchange(Fixture *f, const char *data, gsize length)
{
  int fd = connect_raw(f->path);
  send_raw(fd, data, length);
  char *answer = receive_raw(fd);
  close(fd);
  return answer;
}

/* The JSON behind the header. */
static void
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

static void
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

static JsonNode *
call(Fixture *f, const char *method, const char *path, const char *body, GError **error)
{
  g_autoptr(ApiClient) client = api_client_new(f->path);
  g_autoptr(JsonNode) node = body ? api_json_from_text(body, -1, NULL) : NULL;
  return api_client_call(client, method, path, node, error);
}

static void
assert_call(Fixture *f, const char *method, const char *path, const char *body, const char *wanted)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = call(f, method, path, body, &error);
  if (!node)
    fail_msg("%s %s: %s", method, path, error->message);
  g_autofree char *text = api_json_to_text(node);
  assert_string_equal(text, wanted);
}

static void
assert_call_fails(Fixture *f, const char *method, const char *path, const char *body, CbtErrorCode code,
                  const char *part)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = call(f, method, path, body, &error);
  assert_null(node);
  if (error->code != (int) code || !strstr(error->message, part))
    fail_msg("%s %s: %d %s", method, path, error->code, error->message);
}

static void
test_parameters_query_and_body_reach_the_handler(void **state)
{
  assert_call(*state, "GET", "/v1/echo/a%2Fb?q=1%262", NULL, "{\"name\":\"a/b\",\"q\":\"1&2\",\"body\":{}}");
  assert_call(*state, "POST", "/v1/echo/x", "{\"a\":1}", "{\"name\":\"x\",\"body\":{\"a\":1}}");
  assert_call(*state, "PATCH", "/v1/echo/x", "{\"a\":[]}", "{\"name\":\"x\",\"body\":{\"a\":[]}}");
}

static void
test_a_post_without_body_works_where_none_is_needed(void **state)
{
  assert_call(*state, "POST", "/v1/plain/x", NULL, "{\"name\":\"x\",\"body\":{}}");
  assert_answer(*state, "POST /v1/plain/x HTTP/1.1\r\n" HOST "\r\n", 200, "\"x\"");
  assert_answer(*state, "POST /v1/plain/x HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n{}", 200, "\"x\"");
}

static void
test_204_is_a_null_node(void **state)
{
  assert_call(*state, "DELETE", "/v1/nothing", NULL, "null");
}

static void
test_a_client_makes_many_calls(void **state)
{
  Fixture *f = *state;
  g_autoptr(ApiClient) client = api_client_new(f->path);
  for (int i = 0; i < 200; i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = api_client_call(client, "GET", "/v1/echo/x", NULL, &error);
    assert_null(error);
  }
}

static void
test_a_reply_may_come_later(void **state)
{
  assert_call(*state, "GET", "/v1/later", NULL, "{\"late\":\"yes\"}");
}

static void
test_large_answers_arrive_whole(void **state)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = call(*state, "GET", "/v1/large", NULL, &error);
  assert_null(error);
  assert_int_equal(strlen(json_object_get_string_member(json_node_get_object(node), "text")), 8 * MIB);
}

static void
test_errors_keep_code_message_and_hint(void **state)
{
  for (int code = 0; code < CBT_N_ERRORS; code++) {
    g_autofree char *path = g_strdup_printf("/v1/error/%s", cbt_error_code_name(code));
    assert_call_fails(*state, "GET", path, NULL, (CbtErrorCode) code, "It went wrong\nTry again.");
  }
  assert_answer(*state, "GET /v1/error/no-space HTTP/1.1\r\n" HOST "\r\n", 507, "\"no-space\"");
  assert_answer(*state, "GET /v1/error/busy HTTP/1.1\r\n" HOST "\r\n", 409, "\"busy\"");
}

static void
test_unknown_keys_and_parameters_are_refused_by_name(void **state)
{
  assert_call_fails(*state, "POST", "/v1/echo/x", "{\"c\":1}", CBT_ERROR_INVALID, "'c'");
  assert_call_fails(*state, "POST", "/v1/plain/x", "{\"a\":1}", CBT_ERROR_INVALID, "'a'");
  assert_call_fails(*state, "GET", "/v1/echo/x?z=1", NULL, CBT_ERROR_INVALID, "'z'");
  assert_call_fails(*state, "GET", "/v1/later?q=1", NULL, CBT_ERROR_INVALID, "'q'");
}

static void
test_bodies_must_be_json_objects(void **state)
{
  static const char *const bad[] = {"[]",         "1",       "null", "{",
                                    "{\"a\":1,}", "{'a':1}", "\xff", "{\"a\":\"\xff\"}"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autofree char *request = g_strdup_printf(
        "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%s", strlen(bad[i]), bad[i]);
    assert_answer(*state, request, 400, "\"invalid\"");
  }
}

static void
test_deep_json_is_refused(void **state)
{
  g_autofree char *deep = g_strnfill(900000, '[');
  g_autofree char *request = g_strdup_printf(
      "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%s", strlen(deep), deep);
  assert_answer(*state, request, 400, "\"invalid\"");
}

static void
test_unknown_paths_and_methods(void **state)
{
  assert_answer(*state, "GET /nope HTTP/1.1\r\n" HOST "\r\n", 404, "\"not-found\"");
  assert_answer(*state, "GET /v1//later HTTP/1.1\r\n" HOST "\r\n", 404, "\"not-found\"");
  assert_answer(*state, "GET /v1/echo/%00 HTTP/1.1\r\n" HOST "\r\n", 400, "\"invalid\"");
  assert_answer(*state, "DELETE /v1/echo/x HTTP/1.1\r\n" HOST "\r\n", 405, "Allow: GET, POST, PATCH\r\n");
  assert_answer(*state, "BREW /v1/later HTTP/1.1\r\n" HOST "\r\n", 405, "\"method-not-allowed\"");
  assert_answer(*state, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 404, "\"not-found\"");
}

static void
test_old_and_absolute_requests_are_answered(void **state)
{
  assert_answer(*state, "GET /v1/echo/x HTTP/1.0\r\n\r\n", 200, "\"x\"");
  assert_answer(*state, "GET http://y/v1/echo/x HTTP/1.1\r\n" HOST "\r\n", 200, "\"x\"");
}

static void
test_a_range_header_does_not_cut_the_json(void **state)
{
  assert_answer(*state, "GET /v1/echo/x HTTP/1.1\r\n" HOST "Range: bytes=0-3\r\n\r\n", 200, "\"body\":{}}");
}

static void
test_what_is_not_http_is_answered_with_400(void **state)
{
  assert_answer(*state, "hello\r\n\r\n", 400, "\"invalid\"");
  assert_answer(*state, "GET\r\n\r\n", 400, "\"invalid\"");
  assert_answer(*state, "GET / HTTP/1.1\r\n\r\n", 400, "\"invalid\"");
}

static void
test_text_that_is_not_json_can_be_served(void **state)
{
  static const char request[] = "GET /metrics HTTP/1.1\r\n" HOST "\r\n";
  g_autofree char *answer = exchange(*state, request, strlen(request));
  assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4\r\n"));
  assert_true(g_str_has_suffix(answer, "\r\n\r\ncbt_up 1\n"));
}

static void
test_a_body_of_unknown_length_is_411(void **state)
{
  assert_answer(*state, "POST /v1/echo/x HTTP/1.1\r\n" HOST "\r\n", 411, "\"length-required\"");
  assert_answer(*state, "PATCH /v1/echo/x HTTP/1.1\r\n" HOST "\r\n", 411, "\"length-required\"");
  assert_answer(*state,
                "POST /v1/echo/x HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                411, "\"length-required\"");
  assert_answer(*state, "POST /v1/plain/x HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 411,
                "\"length-required\"");
  assert_answer(
      *state, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
      411, "\"length-required\"");
}

static void
test_a_wrong_length_is_400(void **state)
{
  static const char *const bad[] = {"-5", "+5", "abc", "0x10", "1,2", "5 5"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autofree char *request =
        g_strdup_printf("POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: %s\r\n\r\n{\"a\":1}", bad[i]);
    assert_answer(*state, request, 400, "\"invalid\"");
  }
  assert_answer(*state,
                "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400,
                "\"invalid\"");
}

static void
test_a_large_body_is_refused_before_it_comes(void **state)
{
  assert_answer(*state, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 1048577\r\n\r\n", 413,
                "\"too-large\"");
  assert_answer(*state, "GET /v1/later HTTP/1.1\r\n" HOST "Content-Length: 104857600\r\n\r\n", 413,
                "\"too-large\"");
  assert_answer(*state, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n",
                413, "\"too-large\"");
  assert_answer(
      *state, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n",
      413, "\"too-large\"");
}

static guint64
server_memory_kib(Fixture *f)
{
  g_autofree char *name = g_strdup_printf("/proc/%d/status", (int) f->server), *text = NULL;
  assert_true(g_file_get_contents(name, &text, NULL, NULL));
  return g_ascii_strtoull(strstr(text, "VmHWM:") + 6, NULL, 10);
}

static void
test_a_client_that_sends_a_large_body_anyway_gets_the_answer(void **state)
{
  Fixture *f = *state;
  guint64 before = server_memory_kib(f);
  g_autofree char *data = g_malloc0(100 * MIB);
  int n = g_snprintf(data, 200, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: %d\r\n\r\n", 100 * MIB);
  g_autofree char *answer = exchange(f, data, 100 * MIB - (gsize) n);
  assert_non_null(strstr(answer, " 413 "));
  assert_json(answer);
  assert_true(server_memory_kib(f) < before + 20 * 1024);
}

static void
test_the_largest_body_is_taken(void **state)
{
  g_autofree char *filler = g_strnfill(MIB - 8, ' ');
  g_autofree char *request = g_strdup_printf(
      "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: %d\r\n\r\n{\"a\":1}%s ", MIB, filler);
  assert_answer(*state, request, 200, "{\"a\":1}");
}

static void
test_expect_continue_is_served(void **state)
{
  Fixture *f = *state;
  char buffer[256] = {0};
  static const char head[] =
      "POST /v1/echo/x HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 7\r\n\r\n";
  int fd = connect_raw(f->path);
  send_raw(fd, head, strlen(head));
  assert_true(recv(fd, buffer, sizeof buffer - 1, 0) > 0);
  assert_true(g_str_has_prefix(buffer, "HTTP/1.1 100 "));
  send_raw(fd, "{\"a\":1}", 7);
  g_autofree char *answer = receive_raw(fd);
  assert_non_null(strstr(answer, " 200 "));
  close(fd);
}

/* Clients that go away */

static void
test_a_client_that_leaves_before_the_reply_does_no_harm(void **state)
{
  Fixture *f = *state;
  static const char request[] = "GET /v1/later HTTP/1.1\r\n" HOST "\r\n";
  for (int i = 0; i < 20; i++) {
    int fd = connect_raw(f->path);
    send_raw(fd, request, strlen(request));
    close(fd);
  }
  for (int tries = 0; tries < 400; tries++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = call(f, "GET", "/v1/count", NULL, &error);
    assert_null(error);
    if (strcmp(json_object_get_string_member(json_node_get_object(node), "later"), "20") == 0)
      return;
    g_usleep(20000);
  }
  fail_msg("not all requests were answered");
}

static void
test_a_client_that_leaves_in_the_middle_does_no_harm(void **state)
{
  Fixture *f = *state;
  static const char *const parts[] = {"", "G", "GET / HT",
                                      "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\n{",
                                      "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 9999999\r\n\r\n{"};
  for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
    int fd = connect_raw(f->path);
    send_raw(fd, parts[i], strlen(parts[i]));
    close(fd);
  }
  static const char large[] = "GET /v1/large HTTP/1.1\r\n" HOST "\r\n";
  int fd = connect_raw(f->path);
  send_raw(fd, large, strlen(large));
  char byte;
  assert_int_equal(recv(fd, &byte, 1, 0), 1);
  close(fd);
  assert_call(f, "GET", "/v1/echo/x", NULL, "{\"name\":\"x\",\"body\":{}}");
}

/* What is pending when the server ends is closed; the handler's reply comes after that. */
static void
test_the_server_can_end_with_requests_pending(void **state)
{
  Fixture *f = *state;
  static const char request[] = "GET /v1/never HTTP/1.1\r\n" HOST "\r\n";
  int fd = connect_raw(f->path);
  send_raw(fd, request, strlen(request));
  int idle = connect_raw(f->path);
  assert_call(f, "GET", "/v1/echo/x", NULL, "{\"name\":\"x\",\"body\":{}}");
  kill(f->server, SIGTERM);
  g_autofree char *answer = receive_raw(fd);
  assert_string_equal(answer, "");
  close(fd);
  close(idle);
}

static void
test_random_bytes_do_no_harm(void **state)
{
  Fixture *f = *state;
  guint32 seed = g_random_int();
  g_print("seed %u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  static const char good[] =
      "POST /v1/echo/x?q=1 HTTP/1.1\r\n" HOST "Content-Length: 7\r\nRange: bytes=0-1\r\n\r\n{\"a\":1}";
  for (int i = 0; i < 500; i++) {
    g_autofree char *data = g_strdup(good);
    for (int n = g_rand_int_range(rand, 1, 6); n > 0; n--)
      data[g_rand_int_range(rand, 0, sizeof good - 1)] = (char) g_rand_int_range(rand, 0, 256);
    int fd = connect_raw(f->path);
    send_raw(fd, data, sizeof good - 1);
    shutdown(fd, SHUT_WR);
    g_autofree char *answer = receive_raw(fd);
    close(fd);
  }
  assert_call(f, "GET", "/v1/echo/x", NULL, "{\"name\":\"x\",\"body\":{}}");
}

static void
test_too_many_connections_are_turned_away(void **state)
{
  Fixture *f = *state;
  int fds[256];
  static const char request[] = "GET /v1/echo/x HTTP/1.1\r\n" HOST "\r\n";
  for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
    fds[i] = connect_raw(f->path);
  assert_answer(f, request, 503, "\"busy\"");
  for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
    close(fds[i]);
  for (int tries = 0; tries < 400; tries++) {
    g_autofree char *answer = exchange(f, request, strlen(request));
    if (strstr(answer, " 200 "))
      return;
    g_usleep(20000);
  }
  fail_msg("the server did not recover");
}

/* The socket */

static void
test_a_missing_server_is_unreachable(void **state)
{
  Fixture *f = *state;
  assert_call_fails(f, "GET", "/", NULL, CBT_ERROR_UNREACHABLE, f->path);
  assert_call_fails(f, "GET", "/", NULL, CBT_ERROR_UNREACHABLE, "systemctl start cbt-backup");
  g_autofree char *name = g_strnfill(200, 'x');
  g_autoptr(ApiClient) client = api_client_new(name);
  g_autoptr(GError) error = NULL;
  assert_null(api_client_call(client, "GET", "/", NULL, &error));
  assert_int_equal(error->code, CBT_ERROR_UNREACHABLE);
}

static guint
mode_of(const char *path)
{
  struct stat st;
  assert_int_equal(lstat(path, &st), 0);
  return st.st_mode & 07777;
}

static void
assert_refuses_to_start(const char *path, const char *group, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  ApiServerOptions options = {.socket_path = path, .group = group};
  assert_null(api_server_new(&options, routes, NULL, &error));
  assert_int_equal(error->code, code);
}

static void
test_the_socket_belongs_to_its_user_alone(void **state)
{
  Fixture *f = *state;
  assert_int_equal(mode_of(f->path), 0600);
}

static void
test_a_second_server_is_refused(void **state)
{
  Fixture *f = *state;
  assert_refuses_to_start(f->path, NULL, CBT_ERROR_BUSY);
  assert_call(f, "GET", "/v1/echo/x", NULL, "{\"name\":\"x\",\"body\":{}}");
}

static void
test_a_stale_socket_is_replaced(void **state)
{
  Fixture *f = *state;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, f->path, sizeof address.sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof address), 0);
  close(fd);
  start_server(f, NULL);
  assert_call(f, "GET", "/v1/echo/x", NULL, "{\"name\":\"x\",\"body\":{}}");
}

static void
test_a_file_in_the_way_is_left_alone(void **state)
{
  Fixture *f = *state;
  assert_true(g_file_set_contents(f->path, "mine", -1, NULL));
  assert_refuses_to_start(f->path, NULL, CBT_ERROR_EXISTS);
  assert_int_equal(access(f->path, F_OK), 0);
}

static void
test_bad_socket_options_are_refused(void **state)
{
  Fixture *f = *state;
  g_autofree char *name = g_strnfill(200, 'x'), *long_path = g_build_filename(f->dir, name, NULL);
  g_autofree char *no_folder = g_build_filename(f->dir, "none", "api.sock", NULL);
  assert_refuses_to_start(long_path, NULL, CBT_ERROR_INVALID);
  assert_refuses_to_start(no_folder, NULL, CBT_ERROR_IO);
  assert_refuses_to_start(f->path, "no-such-group-here", CBT_ERROR_NOT_FOUND);
}

static void
test_another_socket_at_the_path_survives_the_end(void **state)
{
  Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  ApiServerOptions options = {.socket_path = f->path};
  ApiServer *server = api_server_new(&options, routes, NULL, &error);
  assert_non_null(server);
  g_autofree char *other = g_strconcat(f->path, ".new", NULL);
  assert_true(g_file_set_contents(other, "", -1, NULL));
  assert_int_equal(rename(other, f->path), 0);
  api_server_free(server);
  assert_int_equal(access(f->path, F_OK), 0);
}

/* What the user 65534 with GROUP as its only group is answered; -1 if it cannot connect. */
static int
status_for_nobody(Fixture *f, gid_t group)
{
  static const char request[] = "GET /v1/echo/x HTTP/1.1\r\n" HOST "\r\n";
  pid_t child = fork();
  if (child == 0) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char buffer[13] = {0};
    g_strlcpy(address.sun_path, f->path, sizeof address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setgroups(1, &group) != 0 || setgid(65534) != 0 || setuid(65534) != 0)
      _exit(1);
    if (connect(fd, (struct sockaddr *) &address, sizeof address) != 0)
      _exit(2);
    send_raw(fd, request, strlen(request));
    if (recv(fd, buffer, 12, MSG_WAITALL) != 12)
      _exit(3);
    _exit(atoi(buffer + 9) / 100 * 10 + atoi(buffer + 9) % 10); /* 200: 20, 403: 43 */
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void
test_strangers_get_403(void **state)
{
  Fixture *f = *state;
  if (geteuid() != 0)
    skip();
  chmod(f->dir, 0755);
  assert_int_equal(status_for_nobody(f, 65534), 2); /* the mode of the socket keeps them out */
  chmod(f->path, 0666);
  assert_int_equal(status_for_nobody(f, 65534), 43);
}

static void
test_members_of_the_group_may_connect(void **state)
{
  Fixture *f = *state;
  struct group *group = getgrnam("daemon");
  if (geteuid() != 0 || !group)
    skip();
  gid_t gid = group->gr_gid;
  start_server(f, "daemon");
  assert_int_equal(mode_of(f->path), 0660);
  chmod(f->dir, 0755);
  assert_int_equal(status_for_nobody(f, gid), 20);
  assert_int_equal(status_for_nobody(f, 65534), 2);
  chmod(f->path, 0666);
  assert_int_equal(status_for_nobody(f, 65534), 43);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define WITH_LEAKS(test)  cmocka_unit_test_setup_teardown(test, set_up_without_leak_check, tear_down)
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up_folder, tear_down)

int
main(int argc, char **argv)
{
  if (argc > 3 && strcmp(argv[1], "--serve") == 0) {
    serve(argv[2], atoi(argv[3]), argv[4]);
    return 0;
  }
  /* Children need not wait for reports of threads at their end. */
  g_autofree char *tsan = g_strconcat("atexit_sleep_ms=0:", g_getenv("TSAN_OPTIONS"), NULL);
  g_setenv("TSAN_OPTIONS", tsan, TRUE);
  const struct CMUnitTest tests[] = {
      WITH_SERVER(test_parameters_query_and_body_reach_the_handler),
      WITH_SERVER(test_a_post_without_body_works_where_none_is_needed),
      WITH_SERVER(test_204_is_a_null_node),
      WITH_SERVER(test_a_client_makes_many_calls),
      WITH_SERVER(test_a_reply_may_come_later),
      WITH_SERVER(test_large_answers_arrive_whole),
      WITH_SERVER(test_errors_keep_code_message_and_hint),
      WITH_SERVER(test_unknown_keys_and_parameters_are_refused_by_name),
      WITH_SERVER(test_bodies_must_be_json_objects),
      WITH_SERVER(test_deep_json_is_refused),
      WITH_SERVER(test_unknown_paths_and_methods),
      WITH_SERVER(test_old_and_absolute_requests_are_answered),
      WITH_SERVER(test_a_range_header_does_not_cut_the_json),
      WITH_SERVER(test_what_is_not_http_is_answered_with_400),
      WITH_SERVER(test_text_that_is_not_json_can_be_served),
      WITH_SERVER(test_a_body_of_unknown_length_is_411),
      WITH_LEAKS(test_a_wrong_length_is_400),
      WITH_SERVER(test_a_large_body_is_refused_before_it_comes),
      WITH_SERVER(test_a_client_that_sends_a_large_body_anyway_gets_the_answer),
      WITH_SERVER(test_the_largest_body_is_taken),
      WITH_SERVER(test_expect_continue_is_served),
      WITH_SERVER(test_a_client_that_leaves_before_the_reply_does_no_harm),
      WITH_SERVER(test_a_client_that_leaves_in_the_middle_does_no_harm),
      WITH_SERVER(test_the_server_can_end_with_requests_pending),
      WITH_LEAKS(test_random_bytes_do_no_harm),
      WITH_SERVER(test_too_many_connections_are_turned_away),
      WITH_SERVER(test_the_socket_belongs_to_its_user_alone),
      WITH_SERVER(test_a_second_server_is_refused),
      WITH_SERVER(test_strangers_get_403),
      WITH_FOLDER(test_a_missing_server_is_unreachable),
      WITH_FOLDER(test_a_stale_socket_is_replaced),
      WITH_FOLDER(test_a_file_in_the_way_is_left_alone),
      WITH_FOLDER(test_bad_socket_options_are_refused),
      WITH_FOLDER(test_another_socket_at_the_path_survives_the_end),
      WITH_FOLDER(test_members_of_the_group_may_connect),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
