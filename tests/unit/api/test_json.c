/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <api/json-private.h>
#include <api/json.h>
#include <common/error.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static gboolean
is_json(const char *text)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = api_json_from_text(text, -1, &error);
  if (!node)
    assert_int_equal(error->code, CBT_ERROR_INVALID);
  return node != NULL;
}

static void
test_good_json_is_taken(void **state)
{
  (void) state;
  static const char *const good[] = {"{}",
                                     "[]",
                                     " {\"a\" : [ 1 , -2 , 0 , 1.5 , 1e3 , -0.1E-2 ] }\n",
                                     "null",
                                     "true",
                                     "\"\\u00e9\\ud83d\\ude00\\n\\\\\\/\"",
                                     "9223372036854775807",
                                     "-9223372036854775808",
                                     "{\"a\":{\"b\":[{}]}}",
                                     "\"é\""};
  for (guint i = 0; i < G_N_ELEMENTS(good); i++)
    assert_true(is_json(good[i]));
}

static void
test_what_is_not_json_is_refused(void **state)
{
  (void) state;
  static const char *const bad[] = {"",
                                    " ",
                                    "{",
                                    "}",
                                    "[",
                                    "{]",
                                    "[1,]",
                                    "{\"a\":1,}",
                                    "{,}",
                                    "{\"a\"}",
                                    "{\"a\":}",
                                    "{a:1}",
                                    "{'a':1}",
                                    "{\"a\" 1}",
                                    "[1 2]",
                                    "{} {}",
                                    "{}x",
                                    "/*c*/{}",
                                    "// c\n{}",
                                    "var x = {}",
                                    "NaN",
                                    "Infinity",
                                    "tru",
                                    "nulll",
                                    "01",
                                    "0x10",
                                    "+1",
                                    "1.",
                                    ".5",
                                    "1e",
                                    "-",
                                    "--1",
                                    "9223372036854775808",
                                    "99999999999999999999",
                                    "\"a",
                                    "\"\\x\"",
                                    "\"\\u12\"",
                                    "\"\\u0000\"",
                                    "\"\\ud800\"",
                                    "\"\\udc00\"",
                                    "\"\\ud800\\u0041\"",
                                    "\"a\nb\"",
                                    "\"\xff\"",
                                    "\xc3{}"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
    if (is_json(bad[i]))
      fail_msg("taken: %s", bad[i]);
}

static void
test_a_nul_byte_does_not_end_the_text(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  assert_null(api_json_from_text("{}\0{}", 5, &error));
  assert_non_null(error);
}

static char *
nested(guint depth)
{
  GString *text = g_string_new(NULL);
  for (guint i = 0; i < depth; i++)
    g_string_append_c(text, '[');
  for (guint i = 0; i < depth; i++)
    g_string_append_c(text, ']');
  return g_string_free(text, FALSE);
}

static void
test_nesting_is_limited(void **state)
{
  (void) state;
  g_autofree char *deepest = nested(API_JSON_DEPTH_MAX), *deeper = nested(API_JSON_DEPTH_MAX + 1);
  g_autofree char *abyss = g_strnfill(1000000, '[');
  assert_true(is_json(deepest));
  assert_false(is_json(deeper));
  assert_false(is_json(abyss));
}

static void
test_many_small_arrays_are_not_deep(void **state)
{
  (void) state;
  g_autoptr(GString) text = g_string_new("[");
  for (int i = 0; i < 1000; i++)
    g_string_append(text, "[],{},");
  g_string_append(text, "1]");
  assert_true(is_json(text->str));
}

static void
test_damaged_json_never_crashes(void **state)
{
  (void) state;
  static const char good[] =
      "{\"name\":\"w\\u00e9b\",\"disks\":[{\"name\":\"a\",\"size\":-12.5e3}],\"x\":[true,null]}";
  for (gsize i = 0; i < sizeof good - 1; i++) {
    g_autofree char *text = g_strdup(good);
    for (int byte = 1; byte < 256; byte++) {
      text[i] = (char) byte;
      is_json(text);
    }
    text[i] = '\0';
    assert_false(is_json(text));
  }
}

static JsonObject *
object(const char *text)
{
  g_autoptr(JsonNode) node = api_json_from_text(text, -1, NULL);
  assert_non_null(node);
  return json_node_dup_object(node);
}

static void
assert_names(GError **error, const char *key)
{
  assert_non_null(*error);
  assert_int_equal((*error)->code, CBT_ERROR_INVALID);
  assert_non_null(strstr((*error)->message, key));
  g_clear_error(error);
}

static void
test_members_of_the_right_type_are_read(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o =
      object("{\"s\":\"x\",\"b\":true,\"n\":7,\"k\":\"64K\",\"d\":4096.0,\"l\":[\"a\",\"b\"],"
             "\"o\":[{\"n\":1}],\"e\":[]}");
  const char *text = NULL;
  gboolean flag = FALSE;
  guint64 n = 0, k = 0, d = 0;
  g_auto(GStrv) list = NULL, empty = NULL;
  JsonArray *objects = NULL;
  assert_true(api_json_get_string(o, "s", TRUE, &text, NULL));
  assert_string_equal(text, "x");
  assert_true(api_json_get_bool(o, "b", TRUE, &flag, NULL) && flag);
  assert_true(api_json_get_size(o, "n", TRUE, &n, NULL) && n == 7);
  assert_true(api_json_get_size(o, "k", TRUE, &k, NULL) && k == 65536);
  assert_true(api_json_get_size(o, "d", TRUE, &d, NULL) && d == 4096);
  assert_true(api_json_get_strings(o, "l", TRUE, &list, NULL));
  assert_int_equal(g_strv_length(list), 2);
  assert_string_equal(list[1], "b");
  assert_true(api_json_get_strings(o, "e", TRUE, &empty, NULL));
  assert_int_equal(g_strv_length(empty), 0);
  assert_true(api_json_get_objects(o, "o", TRUE, &objects, NULL));
  assert_int_equal(json_array_get_length(objects), 1);
}

static void
test_durations_are_seconds_or_text(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o = object("{\"n\":90,\"t\":\"10m\",\"size\":\"64K\",\"minus\":-1,\"half\":0.5}");
  g_autoptr(GError) error = NULL;
  guint64 n = 0, t = 0, left = 600;
  assert_true(api_json_get_duration(o, "n", TRUE, &n, NULL) && n == 90);
  assert_true(api_json_get_duration(o, "t", TRUE, &t, NULL) && t == 600);
  assert_true(api_json_get_duration(o, "missing", FALSE, &left, NULL) && left == 600);
  static const char *const bad[] = {"size", "minus", "half"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    assert_false(api_json_get_duration(o, bad[i], FALSE, &n, &error));
    assert_names(&error, bad[i]);
  }
}

static void
test_missing_and_null_members_leave_the_value_alone(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o = object("{\"null\":null}");
  static const char *const keys[] = {"missing", "null"};
  for (int i = 0; i < 2; i++) {
    const char *text = "kept";
    gboolean flag = TRUE;
    guint64 size = 5;
    char **list = NULL;
    JsonArray *objects = NULL;
    assert_true(api_json_get_string(o, keys[i], FALSE, &text, NULL));
    assert_true(api_json_get_bool(o, keys[i], FALSE, &flag, NULL));
    assert_true(api_json_get_size(o, keys[i], FALSE, &size, NULL));
    assert_true(api_json_get_strings(o, keys[i], FALSE, &list, NULL));
    assert_true(api_json_get_objects(o, keys[i], FALSE, &objects, NULL));
    assert_string_equal(text, "kept");
    assert_true(flag && size == 5 && !list && !objects);
  }
}

static void
test_missing_required_members_are_named(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o = object("{\"null\":null}");
  g_autoptr(GError) error = NULL;
  const char *text;
  guint64 size;
  assert_false(api_json_get_string(o, "gone", TRUE, &text, &error));
  assert_names(&error, "'gone'");
  assert_false(api_json_get_size(o, "null", TRUE, &size, &error));
  assert_names(&error, "'null'");
}

static void
test_members_of_another_type_are_named(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o =
      object("{\"n\":1,\"s\":\"x\",\"minus\":-1,\"half\":0.5,\"huge\":1e300,\"mixed\":[\"a\",1],"
             "\"o\":{}}");
  g_autoptr(GError) error = NULL;
  const char *text;
  gboolean flag;
  guint64 size;
  char **list = NULL;
  JsonArray *objects;
  assert_false(api_json_get_string(o, "n", FALSE, &text, &error));
  assert_names(&error, "'n'");
  assert_false(api_json_get_string(o, "o", FALSE, &text, &error));
  assert_names(&error, "'o'");
  assert_false(api_json_get_bool(o, "n", FALSE, &flag, &error));
  assert_names(&error, "'n'");
  static const char *const no_sizes[] = {"s", "minus", "half", "huge", "mixed", "o"};
  for (guint i = 0; i < G_N_ELEMENTS(no_sizes); i++) {
    assert_false(api_json_get_size(o, no_sizes[i], FALSE, &size, &error));
    assert_names(&error, no_sizes[i]);
  }
  assert_false(api_json_get_strings(o, "mixed", FALSE, &list, &error));
  assert_names(&error, "'mixed'");
  assert_null(list);
  assert_false(api_json_get_objects(o, "mixed", FALSE, &objects, &error));
  assert_names(&error, "'mixed'");
  assert_false(api_json_get_objects(o, "s", FALSE, &objects, &error));
  assert_names(&error, "'s'");
}

static void
test_unknown_keys_are_named(void **state)
{
  (void) state;
  g_autoptr(JsonObject) o = object("{\"name\":1,\"spede\":2}");
  g_autoptr(GError) error = NULL;
  assert_true(api_json_check_keys(o, "speed spede name", NULL));
  assert_false(api_json_check_keys(o, "name speed", &error));
  assert_names(&error, "'spede'");
  assert_false(api_json_check_keys(o, "", &error));
  assert_names(&error, "Unknown key");
}

static void
test_query_numbers_are_decimal(void **state)
{
  (void) state;
  guint64 value = 3;
  g_autoptr(GError) error = NULL;
  assert_true(api_query_get_u64("limit", NULL, &value, NULL) && value == 3);
  assert_true(api_query_get_u64("limit", "17", &value, NULL) && value == 17);
  static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x1", "1K", "9223372036854775808"};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    assert_false(api_query_get_u64("limit", bad[i], &value, &error));
    assert_names(&error, "'limit'");
  }
}

