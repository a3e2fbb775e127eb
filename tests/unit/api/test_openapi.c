/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <api/openapi.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define HEAD "{\"openapi\":\"3.1.0\",\"paths\":{"
#define TAIL                                                                                                 \
  "},\"components\":{\"schemas\":{\"New\":{\"properties\":{\"name\":{},\"size\":{}}}},"                      \
  "\"parameters\":{\"Vm\":{\"name\":\"vm\",\"in\":\"query\"},\"Id\":{\"name\":\"id\",\"in\":\"path\"}}}}"
#define LIST                                                                                                 \
  "\"/things\":{\"get\":{\"operationId\":\"list\",\"parameters\":["                                          \
  "{\"$ref\":\"#/components/parameters/Vm\"},{\"name\":\"limit\",\"in\":\"query\"}]}"
#define ADD(REQUIRED)                                                                                        \
  "\"post\":{\"operationId\":\"add\",\"requestBody\":{\"required\":" REQUIRED ",\"content\":"                \
  "{\"application/json\":{\"schema\":{\"$ref\":\"#/components/schemas/New\"}}}}}}"

static void
handle_list(ApiRequest *request, gpointer data)
{
  (void) request, (void) data;
}

static void
handle_add(ApiRequest *request, gpointer data)
{
  (void) request, (void) data;
}

static const ApiOperation both[] = {{"add", handle_add}, {"list", handle_list}, {NULL, NULL}};
static const ApiOperation only_list[] = {{"list", handle_list}, {NULL, NULL}};
static const ApiOperation too_many[] = {
    {"add", handle_add}, {"list", handle_list}, {"more", handle_list}, {NULL, NULL}};

static void
test_routes_have_the_keys_of_the_document(void **state)
{
  (void) state;
  GError *error = NULL;
  g_autoptr(ApiRoutes) routes = api_routes_new(HEAD LIST "," ADD("true") TAIL, both, &error);
  assert_null(error);
  const ApiRoute *table = api_routes_table(routes);
  assert_string_equal(table[0].method, "GET");
  assert_string_equal(table[0].path, "/things");
  assert_ptr_equal(table[0].handler, handle_list);
  assert_string_equal(table[0].query_keys, "vm limit");
  assert_null(table[0].body_keys);
  assert_string_equal(table[1].method, "POST");
  assert_ptr_equal(table[1].handler, handle_add);
  assert_string_equal(table[1].body_keys, "name size");
  assert_null(table[1].query_keys);
  assert_null(table[2].method);
}

static void
test_a_body_that_need_not_be_there_is_marked(void **state)
{
  (void) state;
  g_autoptr(ApiRoutes) routes = api_routes_new(HEAD LIST "," ADD("false") TAIL, both, NULL);
  assert_string_equal(api_routes_table(routes)[1].body_keys, "?name size");
}

static void
test_operations_are_those_of_the_document(void **state)
{
  (void) state;
  const ApiOperation *const wrong[] = {only_list, too_many};
  for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(api_routes_new(HEAD LIST "," ADD("true") TAIL, wrong[i], &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
}

static void
test_the_document_is_linked_in_whole(void **state)
{
  (void) state;
  assert_int_equal(strncmp(api_openapi_text(), "{\n", 2), 0);
  assert_true(g_str_has_suffix(api_openapi_text(), "}\n"));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_routes_have_the_keys_of_the_document),
      cmocka_unit_test(test_a_body_that_need_not_be_there_is_marked),
      cmocka_unit_test(test_operations_are_those_of_the_document),
      cmocka_unit_test(test_the_document_is_linked_in_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
