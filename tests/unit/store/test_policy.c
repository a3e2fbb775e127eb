/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The scheduler's decisions, with a clock that the test sets: a run is what happens when one is due. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <store/policy.h>
#include <string.h>
#include <unistd.h>

#define SECOND ((gint64) G_USEC_PER_SEC)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
/* 2024-03-01T00:00Z */
#define START ((gint64) 1709251200 * SECOND)

typedef struct {
  StorePolicy *policy;
  GTimeZone *zone;
  gint64 now;
  gint64 jitter_max;
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->policy = store_policy_new("web");
  fixture->zone = g_time_zone_new_utc();
  fixture->now = START;
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  store_policy_free(fixture->policy);
  g_time_zone_unref(fixture->zone);
  g_free(fixture);
  return 0;
}

static void
set_schedule(Fixture *fixture, const char *text)
{
  assert_true(store_schedule_parse(text, &fixture->policy->schedule, NULL));
  store_policy_restart(fixture->policy, fixture->now);
}

static gint64
due(Fixture *fixture)
{
  return store_policy_due(fixture->policy, fixture->now, fixture->jitter_max, fixture->zone);
}

static void
begin(Fixture *fixture)
{
  store_policy_begin(fixture->policy, fixture->now, fixture->jitter_max);
}

static void
fail_run(Fixture *fixture)
{
  begin(fixture);
  store_policy_failed(fixture->policy, fixture->now, fixture->jitter_max, fixture->zone, "why");
}

/* The clock goes on to UNTIL, by steps of TICK; runs what is due, and counts that. */
static guint
pass_time(Fixture *fixture, gint64 until, gint64 tick)
{
  guint n_runs = 0;
  for (; fixture->now <= until; fixture->now += tick) {
    store_policy_follow_clock(fixture->policy, fixture->now);
    if (due(fixture) > fixture->now)
      continue;
    begin(fixture);
    store_policy_done(fixture->policy);
    n_runs++;
  }
  return n_runs;
}

static void
test_runs_when_the_schedule_says_and_not_before(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "daily 02:30");
  assert_int_equal(due(fixture), START + 150 * MINUTE);
  assert_int_equal(pass_time(fixture, START + 149 * MINUTE, MINUTE), 0);
  assert_int_equal(pass_time(fixture, START + 150 * MINUTE, MINUTE), 1);
  assert_int_equal(fixture->policy->last_run, START + 150 * MINUTE);
  assert_int_equal(pass_time(fixture, START + DAY, MINUTE), 0);
  assert_int_equal(pass_time(fixture, START + 10 * DAY, MINUTE), 9);
}

static void
test_missed_runs_are_caught_up_once(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "every 15m");
  pass_time(fixture, START + HOUR, SECOND);
  fixture->now = START + 5 * DAY + 100 * SECOND;
  assert_true(due(fixture) <= fixture->now);
  begin(fixture);
  store_policy_done(fixture->policy);
  assert_int_equal(due(fixture), START + 5 * DAY + 15 * MINUTE);
}

static void
test_nothing_is_caught_up_from_before_it_was_set_or_enabled(void **state)
{
  Fixture *fixture = *state;
  fixture->now = START + 3 * HOUR;
  set_schedule(fixture, "daily 02:30");
  assert_int_equal(due(fixture), START + DAY + 150 * MINUTE);
  fixture->policy->enabled = FALSE;
  assert_int_equal(due(fixture), 0);
  fixture->now = START + 10 * DAY;
  fixture->policy->enabled = TRUE;
  store_policy_restart(fixture->policy, fixture->now);
  assert_int_equal(due(fixture), START + 10 * DAY + 150 * MINUTE);
}

static void
test_period_that_is_no_part_of_a_day_counts_from_the_last_run(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "every 7h");
  assert_int_equal(pass_time(fixture, START + 70 * HOUR, MINUTE), 10);
  fixture->now = START + 100 * HOUR;
  assert_int_equal(pass_time(fixture, START + 100 * HOUR, MINUTE), 1);
  fixture->now = START + 100 * HOUR;
  assert_int_equal(due(fixture), START + 107 * HOUR);
}

/* ---- failures ---- */

