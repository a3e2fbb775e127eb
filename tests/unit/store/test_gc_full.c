/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Collections on a disk that takes no byte more, with records in memory that a backup could not write. */
#define DISK_CLUSTERS 160u /* two leaves */
#define N_CONTENTS    100
#include "full-disk.h"
#include "gc-history.h"

#include <store/pack-private.h>
#include <store/store-private.h>

static FullDisk disk; /* the store of the fixture closes on it */

/* On that disk: a point that is in packs of its own. */
static KnownPoint *
begin(Fixture *fixture, GRand *rand)
{
  full_disk_init(&disk);
  fixture->options.ops = &disk.table;
  reopen(fixture);
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  KnownPoint *known = make_point(fixture->store, pins, NULL, DISK_CLUSTERS, rand);
  assert_non_null(known);
  assert_true(store_pack_seal(fixture->store->packs, NULL));
  assert_true(store_flush(fixture->store, NULL));
  return known;
}

/* Puts N clusters that nobody had before; they stay in memory if the disk is full. */
static void
put_others(Fixture *fixture, StorePins *pins, guint n)
{
  store_worker_set_pins(fixture->worker, pins);
  for (guint i = 0; i < n; i++)
    assert_true(put_cluster(fixture->worker, 1000 + i, &fixture->ids[i], NULL, NULL));
  store_worker_set_pins(fixture->worker, NULL);
}

static guint64
count_unwritten(Store *store)
{
  StorePackSet *packs = store->packs;
  const StorePackBuffer *last = store_pack_filling(packs);
  return packs->open ? last->start + last->fill - packs->open->written : 0;
}

static guint
count_pack_files(Store *store)
{
  g_autoptr(GArray) numbers = store_pack_list(store->packs, NULL);
  return numbers->len;
}

/* What stands in the open pack's file and in memory is gone, without a byte being written. */
static void
check_that_it_is_given_up(Fixture *fixture, guint n_written, guint n_unwritten)
{
  StoreStatistics before, after;
  StoreGcResult result;
  g_autoptr(GRand) rand = g_rand_new_with_seed(1);
  g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func(known_point_free);
  g_autoptr(StorePins) pins = NULL;
  g_ptr_array_add(points, begin(fixture, rand));
  store_statistics(fixture->store, &before);
  pins = store_pins_new(fixture->store);
  put_others(fixture, pins, n_written);
  assert_true(n_written == 0 || store_flush(fixture->store, NULL));
  g_atomic_int_set(&disk.is_full, TRUE);
  put_others(fixture, pins, n_written + n_unwritten);
  assert_false(store_flush(fixture->store, NULL));
  g_clear_pointer(&pins, store_pins_free);
  assert_true(count_unwritten(fixture->store) > 0);

  assert_true(collect(fixture->store, points, &result, NULL));
  assert_int_equal(result.n_kept + result.n_missing, 0);
  store_statistics(fixture->store, &after);
  assert_int_equal(after.n_chunks, before.n_chunks);
  assert_int_equal(after.pack_bytes, before.pack_bytes);
  assert_int_equal(after.n_packs, before.n_packs);
  assert_int_equal(count_pack_files(fixture->store), before.n_packs);
  check_points(fixture->store, points);

  g_atomic_int_set(&disk.is_full, FALSE);
  put_others(fixture, NULL, n_written + n_unwritten);
  assert_true(store_flush(fixture->store, NULL));
  reopen(fixture);
  for (guint i = 0; i < n_written + n_unwritten; i++)
    assert_true(cluster_is_readable(fixture->worker, 1000 + i, &fixture->ids[i], NULL));
  check_points(fixture->store, points);
}

static void
test_a_pack_that_cannot_be_sealed_is_given_up(void **state)
{
  check_that_it_is_given_up(*state, 2, 2);
}

static void
test_a_pack_of_which_nothing_was_written_is_given_up(void **state)
{
  check_that_it_is_given_up(*state, 0, 4);
}

/* A point that began when the collection was under way found what another left. */
static void
test_what_is_pinned_is_not_given_up(void **state)
{
  Fixture *fixture = *state;
  StoreGcResult result;
  g_autoptr(GRand) rand = g_rand_new_with_seed(2);
  g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func(known_point_free);
  g_ptr_array_add(points, begin(fixture, rand));
  g_autoptr(GPtrArray) plain = plain_points(points);
  g_atomic_int_set(&disk.is_full, TRUE);
  put_others(fixture, NULL, 4);
  g_autoptr(StoreGc) gc = store_gc_begin(fixture->store, NULL, NULL);
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  put_others(fixture, pins, 1);
  assert_true(store_gc_mark(gc, plain, NULL));
  assert_false(store_gc_sweep(gc, &result, NULL)); /* nothing can be flushed */
  g_clear_pointer(&gc, store_gc_end);
  g_atomic_int_set(&disk.is_full, FALSE);
  assert_true(store_flush(fixture->store, NULL));
  g_clear_pointer(&pins, store_pins_free);
  reopen(fixture);
  assert_true(cluster_is_readable(fixture->worker, 1000, &fixture->ids[0], NULL));
  check_points(fixture->store, points);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_a_pack_that_cannot_be_sealed_is_given_up),
      TEST_GROUPED(test_a_pack_that_cannot_be_sealed_is_given_up),
      TEST(test_a_pack_of_which_nothing_was_written_is_given_up),
      TEST(test_what_is_pinned_is_not_given_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
