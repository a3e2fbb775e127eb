/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <store/chain.h>
#include <string.h>

/* Points are letters; the newest is the first. */
typedef struct {
  char name;
  char parent; /* 0: it is full */
} Row;

static CbtUuid
uuid_of(char name)
{
  CbtUuid uuid = {{0}};
  memset(&uuid, name, sizeof uuid);
  return uuid;
}

static GPtrArray *
make_points(const Row *rows)
{
  GPtrArray *points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  for (; rows->name; rows++) {
    StorePoint *point = store_point_new();
    point->uuid = uuid_of(rows->name);
    point->incremental = rows->parent != 0;
    point->parent = uuid_of(rows->parent);
    g_ptr_array_add(points, point);
  }
  return points;
}

static void
expect_chain(const Row *rows, char last, const char *expected)
{
  g_autoptr(GPtrArray) points = make_points(rows);
  CbtUuid uuid = uuid_of(last);
  g_autoptr(GPtrArray) chain = store_chain_select(points, &uuid);
  g_autoptr(GString) names = g_string_new(NULL);
  for (guint i = 0; i < chain->len; i++)
    g_string_append_c(names, ((const char *) &((const StorePoint *) chain->pdata[i])->uuid)[0]);
  assert_string_equal(names->str, expected);
}

static void
test_chain_goes_from_the_full_point_to_the_one_asked_for(void **state G_GNUC_UNUSED)
{
  const Row rows[] = {{'f', 'e'}, {'e', 'd'}, {'d', 0}, {'c', 'b'}, {'b', 'a'}, {'a', 0}, {0}};
  expect_chain(rows, 'f', "def");
  expect_chain(rows, 'd', "d");
  expect_chain(rows, 'c', "abc");
  expect_chain(rows, 'z', "");
}

static void
test_chain_follows_the_parents_of_its_own_bitmap(void **state G_GNUC_UNUSED)
{
  const Row rows[] = {{'e', 'c'}, {'d', 'b'}, {'c', 'a'}, {'b', 'a'}, {'a', 0}, {0}};
  expect_chain(rows, 'e', "ace");
  expect_chain(rows, 'd', "abd");
}

static void
test_chain_goes_over_the_gap_of_a_forgotten_point(void **state G_GNUC_UNUSED)
{
  const Row rows[] = {{'f', 'e'}, {'d', 'c'}, {'b', 'a'}, {0}};
  expect_chain(rows, 'f', "bdf");
  const Row full_between[] = {{'f', 'e'}, {'d', 0}, {'b', 'a'}, {0}};
  expect_chain(full_between, 'f', "df");
}

static void
test_clock_that_was_put_back_makes_no_circle(void **state G_GNUC_UNUSED)
{
  const Row rows[] = {{'a', 'z'}, {'c', 'b'}, {'b', 'a'}, {0}};
  expect_chain(rows, 'c', "abc");
  const Row back[] = {{'b', 'a'}, {'c', 'b'}, {'a', 0}, {0}};
  expect_chain(back, 'c', "abc");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_chain_goes_from_the_full_point_to_the_one_asked_for),
      cmocka_unit_test(test_chain_follows_the_parents_of_its_own_bitmap),
      cmocka_unit_test(test_chain_goes_over_the_gap_of_a_forgotten_point),
      cmocka_unit_test(test_clock_that_was_put_back_makes_no_circle),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
