/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle of the tracked export: writers change the disk without pause; again and again a point in time is
 * taken (the image is copied under the hold: the oracle), then read back through a session in random order.
 * What is collected must be the oracle, byte for byte. An incremental reads the frozen bits only, over what
 * the rounds before it collected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "export-fixture.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define N_WRITERS 3
#if defined(__SANITIZE_THREAD__) /* ten times slower */
#define N_ROUNDS 12
#else
#define N_ROUNDS 60
#endif
#define MAX_CHANGE (5 * C)

typedef struct Stress Stress;

typedef struct {
  Stress *stress;
  guint32 seed;
  pthread_t thread;
} Writer;

struct Stress {
  Fixture *f;
  CbtDisk *disk;
  int image_fd;
  GRand *rand;
  guint8 *oracle;    /* the image at the instant of begin */
  guint8 *collected; /* what the backups so far give */
  guint64 n_preserved;
  Writer writers[N_WRITERS];
  guint n_writers;
  _Atomic gboolean stop;
};

static void
change_once(CbtExport *export, GRand *rand, guint8 *data)
{
  guint32 length = (guint32) g_rand_int_range(rand, 1, MAX_CHANGE / 512) * 512;
  guint64 offset = (guint64) g_rand_int_range(rand, 0, (gint32) ((IMAGE_SIZE - length) / 512 + 1)) * 512;
  int result;
  switch (g_rand_int_range(rand, 0, 8)) {
  case 0:
    result = cbt_export_zero(export, length, offset, g_rand_boolean(rand), FALSE);
    break;
  case 1:
    result = cbt_export_trim(export, length, offset, FALSE);
    break;
  default:
    memset(data, g_rand_int_range(rand, 1, 256), length);
    result = cbt_export_write(export, data, length, offset, FALSE);
  }
  g_assert(result == 0 || result == EOPNOTSUPP);
}

static void *
write_until_stopped(void *user_data)
{
  Writer *writer = user_data;
  GRand *rand = g_rand_new_with_seed(writer->seed);
  guint8 *data = g_malloc(MAX_CHANGE);
  while (!atomic_load(&writer->stress->stop))
    change_once(writer->stress->f->export, rand, data);
  g_free(data);
  g_rand_free(rand);
  return NULL;
}

/* The image looked empty there: only what was preserved meanwhile is not zeros. */
static void
collect_hole(Stress *s, CbtSession *session, guint64 offset, guint64 length)
{
  g_autoptr(GError) error = NULL;
  guint64 at = offset, end = offset + length, n = 0;
  CbtExtent extent;
  memset(s->collected + offset, 0, length);
  while (cbt_session_next_preserved(session, at, end - at, &extent)) {
    gboolean ok =
        cbt_session_settle(session, extent.offset, extent.length, s->collected + extent.offset, &n, &error);
    expect_ok(ok, &error);
    s->n_preserved += n;
    at = extent.offset + extent.length;
  }
  assert_true(cbt_session_check(session, NULL));
}

static gboolean
is_hole(const Stress *s, guint64 offset, guint64 length)
{
  off_t data = lseek(s->image_fd, (off_t) offset, SEEK_DATA);
  return data < 0 ? errno == ENXIO : (guint64) data >= offset + length;
}

static void
collect(Stress *s, CbtSession *session, guint64 offset, guint64 length)
{
  g_autoptr(GError) error = NULL;
  guint64 n = 0;
  if (is_hole(s, offset, length)) {
    collect_hole(s, session, offset, length);
    return;
  }
  assert_int_equal(cbt_pread_full(s->image_fd, s->collected + offset, length, offset), (gssize) length);
  gboolean ok = cbt_session_settle(session, offset, length, s->collected + offset, &n, &error);
  expect_ok(ok, &error);
  s->n_preserved += n;
}

/* The clusters to read, joined to blocks of up to 4, shuffled. */
static GArray *
plan_reads(Stress *s, const CbtBitmap *wanted)
{
  GArray *reads = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  for (guint64 at = 0; at < IMAGE_SIZE;) {
    guint64 length = (guint64) g_rand_int_range(s->rand, 1, 5) * C;
    length = MIN(length, IMAGE_SIZE - at);
    CbtExtent read = {at, length}, dirty;
    if (wanted != NULL) {
      if (!cbt_bitmap_next_dirty(wanted, at, length, &dirty))
        break;
      read.offset = dirty.offset / C * C;
      read.length = MIN((dirty.offset + dirty.length + C - 1) / C * C, IMAGE_SIZE) - read.offset;
    }
    g_array_append_val(reads, read);
    at = read.offset + read.length;
  }
  for (guint i = reads->len; i > 1; i--) {
    guint j = (guint) g_rand_int_range(s->rand, 0, (gint32) i);
    CbtExtent swap = g_array_index(reads, CbtExtent, i - 1);
    g_array_index(reads, CbtExtent, i - 1) = g_array_index(reads, CbtExtent, j);
    g_array_index(reads, CbtExtent, j) = swap;
  }
  return reads;
}