static void
test_errors_become_objects_with_code_message_and_hint(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  cbt_set_error(&error, CBT_ERROR_NOT_FOUND, "Look elsewhere.", "There is no vm '%s'", "x\xff");
  g_autoptr(JsonNode) node = api_json_from_error(error);
  g_autofree char *text = api_json_to_text(node);
  assert_string_equal(text,
                      "{\"error\":{\"code\":\"not-found\",\"message\":\"There is no vm 'x\xef\xbf\xbd'\","
                      "\"hint\":\"Look elsewhere.\"}}");
}

static void
test_every_control_byte_is_escaped_in_texts_and_names(void **state)
{
  (void) state;
  for (char byte = 1; byte > 0; byte = byte < 0x1f ? (char) (byte + 1) : byte == 0x1f ? 0x7f : 0) {
    const char text[] = {'a', byte, byte, 'b', '\0'};
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), json_object_new());
    json_object_set_string_member(json_node_get_object(node), text, text);
    json_object_unref(json_node_get_object(node));
    g_autofree char *written = api_json_to_text(node);
    for (const char *c = written; *c; c++)
      assert_true(*c >= 0x20 && *c < 0x7f);
    g_autoptr(JsonNode) read = api_json_from_text(written, -1, NULL);
    assert_non_null(read);
    assert_true(json_node_equal(read, node));
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good_json_is_taken),
      cmocka_unit_test(test_what_is_not_json_is_refused),
      cmocka_unit_test(test_a_nul_byte_does_not_end_the_text),
      cmocka_unit_test(test_nesting_is_limited),
      cmocka_unit_test(test_many_small_arrays_are_not_deep),
      cmocka_unit_test(test_damaged_json_never_crashes),
      cmocka_unit_test(test_members_of_the_right_type_are_read),
      cmocka_unit_test(test_durations_are_seconds_or_text),
      cmocka_unit_test(test_missing_and_null_members_leave_the_value_alone),
      cmocka_unit_test(test_missing_required_members_are_named),
      cmocka_unit_test(test_members_of_another_type_are_named),
      cmocka_unit_test(test_unknown_keys_are_named),
      cmocka_unit_test(test_query_numbers_are_decimal),
      cmocka_unit_test(test_errors_become_objects_with_code_message_and_hint),
      cmocka_unit_test(test_every_control_byte_is_escaped_in_texts_and_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
