/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/bitmap.h>
#include <common/bytes.h>
#include <pthread.h>

#include "bitmap-fixture.h"

#define KIB G_GUINT64_CONSTANT(1024)
#define TIB (G_GUINT64_CONSTANT(1) << 40)

/* The naive bitmap: a byte for each granule. */
typedef struct {
  guint64 size;
  guint64 granularity;
  guint64 n;
  guint8 *dirty;
} Model;

static Model
model_new(guint64 size, guint64 granularity)
{
  Model model = {.size = size, .granularity = granularity, .n = cbt_div_up(size, granularity)};
  model.dirty = g_malloc0(model.n);
  return model;
}

static guint64
model_end(const Model *model, guint64 i)
{
  return MIN((i + 1) * model->granularity, model->size);
}

static void
model_set(Model *model, guint64 offset, guint64 length)
{
  for (guint64 i = 0; i < model->n; i++)
    if (i * model->granularity < offset + length && offset < model_end(model, i) && length > 0)
      model->dirty[i] = 1;
}

static void
model_clear(Model *model, guint64 offset, guint64 length)
{
  for (guint64 i = 0; i < model->n; i++)
    if (offset <= i * model->granularity && model_end(model, i) <= offset + length)
      model->dirty[i] = 0;
}

static void
model_merge(Model *dst, const Model *src)
{
  for (guint64 i = 0; i < src->n; i++)
    if (src->dirty[i])
      model_set(dst, i * src->granularity, model_end(src, i) - i * src->granularity);
}

static guint64
model_count(const Model *model)
{
  guint64 bytes = 0;
  for (guint64 i = 0; i < model->n; i++)
    if (model->dirty[i])
      bytes += model_end(model, i) - i * model->granularity;
  return bytes;
}

/* The first run of granules that are DIRTY or not, clipped. */
static gboolean
model_next(const Model *model, guint64 offset, guint64 max_length, guint8 dirty, CbtExtent *extent)
{
  guint64 i = offset / model->granularity;
  while (i < model->n && model->dirty[i] != dirty)
    i++;
  if (offset >= model->size || i >= model->n || max_length == 0)
    return FALSE;
  extent->offset = MAX(offset, i * model->granularity);
  while (i + 1 < model->n && model->dirty[i + 1] == dirty)
    i++;
  extent->length = MIN(model_end(model, i) - extent->offset, max_length);
  return TRUE;
}

static void
check_same_next(const CbtBitmap *bitmap, const Model *model, guint64 offset, guint64 max_length)
{
  CbtExtent got, wanted;
  assert_int_equal(cbt_bitmap_next_dirty(bitmap, offset, max_length, &got),
                   model_next(model, offset, max_length, 1, &wanted));
  if (model_next(model, offset, max_length, 1, &wanted))
    assert_memory_equal(&got, &wanted, sizeof got);
  assert_int_equal(cbt_bitmap_next_clean(bitmap, offset, max_length, &got),
                   model_next(model, offset, max_length, 0, &wanted));
  if (model_next(model, offset, max_length, 0, &wanted))
    assert_memory_equal(&got, &wanted, sizeof got);
}

static void
check_same(const CbtBitmap *bitmap, const Model *model, GRand *rand)
{
  assert_int_equal(cbt_bitmap_count(bitmap), model_count(model));
  for (guint64 i = 0; i < model->n; i++)
    assert_int_equal(cbt_bitmap_get(bitmap, i * model->granularity), model->dirty[i]);
  for (guint i = 0; i < 8; i++) {
    guint64 offset = (guint64) (g_rand_double(rand) * (double) (model->size + 2));
    guint64 max_length = i % 2 ? G_MAXUINT64 : (guint64) (g_rand_double(rand) * (double) model->size);
    check_same_next(bitmap, model, offset, max_length);
  }
}

