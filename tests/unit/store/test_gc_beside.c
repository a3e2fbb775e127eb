/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Collections beside backups and restores, also on a disk that is full at times: whatever is committed
 * restores.
 */
#include "full-disk.h"
#include "gc-history.h"

#include <store/store-private.h>

typedef struct {
  Store *store;
  FullDisk *disk;       /* (nullable) it is full at times */
  pthread_mutex_t lock; /* of pthreads, which race detectors see */
  pthread_cond_t begun; /* a collection, or all is over */
  GPtrArray *points;    /* protected by lock, as all below */
  guint n_readers;      /* while there are any nothing is removed */
  guint n_collecting;   /* collections that were begun */
  guint n_failed;       /* points that did not fit the disk */
  gboolean is_over;
  gint n_made;
} Beside;

static void
remove_some(Beside *beside, GRand *rand)
{
  pthread_mutex_lock(&beside->lock);
  while (beside->n_readers == 0 && beside->points->len > 4)
    g_ptr_array_remove_index(beside->points, (guint) g_rand_int_range(rand, 0, (gint32) beside->points->len));
  pthread_mutex_unlock(&beside->lock);
}

static gboolean
is_over(Beside *beside)
{
  pthread_mutex_lock(&beside->lock);
  gboolean over = beside->is_over;
  pthread_mutex_unlock(&beside->lock);
  return over;
}

/* The next point begins when a collection just has, for which nothing of the failed one is pinned. */
static void
wait_for_collection(Beside *beside)
{
  pthread_mutex_lock(&beside->lock);
  guint n = beside->n_collecting;
  beside->n_failed++;
  while (beside->n_collecting == n && !beside->is_over)
    pthread_cond_wait(&beside->begun, &beside->lock);
  pthread_mutex_unlock(&beside->lock);
}

/* Points without a base: all that they share with others they reuse. */
static gpointer
backup_thread(gpointer data)
{
  Beside *beside = data;
  g_autoptr(GRand) rand = g_rand_new_with_seed((guint32) g_atomic_int_add(&beside->n_made, 1));
  while (!is_over(beside)) {
    StorePins *pins = store_pins_new(beside->store);
    KnownPoint *known = make_point(beside->store, pins, NULL, 60, rand);
    assert_true(known || beside->disk);
    if (known) {
      pthread_mutex_lock(&beside->lock);
      g_ptr_array_add(beside->points, known);
      pthread_mutex_unlock(&beside->lock);
      g_atomic_int_inc(&beside->n_made);
    }
    store_pins_free(pins);
    if (!known)
      wait_for_collection(beside);
    remove_some(beside, rand);
  }
  return NULL;
}

static gpointer
restore_thread(gpointer data)
{
  Beside *beside = data;
  while (!is_over(beside)) {
    pthread_mutex_lock(&beside->lock);
    KnownPoint *known = beside->points->len > 0 ? beside->points->pdata[0] : NULL;
    beside->n_readers++;
    pthread_mutex_unlock(&beside->lock);
    if (known)
      check_point(beside->store, known);
    pthread_mutex_lock(&beside->lock);
    beside->n_readers--;
    pthread_mutex_unlock(&beside->lock);
  }
  return NULL;
}

static GPtrArray *
take_snapshot(Beside *beside)
{
  GPtrArray *snapshot = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  pthread_mutex_lock(&beside->lock);
  for (guint i = 0; i < beside->points->len; i++) {
    const KnownPoint *known = beside->points->pdata[i];
    StorePoint *copy = store_point_new();
    copy->vm = g_strdup("vm");
    store_point_add_disk(copy, "root")->manifest =
        ((StorePointDisk *) known->point->disks->pdata[0])->manifest;
    g_ptr_array_add(snapshot, copy);
  }
  beside->n_collecting++;
  pthread_cond_broadcast(&beside->begun);
  pthread_mutex_unlock(&beside->lock);
  return snapshot;
}

