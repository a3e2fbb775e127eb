/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cbt/gate.h>
#include <common/error.h>
#include <pthread.h>
#include <stdatomic.h>

#define N_WRITERS 3
#define N_ROUNDS  40
#define LONG_MS   60000u

typedef struct {
  CbtGate *gate;
  _Atomic gboolean stop;
  _Atomic guint64 n_passed;
  guint64 plain; /* touched under a hold alone, without an atomic: for TSan */
} Race;

static void *
write_until_stopped(void *user_data)
{
  Race *race = user_data;
  while (!atomic_load(&race->stop)) {
    cbt_gate_enter(race->gate);
    atomic_fetch_add(&race->n_passed, 1);
    cbt_gate_leave(race->gate);
  }
  return NULL;
}

static void *
write_once(void *user_data)
{
  Race *race = user_data;
  cbt_gate_enter(race->gate);
  atomic_fetch_add(&race->n_passed, 1);
  cbt_gate_leave(race->gate);
  return NULL;
}

static void
race_init(Race *race)
{
  *race = (Race){.gate = cbt_gate_new()};
}

static void
test_hold_stops_every_writer_until_release(void **state G_GNUC_UNUSED)
{
  Race race;
  pthread_t threads[N_WRITERS];
  race_init(&race);
  for (guint i = 0; i < N_WRITERS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, write_until_stopped, &race), 0);
  for (guint round = 0; round < N_ROUNDS; round++) {
    guint64 duration = 0;
    guint64 hold = cbt_gate_hold(race.gate, LONG_MS, NULL);
    assert_true(hold != 0);
    guint64 before = atomic_load(&race.n_passed);
    for (guint i = 0; i < 50; i++)
      sched_yield();
    assert_int_equal(atomic_load(&race.n_passed), before);
    assert_true(cbt_gate_release(race.gate, hold, &duration));
    while (atomic_load(&race.n_passed) == before)
      sched_yield();
  }
  atomic_store(&race.stop, TRUE);
  for (guint i = 0; i < N_WRITERS; i++)
    pthread_join(threads[i], NULL);
  assert_true(cbt_gate_is_idle(race.gate));
  cbt_gate_free(race.gate);
}

static void
test_hold_ends_itself_at_the_deadline(void **state G_GNUC_UNUSED)
{
  Race race;
  guint64 duration = 0;
  race_init(&race);
  gint64 start = g_get_monotonic_time();
  guint64 hold = cbt_gate_hold(race.gate, 50, NULL);
  assert_true(hold != 0);
  write_once(&race); /* waits for the deadline, not for a release */
  assert_true(g_get_monotonic_time() - start >= 50 * 1000);
  assert_false(cbt_gate_release(race.gate, hold, &duration));
  assert_int_equal(duration, 50 * 1000);
  cbt_gate_free(race.gate);
}

static void
count(gpointer user_data)
{
  ++*(guint *) user_data;
}

static void
test_nothing_runs_under_a_hold_that_ended(void **state G_GNUC_UNUSED)
{
  guint n_runs = 0;
  Race race;
  race_init(&race);
  guint64 hold = cbt_gate_hold(race.gate, 20, NULL);
  assert_true(cbt_gate_run_held(race.gate, hold, count, &n_runs));
  assert_false(cbt_gate_run_held(race.gate, hold + 1, count, &n_runs));
  assert_false(cbt_gate_run_held(race.gate, 0, count, &n_runs));
  write_once(&race);
  assert_false(cbt_gate_is_held_by(race.gate, hold));
  assert_false(cbt_gate_run_held(race.gate, hold, count, &n_runs));
  assert_int_equal(n_runs, 1);
  cbt_gate_free(race.gate);
}

typedef struct {
  Race race;
  pthread_t writer;
  guint64 passed_inside;
} Slow;

/* Stays in past the deadline with a writer waiting. */
static void
outlast_deadline(gpointer user_data)
{
  Slow *slow = user_data;
  pthread_create(&slow->writer, NULL, write_once, &slow->race);
  gint64 end = g_get_monotonic_time() + 80 * 1000;
  while (g_get_monotonic_time() < end)
    sched_yield();
  slow->passed_inside = atomic_load(&slow->race.n_passed);
}