static void
merge_random(CbtBitmap *bitmap, Model *model, GRand *rand)
{
  guint64 granularity = CBT_GRANULARITY_MIN << g_rand_int_range(rand, 0, 13);
  g_autoptr(CbtBitmap) other = cbt_bitmap_new(model->size, granularity);
  Model other_model = model_new(model->size, granularity);
  for (gint i = g_rand_int_range(rand, 0, 20); i > 0; i--) {
    guint64 offset = (guint64) (g_rand_double(rand) * (double) model->size);
    guint64 length = (guint64) g_rand_int_range(rand, 1, 300000);
    cbt_bitmap_set(other, offset, length);
    model_set(&other_model, offset, length);
  }
  cbt_bitmap_merge(bitmap, other);
  model_merge(model, &other_model);
  g_free(other_model.dirty);
}

static void
step(CbtBitmap *bitmap, Model *model, GRand *rand)
{
  guint64 offset = (guint64) (g_rand_double(rand) * (double) (model->size + 1));
  guint64 limit = g_rand_boolean(rand) ? model->size + model->granularity : 3 * model->granularity;
  guint64 length = (guint64) (g_rand_double(rand) * (double) limit);
  switch (g_rand_int_range(rand, 0, 12)) {
  case 0:
    cbt_bitmap_set_all(bitmap);
    model_set(model, 0, model->size);
    break;
  case 1:
    cbt_bitmap_clear_all(bitmap);
    memset(model->dirty, 0, model->n);
    break;
  case 2:
    merge_random(bitmap, model, rand);
    break;
  case 3:
    cbt_bitmap_rebuild_summary(bitmap);
    break;
  case 4:
  case 5:
  case 6:
    cbt_bitmap_clear(bitmap, offset, length);
    model_clear(model, offset, length);
    break;
  default:
    cbt_bitmap_set(bitmap, offset, length);
    model_set(model, offset, length);
    break;
  }
}

static void
test_random_operations_match_the_model(void **state G_GNUC_UNUSED)
{
  static const guint64 sizes[] = {
      1,
      512,
      4096,
      4097,
      64 * 4096,
      64 * 4096 + 1,
      64 * 65536,
      1000 * 1000,
      64 * 64 * 4096,
      64 * 64 * 4096 - 512,
      64 * 64 * 4096 + 70000,
      40000000,
  };
  GRand *rand = fixture_rand(__func__);
  for (guint i = 0; i < 3 * G_N_ELEMENTS(sizes); i++) {
    guint64 size = sizes[i / 3];
    guint64 granularity = CBT_GRANULARITY_MIN << g_rand_int_range(rand, 0, 7);
    g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(size, granularity);
    Model model = model_new(size, granularity);
    for (guint n = 0; n < 60; n++) {
      step(bitmap, &model, rand);
      check_same(bitmap, &model, rand);
    }
    g_free(model.dirty);
  }
  g_rand_free(rand);
}

static void
test_merge_is_never_less_dirty_at_any_granularity(void **state G_GNUC_UNUSED)
{
  GRand *rand = fixture_rand(__func__);
  guint64 size = 300 * 1024 * KIB + 512;
  for (guint from = 0; from <= 12; from++)
    for (guint to = 0; to <= 12; to++) {
      g_autoptr(CbtBitmap) src = cbt_bitmap_new(size, CBT_GRANULARITY_MIN << from);
      Model model = model_new(size, CBT_GRANULARITY_MIN << from);
      for (guint n = 0; n < 10; n++) {
        guint64 offset = (guint64) (g_rand_double(rand) * (double) size);
        guint64 length = (guint64) g_rand_int_range(rand, 1, 1 << 20);
        cbt_bitmap_set(src, offset, length);
        model_set(&model, offset, length);
      }
      g_autoptr(CbtBitmap) copy = cbt_bitmap_copy(src, CBT_GRANULARITY_MIN << to);
      Model wanted = model_new(size, CBT_GRANULARITY_MIN << to);
      model_merge(&wanted, &model);
      assert_int_equal(cbt_bitmap_count(copy), model_count(&wanted));
      for (guint64 i = 0; i < wanted.n; i++)
        assert_int_equal(cbt_bitmap_get(copy, i * wanted.granularity), wanted.dirty[i]);
      g_free(model.dirty);
      g_free(wanted.dirty);
    }
  g_rand_free(rand);
}

