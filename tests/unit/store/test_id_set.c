/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <store/id-set.h>
#include <string.h>
#include <tests/support/store-files.h>

static StoreChunkId
id_of(guint32 number)
{
  StoreChunkId id;
  store_test_fill_random(id.bytes, sizeof id.bytes, number);
  return id;
}

static void
test_a_set_has_what_was_added_and_nothing_else(void **state)
{
  (void) state;
  for (guint exact = 0; exact < 2; exact++) {
    g_autoptr(StoreIdSet) set = store_id_set_new(exact == 1);
    for (guint32 i = 0; i < 300000; i += 3) {
      StoreChunkId id = id_of(i);
      assert_false(store_id_set_contains(set, &id));
      assert_true(store_id_set_add(set, &id));
      assert_false(store_id_set_add(set, &id));
    }
    for (guint32 i = 0; i < 300000; i++) {
      StoreChunkId id = id_of(i);
      assert_int_equal(store_id_set_contains(set, &id), i % 3 == 0);
    }
    assert_int_equal(store_id_set_count(set), 100000);
  }
}

/* As those of contents whose digests collide, and of stores that tests make collide. */
static void
test_ids_that_differ_in_one_byte_are_several(void **state)
{
  (void) state;
  for (guint exact = 0; exact < 2; exact++) {
    g_autoptr(StoreIdSet) set = store_id_set_new(exact == 1);
    StoreChunkId id = {{0}};
    assert_true(store_id_set_add(set, &id));
    for (guint byte = 0; byte < STORE_CHUNK_ID_SIZE; byte++) {
      for (guint value = 1; value < 256; value++) {
        id.bytes[byte] = (guint8) value;
        assert_true(store_id_set_add(set, &id));
      }
      id.bytes[byte] = 0;
    }
    assert_int_equal(store_id_set_count(set), 1 + 255 * STORE_CHUNK_ID_SIZE);
  }
}

static void
test_memory_an_id_is_what_the_header_says(void **state)
{
  static const guint limits[] = {8, 20}; /* bytes, by exactness */
  (void) state;
  for (guint exact = 0; exact < 2; exact++) {
    g_autoptr(StoreIdSet) set = store_id_set_new(exact == 1);
    for (guint32 i = 0; i < 2000000; i++) {
      StoreChunkId id = {{0}};
      memcpy(id.bytes, &i, sizeof i);
      assert_true(store_id_set_add(set, &id));
    }
    assert_true(store_id_set_memory(set) <= limits[exact] * store_id_set_count(set));
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_set_has_what_was_added_and_nothing_else),
      cmocka_unit_test(test_ids_that_differ_in_one_byte_are_several),
      cmocka_unit_test(test_memory_an_id_is_what_the_header_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
