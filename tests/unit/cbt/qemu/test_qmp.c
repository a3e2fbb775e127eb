/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Against a scripted peer; the real QEMU is met in tests/integration/test_qmp.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp.h>
#include <pthread.h>
#include <string.h>
#include <tests/support/peer.h>

#define GREETING                                                                                             \
  "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": "            \
  "\"Debian\"}, "                                                                                            \
  "\"capabilities\": [\"oob\"]}}\r\n"
#define GREETED                                                                                              \
  {TEST_PEER_SEND, GREETING}, {TEST_PEER_EXPECT, "\"qmp_capabilities\""},                                    \
  {                                                                                                          \
    TEST_PEER_SEND, "{\"return\": {}, \"id\": $ID}\r\n"                                                      \
  }
#define EVENT(name, data)                                                                                    \
  "{\"timestamp\": {\"seconds\": 5, \"microseconds\": 6}, \"event\": \"" name "\", \"data\": " data "}\r\n"
#define LONG_MS  60000 /* is never waited for */
#define SHORT_MS 50    /* is waited for */

static void
stop(TestPeer *peer)
{
  g_autofree char *complaint = test_peer_stop(peer);
  assert_string_equal(complaint ? complaint : "", "");
}

static Qmp *
open_peer(TestPeer *peer)
{
  g_autoptr(GError) error = NULL;
  Qmp *qmp = qmp_open(test_peer_path(peer), LONG_MS, NULL, &error);
  assert_null(error);
  assert_non_null(qmp);
  return qmp;
}

static void
expect_error(GError *error, CbtErrorCode code, const char *fragment)
{
  assert_non_null(error);
  if (!strstr(error->message, fragment))
    fail_msg("'%s' does not say '%s'", error->message, fragment);
  assert_int_equal(cbt_error_code(error), code);
}

/* Calls "stop" without arguments; the error has FRAGMENT. */
static void
expect_call_fails(Qmp *qmp, guint timeout_ms, CbtErrorCode code, const char *fragment)
{
  g_autoptr(GError) error = NULL;
  assert_false(qmp_call(qmp, "stop", NULL, timeout_ms, NULL, &error));
  expect_error(error, code, fragment);
  assert_non_null(strstr(error->message, "stop"));
}

