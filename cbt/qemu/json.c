/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/json.h>

JsonObject *
qemu_json_node_object(JsonNode *node)
{
  return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *
qemu_json_node_array(JsonNode *node)
{
  return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

static JsonNode *
value_of_type(JsonObject *object, const char *key, GType type)
{
  JsonNode *node = object ? json_object_get_member(object, key) : NULL;
  return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type ? node : NULL;
}

const char *
qemu_json_string(JsonObject *object, const char *key)
{
  JsonNode *node = value_of_type(object, key, G_TYPE_STRING);
  return node ? json_node_get_string(node) : NULL;
}

JsonObject *
qemu_json_object(JsonObject *object, const char *key)
{
  return object ? qemu_json_node_object(json_object_get_member(object, key)) : NULL;
}

JsonArray *
qemu_json_array(JsonObject *object, const char *key)
{
  return object ? qemu_json_node_array(json_object_get_member(object, key)) : NULL;
}

gboolean
qemu_json_bool(JsonObject *object, const char *key)
{
  JsonNode *node = value_of_type(object, key, G_TYPE_BOOLEAN);
  return node && json_node_get_boolean(node);
}

gboolean
qemu_json_int(JsonObject *object, const char *key, gint64 *value)
{
  JsonNode *node = value_of_type(object, key, G_TYPE_INT64);
  if (node)
    *value = json_node_get_int(node);
  return node != NULL;
}

gboolean
qemu_json_size(JsonObject *object, const char *key, guint64 *value)
{
  gint64 number;
  if (!qemu_json_int(object, key, &number) || number < 0)
    return FALSE;
  *value = (guint64) number;
  return TRUE;
}

JsonObject *
qemu_json_item(JsonArray *array, guint i)
{
  if (!array || i >= json_array_get_length(array))
    return NULL;
  return qemu_json_node_object(json_array_get_element(array, i));
}