static void
test_merge_keeps_bits_of_both(void **state G_GNUC_UNUSED)
{
  g_autoptr(CbtBitmap) a = cbt_bitmap_new(1024 * KIB, 64 * KIB);
  g_autoptr(CbtBitmap) b = cbt_bitmap_new(1024 * KIB, 4 * KIB);
  cbt_bitmap_set(a, 0, 1);
  cbt_bitmap_set(b, 512 * KIB, 1);
  cbt_bitmap_merge(a, b);
  assert_true(cbt_bitmap_get(a, 0) && cbt_bitmap_get(a, 512 * KIB));
  assert_int_equal(cbt_bitmap_count(a), 128 * KIB);
}

static void
test_ranges_are_clipped_and_do_not_overflow(void **state G_GNUC_UNUSED)
{
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(100 * KIB, 64 * KIB);
  cbt_bitmap_set(bitmap, 100 * KIB, G_MAXUINT64);
  cbt_bitmap_set(bitmap, G_MAXUINT64, G_MAXUINT64);
  cbt_bitmap_set(bitmap, 10, 0);
  assert_int_equal(cbt_bitmap_count(bitmap), 0);
  cbt_bitmap_set(bitmap, 70 * KIB, G_MAXUINT64);
  assert_int_equal(cbt_bitmap_count(bitmap), 36 * KIB);
  assert_false(cbt_bitmap_get(bitmap, G_MAXUINT64));
  cbt_bitmap_clear(bitmap, 65 * KIB, G_MAXUINT64);
  assert_int_equal(cbt_bitmap_count(bitmap), 36 * KIB);
  cbt_bitmap_clear(bitmap, 64 * KIB, 36 * KIB);
  assert_int_equal(cbt_bitmap_count(bitmap), 0);
  CbtExtent extent;
  assert_false(cbt_bitmap_next_dirty(bitmap, 0, G_MAXUINT64, &extent));
  assert_false(cbt_bitmap_next_dirty(bitmap, G_MAXUINT64, G_MAXUINT64, &extent));
}

static void
test_iteration_is_clipped_to_offset_and_length(void **state G_GNUC_UNUSED)
{
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(1000 * KIB, 64 * KIB);
  cbt_bitmap_set(bitmap, 128 * KIB, 192 * KIB);
  CbtExtent extent;
  assert_true(cbt_bitmap_next_dirty(bitmap, 0, G_MAXUINT64, &extent));
  assert_int_equal(extent.offset, 128 * KIB);
  assert_int_equal(extent.length, 192 * KIB);
  assert_true(cbt_bitmap_next_dirty(bitmap, 130 * KIB, 100 * KIB, &extent));
  assert_int_equal(extent.offset, 130 * KIB);
  assert_int_equal(extent.length, 100 * KIB);
  assert_true(cbt_bitmap_next_clean(bitmap, 130 * KIB, G_MAXUINT64, &extent));
  assert_int_equal(extent.offset, 320 * KIB);
  assert_int_equal(extent.length, 680 * KIB);
  assert_false(cbt_bitmap_next_dirty(bitmap, 0, 0, &extent));
}

static void
test_garbage_behind_the_last_granule_is_ignored(void **state G_GNUC_UNUSED)
{
  guint64 words[1] = {~G_GUINT64_CONSTANT(0)};
  guint64 summary[1] = {~G_GUINT64_CONSTANT(0)};
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new_over(3 * 64 * KIB - 5, 64 * KIB, words, summary);
  CbtExtent extent;
  assert_int_equal(cbt_bitmap_count(bitmap), 3 * 64 * KIB - 5);
  assert_true(cbt_bitmap_next_dirty(bitmap, 0, G_MAXUINT64, &extent));
  assert_int_equal(extent.length, 3 * 64 * KIB - 5);
  for (guint shift = 0; shift <= 12; shift++) {
    g_autoptr(CbtBitmap) copy = cbt_bitmap_copy(bitmap, CBT_GRANULARITY_MIN << shift);
    assert_int_equal(cbt_bitmap_count(copy), 3 * 64 * KIB - 5);
  }
}

