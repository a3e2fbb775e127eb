/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon may be of another version, so a member that is missing or of another type is shown as nothing,
 * never trusted. */
#include "output.h"

#include <api/json.h>
#include <common/size.h>
#include <string.h>

static JsonNode *
find(JsonObject *object, const char *key, GType type)
{
  JsonNode *node = json_object_get_member(object, key);
  return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type ? node : NULL;
}

const char *
cli_text(JsonObject *object, const char *key)
{
  JsonNode *node = find(object, key, G_TYPE_STRING);
  return node ? json_node_get_string(node) : NULL;
}

gint64
cli_number(JsonObject *object, const char *key)
{
  JsonNode *node = find(object, key, G_TYPE_INT64);
  return node ? json_node_get_int(node) : 0;
}

gboolean
cli_true(JsonObject *object, const char *key)
{
  JsonNode *node = find(object, key, G_TYPE_BOOLEAN);
  return node && json_node_get_boolean(node);
}

JsonArray *
cli_array(JsonObject *object, const char *key)
{
  JsonNode *node = json_object_get_member(object, key);
  return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}

gint64
cli_sum(JsonArray *array, const char *key)
{
  gint64 sum = 0;
  for (guint i = 0; array && i < json_array_get_length(array); i++)
    sum += cli_number(cli_object(json_array_get_element(array, i)), key);
  return sum;
}

JsonObject *
cli_object(JsonNode *node)
{
  if (!JSON_NODE_HOLDS_OBJECT(node))
    json_node_init_object(node, NULL);
  if (!json_node_get_object(node))
    json_node_take_object(node, json_object_new());
  return json_node_get_object(node);
}

char *
cli_format_text(JsonObject *object, const char *key)
{
  const char *text = cli_text(object, key);
  return text && *text ? g_strdup(text) : NULL;
}

char *
cli_format_number(JsonObject *object, const char *key)
{
  return find(object, key, G_TYPE_INT64) ? g_strdup_printf("%" G_GINT64_FORMAT, cli_number(object, key))
                                         : NULL;
}

char *
cli_format_size(JsonObject *object, const char *key)
{
  return find(object, key, G_TYPE_INT64) ? cbt_size_format((guint64) cli_number(object, key)) : NULL;
}

char *
cli_format_time(JsonObject *object, const char *key)
{
  gint64 seconds = cli_number(object, key);
  g_autoptr(GDateTime) time = seconds > 0 ? g_date_time_new_from_unix_local(seconds) : NULL;
  return time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S") : NULL;
}

char *
cli_format_yes(JsonObject *object, const char *key)
{
  return g_strdup(cli_true(object, key) ? "yes" : "no");
}

char *
cli_format_short(JsonObject *object, const char *key)
{
  const char *uuid = cli_text(object, key);
  return uuid ? g_strndup(uuid, 8) : NULL;
}

char *
cli_format_count(gint64 n, const char *noun)
{
  return g_strdup_printf("%" G_GINT64_FORMAT " %s%s", n, noun, n == 1 ? "" : "s");
}

char *
cli_format_duration(gint64 seconds)
{
  int h = (int) (seconds / 3600), m = (int) (seconds / 60 % 60), s = (int) (seconds % 60);
  return h > 0 ? g_strdup_printf("%d:%02d:%02d", h, m, s) : g_strdup_printf("%d:%02d", m, s);
}

JsonNode *
cli_get(Cli *cli, const char *path, JsonNodeType wanted, GError **error)
{
  g_autoptr(JsonNode) node = path ? cli_call(cli, "GET", path, NULL, error) : NULL;
  if (!node || JSON_NODE_TYPE(node) == wanted)
    return g_steal_pointer(&node);
  cbt_set_error(error, CBT_ERROR_FAILED, "Is the daemon of the same version?",
                "The daemon's answer to %s is not of the expected form", path);
  return NULL;
}

gboolean
cli_list(Cli *cli, const char *path, const char *columns, CliRowFunc add_row, GError **error)
{
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_ARRAY, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else
    cli_print_table(columns, json_node_get_array(node), add_row);
  return TRUE;
}