/* MAY_FAIL: there is no room for copies. */
static void
collect_beside(Beside *beside, gboolean may_fail)
{
  StoreGcResult result;
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreGc) gc = store_gc_begin(beside->store, NULL, &error);
  assert_non_null(gc);
  g_autoptr(GPtrArray) snapshot = take_snapshot(beside);
  if (!store_gc_mark(gc, snapshot, &error))
    fail_msg("%s", error->message);
  if (!store_gc_sweep(gc, &result, &error) &&
      !(may_fail && g_error_matches(error, CBT_ERROR, CBT_ERROR_NO_SPACE)))
    fail_msg("%s", error->message);
  assert_int_equal(result.n_missing, 0);
}

static gboolean
has_enough(Beside *beside, gint64 end)
{
  pthread_mutex_lock(&beside->lock);
  gboolean enough =
      g_get_monotonic_time() >= end && beside->n_collecting >= 5 && (!beside->disk || beside->n_failed >= 5);
  pthread_mutex_unlock(&beside->lock);
  return enough;
}

static void
collect_until(Beside *beside, gint64 end)
{
  while (!has_enough(beside, end)) {
    gboolean is_full = beside->disk && g_random_boolean();
    if (beside->disk)
      g_atomic_int_set(&beside->disk->is_full, is_full);
    collect_beside(beside, is_full);
  }
  if (beside->disk)
    g_atomic_int_set(&beside->disk->is_full, FALSE);
  pthread_mutex_lock(&beside->lock);
  beside->is_over = TRUE;
  pthread_cond_broadcast(&beside->begun);
  pthread_mutex_unlock(&beside->lock);
}

static void
check_end(Fixture *fixture, Beside *beside)
{
  StoreGcResult result;
  g_autoptr(GError) error = NULL;
  print_message("%u collections beside %d points and %u that did not fit\n", beside->n_collecting,
                g_atomic_int_get(&beside->n_made), beside->n_failed);
  check_points(fixture->store, beside->points);
  if (!collect(fixture->store, beside->points, &result, &error))
    fail_msg("%s", error->message);
  assert_int_equal(result.n_missing + result.n_kept, 0);
  reopen(fixture);
  check_points(fixture->store, beside->points);
}

/* For SECONDS, or two minutes. */
static void
run_beside(Fixture *fixture, FullDisk *disk, guint seconds)
{
  Beside beside = {.store = fixture->store, .disk = disk};
  const char *text = g_getenv("CBT_TEST_LONG");
  gint64 end = g_get_monotonic_time() + (text && *text ? 120 : seconds) * G_USEC_PER_SEC;
  beside.points = g_ptr_array_new_with_free_func(known_point_free);
  pthread_mutex_init(&beside.lock, NULL);
  pthread_cond_init(&beside.begun, NULL);
  GThread *threads[] = {g_thread_new("backup", backup_thread, &beside),
                        g_thread_new("backup", backup_thread, &beside),
                        g_thread_new("restore", restore_thread, &beside)};
  collect_until(&beside, end);
  for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
    g_thread_join(threads[i]);
  check_end(fixture, &beside);
  g_ptr_array_unref(beside.points);
  pthread_cond_destroy(&beside.begun);
  pthread_mutex_destroy(&beside.lock);
}

static void
test_backups_restores_and_collections_side_by_side_lose_nothing(void **state)
{
  run_beside(*state, NULL, 4);
}

static void
test_the_same_on_a_disk_that_is_full_at_times(void **state)
{
  static FullDisk disk;
  Fixture *fixture = *state;
  full_disk_init(&disk);
  fixture->options.ops = &disk.table;
  reopen(fixture);
  run_beside(fixture, &disk, 2);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_backups_restores_and_collections_side_by_side_lose_nothing),
      TEST_GROUPED(test_backups_restores_and_collections_side_by_side_lose_nothing),
      TEST(test_the_same_on_a_disk_that_is_full_at_times),
      TEST_GROUPED(test_the_same_on_a_disk_that_is_full_at_times),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
