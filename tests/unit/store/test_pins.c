/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store-fixture.h"

#include <store/pins.h>

#define N_IDS     100000u
#define N_THREADS 4u

/* Of keyed digests only that they are as good as random counts. */
static StoreChunkId
id_of(guint32 i)
{
  StoreChunkId id;
  store_test_fill_random(id.bytes, sizeof id.bytes, i + 1);
  return id;
}

/* How many of N ids from FIRST on are pinned. */
static guint
count_pinned(Store *store, guint32 first, guint32 n)
{
  guint n_pinned = 0;
  for (guint32 i = first; i < first + n; i++) {
    StoreChunkId id = id_of(i);
    n_pinned += store_pins_contain(store, &id) ? 1 : 0;
  }
  return n_pinned;
}

static void
add(StorePins *pins, guint32 first, guint32 n)
{
  for (guint32 i = first; i < first + n; i++) {
    StoreChunkId id = id_of(i);
    store_pins_add(pins, &id);
  }
}

static void
test_what_was_added_is_pinned_through_all_growth(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  for (guint32 i = 0; i < N_IDS; i += 1000) {
    add(pins, i, 1000);
    assert_int_equal(count_pinned(fixture->store, i, 1000), 1000);
  }
  assert_int_equal(count_pinned(fixture->store, 0, N_IDS), N_IDS);
}

static void
test_what_was_never_added_is_seldom_pinned(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  assert_int_equal(count_pinned(fixture->store, 0, 1000), 0);
  for (guint32 n = 0; n < N_IDS; n += 20000) {
    add(pins, n, 20000);
    guint n_pinned = count_pinned(fixture->store, N_IDS, N_IDS);
    print_message("%u added: %.2f %% of what was not are pinned\n", n + 20000, n_pinned * 100.0 / N_IDS);
    assert_in_range(n_pinned, 0, N_IDS / 10);
  }
}

static void
test_all_ordinals_of_a_digest_are_pinned(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  StoreChunkId id = id_of(7);
  store_pins_add(pins, &id);
  for (guint ordinal = 0; ordinal < 256; ordinal++) {
    id.bytes[STORE_CHUNK_ID_SIZE - 1] = (guint8) ordinal;
    assert_true(store_pins_contain(fixture->store, &id));
  }
}

typedef struct {
  Store *store;
  StorePins *pins;
  guint32 first;
} Part;

/* A put may count on its pin from the moment that it was added. */
static void *
add_part(void *data)
{
  const Part *part = data;
  for (guint32 i = part->first; i < N_IDS; i += N_THREADS) {
    StoreChunkId id = id_of(i);
    store_pins_add(part->pins, &id);
    if (!store_pins_contain(part->store, &id))
      return data;
  }
  return NULL;
}

static void
test_what_threads_add_side_by_side_is_pinned(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  pthread_t threads[N_THREADS];
  Part parts[N_THREADS];
  for (guint32 i = 0; i < N_THREADS; i++) {
    parts[i] = (Part){fixture->store, pins, i};
    assert_int_equal(pthread_create(&threads[i], NULL, add_part, &parts[i]), 0);
  }
  for (guint i = 0; i < N_THREADS; i++) {
    void *missing;
    pthread_join(threads[i], &missing);
    assert_null(missing);
  }
  assert_int_equal(count_pinned(fixture->store, 0, N_IDS), N_IDS);
}

static void
test_freed_pins_count_no_more_but_for_the_collection_that_runs(void **state)
{
  Fixture *fixture = *state;
  Store *store = fixture->store;
  guint32 first_pack;
  StorePins *before = store_pins_new(store);
  StorePins *meanwhile = store_pins_new(store);
  add(before, 0, 10);
  add(meanwhile, 100, 10);
  store_pins_free(before);
  assert_int_equal(count_pinned(store, 0, 10), 0);
  assert_true(store_pins_begin_collection(store, &first_pack));
  assert_false(store_pins_begin_collection(store, &first_pack));
  store_pins_free(meanwhile);
  assert_int_equal(count_pinned(store, 100, 10), 10);
  store_pins_end_collection(store);
  assert_int_equal(count_pinned(store, 100, 10), 0);
  assert_true(store_pins_begin_collection(store, &first_pack));
  assert_int_equal(first_pack, G_MAXUINT32);
  store_pins_end_collection(store);
}

static void
test_each_of_several_points_pins_its_own(void **state)
{
  Fixture *fixture = *state;
  StorePins *first = store_pins_new(fixture->store);
  g_autoptr(StorePins) second = store_pins_new(fixture->store);
  add(first, 0, 10);
  add(second, 5, 10);
  assert_int_equal(count_pinned(fixture->store, 0, 15), 15);
  store_pins_free(first);
  assert_int_equal(count_pinned(fixture->store, 0, 5), 0);
  assert_int_equal(count_pinned(fixture->store, 5, 10), 10);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_what_was_added_is_pinned_through_all_growth),
      TEST(test_what_was_never_added_is_seldom_pinned),
      TEST(test_all_ordinals_of_a_digest_are_pinned),
      TEST(test_what_threads_add_side_by_side_is_pinned),
      TEST(test_freed_pins_count_no_more_but_for_the_collection_that_runs),
      TEST(test_each_of_several_points_pins_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
