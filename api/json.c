/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each reader finds the member, and either converts it or names its key and the type that was wanted. */
#include <api/json.h>

#include <api/json-private.h>
#include <common/duration.h>
#include <common/error.h>
#include <common/json-text.h>
#include <common/size.h>
#include <math.h>
#include <string.h>

static gboolean
wrong_type(const char *key, const char *wanted, GError **error)
{
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' must be %s", key, wanted);
  return FALSE;
}

/* The member KEY in *node; NULL there, and TRUE, if it is missing or null and not REQUIRED. */
static gboolean
find(JsonObject *object, const char *key, gboolean required, JsonNode **node, GError **error)
{
  *node = json_object_get_member(object, key);
  if (*node && JSON_NODE_HOLDS_NULL(*node))
    *node = NULL;
  if (*node || !required)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' is missing", key);
  return FALSE;
}

static gboolean
holds(JsonNode *node, GType type)
{
  return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type;
}

gboolean
api_json_get_string(JsonObject *object, const char *key, gboolean required, const char **value,
                    GError **error)
{
  JsonNode *node;
  if (!find(object, key, required, &node, error))
    return FALSE;
  if (!node)
    return TRUE;
  if (!holds(node, G_TYPE_STRING))
    return wrong_type(key, "a string", error);
  *value = json_node_get_string(node);
  return TRUE;
}

gboolean
api_json_get_bool(JsonObject *object, const char *key, gboolean required, gboolean *value, GError **error)
{
  JsonNode *node;
  if (!find(object, key, required, &node, error))
    return FALSE;
  if (!node)
    return TRUE;
  if (!holds(node, G_TYPE_BOOLEAN))
    return wrong_type(key, "true or false", error);
  *value = json_node_get_boolean(node);
  return TRUE;
}

/* What a text stands for where a number is wanted; NULL: no text does. */
typedef gboolean (*ParseFunc)(const char *text, guint64 *value, GError **error);

static gboolean
get_number(JsonObject *object, const char *key, gboolean required, ParseFunc parse, const char *wanted,
           guint64 *value, GError **error)
{
  JsonNode *node;
  if (!find(object, key, required, &node, error))
    return FALSE;
  if (!node)
    return TRUE;
  if (parse && holds(node, G_TYPE_STRING)) {
    if (parse(json_node_get_string(node), value, error))
      return TRUE;
    g_prefix_error(error, "'%s': ", key);
    return FALSE;
  }
  if (holds(node, G_TYPE_DOUBLE)) { /* 1e6, or 4096.0 of a language that knows no integers */
    double number = json_node_get_double(node);
    if (!(number >= 0 && number < 9007199254740992.0) || trunc(number) != number)
      return wrong_type(key, wanted, error);
    *value = (guint64) number;
    return TRUE;
  }
  if (!holds(node, G_TYPE_INT64) || json_node_get_int(node) < 0)
    return wrong_type(key, wanted, error);
  *value = (guint64) json_node_get_int(node);
  return TRUE;
}

gboolean
api_json_get_size(JsonObject *object, const char *key, gboolean required, guint64 *value, GError **error)
{
  return get_number(object, key, required, cbt_size_parse,
                    "a whole number of bytes, or a size such as \"64K\"", value, error);
}

gboolean
api_json_get_count(JsonObject *object, const char *key, gboolean required, guint64 *value, GError **error)
{
  return get_number(object, key, required, NULL, "a whole number of 0 or more", value, error);
}

gboolean
api_json_get_duration(JsonObject *object, const char *key, gboolean required, guint64 *seconds,
                      GError **error)
{
  return get_number(object, key, required, cbt_duration_parse,
                    "a whole number of seconds, or a duration such as \"10m\"", seconds, error);
}

