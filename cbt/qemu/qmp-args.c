/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/qmp-args.h>

JsonNode *
qmp_str(const char *text)
{
  return text ? json_node_init_string(json_node_alloc(), text) : NULL;
}

JsonNode *
qmp_int(gint64 number)
{
  return json_node_init_int(json_node_alloc(), number);
}

JsonNode *
qmp_bool(gboolean value)
{
  return json_node_init_boolean(json_node_alloc(), value);
}

JsonNode *
qmp_obj(JsonObject *object)
{
  if (!object)
    return NULL;
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, object);
  return node;
}

JsonObject *
qmp_args(const char *key, ...)
{
  JsonObject *object = json_object_new();
  va_list args;
  va_start(args, key);
  for (; key; key = va_arg(args, const char *)) {
    JsonNode *value = va_arg(args, JsonNode *);
    if (value)
      json_object_set_member(object, key, value);
  }
  va_end(args);
  return object;
}

JsonNode *
qmp_list(JsonNode *first, ...)
{
  JsonArray *array = json_array_new();
  va_list args;
  va_start(args, first);
  for (JsonNode *value = first; value; value = va_arg(args, JsonNode *))
    json_array_add_element(array, value);
  va_end(args);
  JsonNode *node = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(node, array);
  return node;
}

JsonNode *
qmp_action(const char *type, JsonObject *data)
{
  return qmp_dict("type", qmp_str(type), "data", qmp_obj(data), NULL);
}