static void
test_greeting_tells_the_version(void **state)
{
  static const TestPeerStep steps[] = {GREETED, {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  assert_int_equal(qmp_version(qmp)->major, 7);
  assert_int_equal(qmp_version(qmp)->micro, 22);
  assert_string_equal(qmp_version(qmp)->package, "Debian");
  assert_true(qmp_version_is_at_least(qmp, 7, 2));
  assert_true(qmp_version_is_at_least(qmp, 6, 9));
  assert_false(qmp_version_is_at_least(qmp, 7, 3));
  assert_false(qmp_version_is_at_least(qmp, 8, 0));
  stop(peer);
}

static void
test_call_sends_arguments_and_returns_the_answer_past_events(void **state)
{
  static const TestPeerStep steps[] = {
      GREETED,
      {TEST_PEER_EXPECT, "{\"execute\":\"x\",\"arguments\":{\"s\":\"t\",\"i\":9223372036854775807,\"b\":true,"
                         "\"o\":{\"k\":\"v\"},\"a\":[1,\"two\"]},\"id\":"},
      {TEST_PEER_SEND, EVENT("STOP", "{}") "{\"return\": {\"n\": 3}, \"id\": $ID}\r\n"},
      {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  g_autoptr(JsonNode) answer = NULL;
  gint64 n = 0;
  assert_true(qmp_call(qmp, "x",
                       qmp_args("s", qmp_str("t"), "none", qmp_str(NULL), "i", qmp_int(G_MAXINT64), "b",
                                qmp_bool(TRUE), "o", qmp_dict("k", qmp_str("v"), NULL), "a",
                                qmp_list(qmp_int(1), qmp_str("two"), NULL), NULL),
                       LONG_MS, &answer, NULL));
  assert_true(qemu_json_int(qemu_json_node_object(answer), "n", &n));
  assert_int_equal(n, 3);
  stop(peer);
}

static void
test_refusals_have_the_code_of_their_class_and_the_words_of_qemu(void **state)
{
  static const struct {
    const char *class;
    CbtErrorCode code;
  } cases[] = {{"GenericError", CBT_ERROR_FAILED},
               {"CommandNotFound", CBT_ERROR_UNSUPPORTED},
               {"DeviceNotFound", CBT_ERROR_NOT_FOUND},
               {"DeviceNotActive", CBT_ERROR_STATE},
               {"SomethingNew", CBT_ERROR_FAILED}};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autofree char *text = g_strdup_printf(
        "{\"id\": $ID, \"error\": {\"class\": \"%s\", \"desc\": \"it is broken\"}}\r\n", cases[i].class);
    const TestPeerStep steps[] = {
        GREETED, {TEST_PEER_EXPECT, "\"stop\""}, {TEST_PEER_SEND, text}, {TEST_PEER_END, NULL}};
    TestPeer *peer = test_peer_start(steps);
    g_autoptr(Qmp) qmp = open_peer(peer);
    expect_call_fails(qmp, LONG_MS, cases[i].code, "it is broken");
    assert_true(qmp_is_open(qmp));
    stop(peer);
  }
}

static void
test_refusal_without_id_is_the_answer(void **state)
{
  static const TestPeerStep steps[] = {
      GREETED,
      {TEST_PEER_EXPECT, "\"stop\""},
      {TEST_PEER_SEND, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\r\n"},
      {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  expect_call_fails(qmp, LONG_MS, CBT_ERROR_FAILED, "JSON parse error");
  stop(peer);
}

static void
test_late_answer_is_not_taken_for_that_of_the_next_call(void **state)
{
  static const TestPeerStep steps[] = {GREETED,
                                       {TEST_PEER_EXPECT, "\"stop\""},
                                       {TEST_PEER_WAIT, NULL},
                                       {TEST_PEER_EXPECT, "\"cont\""},
                                       {TEST_PEER_SEND, "{\"return\": {\"n\": 1}, \"id\": $OLD}\r\n"},
                                       {TEST_PEER_SEND, "{\"return\": {\"n\": 2}, \"id\": $ID}\r\n"},
                                       {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  g_autoptr(JsonNode) answer = NULL;
  gint64 n = 0;
  expect_call_fails(qmp, SHORT_MS, CBT_ERROR_UNREACHABLE, "no answer in time");
  assert_true(qmp_is_open(qmp));
  test_peer_go(peer);
  assert_true(qmp_call(qmp, "cont", NULL, LONG_MS, &answer, NULL));
  assert_true(qemu_json_int(qemu_json_node_object(answer), "n", &n));
  assert_int_equal(n, 2);
  stop(peer);
}

/* QEMU 7.2 answers the next client what the one before it, which is gone, had asked for. */
static void
test_answers_and_events_meant_for_a_client_before_are_dropped(void **state)
{
  static const TestPeerStep steps[] = {
      {TEST_PEER_SEND, EVENT("JOB_STATUS_CHANGE", "{}") "{\"return\": {}, \"id\": 7}\r\n" GREETING},
      {TEST_PEER_SEND, "{\"return\": {\"n\": 1}, \"id\": 2}\r\n{\"return\": {}, \"id\": \"libvirt-3\"}\r\n"},
      {TEST_PEER_EXPECT, "\"qmp_capabilities\""},
      {TEST_PEER_SEND, "{\"return\": {}, \"id\": $ID}\r\n"},
      {TEST_PEER_EXPECT, "\"stop\""},
      {TEST_PEER_SEND, "{\"return\": {\"n\": 1}, \"id\": 2}\r\n{\"return\": {\"n\": 1}, \"id\": -1}\r\n"
                       "{\"error\": {\"class\": \"GenericError\"}, \"id\": 9}\r\n{\"return\": {}}\r\n"
                       "{\"return\": {\"n\": 2}, \"id\": $ID}\r\n"},
      {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  g_autoptr(JsonNode) answer = NULL;
  gint64 n = 0;
  assert_true(qmp_call(qmp, "stop", NULL, LONG_MS, &answer, NULL));
  assert_true(qemu_json_int(qemu_json_node_object(answer), "n", &n));
  assert_int_equal(n, 2);
  stop(peer);
}

static void
test_connection_closed_in_an_answer_is_unreachable(void **state)
{
  static const TestPeerStep steps[] = {GREETED,
                                       {TEST_PEER_EXPECT, "\"stop\""},
                                       {TEST_PEER_SEND, "{\"return\": {\"n\": "},
                                       {TEST_PEER_CLOSE, NULL},
                                       {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  expect_call_fails(qmp, LONG_MS, CBT_ERROR_UNREACHABLE, "closed at the other end");
  assert_false(qmp_is_open(qmp));
  expect_call_fails(qmp, LONG_MS, CBT_ERROR_UNREACHABLE, "closed at the other end");
  stop(peer);
}

static void
test_nonsense_is_corrupt_and_ends_the_connection(void **state)
{
  static const char *const bad[] = {
      "{\"hello\": 1}\r\n",   "{\"event\": 7}\r\n", "{\"error\": \"text\", \"id\": 2}\r\n", "[]",
      "{\"return\": {]}\r\n", "\xff\xff\xff"};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    const TestPeerStep steps[] = {
        GREETED, {TEST_PEER_EXPECT, "\"stop\""}, {TEST_PEER_SEND, bad[i]}, {TEST_PEER_END, NULL}};
    TestPeer *peer = test_peer_start(steps);
    g_autoptr(Qmp) qmp = open_peer(peer);
    expect_call_fails(qmp, LONG_MS, CBT_ERROR_CORRUPT, "QEMU on");
    assert_false(qmp_is_open(qmp));
    stop(peer);
  }
}

static void
test_answers_of_odd_shapes_are_handed_out(void **state)
{
  static const TestPeerStep steps[] = {
      GREETED,
      {TEST_PEER_EXPECT, "\"x\""},
      {TEST_PEER_SEND,
       "{\"return\": null, \"id\": $ID}{\"event\": \"E\"}{\"timestamp\": 3, \"event\": \"E\", \"data\": []}"},
      {TEST_PEER_EXPECT, "\"y\""},
      {TEST_PEER_SEND, "{\"return\": [1, {}], \"error\": 5, \"id\": $ID}"},
      {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  g_autoptr(JsonNode) none = NULL, list = NULL;
  JsonObject *data;
  assert_true(qmp_call(qmp, "x", NULL, LONG_MS, &none, NULL));
  assert_true(json_node_is_null(none));
  assert_true(qmp_call(qmp, "y", NULL, LONG_MS, &list, NULL));
  assert_int_equal(json_array_get_length(qemu_json_node_array(list)), 2);
  for (guint i = 0; i < 2; i++) {
    assert_true(qmp_wait_event(qmp, "E", NULL, NULL, 0, &data, NULL));
    assert_null(data);
  }
  stop(peer);
}

static gboolean
is_job(const QmpEvent *event, gpointer user_data)
{
  return g_strcmp0(qemu_json_string(event->data, "id"), user_data) == 0;
}

static void
count_event(const QmpEvent *event, gpointer user_data)
{
  guint *n = user_data;
  assert_int_equal(event->seconds, 5);
  assert_int_equal(event->microseconds, 6);
  (*n)++;
}

static void
test_events_wait_until_they_are_asked_for(void **state)
{
  static const TestPeerStep steps[] = {GREETED,
                                       {TEST_PEER_EXPECT, "\"x\""},
                                       {TEST_PEER_SEND,
                                        EVENT("JOB", "{\"id\": \"a\", \"n\": 1}") EVENT("STOP", "{}")
                                            EVENT("JOB", "{\"id\": \"b\", \"n\": 2}")},
                                       {TEST_PEER_SEND, "{\"return\": {}, \"id\": $ID}\r\n"},
                                       {TEST_PEER_WAIT, NULL},
                                       {TEST_PEER_SEND, EVENT("JOB", "{\"id\": \"a\", \"n\": 3}")},
                                       {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  g_autoptr(JsonObject) b = NULL, a = NULL;
  g_autoptr(GError) error = NULL;
  gint64 n = 0;
  guint n_seen = 0;
  qmp_set_event_func(qmp, count_event, &n_seen);
  assert_true(qmp_call(qmp, "x", NULL, LONG_MS, NULL, NULL));
  assert_int_equal(n_seen, 3);
  assert_true(qmp_wait_event(qmp, "JOB", is_job, (gpointer) "b", LONG_MS, &b, NULL));
  assert_true(qemu_json_int(b, "n", &n) && n == 2);
  qmp_clear_events(qmp);
  assert_false(qmp_wait_event(qmp, "JOB", is_job, (gpointer) "a", SHORT_MS, NULL, &error));
  expect_error(error, CBT_ERROR_UNREACHABLE, "waiting for JOB");
  assert_true(qmp_is_open(qmp));
  test_peer_go(peer);
  assert_true(qmp_wait_event(qmp, "JOB", is_job, (gpointer) "a", LONG_MS, &a, NULL));
  assert_true(qemu_json_int(a, "n", &n) && n == 3);
  assert_int_equal(n_seen, 4);
  stop(peer);
}

static void
test_flood_of_events_neither_fills_memory_nor_outlasts_the_deadline(void **state)
{
  static const TestPeerStep steps[] = {
      GREETED, {TEST_PEER_FLOOD, EVENT("NOISE", "{}")}, {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  guint n_seen = 0, n_left = 0;
  qmp_set_event_func(qmp, count_event, &n_seen);
  expect_call_fails(qmp, SHORT_MS, CBT_ERROR_UNREACHABLE, "no answer in time");
  qmp_set_event_func(qmp, NULL, NULL);
  assert_true(n_seen > QMP_MAX_EVENTS);
  stop(peer);
  while (qmp_wait_event(qmp, "NOISE", NULL, NULL, 0, NULL, NULL))
    n_left++;
  assert_true(n_left >= QMP_MAX_EVENTS);
}

static void
test_endless_message_is_too_large(void **state)
{
  g_autofree char *block = g_strnfill(1 << 20, 'x');
  const TestPeerStep steps[] = {
      GREETED, {TEST_PEER_SEND, "{\"return\": \""}, {TEST_PEER_FLOOD, block}, {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) qmp = open_peer(peer);
  expect_call_fails(qmp, LONG_MS, CBT_ERROR_TOO_LARGE, "too long");
  assert_false(qmp_is_open(qmp));
  stop(peer);
}

static void
test_second_client_is_told_that_the_socket_is_taken(void **state)
{
  static const TestPeerStep steps[] = {GREETED, {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qmp) first = open_peer(peer);
  g_autoptr(GError) error = NULL;
  assert_null(qmp_open(test_peer_path(peer), SHORT_MS, NULL, &error));
  expect_error(error, CBT_ERROR_UNREACHABLE, "somebody else is connected to it");
  stop(peer);
}

static void
test_silent_qemu_is_unreachable_and_other_sockets_are_named(void **state)
{
  static const TestPeerStep silent[] = {{TEST_PEER_END, NULL}};
  static const TestPeerStep hmp[] = {{TEST_PEER_SEND, "QEMU 7.2.22 monitor - type 'help'\r\n(qemu) "},
                                     {TEST_PEER_END, NULL}};
  static const TestPeerStep other[] = {{TEST_PEER_SEND, "{\"QMP\": []}"}, {TEST_PEER_END, NULL}};
  static const TestPeerStep gone[] = {
      {TEST_PEER_SEND, "{\"QMP\": {"}, {TEST_PEER_CLOSE, NULL}, {TEST_PEER_END, NULL}};
  static const struct {
    const TestPeerStep *steps;
    CbtErrorCode code;
    const char *text;
  } cases[] = {{silent, CBT_ERROR_UNREACHABLE, "it hangs, or somebody else"},
               {hmp, CBT_ERROR_CORRUPT, "not the socket of a QMP monitor"},
               {other, CBT_ERROR_CORRUPT, "not the socket of a QMP monitor"},
               {gone, CBT_ERROR_UNREACHABLE, "closed at the other end"}};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    TestPeer *peer = test_peer_start(cases[i].steps);
    g_autoptr(GError) error = NULL;
    guint timeout_ms = cases[i].steps == silent ? SHORT_MS : LONG_MS;
    assert_null(qmp_open(test_peer_path(peer), timeout_ms, NULL, &error));
    expect_error(error, cases[i].code, cases[i].text);
    stop(peer);
  }
}

static void
test_socket_without_a_listener_is_unreachable(void **state)
{
  (void) state;
  g_autoptr(GError) none = NULL, too_long = NULL;
  g_autofree char *long_path = g_strnfill(200, 'x');
  assert_null(qmp_open("/nonexistent/qmp.sock", LONG_MS, NULL, &none));
  expect_error(none, CBT_ERROR_UNREACHABLE, "Nobody listens on /nonexistent/qmp.sock");
  assert_null(qmp_open(long_path, LONG_MS, NULL, &too_long));
  expect_error(too_long, CBT_ERROR_INVALID, "too long");
}

static void *
cancel(void *data)
{
  g_cancellable_cancel(data);
  return NULL;
}

static void
test_cancel_ends_a_wait(void **state)
{
  static const TestPeerStep steps[] = {GREETED, {TEST_PEER_END, NULL}};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(Qmp) qmp = qmp_open(test_peer_path(peer), LONG_MS, cancellable, NULL);
  pthread_t thread;
  assert_non_null(qmp);
  assert_int_equal(pthread_create(&thread, NULL, cancel, cancellable), 0);
  expect_call_fails(qmp, LONG_MS, CBT_ERROR_CANCELLED, "cancelled");
  pthread_join(thread, NULL);
  assert_null(qmp_open(test_peer_path(peer), LONG_MS, cancellable, NULL));
  stop(peer);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_greeting_tells_the_version),
      cmocka_unit_test(test_call_sends_arguments_and_returns_the_answer_past_events),
      cmocka_unit_test(test_refusals_have_the_code_of_their_class_and_the_words_of_qemu),
      cmocka_unit_test(test_refusal_without_id_is_the_answer),
      cmocka_unit_test(test_late_answer_is_not_taken_for_that_of_the_next_call),
      cmocka_unit_test(test_answers_and_events_meant_for_a_client_before_are_dropped),
      cmocka_unit_test(test_connection_closed_in_an_answer_is_unreachable),
      cmocka_unit_test(test_nonsense_is_corrupt_and_ends_the_connection),
      cmocka_unit_test(test_answers_of_odd_shapes_are_handed_out),
      cmocka_unit_test(test_events_wait_until_they_are_asked_for),
      cmocka_unit_test(test_flood_of_events_neither_fills_memory_nor_outlasts_the_deadline),
      cmocka_unit_test(test_endless_message_is_too_large),
      cmocka_unit_test(test_second_client_is_told_that_the_socket_is_taken),
      cmocka_unit_test(test_silent_qemu_is_unreachable_and_other_sockets_are_named),
      cmocka_unit_test(test_socket_without_a_listener_is_unreachable),
      cmocka_unit_test(test_cancel_ends_a_wait),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
