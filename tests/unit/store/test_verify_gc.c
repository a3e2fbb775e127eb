/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verify beside garbage collection: points come and go, packs are taken out and chunks moved, and a verify that runs all
 * the time never takes a moved chunk for a damaged one. */
#include "gc-history.h"

#include <store/verify.h>

#define N_POINTS 12u
#define ROUNDS   60u

typedef struct {
  Store *store;
  const StorePoint *point; /* it is never removed */
  gint stop;               /* atomic, as all here */
  gint n_runs;
  gint n_damaged;
} Verifier;

static void *
verify_all_the_time(void *data)
{
  Verifier *verifier = data;
  while (!g_atomic_int_get(&verifier->stop)) {
    StoreVerifyOptions options = {.n_threads = 2, .batch = 16};
    g_autoptr(StoreVerify) verify = store_verify_new(verifier->store, &options);
    StoreVerifyVerdict verdict;
    if (!store_verify_point(verify, verifier->point, NULL, &verdict, NULL) || verdict.n_uses > 0)
      g_atomic_int_inc(&verifier->n_damaged);
    g_atomic_int_inc(&verifier->n_runs);
  }
  return NULL;
}

static void
test_what_is_moved_is_not_taken_for_damaged(void **state)
{
  Fixture *fixture = *state;
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func(known_point_free);
  guint64 n_moved = 0;
  for (guint i = 0; i < N_POINTS; i++)
    g_ptr_array_add(points, make_point(fixture->store, NULL, NULL, 150, rand));
  Verifier verifier = {.store = fixture->store, .point = ((KnownPoint *) points->pdata[0])->point};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, verify_all_the_time, &verifier), 0);
  for (guint round = 0; round < ROUNDS || g_atomic_int_get(&verifier.n_runs) < 20; round++) {
    StoreGcResult result;
    g_ptr_array_remove_index(points, (guint) g_rand_int_range(rand, 1, (gint32) points->len));
    assert_true(collect(fixture->store, points, &result, NULL));
    n_moved += result.copied;
    g_ptr_array_add(points, make_point(fixture->store, NULL, NULL, 150, rand));
  }
  g_atomic_int_set(&verifier.stop, 1);
  pthread_join(thread, NULL);
  print_message("%d runs, %" G_GUINT64_FORMAT " bytes moved\n", verifier.n_runs, n_moved);
  assert_int_equal(verifier.n_damaged, 0);
  assert_true(n_moved > 0);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {TEST(test_what_is_moved_is_not_taken_for_damaged)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
