/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/control.h>

#include "bitmap-fixture.h"

#define G FIXTURE_GRANULE

typedef struct {
  Fixture *base;
  int image_fd;
  CbtTracker *tracker;
  CbtControlReply reply;
} Control;

static int
setup(void **state)
{
  Control *c = g_new0(Control, 1);
  if (fixture_setup((void **) &c->base) != 0)
    return -1;
  g_autofree char *image = g_build_filename(c->base->directory, "disk.img", NULL);
  c->image_fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (ftruncate(c->image_fd, (off_t) FIXTURE_DISK_SIZE) != 0)
    return -1;
  c->tracker = cbt_tracker_open(cbt_file_ops_default(), c->base->directory, NULL, c->image_fd,
                                &c->base->disk.disk_id, NULL);
  *state = c;
  return c->tracker != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
  Control *c = *state;
  void *base = c->base;
  cbt_tracker_abandon(c->tracker);
  close(c->image_fd);
  g_free(c);
  return fixture_teardown(&base);
}

static CbtControlRequest
request(CbtControlOp op, const char *name)
{
  CbtControlRequest r;
  cbt_control_request_init(&r, op, name);
  r.granularity = G;
  return r;
}

static void
expect_done(Control *c, const CbtControlRequest *r, guint n_bitmaps)
{
  memset(&c->reply, 0xee, sizeof c->reply);
  cbt_control_execute(c->tracker, r, &c->reply);
  if (c->reply.code != -1)
    fail_msg("%s", c->reply.message);
  assert_int_equal(c->reply.magic, CBT_CONTROL_MAGIC);
  assert_int_equal(c->reply.version, CBT_CONTROL_VERSION);
  assert_int_equal(c->reply.n_bitmaps, n_bitmaps);
  assert_int_equal(c->reply.identity.size, FIXTURE_DISK_SIZE);
}

static void
expect_error(Control *c, const CbtControlRequest *r, CbtErrorCode code)
{
  memset(&c->reply, 0xee, sizeof c->reply);
  cbt_control_execute(c->tracker, r, &c->reply);
  assert_int_equal(c->reply.code, code);
  assert_int_equal(c->reply.n_bitmaps, 0);
  assert_non_null(memchr(c->reply.message, '\0', sizeof c->reply.message));
  assert_string_not_equal(c->reply.message, "");
}

static void
test_hello_tells_who_owns_which_disk(void **state)
{
  Control *c = *state;
  CbtControlRequest r = request(CBT_CONTROL_HELLO, NULL);
  expect_done(c, &r, 0);
  assert_int_equal(c->reply.pid, getpid());
  assert_true(cbt_uuid_equal(&c->reply.identity.disk_id, &c->base->disk.disk_id));
}

static void
test_every_bitmap_request_answers_with_the_new_state(void **state)
{
  Control *c = *state;
  CbtControlRequest r = request(CBT_CONTROL_ADD, "daily");
  expect_done(c, &r, 1);
  r = request(CBT_CONTROL_ADD, "weekly");
  expect_done(c, &r, 2);
  cbt_tracker_record(c->tracker, 0, 1);
  r = request(CBT_CONTROL_LIST, NULL);
  expect_done(c, &r, 2);
  assert_int_equal(c->reply.bitmaps[1].count, G);
  r = request(CBT_CONTROL_APPLY, "daily");
  r.event = CBT_BITMAP_CREATE_SUCCESSOR;
  r.pending.bytes[3] = 7;
  expect_done(c, &r, 2);
  assert_int_equal(c->reply.bitmaps[0].state, CBT_BITMAP_FROZEN);
  assert_true(cbt_uuid_equal(&c->reply.bitmaps[0].pending, &r.pending));
  r = request(CBT_CONTROL_MERGE, "daily");
  g_strlcpy(r.source, "weekly", sizeof r.source);
  expect_done(c, &r, 2);
  assert_int_equal(c->reply.bitmaps[0].successor_count, G);
  r = request(CBT_CONTROL_REMOVE, "weekly");
  expect_done(c, &r, 1);
  assert_string_equal(c->reply.bitmaps[0].name, "daily");
}