static void
take_instant(Stress *s, const char *bitmap, gboolean whole, CbtSession *session)
{
  g_autoptr(GError) error = NULL;
  expect_ok(hold(s->disk, LONG_MS, &error), &error);
  assert_int_equal(cbt_pread_full(s->image_fd, s->oracle, IMAGE_SIZE, 0), IMAGE_SIZE);
  expect_ok(begin(s->disk, bitmap, whole, session, &error), &error);
  expect_ok(simple(s->disk, CBT_CONTROL_RELEASE, &error), &error);
}

static void
compare(const Stress *s, guint round)
{
  for (guint64 at = 0; at < IMAGE_SIZE; at++)
    if (s->collected[at] != s->oracle[at])
      fail_msg("round %u: offset %" G_GUINT64_FORMAT " (cluster %" G_GUINT64_FORMAT ") is %u, was %u", round,
               at, at / C, s->collected[at], s->oracle[at]);
}

/* FAILING: stops half-way and reclaims, as a job that fails does; nothing was collected then. */
static void
back_up(Stress *s, const char *bitmap, gboolean whole, gboolean failing, guint round)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *path = g_strdup_printf("%s/%s.bitmap", s->f->bitmaps, bitmap);
  g_autoptr(CbtSession) session = fixture_session(s->f, 0);
  take_instant(s, bitmap, whole, session);
  CbtBitmapFile *frozen = cbt_bitmap_file_open_readonly(path, &error);
  expect_ok(frozen != NULL, &error);
  g_autoptr(GArray) reads = plan_reads(s, whole ? NULL : cbt_bitmap_file_parent(frozen));
  g_autofree guint8 *before = g_memdup2(s->collected, IMAGE_SIZE);
  for (guint i = 0; i < (failing ? reads->len / 2 : reads->len); i++) {
    const CbtExtent *read = &g_array_index(reads, CbtExtent, i);
    collect(s, session, read->offset, read->length);
  }
  expect_ok(cbt_bitmap_file_close(frozen, NULL, &error), &error);
  expect_ok(simple(s->disk, CBT_CONTROL_END, &error), &error);
  CbtBitmapEvent event = failing ? CBT_BITMAP_RECLAIM : CBT_BITMAP_ABDICATE;
  expect_ok(cbt_disk_apply(s->disk, bitmap, event, NULL, NULL, &error), &error);
  if (failing)
    memcpy(s->collected, before, IMAGE_SIZE);
  else
    compare(s, round);
}

static int
stress_setup(void **state)
{
  Stress *s = g_new0(Stress, 1);
  void *fixture = NULL;
  fixture_setup(&fixture);
  s->f = fixture;
  s->image_fd = open(s->f->image, O_RDONLY | O_CLOEXEC);
  s->oracle = g_malloc(IMAGE_SIZE);
  s->collected = g_malloc0(IMAGE_SIZE);
  *state = s;
  return 0;
}

/* A failed test comes here, too, with its writers still at it. */
static int
stress_teardown(void **state)
{
  Stress *s = *state;
  void *fixture = s->f;
  atomic_store(&s->stop, TRUE);
  cbt_disk_close(s->disk);
  for (guint i = 0; i < s->n_writers; i++)
    pthread_join(s->writers[i].thread, NULL);
  close(s->image_fd);
  g_clear_pointer(&s->rand, g_rand_free);
  g_free(s->oracle);
  g_free(s->collected);
  g_free(s);
  return fixture_teardown(&fixture);
}

static void
start_writers(Stress *s)
{
  for (; s->n_writers < N_WRITERS; s->n_writers++) {
    Writer *writer = &s->writers[s->n_writers];
    writer->stress = s;
    writer->seed = g_rand_int(s->rand);
    assert_int_equal(pthread_create(&writer->thread, NULL, write_until_stopped, writer), 0);
  }
}

static void
stress_with_granularity(Stress *s, guint64 granularity)
{
  g_autoptr(GError) error = NULL;
  guint32 seed = g_random_int();
  print_message("seed %u, granularity %" G_GUINT64_FORMAT "\n", seed, granularity);
  s->rand = g_rand_new_with_seed(seed);
  fixture_serve(s->f);
  s->disk = fixture_connect(s->f);
  expect_ok(add_bitmap(s->disk, "b", granularity, &error), &error);
  start_writers(s);
  for (guint round = 0; round < N_ROUNDS; round++)
    back_up(s, "b", round % 5 == 0, round % 7 == 3, round);
  print_message("%" G_GUINT64_FORMAT " clusters came from the fleece\n", s->n_preserved);
}

static void
test_collected_image_is_the_instant_of_begin(void **state)
{
  stress_with_granularity(*state, C);
}

static void
test_collected_image_is_the_instant_with_fine_bits(void **state)
{
  stress_with_granularity(*state, 4096);
}

static void
test_collected_image_is_the_instant_with_coarse_bits(void **state)
{
  stress_with_granularity(*state, 1 << 20);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_collected_image_is_the_instant_of_begin, stress_setup,
                                      stress_teardown),
      cmocka_unit_test_setup_teardown(test_collected_image_is_the_instant_with_fine_bits, stress_setup,
                                      stress_teardown),
      cmocka_unit_test_setup_teardown(test_collected_image_is_the_instant_with_coarse_bits, stress_setup,
                                      stress_teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
