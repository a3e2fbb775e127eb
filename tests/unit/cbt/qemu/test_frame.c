/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/frame.h>
#include <cbt/qemu/json.h>
#include <string.h>

#define LIMIT 4096

static void
feed(QemuFrame *frame, const char *text)
{
  qemu_frame_feed(frame, (const guint8 *) text, strlen(text));
}

/* The member "a" of the next message; -1 if there is none yet. */
static gint64
next_number(QemuFrame *frame)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonObject) message = NULL;
  gint64 number = -1;
  assert_true(qemu_frame_next(frame, &message, &error));
  if (message)
    assert_true(qemu_json_int(message, "a", &number));
  return number;
}

static void
expect_error(QemuFrame *frame, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  JsonObject *message = NULL;
  assert_false(qemu_frame_next(frame, &message, &error));
  assert_null(message);
  assert_int_equal(cbt_error_code(error), code);
}

static void
test_messages_come_out_however_they_are_cut(void **state)
{
  (void) state;
  const char *text = " {\"a\":1}\r\n{\n  \"a\": 2,\n \"b\": \"}\\\\\\\"{[\"\n}{\"a\":3,\"c\":[{},[1]]}";
  for (gsize step = 1; step <= strlen(text); step++) {
    g_autoptr(QemuFrame) frame = qemu_frame_new(LIMIT, FALSE);
    gint64 expected = 1;
    for (gsize at = 0; at < strlen(text); at += step) {
      qemu_frame_feed(frame, (const guint8 *) text + at, MIN(step, strlen(text) - at));
      for (gint64 n; (n = next_number(frame)) >= 0; expected++)
        assert_int_equal(n, expected);
    }
    assert_int_equal(expected, 4);
    assert_false(qemu_frame_has_bytes(frame));
  }
}

static void
test_what_is_no_object_is_corrupt_and_nothing_follows(void **state)
{
  static const char *const bad[] = {
      "[1]",       "7",           "QEMU 7.2 monitor",  "{\"a\":}",      "{]",
      "{\"a\":1]", "{'a':1 'b'}", "{\"a\":\"\xc3(\"}", "\xff{\"a\":1}", "{\"a\":1,\"\x01\xfe\":2}"};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(QemuFrame) frame = qemu_frame_new(LIMIT, FALSE);
    feed(frame, bad[i]);
    expect_error(frame, CBT_ERROR_CORRUPT);
    feed(frame, "{\"a\":1}");
    expect_error(frame, CBT_ERROR_CORRUPT);
  }
}

static void
test_size_and_depth_have_limits(void **state)
{
  (void) state;
  g_autoptr(QemuFrame) deep = qemu_frame_new(1 << 20, FALSE);
  feed(deep, "{\"a\":");
  for (guint i = 0; i < QEMU_FRAME_MAX_DEPTH; i++)
    feed(deep, "[");
  expect_error(deep, CBT_ERROR_TOO_LARGE);

  g_autoptr(QemuFrame) fits = qemu_frame_new(1 << 20, FALSE);
  feed(fits, "{\"b\":");
  for (guint i = 1; i < QEMU_FRAME_MAX_DEPTH; i++)
    feed(fits, "[");
  for (guint i = 1; i < QEMU_FRAME_MAX_DEPTH; i++)
    feed(fits, "]");
  feed(fits, ",\"a\":5}");
  assert_int_equal(next_number(fits), 5);

  g_autoptr(QemuFrame) longer = qemu_frame_new(LIMIT, FALSE);
  feed(longer, "{\"a\":\"");
  for (guint i = 0; i < LIMIT; i++)
    feed(longer, "x");
  expect_error(longer, CBT_ERROR_TOO_LARGE);
}

static void
test_marker_drops_half_a_message(void **state)
{
  (void) state;
  g_autoptr(QemuFrame) frame = qemu_frame_new(LIMIT, TRUE);
  feed(frame, "{\"a\":1,\"b\":\"half\xff{\"a\":2}\n\xff\xff");
  assert_int_equal(next_number(frame), 2);
  feed(frame, "{\"a\":3}");
  assert_int_equal(next_number(frame), 3);
}

static void
test_skip_drops_all_before_the_marker_and_forgets_an_error(void **state)
{
  (void) state;
  g_autoptr(QemuFrame) frame = qemu_frame_new(LIMIT, TRUE);
  feed(frame, "{\"a\":1}{\"a\":2}\xff{\"a\":3}");
  qemu_frame_skip(frame);
  assert_int_equal(next_number(frame), 3);
  feed(frame, "{\"a\":4}");
  qemu_frame_skip(frame);
  feed(frame, "{\"a\":5}");
  assert_int_equal(next_number(frame), -1);
  feed(frame, "garbage]\xff{\"a\":6}junk");
  assert_int_equal(next_number(frame), 6);
  expect_error(frame, CBT_ERROR_CORRUPT);
  qemu_frame_skip(frame);
  feed(frame, "more\xff{\"a\":7}");
  assert_int_equal(next_number(frame), 7);
}

static void
test_random_bytes_do_no_harm(void **state)
{
  static const char alphabet[] = "{}[]\"\\:,a1 \n\xff\xc3\x01";
  (void) state;
  guint32 seed = g_random_int();
  print_message("seed %u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  g_autoptr(QemuFrame) frame = qemu_frame_new(200, TRUE);
  for (guint i = 0; i < 200000; i++) {
    guint8 byte = (guint8) alphabet[g_rand_int_range(rand, 0, sizeof(alphabet) - 1)];
    g_autoptr(JsonObject) message = NULL;
    qemu_frame_feed(frame, &byte, 1);
    if (!qemu_frame_next(frame, &message, NULL))
      qemu_frame_skip(frame);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_messages_come_out_however_they_are_cut),
      cmocka_unit_test(test_what_is_no_object_is_corrupt_and_nothing_follows),
      cmocka_unit_test(test_size_and_depth_have_limits),
      cmocka_unit_test(test_marker_drops_half_a_message),
      cmocka_unit_test(test_skip_drops_all_before_the_marker_and_forgets_an_error),
      cmocka_unit_test(test_random_bytes_do_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