/* An array whose elements all satisfy IS_WANTED, in *array; NULL there if KEY is missing. */
static gboolean
find_array(JsonObject *object, const char *key, gboolean required, gboolean (*is_wanted)(JsonNode *),
           const char *wanted, JsonArray **array, GError **error)
{
  JsonNode *node;
  *array = NULL;
  if (!find(object, key, required, &node, error))
    return FALSE;
  if (!node)
    return TRUE;
  if (!JSON_NODE_HOLDS_ARRAY(node))
    return wrong_type(key, wanted, error);
  JsonArray *found = json_node_get_array(node);
  for (guint i = 0; i < json_array_get_length(found); i++)
    if (!is_wanted(json_array_get_element(found, i)))
      return wrong_type(key, wanted, error);
  *array = found;
  return TRUE;
}

static gboolean
is_string(JsonNode *node)
{
  return holds(node, G_TYPE_STRING);
}

static gboolean
is_object(JsonNode *node)
{
  return JSON_NODE_HOLDS_OBJECT(node);
}

gboolean
api_json_get_strings(JsonObject *object, const char *key, gboolean required, char ***value, GError **error)
{
  JsonArray *array;
  if (!find_array(object, key, required, is_string, "an array of strings", &array, error))
    return FALSE;
  if (!array)
    return TRUE;
  g_autoptr(GPtrArray) strings = g_ptr_array_new();
  for (guint i = 0; i < json_array_get_length(array); i++)
    g_ptr_array_add(strings, g_strdup(json_array_get_string_element(array, i)));
  g_ptr_array_add(strings, NULL);
  *value = (char **) g_ptr_array_free(g_steal_pointer(&strings), FALSE);
  return TRUE;
}

gboolean
api_json_get_objects(JsonObject *object, const char *key, gboolean required, JsonArray **value,
                     GError **error)
{
  JsonArray *array;
  if (!find_array(object, key, required, is_object, "an array of objects", &array, error))
    return FALSE;
  if (array)
    *value = array;
  return TRUE;
}

gboolean
api_json_check_keys(JsonObject *object, const char *allowed, GError **error)
{
  g_auto(GStrv) known = g_strsplit(allowed, " ", -1);
  g_autoptr(GList) keys = json_object_get_members(object);
  for (GList *l = keys; l; l = l->next) {
    if (g_strv_contains((const char *const *) known, l->data))
      continue;
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "Unknown key '%s'%s%s", (char *) l->data,
                  *allowed ? "; known are: " : "; none is known here", allowed);
    return FALSE;
  }
  return TRUE;
}

gboolean
api_query_get_u64(const char *key, const char *text, guint64 *value, GError **error)
{
  if (!text || g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, value, NULL))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' must be a whole number, not '%s'", key, text);
  return FALSE;
}

char *
api_json_to_text(JsonNode *node)
{
  return cbt_json_escape(json_to_string(node, FALSE));
}

JsonNode *
api_json_from_text(const char *text, gssize length, GError **error)
{
  gsize n_bytes = length < 0 ? strlen(text) : (gsize) length;
  if (!api_json_check_text(text, n_bytes, error))
    return NULL;
  g_autoptr(JsonParser) parser = json_parser_new();
  g_autoptr(GError) local = NULL;
  if (!json_parser_load_from_data(parser, text, (gssize) n_bytes, &local)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "Not JSON: %s", local->message);
    return NULL;
  }
  return json_parser_steal_root(parser);
}

static void
set_text(JsonObject *object, const char *key, const char *text)
{
  if (!text) {
    json_object_set_null_member(object, key);
    return;
  }
  /* Messages may quote file names, which need not be UTF-8. */
  g_autofree char *valid = g_utf8_make_valid(text, -1);
  json_object_set_string_member(object, key, valid);
}

JsonNode *
api_json_new_error(const char *code, const char *message, const char *hint)
{
  JsonObject *inner = json_object_new();
  set_text(inner, "code", code);
  set_text(inner, "message", message);
  set_text(inner, "hint", hint);
  JsonObject *outer = json_object_new();
  json_object_set_object_member(outer, "error", inner);
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, outer);
  return node;
}

JsonNode *
api_json_from_error(const GError *error)
{
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  return api_json_new_error(cbt_error_code_name((int) cbt_error_code(error)), message, hint);
}