static void
test_failed_run_is_tried_again_later_each_time(void **state)
{
  Fixture *fixture = *state;
  static const gint64 minutes[] = {1, 2, 4, 8, 16, 32, 60, 60, 60};
  set_schedule(fixture, "daily 02:30");
  fixture->now = due(fixture);
  for (guint i = 0; i < G_N_ELEMENTS(minutes); i++) {
    fail_run(fixture);
    assert_int_equal(fixture->policy->n_failures, i + 1);
    assert_int_equal(fixture->policy->last_result, STORE_POLICY_ERROR);
    assert_string_equal(fixture->policy->last_error, "why");
    assert_int_equal(due(fixture), fixture->now + minutes[i] * MINUTE);
    fixture->now = due(fixture);
  }
  begin(fixture);
  store_policy_done(fixture->policy);
  assert_int_equal(fixture->policy->n_failures, 0);
  assert_null(fixture->policy->last_error);
  assert_int_equal(due(fixture), START + DAY + 150 * MINUTE);
}

static void
test_retry_is_never_behind_the_schedule(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "every 10m");
  for (guint i = 0; i < 200; i++) {
    fixture->now = due(fixture);
    fail_run(fixture);
    assert_true(due(fixture) > fixture->now);
    assert_true(due(fixture) <= fixture->now - fixture->now % (10 * MINUTE) + 10 * MINUTE);
  }
  assert_int_equal(fixture->policy->n_failures, 200);
  assert_int_equal(due(fixture) % (10 * MINUTE), 0);
}

static void
test_cancelled_run_waits_for_the_schedule(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "daily 02:30");
  fixture->now = due(fixture);
  begin(fixture);
  store_policy_cancelled(fixture->policy, "cancelled by request");
  assert_int_equal(due(fixture), START + DAY + 150 * MINUTE);
  assert_int_equal(fixture->policy->n_failures, 0);
}

static void
test_run_that_a_stop_interrupts_is_still_owed(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "daily 02:30");
  fixture->now = due(fixture);
  begin(fixture);
  store_policy_interrupted(fixture->policy, fixture->now, "the daemon stopped");
  assert_true(due(fixture) <= fixture->now);
  begin(fixture);
  store_policy_done(fixture->policy);
  assert_int_equal(due(fixture), START + DAY + 150 * MINUTE);
}

/* ---- clocks ---- */

static void
test_clock_that_is_set_back_does_not_stop_runs(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "hourly");
  fixture->now = START + 365 * DAY;
  fail_run(fixture);
  fixture->now = START;
  assert_int_equal(pass_time(fixture, START + 90 * MINUTE, SECOND), 2); /* the retry, and 01:00 */
  begin(fixture);
  store_policy_done(fixture->policy);
  fixture->now = START - 10 * DAY;
  assert_int_equal(pass_time(fixture, START - 9 * DAY, MINUTE), 24);
}

static void
test_clock_that_is_set_forward_runs_once(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "hourly");
  pass_time(fixture, START + 10 * MINUTE, MINUTE);
  fixture->now = START + 100 * DAY + MINUTE;
  assert_int_equal(pass_time(fixture, START + 100 * DAY + 59 * MINUTE, MINUTE), 1);
}

static void
test_each_day_has_one_run_over_changes_of_the_clock(void **state)
{
  Fixture *fixture = *state;
  GTimeZone *zone = g_time_zone_new_identifier("Europe/Berlin");
  if (!zone)
    skip();
  g_time_zone_unref(fixture->zone);
  fixture->zone = zone;
  fixture->jitter_max = 5 * MINUTE;
  set_schedule(fixture, "daily 02:30");
  assert_int_equal(pass_time(fixture, START + 365 * DAY - HOUR, MINUTE), 365);
}

/* ---- jitter ---- */

static void
test_jitter_delays_each_run_by_the_same(void **state)
{
  Fixture *fixture = *state;
  fixture->jitter_max = 5 * MINUTE;
  set_schedule(fixture, "hourly");
  gint64 jitter = store_policy_jitter(fixture->policy, fixture->jitter_max);
  assert_true(jitter > 0 && jitter < 5 * MINUTE);
  for (guint i = 1; i < 100; i++) {
    assert_int_equal(due(fixture), START + i * HOUR + jitter);
    fixture->now = due(fixture);
    begin(fixture);
    store_policy_done(fixture->policy);
  }
  fixture->jitter_max = 0;
  assert_int_equal(due(fixture), START + 100 * HOUR);
}