static void
test_errors_carry_their_code_and_message(void **state)
{
  Control *c = *state;
  CbtControlRequest r = request(CBT_CONTROL_REMOVE, "nosuch");
  expect_error(c, &r, CBT_ERROR_NOT_FOUND);
  assert_non_null(strstr(c->reply.message, "nosuch"));
  r = request(CBT_CONTROL_ADD, "daily");
  expect_done(c, &r, 1);
  expect_error(c, &r, CBT_ERROR_EXISTS);
  r = request(CBT_CONTROL_APPLY, "daily");
  r.event = CBT_BITMAP_RECLAIM;
  expect_error(c, &r, CBT_ERROR_STATE);
  r.event = CBT_N_BITMAP_EVENTS;
  expect_error(c, &r, CBT_ERROR_INVALID);
}

static void
test_other_protocols_and_operations_are_refused(void **state)
{
  Control *c = *state;
  CbtControlRequest r = request(CBT_CONTROL_LIST, NULL);
  r.version++;
  expect_error(c, &r, CBT_ERROR_UNSUPPORTED);
  r = request(CBT_CONTROL_LIST, NULL);
  r.magic++;
  expect_error(c, &r, CBT_ERROR_INVALID);
  for (guint op = CBT_CONTROL_HOLD; op <= CBT_N_CONTROL_OPS; op++) {
    r = request((CbtControlOp) op, "daily");
    expect_error(c, &r, CBT_ERROR_UNSUPPORTED);
  }
  r.op = G_MAXUINT32;
  expect_error(c, &r, CBT_ERROR_UNSUPPORTED);
}

static void
test_names_are_checked_and_never_cut(void **state)
{
  Control *c = *state;
  g_autofree char *longest = g_strnfill(CBT_NAME_MAX, 'a');
  g_autofree char *too_long = g_strnfill(CBT_NAME_MAX + 1, 'a');
  g_autofree char *far_too_long = g_strnfill(1000, 'a');
  CbtControlRequest r = request(CBT_CONTROL_ADD, longest);
  expect_done(c, &r, 1);
  r = request(CBT_CONTROL_REMOVE, too_long);
  expect_error(c, &r, CBT_ERROR_INVALID);
  r = request(CBT_CONTROL_REMOVE, far_too_long);
  expect_error(c, &r, CBT_ERROR_INVALID);
  r = request(CBT_CONTROL_ADD, "../../etc");
  expect_error(c, &r, CBT_ERROR_INVALID);
  r = request(CBT_CONTROL_ADD, NULL);
  expect_error(c, &r, CBT_ERROR_INVALID);
  r = request(CBT_CONTROL_MERGE, longest);
  memset(r.source, 'a', sizeof r.source);
  expect_error(c, &r, CBT_ERROR_INVALID);
}

static void
test_reason_without_end_is_cut(void **state)
{
  Control *c = *state;
  CbtControlRequest r = request(CBT_CONTROL_ADD, "daily");
  expect_done(c, &r, 1);
  r = request(CBT_CONTROL_APPLY, "daily");
  r.event = CBT_BITMAP_MARK_INCONSISTENT;
  memset(r.reason, 'x', sizeof r.reason);
  expect_done(c, &r, 1);
  assert_int_equal(strlen(c->reply.bitmaps[0].reason), CBT_REASON_MAX);
  memset(r.reason, 0xff, sizeof r.reason); /* not UTF-8 */
  expect_done(c, &r, 1);
  assert_true(g_utf8_validate(c->reply.bitmaps[0].reason, -1, NULL));
}

static void
test_long_error_fits_into_the_reply(void **state)
{
  Control *c = *state;
  g_autofree char *text = g_strnfill(5000, 'm');
  g_autoptr(GError) error = g_error_new_literal(CBT_ERROR, CBT_ERROR_NO_SPACE, text);
  cbt_control_reply_error(&c->reply, error);
  assert_int_equal(c->reply.code, CBT_ERROR_NO_SPACE);
  assert_int_equal(strlen(c->reply.message), sizeof c->reply.message - 1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_hello_tells_who_owns_which_disk),
      TEST(test_every_bitmap_request_answers_with_the_new_state),
      TEST(test_errors_carry_their_code_and_message),
      TEST(test_other_protocols_and_operations_are_refused),
      TEST(test_names_are_checked_and_never_cut),
      TEST(test_reason_without_end_is_cut),
      TEST(test_long_error_fits_into_the_reply),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
