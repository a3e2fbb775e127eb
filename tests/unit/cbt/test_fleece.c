/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/bitmap.h>
#include <cbt/fleece.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define C       CBT_CLUSTER_SIZE
#define N_WORDS 64u
#define N_SLOTS (N_WORDS * 64u)

typedef struct {
  int fd;
  CbtSharedWord used[N_WORDS];
  CbtSharedWord hint;
  CbtFleece *fleece;
} Fixture;

static void
setup(Fixture *f, guint64 n_slots)
{
  memset(f, 0, sizeof *f);
  f->fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  assert_true(f->fd >= 0);
  f->fleece = cbt_fleece_new(f->fd, n_slots, f->used, &f->hint);
}

static void
teardown(Fixture *f)
{
  cbt_fleece_free(f->fleece);
  close(f->fd);
}

static guint64
put(Fixture *f, guint8 byte)
{
  guint8 data[C];
  guint64 slot;
  memset(data, byte, sizeof data);
  assert_int_equal(cbt_fleece_put(f->fleece, data, sizeof data, &slot), 0);
  return slot;
}

static void
expect(Fixture *f, guint64 slot, guint8 byte)
{
  guint8 data[C];
  assert_int_equal(cbt_fleece_get(f->fleece, slot, data, sizeof data), 0);
  for (guint i = 0; i < sizeof data; i++)
    if (data[i] != byte)
      fail_msg("slot %" G_GUINT64_FORMAT ": byte %u is %u, not %u", slot, i, data[i], byte);
}

static guint64
blocks(const Fixture *f)
{
  struct stat st;
  assert_int_equal(fstat(f->fd, &st), 0);
  return (guint64) st.st_blocks * 512;
}

static void
test_the_lowest_free_slot_is_taken(void **state G_GNUC_UNUSED)
{
  Fixture f;
  setup(&f, N_SLOTS);
  for (guint i = 0; i < 200; i++)
    assert_int_equal(put(&f, (guint8) i), i);
  cbt_fleece_drop(f.fleece, 150);
  cbt_fleece_drop(f.fleece, 3);
  assert_int_equal(put(&f, 201), 3);
  assert_int_equal(put(&f, 202), 150);
  assert_int_equal(put(&f, 203), 200);
  expect(&f, 3, 201);
  expect(&f, 149, 149);
  expect(&f, 150, 202);
  teardown(&f);
}

static void
test_full_is_said_and_ends_with_the_first_drop(void **state G_GNUC_UNUSED)
{
  Fixture f;
  guint8 data[C] = {0};
  guint64 slot;
  setup(&f, 70);
  for (guint i = 0; i < 70; i++)
    assert_int_equal(put(&f, 1), i);
  assert_int_equal(cbt_fleece_put(f.fleece, data, C, &slot), EXFULL);
  cbt_fleece_drop(f.fleece, 69);
  assert_int_equal(put(&f, 2), 69);
  assert_int_equal(cbt_fleece_put(f.fleece, data, C, &slot), EXFULL);
  teardown(&f);

  setup(&f, 0);
  assert_int_equal(cbt_fleece_put(f.fleece, data, C, &slot), EXFULL);
  teardown(&f);
}

static void
test_wrong_hint_hides_no_free_slot(void **state G_GNUC_UNUSED)
{
  Fixture f;
  setup(&f, N_SLOTS);
  f.hint = G_MAXUINT64;
  assert_int_equal(put(&f, 1), 0);
  f.hint = 5;
  assert_int_equal(put(&f, 1), 5 * 64);
  teardown(&f);
}

static void
test_slots_that_are_not_there_are_refused(void **state G_GNUC_UNUSED)
{
  Fixture f;
  guint8 data[C];
  setup(&f, 10);
  assert_int_equal(cbt_fleece_get(f.fleece, 10, data, C), ERANGE);
  assert_int_equal(cbt_fleece_get(f.fleece, G_MAXUINT64, data, C), ERANGE);
  cbt_fleece_drop(f.fleece, 10);
  cbt_fleece_drop(f.fleece, G_MAXUINT64 - 1);
  teardown(&f);
}

static void
test_space_is_given_back_but_for_the_first_64_mib(void **state G_GNUC_UNUSED)
{
  Fixture f;
  setup(&f, N_SLOTS);
  for (guint i = 0; i < 1100; i++)
    put(&f, 7);
  assert_true(blocks(&f) >= 1100 * C);
  for (guint i = 1100; i-- > 0;)
    cbt_fleece_drop(f.fleece, i);
  assert_true(blocks(&f) <= 1024 * C);
  assert_int_equal(put(&f, 8), 0);
  teardown(&f);
}

