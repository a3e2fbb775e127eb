/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who comes and goes: clients that leave, strangers, other servers, the socket itself. */
#include "server-fixture.h"

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

static void
test_a_client_that_takes_nothing_of_a_stream_is_cut_off(void **state)
{
  Fixture *f = *state;
  static const char request[] = "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n";
  gint64 until_us = g_get_monotonic_time() + DEADLINE_MS * 1000;
  g_autofree char *end = g_strdup("");
  int fd = connect_raw(f->path);
  send_raw(fd, request, strlen(request));
  while (*end == '\0' && g_get_monotonic_time() < until_us) {
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = call(f, "GET", "/v1/stream-end", NULL, &error);
    assert_null(error);
    g_free(end);
    end = g_strdup(json_object_get_string_member(json_node_get_object(node), "end"));
    g_usleep(20000);
  }
  assert_string_equal(end, "the client takes nothing");
  close(fd);
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

/* A server that waits a second for requests. */
static int
set_up_impatient(void **state)
{
  g_setenv("CBT_TEST_REQUEST_S", "1", TRUE);
  set_up(state);
  g_unsetenv("CBT_TEST_REQUEST_S");
  return 0;
}

/* Sends START, and then a byte now and then, as long as the server listens. */
static void
drip(Fixture *f, const char *start)
{
  int fd = connect_raw(f->path);
  gint64 until_us = g_get_monotonic_time() + DEADLINE_MS * 1000;
  struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
  send_raw(fd, start, strlen(start));
  while (poll(&poll_fd, 1, 100) == 0) {
    assert_true(g_get_monotonic_time() < until_us);
    send_raw(fd, "x", 1);
  }
  close(fd);
}

static void
test_a_request_that_takes_too_long_is_cut_off(void **state)
{
  Fixture *f = *state;
  drip(f, "");
  drip(f, "GET /v1/echo/x HTTP/1.1\r\n" HOST "X: ");
  drip(f, "POST /v1/echo/x HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
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

/* They listen to their answer for a while, and take no place meanwhile; of many, most are closed at once. */
static void
test_those_that_were_turned_away_do_not_count(void **state)
{
  Fixture *f = *state;
  int fds[256], refused[100];
  static const char request[] = "GET /v1/echo/x HTTP/1.1\r\n" HOST "\r\n";
  for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
    fds[i] = connect_raw(f->path);
  for (guint i = 0; i < G_N_ELEMENTS(refused); i++) {
    refused[i] = connect_raw(f->path);
    g_autofree char *answer = receive_raw(refused[i]);
    assert_non_null(strstr(answer, " 503 "));
  }
  close(fds[0]);
  gboolean got_in = FALSE;
  for (int tries = 0; tries < 100 && !got_in; tries++) { /* until the server has seen that one left */
    g_autofree char *answer = exchange(f, request, strlen(request));
    got_in = strstr(answer, " 200 ") != NULL;
  }
  assert_true(got_in);
  for (guint i = 1; i < G_N_ELEMENTS(fds); i++)
    close(fds[i]);
  for (guint i = 0; i < G_N_ELEMENTS(refused); i++)
    close(refused[i]);
}

/* The socket */

static void
test_a_missing_server_is_unreachable(void **state)
{
  Fixture *f = *state;
  assert_call_fails(f, "GET", "/", NULL, CBT_ERROR_UNREACHABLE, f->path);
  assert_call_fails(f, "GET", "/", NULL, CBT_ERROR_UNREACHABLE, "CBT_BACKUP_SOCKET");
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
      WITH_SERVER(test_a_client_that_leaves_before_the_reply_does_no_harm),
      WITH_SERVER(test_a_client_that_leaves_in_the_middle_does_no_harm),
      WITH_SERVER(test_the_server_can_end_with_requests_pending),
      WITH_SERVER(test_a_client_that_takes_nothing_of_a_stream_is_cut_off),
      WITH_SERVER(test_random_bytes_do_no_harm),
      cmocka_unit_test_setup_teardown(test_a_request_that_takes_too_long_is_cut_off, set_up_impatient,
                                      tear_down),
      WITH_SERVER(test_too_many_connections_are_turned_away),
      WITH_SERVER(test_those_that_were_turned_away_do_not_count),
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
