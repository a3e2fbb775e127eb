/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/bytes.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_rounding_keeps_multiples(void **state G_GNUC_UNUSED)
{
  assert_int_equal(cbt_div_up(0, 512), 0);
  assert_int_equal(cbt_div_up(1, 512), 1);
  assert_int_equal(cbt_div_up(512, 512), 1);
  assert_int_equal(cbt_div_up(513, 512), 2);
  assert_true(cbt_div_up(G_MAXUINT64, 2) == G_GUINT64_CONSTANT(1) << 63); /* does not overflow on the way */
  assert_int_equal(cbt_round_up(513, 512), 1024);
  assert_int_equal(cbt_round_up(1024, 512), 1024);
  assert_int_equal(cbt_round_down(1023, 512), 512);
  assert_int_equal(cbt_round_down(1024, 512), 1024);
}

static void
test_powers_of_two(void **state G_GNUC_UNUSED)
{
  for (guint shift = 0; shift < 64; shift++)
    assert_true(cbt_is_power_of_two(G_GUINT64_CONSTANT(1) << shift));
  assert_false(cbt_is_power_of_two(0));
  assert_false(cbt_is_power_of_two(3));
  assert_false(cbt_is_power_of_two(G_MAXUINT64));
}

static void
test_ranges_do_not_wrap(void **state G_GNUC_UNUSED)
{
  assert_true(cbt_range_fits(0, 100, 100));
  assert_true(cbt_range_fits(100, 0, 100));
  assert_true(cbt_range_fits(0, G_MAXUINT64, G_MAXUINT64));
  assert_false(cbt_range_fits(1, 100, 100));
  assert_false(cbt_range_fits(101, 0, 100));
  assert_false(cbt_range_fits(1, G_MAXUINT64, 100));
  assert_false(cbt_range_fits(G_MAXUINT64, 2, 100));
}

static void
test_fields_are_little_endian_at_any_address(void **state G_GNUC_UNUSED)
{
  static const guint8 expected[] = {0,    0x22, 0x11, 0x66, 0x55, 0x44, 0x33, 0xee,
                                    0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 0x77};
  guint8 buffer[sizeof expected] = {0};
  cbt_put_u16(buffer + 1, 0x1122);
  cbt_put_u32(buffer + 3, 0x33445566);
  cbt_put_u64(buffer + 7, G_GUINT64_CONSTANT(0x778899aabbccddee));
  assert_memory_equal(buffer, expected, sizeof expected);
  assert_int_equal(cbt_get_u16(buffer + 1), 0x1122);
  assert_int_equal(cbt_get_u32(buffer + 3), 0x33445566);
  assert_true(cbt_get_u64(buffer + 7) == G_GUINT64_CONSTANT(0x778899aabbccddee));
}

static void
test_one_bit_anywhere_is_not_zero(void **state G_GNUC_UNUSED)
{
  guint8 buffer[200] = {0};
  for (gsize length = 0; length <= 100; length++) {
    for (gsize start = 0; start < 3; start++) {
      memset(buffer, 0xff, sizeof buffer); /* what stands around the range does not count */
      memset(buffer + start, 0, length);
      assert_true(cbt_is_zero(buffer + start, length));
      for (gsize i = 0; i < length; i++) {
        buffer[start + i] = 1;
        assert_false(cbt_is_zero(buffer + start, length));
        buffer[start + i] = 0;
      }
    }
  }
}

static void
test_checksum_is_xxh3_and_tells_bytes_apart(void **state G_GNUC_UNUSED)
{
  /* The published value of XXH3_64bits of nothing: headers on disk depend on it. */
  assert_true(cbt_checksum64("", 0) == G_GUINT64_CONSTANT(0x2d06800538d394c2));
  assert_true(cbt_checksum64("abc", 3) == cbt_checksum64("abcd", 3));
  assert_true(cbt_checksum64("abc", 3) != cbt_checksum64("abd", 3));
  assert_true(cbt_checksum64("abc", 3) != cbt_checksum64("abc", 4)); /* the NUL counts */
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rounding_keeps_multiples),
      cmocka_unit_test(test_powers_of_two),
      cmocka_unit_test(test_ranges_do_not_wrap),
      cmocka_unit_test(test_fields_are_little_endian_at_any_address),
      cmocka_unit_test(test_one_bit_anywhere_is_not_zero),
      cmocka_unit_test(test_checksum_is_xxh3_and_tells_bytes_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