static void
test_nothing_beside_a_used_slot_is_punched_out(void **state G_GNUC_UNUSED)
{
  Fixture f;
  setup(&f, N_SLOTS);
  for (guint i = 0; i < 1100; i++)
    put(&f, (guint8) i);
  for (guint i = 1024; i < 1088; i++)
    if (i != 1050)
      cbt_fleece_drop(f.fleece, i);
  assert_true(blocks(&f) >= 1100 * C);
  expect(&f, 1050, (guint8) 1050);
  cbt_fleece_drop(f.fleece, 1050);
  assert_in_range(blocks(&f), 1036 * C, 1099 * C);
  expect(&f, 1023, (guint8) 1023);
  expect(&f, 1088, (guint8) 1088);
  assert_int_equal(put(&f, 5), 1024);
  teardown(&f);
}

static void
test_slots_are_made_ready_ahead(void **state G_GNUC_UNUSED)
{
  Fixture f;
  setup(&f, N_SLOTS);
  cbt_fleece_prepare(f.fleece);
  for (guint i = 0; i < 1000 && blocks(&f) < 64 * C; i++)
    g_usleep(10000);
  assert_int_equal(blocks(&f), 64 * C);
  for (guint i = 0; i < 20; i++)
    put(&f, 9);
  for (guint i = 0; i < 1000 && blocks(&f) < 70 * C; i++)
    g_usleep(10000);
  assert_in_range(blocks(&f), 70 * C, (20 + 64) * C);
  teardown(&f);
}

/* Threads put, read back and drop at random, as guest and reader do, while slots are prepared. */
typedef struct {
  Fixture *f;
  guint seed;
} Worker;

static void *
work(void *user_data)
{
  Worker *worker = user_data;
  g_autoptr(GRand) rand = g_rand_new_with_seed(worker->seed);
  guint64 slots[300];
  guint8 bytes[300];
  guint n = 0;
  for (guint i = 0; i < 6000; i++) {
    if (n < 300 && g_rand_int_range(rand, 0, 5) < 3) {
      bytes[n] = (guint8) g_rand_int_range(rand, 1, 256);
      slots[n] = put(worker->f, bytes[n]);
      n++;
    } else if (n > 0) {
      guint at = (guint) g_rand_int_range(rand, 0, (gint) n);
      expect(worker->f, slots[at], bytes[at]);
      cbt_fleece_drop(worker->f->fleece, slots[at]);
      slots[at] = slots[--n];
      bytes[at] = bytes[n];
    }
  }
  while (n-- > 0) {
    expect(worker->f, slots[n], bytes[n]);
    cbt_fleece_drop(worker->f->fleece, slots[n]);
  }
  return NULL;
}

static void
check_owners(guint64 first_word)
{
  Fixture f;
  pthread_t threads[3];
  Worker workers[3];
  setup(&f, N_SLOTS);
  f.hint = first_word;
  cbt_fleece_prepare(f.fleece);
  for (guint i = 0; i < 3; i++) {
    workers[i] = (Worker){&f, i + 1};
    assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
  }
  for (guint i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  cbt_fleece_free(f.fleece);
  for (guint i = 0; i < N_WORDS; i++)
    assert_int_equal(f.used[i], 0);
  close(f.fd);
}

static void
test_no_slot_has_two_owners(void **state G_GNUC_UNUSED)
{
  check_owners(0);
}

static void
test_no_slot_is_punched_out_under_its_owner(void **state G_GNUC_UNUSED)
{
  check_owners(1024 / 64);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_lowest_free_slot_is_taken),
      cmocka_unit_test(test_full_is_said_and_ends_with_the_first_drop),
      cmocka_unit_test(test_wrong_hint_hides_no_free_slot),
      cmocka_unit_test(test_slots_that_are_not_there_are_refused),
      cmocka_unit_test(test_space_is_given_back_but_for_the_first_64_mib),
      cmocka_unit_test(test_nothing_beside_a_used_slot_is_punched_out),
      cmocka_unit_test(test_slots_are_made_ready_ahead),
      cmocka_unit_test(test_no_slot_has_two_owners),
      cmocka_unit_test(test_no_slot_is_punched_out_under_its_owner),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
