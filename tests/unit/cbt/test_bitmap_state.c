/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/bitmap-file.h>

#define NO (-1)
#define AC CBT_BITMAP_ACTIVE
#define DI CBT_BITMAP_DISABLED
#define FR CBT_BITMAP_FROZEN
#define IN CBT_BITMAP_INCONSISTENT

/* Events in the order of the enum: create-successor, abdicate, reclaim, enable, disable, clear,
 * mark-inconsistent. */
static const int wanted[CBT_N_BITMAP_STATES][CBT_N_BITMAP_EVENTS] = {
    [AC] = {FR, NO, NO, NO, DI, AC, IN},
    [DI] = {NO, NO, NO, AC, NO, DI, IN},
    [FR] = {NO, AC, AC, NO, NO, NO, IN},
    [IN] = {FR, NO, NO, NO, NO, NO, IN},
};

static void
test_every_state_takes_exactly_its_events(void **state G_GNUC_UNUSED)
{
  for (guint s = 0; s < CBT_N_BITMAP_STATES; s++)
    for (guint e = 0; e < CBT_N_BITMAP_EVENTS; e++) {
      CbtBitmapState next = CBT_N_BITMAP_STATES;
      gboolean taken = cbt_bitmap_next_state((CbtBitmapState) s, (CbtBitmapEvent) e, FALSE, &next);
      assert_int_equal(taken, wanted[s][e] != NO);
      if (taken)
        assert_int_equal(next, wanted[s][e]);
    }
}

static void
test_reclaim_goes_back_to_inconsistent(void **state G_GNUC_UNUSED)
{
  CbtBitmapState next;
  assert_true(cbt_bitmap_next_state(FR, CBT_BITMAP_RECLAIM, TRUE, &next));
  assert_int_equal(next, IN);
  assert_true(cbt_bitmap_next_state(FR, CBT_BITMAP_ABDICATE, TRUE, &next));
  assert_int_equal(next, AC);
}

static void
test_unknown_values_are_refused_and_have_a_name(void **state G_GNUC_UNUSED)
{
  CbtBitmapState next;
  assert_false(cbt_bitmap_next_state(CBT_N_BITMAP_STATES, CBT_BITMAP_CLEAR, FALSE, &next));
  assert_false(cbt_bitmap_next_state(AC, CBT_N_BITMAP_EVENTS, FALSE, &next));
  assert_string_equal(cbt_bitmap_state_name((CbtBitmapState) 99), "unknown");
  assert_string_equal(cbt_bitmap_event_name((CbtBitmapEvent) 99), "unknown");
}

static void
test_names_are_distinct(void **state G_GNUC_UNUSED)
{
  assert_string_equal(cbt_bitmap_state_name(IN), "inconsistent");
  for (guint i = 0; i < CBT_N_BITMAP_EVENTS; i++)
    for (guint j = 0; j < i; j++)
      assert_string_not_equal(cbt_bitmap_event_name((CbtBitmapEvent) i),
                              cbt_bitmap_event_name((CbtBitmapEvent) j));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_state_takes_exactly_its_events),
      cmocka_unit_test(test_reclaim_goes_back_to_inconsistent),
      cmocka_unit_test(test_unknown_values_are_refused_and_have_a_name),
      cmocka_unit_test(test_names_are_distinct),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
