/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server with a small route table runs in a child process, which is this program again, so that its leaks
 * and crashes are seen in its exit status; the tests talk to it with the client and with raw bytes.
 */
#include "server-fixture.h"

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
test_an_optional_body_may_be_missing_or_be_of_known_keys(void **state)
{
  assert_answer(*state, "POST /v1/optional/x HTTP/1.1\r\n" HOST "\r\n", 200, "\"body\":{}");
  assert_answer(*state, "POST /v1/optional/x HTTP/1.1\r\n" HOST "Content-Length: 7\r\n\r\n{\"a\":1}", 200,
                "\"a\":1");
  assert_answer(*state, "POST /v1/optional/x HTTP/1.1\r\n" HOST "Content-Length: 7\r\n\r\n{\"b\":1}", 400,
                "'b'");
  assert_answer(*state, "POST /v1/optional/x HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 411,
                "\"length-required\"");
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
test_a_body_whose_length_cannot_be_told_is_refused_and_costs_no_memory(void **state)
{
  static const struct {
    const char *line, *code;
    int status;
  } bad[] = {{"Transfer-Encoding: gzip", "\"length-required\"", 411},
             {"Content-Length: 2\r\ntransfer-encoding: x", "\"length-required\"", 411},
             {"Content-Length: many", "\"invalid\"", 400},
             {"Content-Length: 5\r\n 5", "\"invalid\"", 400}};
  g_autofree char *path = g_strnfill(50000, 'a');
  guint64 before = 0;
  for (guint i = 0; i < 400; i++) {
    if (i == 40)
      before = server_memory_kib(*state);
    g_autofree char *request = g_strdup_printf("%sPOST /%s HTTP/1.1\r\n" HOST "%s\r\n\r\n{}",
                                               i % 2 ? "\r\n" : "", path, bad[i % G_N_ELEMENTS(bad)].line);
    assert_answer(*state, request, bad[i % G_N_ELEMENTS(bad)].status, bad[i % G_N_ELEMENTS(bad)].code);
  }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  (void) before; /* leaks are told at the end */
#else
  assert_in_range(server_memory_kib(*state), 0, before + 4096);
#endif
}

static void
test_a_head_that_comes_byte_by_byte_is_judged_as_a_whole(void **state)
{
  static const struct {
    const char *lines, *status;
  } cases[] = {{"Content-Length: 7\n\n{\"a\":1}", " 200 "},
               {"Content-Length: 7\r\n\r\n{\"a\":1}", " 200 "},
               {"Transfer-Encoding: x\r\n\r\n", " 411 "},
               {"Transfer-Encoding: x\r\n", " 411 "}, /* cut off, which libsoup takes for complete */
               {"Content-Length: x\n\r\n", " 400 "}};
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autofree char *request = g_strconcat("\r\nPOST /v1/echo/x HTTP/1.1\r\n", HOST, cases[i].lines, NULL);
    int fd = connect_raw(((Fixture *) *state)->path);
    for (const char *byte = request; *byte; byte++)
      send_raw(fd, byte, 1);
    shutdown(fd, SHUT_WR);
    g_autofree char *answer = receive_raw(fd);
    assert_non_null(strstr(answer, cases[i].status));
    close(fd);
  }
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
      WITH_SERVER(test_a_body_whose_length_cannot_be_told_is_refused_and_costs_no_memory),
      WITH_SERVER(test_a_head_that_comes_byte_by_byte_is_judged_as_a_whole),
      WITH_SERVER(test_an_optional_body_may_be_missing_or_be_of_known_keys),
      WITH_SERVER(test_a_wrong_length_is_400),
      WITH_SERVER(test_a_large_body_is_refused_before_it_comes),
      WITH_SERVER(test_a_client_that_sends_a_large_body_anyway_gets_the_answer),
      WITH_SERVER(test_the_largest_body_is_taken),
      WITH_SERVER(test_expect_continue_is_served),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