static void
test_rebuilt_summary_finds_every_word(void **state G_GNUC_UNUSED)
{
  guint64 size = 64 * 64 * 64 * 3 * 4 * KIB;
  g_autofree guint64 *words = g_new0(guint64, cbt_bitmap_n_words(size, 4 * KIB));
  g_autofree guint64 *summary = g_new0(guint64, cbt_bitmap_n_summary_words(size, 4 * KIB));
  words[0] = 1;
  words[64 * 64] = 2;
  words[cbt_bitmap_n_words(size, 4 * KIB) - 1] = 4;
  summary[1] = 1; /* stale */
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new_over(size, 4 * KIB, words, summary);
  cbt_bitmap_rebuild_summary(bitmap);
  assert_int_equal(cbt_bitmap_count(bitmap), 3 * 4 * KIB);
  assert_int_equal(summary[1], 0);
}

static int
compare_offsets(const void *a, const void *b)
{
  guint64 x = *(const guint64 *) a, y = *(const guint64 *) b;
  return x < y ? -1 : x > y;
}

static void
test_sparse_16_tib_is_walked_in_milliseconds(void **state G_GNUC_UNUSED)
{
  enum { N = 1000 };
  GRand *rand = fixture_rand(__func__);
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(16 * TIB, CBT_GRANULARITY_DEFAULT);
  guint64 offsets[N];
  for (guint i = 0; i < N; i++) {
    offsets[i] =
        cbt_round_down((guint64) (g_rand_double(rand) * (double) (16 * TIB)), CBT_GRANULARITY_DEFAULT);
    cbt_bitmap_set(bitmap, offsets[i], 1);
  }
  qsort(offsets, N, sizeof offsets[0], compare_offsets);
  gint64 start = g_get_monotonic_time();
  CbtExtent extent;
  guint i = 0;
  for (guint64 at = 0; cbt_bitmap_next_dirty(bitmap, at, CBT_GRANULARITY_DEFAULT, &extent); i++) {
    while (i > 0 && i < N && offsets[i] == offsets[i - 1])
      i++; /* the same granule drawn twice */
    assert_true(i < N);
    assert_int_equal(extent.offset, offsets[i]);
    at = extent.offset + extent.length;
  }
  gint64 took_us = g_get_monotonic_time() - start;
  print_message("walked in %" G_GINT64_FORMAT " us\n", took_us);
  assert_true(took_us < 1000000);
  g_rand_free(rand);
}

enum { N_THREADS = 4, THREAD_BITS = 20000 };

typedef struct {
  CbtBitmap *bitmap;
  guint number;
} Setter;

static void *
set_own_bits(void *data)
{
  const Setter *setter = data;
  for (guint64 i = 0; i < THREAD_BITS; i++)
    cbt_bitmap_set(setter->bitmap, (i * N_THREADS + setter->number) * 2 * 4 * KIB, 1);
  return NULL;
}

static void
test_concurrent_setters_lose_no_bit(void **state G_GNUC_UNUSED)
{
  guint64 size = (guint64) N_THREADS * THREAD_BITS * 2 * 4 * KIB;
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(size, 4 * KIB);
  pthread_t threads[N_THREADS];
  Setter setters[N_THREADS];
  for (guint i = 0; i < N_THREADS; i++) {
    setters[i] = (Setter){bitmap, i};
    assert_int_equal(pthread_create(&threads[i], NULL, set_own_bits, &setters[i]), 0);
  }
  while (cbt_bitmap_count(bitmap) < size / 8)
    ; /* a reader beside the setters */
  for (guint i = 0; i < N_THREADS; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(cbt_bitmap_count(bitmap), size / 2);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_operations_match_the_model),
      cmocka_unit_test(test_merge_is_never_less_dirty_at_any_granularity),
      cmocka_unit_test(test_merge_keeps_bits_of_both),
      cmocka_unit_test(test_ranges_are_clipped_and_do_not_overflow),
      cmocka_unit_test(test_iteration_is_clipped_to_offset_and_length),
      cmocka_unit_test(test_garbage_behind_the_last_granule_is_ignored),
      cmocka_unit_test(test_rebuilt_summary_finds_every_word),
      cmocka_unit_test(test_sparse_16_tib_is_walked_in_milliseconds),
      cmocka_unit_test(test_concurrent_setters_lose_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
