/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/json-util.h>

void
json_put_string(JsonBuilder *builder, const char *key, const char *value)
{
  json_builder_set_member_name(builder, key);
  if (value)
    json_builder_add_string_value(builder, value);
  else
    json_builder_add_null_value(builder);
}

void
json_put_int(JsonBuilder *builder, const char *key, guint64 value)
{
  json_builder_set_member_name(builder, key);
  json_builder_add_int_value(builder, (gint64) value);
}

void
json_put_bool(JsonBuilder *builder, const char *key, gboolean value)
{
  json_builder_set_member_name(builder, key);
  json_builder_add_boolean_value(builder, value);
}

void
json_put_uuid(JsonBuilder *builder, const char *key, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  json_put_string(builder, key, cbt_uuid_is_nil(uuid) ? NULL : cbt_uuid_format(uuid, text));
}

void
json_put_time(JsonBuilder *builder, const char *key, gint64 time_us)
{
  json_builder_set_member_name(builder, key);
  if (time_us)
    json_builder_add_int_value(builder, time_us / G_USEC_PER_SEC);
  else
    json_builder_add_null_value(builder);
}

JsonNode *
json_finish(JsonBuilder *builder)
{
  JsonNode *node = json_builder_get_root(builder);
  g_object_unref(builder);
  return node;
}