static void
test_no_writer_passes_while_an_operation_outlasts_the_deadline(void **state G_GNUC_UNUSED)
{
  Slow slow = {.passed_inside = 99};
  race_init(&slow.race);
  guint64 hold = cbt_gate_hold(slow.race.gate, 30, NULL);
  assert_true(cbt_gate_run_held(slow.race.gate, hold, outlast_deadline, &slow));
  pthread_join(slow.writer, NULL);
  assert_int_equal(slow.passed_inside, 0);
  assert_int_equal(atomic_load(&slow.race.n_passed), 1);
  cbt_gate_free(slow.race.gate);
}

static void
test_second_hold_is_busy_and_a_stale_id_releases_nothing(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  guint64 duration = 0;
  Race race;
  race_init(&race);
  guint64 first = cbt_gate_hold(race.gate, LONG_MS, NULL);
  assert_int_equal(cbt_gate_hold(race.gate, LONG_MS, &error), 0);
  assert_int_equal(cbt_error_code(error), CBT_ERROR_BUSY);
  assert_true(cbt_gate_release(race.gate, first, &duration));
  guint64 second = cbt_gate_hold(race.gate, LONG_MS, NULL);
  assert_false(cbt_gate_release(race.gate, first, &duration));
  assert_true(cbt_gate_is_held_by(race.gate, second));
  assert_true(cbt_gate_release(race.gate, second, &duration));
  assert_false(cbt_gate_release(race.gate, second, &duration));
  cbt_gate_free(race.gate);
}

static void
test_drain_that_takes_too_long_is_busy_and_lets_writers_go(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  Race race;
  race_init(&race);
  cbt_gate_enter(race.gate);
  assert_int_equal(cbt_gate_hold(race.gate, 20, &error), 0);
  assert_int_equal(cbt_error_code(error), CBT_ERROR_BUSY);
  write_once(&race);
  assert_int_equal(atomic_load(&race.n_passed), 1);
  cbt_gate_leave(race.gate);
  cbt_gate_free(race.gate);
}

/* Holds that end by release, by their deadline, or in the middle of an operation, all beside writers. */
static void
check_stands_still(gpointer user_data)
{
  Race *race = user_data;
  guint64 before = atomic_load(&race->n_passed);
  for (guint i = 0; i < 20; i++)
    sched_yield();
  race->plain++;
  g_assert(atomic_load(&race->n_passed) == before);
}

static void
test_operations_are_atomic_whether_or_not_the_hold_expires(void **state G_GNUC_UNUSED)
{
  Race race;
  guint n_run = 0;
  pthread_t threads[N_WRITERS];
  race_init(&race);
  for (guint i = 0; i < N_WRITERS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, write_until_stopped, &race), 0);
  for (guint round = 0; round < N_ROUNDS; round++) {
    guint64 duration = 0;
    guint64 hold = cbt_gate_hold(race.gate, round % 4, NULL);
    for (guint i = 0; i < round % 3 * 100; i++)
      sched_yield();
    if (hold != 0 && cbt_gate_run_held(race.gate, hold, check_stands_still, &race))
      n_run++;
    if (hold != 0)
      cbt_gate_release(race.gate, hold, &duration);
  }
  atomic_store(&race.stop, TRUE);
  for (guint i = 0; i < N_WRITERS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(race.plain, n_run);
  cbt_gate_free(race.gate);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hold_stops_every_writer_until_release),
      cmocka_unit_test(test_hold_ends_itself_at_the_deadline),
      cmocka_unit_test(test_nothing_runs_under_a_hold_that_ended),
      cmocka_unit_test(test_no_writer_passes_while_an_operation_outlasts_the_deadline),
      cmocka_unit_test(test_second_hold_is_busy_and_a_stale_id_releases_nothing),
      cmocka_unit_test(test_drain_that_takes_too_long_is_busy_and_lets_writers_go),
      cmocka_unit_test(test_operations_are_atomic_whether_or_not_the_hold_expires),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