static void
test_jitter_is_at_most_a_tenth_of_the_period(void **state)
{
  Fixture *fixture = *state;
  fixture->jitter_max = 5 * MINUTE;
  set_schedule(fixture, "every 10s");
  assert_true(store_policy_jitter(fixture->policy, fixture->jitter_max) < SECOND);
  assert_int_equal(pass_time(fixture, START + 100 * SECOND, SECOND / 10),
                   9 + 1 - (due(fixture) > fixture->now));
}

static void
test_fifty_vms_do_not_begin_together(void **state)
{
  (void) state;
  static const char *const patterns[] = {"vm%u", "web-%02u", "%u", "host.example.org-%u"};
  for (guint p = 0; p < G_N_ELEMENTS(patterns); p++) {
    guint counts[10] = {0};
    for (guint i = 0; i < 50; i++) {
      char name[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
      g_snprintf(name, sizeof name, patterns[p], i);
#pragma GCC diagnostic pop
      g_autoptr(StorePolicy) policy = store_policy_new(name);
      assert_true(store_schedule_parse("daily 02:30", &policy->schedule, NULL));
      gint64 jitter = store_policy_jitter(policy, 5 * MINUTE);
      assert_true(jitter >= 0 && jitter < 5 * MINUTE);
      counts[jitter / (30 * SECOND)]++;
    }
    for (guint i = 0; i < G_N_ELEMENTS(counts); i++)
      if (counts[i] > 12)
        fail_msg("%s: %u of 50 in the same half minute", patterns[p], counts[i]);
  }
}

static gint64
wanted(Fixture *fixture, gint64 good)
{
  return store_policy_wanted(fixture->policy, good, START, fixture->jitter_max, fixture->zone);
}

static void
test_a_newer_point_is_wanted_from_the_first_time_after_the_last_good_one(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "hourly");
  assert_int_equal(wanted(fixture, 0), START + HOUR);
  assert_int_equal(wanted(fixture, START - 90 * DAY), START + HOUR);
  fixture->now = START + 5 * HOUR;
  fail_run(fixture);
  assert_int_equal(wanted(fixture, START + 90 * MINUTE), START + 2 * HOUR);
  assert_int_equal(wanted(fixture, 0), START + HOUR);
  fixture->jitter_max = DAY;
  assert_int_equal(wanted(fixture, 0), START + HOUR + store_policy_jitter(fixture->policy, DAY));
}

static void
test_nothing_is_wanted_of_a_disabled_policy_nor_from_before_it_was_enabled(void **state)
{
  Fixture *fixture = *state;
  set_schedule(fixture, "hourly");
  begin(fixture);
  store_policy_done(fixture->policy);
  fixture->policy->enabled = FALSE;
  assert_int_equal(wanted(fixture, START), 0);
  fixture->policy->enabled = TRUE;
  store_policy_restart(fixture->policy, START + 7 * DAY);
  assert_int_equal(wanted(fixture, START), START + 7 * DAY + HOUR);
}

int
main(void)
{
#define POLICY_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
  const struct CMUnitTest tests[] = {
      POLICY_TEST(test_a_newer_point_is_wanted_from_the_first_time_after_the_last_good_one),
      POLICY_TEST(test_nothing_is_wanted_of_a_disabled_policy_nor_from_before_it_was_enabled),
      POLICY_TEST(test_runs_when_the_schedule_says_and_not_before),
      POLICY_TEST(test_missed_runs_are_caught_up_once),
      POLICY_TEST(test_nothing_is_caught_up_from_before_it_was_set_or_enabled),
      POLICY_TEST(test_period_that_is_no_part_of_a_day_counts_from_the_last_run),
      POLICY_TEST(test_failed_run_is_tried_again_later_each_time),
      POLICY_TEST(test_retry_is_never_behind_the_schedule),
      POLICY_TEST(test_cancelled_run_waits_for_the_schedule),
      POLICY_TEST(test_run_that_a_stop_interrupts_is_still_owed),
      POLICY_TEST(test_clock_that_is_set_back_does_not_stop_runs),
      POLICY_TEST(test_clock_that_is_set_forward_runs_once),
      POLICY_TEST(test_each_day_has_one_run_over_changes_of_the_clock),
      POLICY_TEST(test_jitter_delays_each_run_by_the_same),
      POLICY_TEST(test_jitter_is_at_most_a_tenth_of_the_period),
      POLICY_TEST(test_fifty_vms_do_not_begin_together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
