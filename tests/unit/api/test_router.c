/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <api/router-private.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static const ApiRoute routes[] = {
    {"GET", "/v1/vms", NULL, NULL, NULL},
    {"POST", "/v1/vms", NULL, NULL, NULL},
    {"GET", "/v1/vms/{vm}", NULL, NULL, NULL},
    {"GET", "/v1/vms/special", NULL, NULL, NULL},
    {"DELETE", "/v1/vms/{vm}", NULL, NULL, NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps/{b}/clear", NULL, NULL, NULL},
    {"GET", "/metrics", NULL, NULL, NULL},
    {0},
};

static GHashTable *
new_map(void)
{
  return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

/* The index of the route, or minus the status. */
static int
find(const char *method, const char *path)
{
  g_autoptr(GHashTable) params = new_map();
  g_auto(ApiProblem) problem = {0};
  const ApiRoute *route = api_router_find(routes, method, path, params, &problem);
  return route ? (int) (route - routes) : -(int) problem.status;
}

static void
assert_param(const char *path, const char *name, const char *value)
{
  g_autoptr(GHashTable) params = new_map();
  g_auto(ApiProblem) problem = {0};
  assert_non_null(api_router_find(routes, "GET", path, params, &problem));
  assert_string_equal(g_hash_table_lookup(params, name), value);
}

static void
test_the_method_and_path_choose_the_route(void **state)
{
  (void) state;
  assert_int_equal(find("GET", "/v1/vms"), 0);
  assert_int_equal(find("POST", "/v1/vms"), 1);
  assert_int_equal(find("DELETE", "/v1/vms/web"), 4);
  assert_int_equal(find("GET", "/metrics"), 6);
}

static void
test_a_literal_segment_wins_over_a_name(void **state)
{
  (void) state;
  assert_int_equal(find("GET", "/v1/vms/special"), 3);
  assert_int_equal(find("GET", "/v1/vms/other"), 2);
  assert_int_equal(find("DELETE", "/v1/vms/special"), 4);
}

static void
test_names_are_unescaped_even_with_a_slash_inside(void **state)
{
  (void) state;
  assert_param("/v1/vms/a%20b", "vm", "a b");
  assert_param("/v1/vms/a%2Fb", "vm", "a/b");
  assert_param("/v1/vms/%C3%A9", "vm", "é");
  assert_param("/v1/vms/a+b", "vm", "a+b");
  assert_param("/v1/vm%73/x", "vm", "x");
}

static void
test_all_names_of_a_path_are_kept_apart(void **state)
{
  (void) state;
  g_autoptr(GHashTable) params = new_map();
  g_auto(ApiProblem) problem = {0};
  assert_non_null(
      api_router_find(routes, "POST", "/v1/vms/web/disks/root/bitmaps/default/clear", params, &problem));
  assert_string_equal(g_hash_table_lookup(params, "vm"), "web");
  assert_string_equal(g_hash_table_lookup(params, "disk"), "root");
  assert_string_equal(g_hash_table_lookup(params, "b"), "default");
}

static void
test_unknown_paths_are_404(void **state)
{
  (void) state;
  static const char *const paths[] = {
      "",         "/",        "/v1",       "/v1/",         "/v2/vms",           "/v1/vms/",
      "/v1//vms", "//v1/vms", "/v1/vms//", "/v1/vms/web/", "/v1/vms/web/disks", "*",
      "/V1/vms"};
  for (guint i = 0; i < G_N_ELEMENTS(paths); i++)
    assert_int_equal(find("GET", paths[i]), -404);
}

static void
test_a_wrong_method_is_405_and_names_the_right_ones(void **state)
{
  (void) state;
  g_autoptr(GHashTable) params = new_map();
  g_auto(ApiProblem) problem = {0};
  assert_null(api_router_find(routes, "PUT", "/v1/vms", params, &problem));
  assert_int_equal(problem.status, 405);
  assert_string_equal(problem.allow, "GET, POST");
  assert_null(api_router_find(routes, "get", "/v1/vms/web", params, &problem));
  assert_string_equal(problem.allow, "GET, DELETE");
}

static void
test_bad_escapes_are_400(void **state)
{
  (void) state;
  assert_int_equal(find("GET", "/v1/vms/%00"), -400);
  assert_int_equal(find("GET", "/v1/vms/%ff"), -400);
  assert_int_equal(find("GET", "/v1/vms/%zz"), -400);
  assert_int_equal(find("GET", "/v1/vms/%4"), -400);
}

static guint
parse(const char *query, const char *allowed, GHashTable *values)
{
  g_auto(ApiProblem) problem = {0};
  return api_router_parse_query(query, allowed, values, &problem) ? 0 : problem.status;
}

static void
test_a_query_is_split_and_unescaped(void **state)
{
  (void) state;
  g_autoptr(GHashTable) values = new_map();
  assert_int_equal(parse("from=web%401&to=a+b&&empty=&bare", "from to empty bare", values), 0);
  assert_string_equal(g_hash_table_lookup(values, "from"), "web@1");
  assert_string_equal(g_hash_table_lookup(values, "to"), "a+b");
  assert_string_equal(g_hash_table_lookup(values, "empty"), "");
  assert_string_equal(g_hash_table_lookup(values, "bare"), "");
}

static void
test_no_query_is_an_empty_one(void **state)
{
  (void) state;
  g_autoptr(GHashTable) values = new_map();
  assert_int_equal(parse(NULL, NULL, values), 0);
  assert_int_equal(parse("", NULL, values), 0);
  assert_int_equal(g_hash_table_size(values), 0);
}

static void
test_unknown_repeated_and_broken_parameters_are_400(void **state)
{
  (void) state;
  g_autoptr(GHashTable) values = new_map();
  assert_int_equal(parse("x=1", "vm limit", values), 400);
  assert_int_equal(parse("x=1", NULL, values), 400);
  assert_int_equal(parse("=1", "vm", values), 400);
  assert_int_equal(parse("vm=%00", "vm", values), 400);
  assert_int_equal(parse("vm=%ff", "vm", values), 400);
  assert_int_equal(parse("vm=1&vm=2", "vm", values), 400);
}

static void
test_an_unknown_parameter_is_named(void **state)
{
  (void) state;
  g_autoptr(GHashTable) values = new_map();
  g_auto(ApiProblem) problem = {0};
  assert_false(api_router_parse_query("speling=1", "spelling", values, &problem));
  assert_non_null(g_strstr_len(problem.message, -1, "'speling'"));
  assert_non_null(g_strstr_len(problem.message, -1, "spelling"));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_method_and_path_choose_the_route),
      cmocka_unit_test(test_a_literal_segment_wins_over_a_name),
      cmocka_unit_test(test_names_are_unescaped_even_with_a_slash_inside),
      cmocka_unit_test(test_all_names_of_a_path_are_kept_apart),
      cmocka_unit_test(test_unknown_paths_are_404),
      cmocka_unit_test(test_a_wrong_method_is_405_and_names_the_right_ones),
      cmocka_unit_test(test_bad_escapes_are_400),
      cmocka_unit_test(test_a_query_is_split_and_unescaped),
      cmocka_unit_test(test_no_query_is_an_empty_one),
      cmocka_unit_test(test_unknown_repeated_and_broken_parameters_are_400),
      cmocka_unit_test(test_an_unknown_parameter_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
