/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of an index: JSON, whose keys are in the functions below, in order. Keys that a reader does not
 * know are ignored. Nesting is bounded before the parser, which recurses, sees the text.
 */
#include <store/chain-index.h>

#include <common/error.h>
#include <common/json-text.h>
#include <common/name.h>
#include <json-glib/json-glib.h>
#include <store/manifest-format.h>
#include <store/point.h>
#include <string.h>

/* ---- writing ---- */

static void
put_string(JsonBuilder *builder, const char *key, const char *value)
{
  json_builder_set_member_name(builder, key);
  if (value)
    json_builder_add_string_value(builder, value);
  else
    json_builder_add_null_value(builder);
}

static void
put_uuid(JsonBuilder *builder, const char *key, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  put_string(builder, key, cbt_uuid_is_nil(uuid) ? NULL : cbt_uuid_format(uuid, text));
}

static void
put_number(JsonBuilder *builder, const char *key, guint64 value)
{
  json_builder_set_member_name(builder, key);
  json_builder_add_int_value(builder, (gint64) value);
}

static void
put_disk(JsonBuilder *builder, const StoreChainDisk *disk)
{
  json_builder_begin_object(builder);
  put_string(builder, "name", disk->name);
  put_number(builder, "size", disk->size);
  put_string(builder, "file", disk->file);
  put_string(builder, "backing-file", disk->backing_file);
  put_number(builder, "bytes", disk->bytes);
  json_builder_end_object(builder);
}

static void
put_config(JsonBuilder *builder, const StoreChainConfig *config)
{
  json_builder_begin_object(builder);
  put_string(builder, "name", config->name);
  put_number(builder, "size", config->size);
  json_builder_end_object(builder);
}

static void
put_point(JsonBuilder *builder, const StoreChainPoint *point)
{
  json_builder_begin_object(builder);
  put_uuid(builder, "uuid", &point->uuid);
  put_number(builder, "time", (guint64) point->time);
  put_string(builder, "kind", point->incremental ? "incremental" : "full");
  put_uuid(builder, "parent", &point->parent);
  json_builder_set_member_name(builder, "disks");
  json_builder_begin_array(builder);
  for (guint i = 0; i < point->disks->len; i++)
    put_disk(builder, point->disks->pdata[i]);
  json_builder_end_array(builder);
  put_string(builder, "config-folder", point->config_folder);
  json_builder_set_member_name(builder, "configs");
  json_builder_begin_array(builder);
  for (guint i = 0; i < point->configs->len; i++)
    put_config(builder, point->configs->pdata[i]);
  json_builder_end_array(builder);
  json_builder_end_object(builder);
}

static char *
print_text(JsonBuilder *builder)
{
  g_autoptr(JsonNode) root = json_builder_get_root(builder);
  g_autofree char *text = cbt_json_escape(json_to_string(root, TRUE));
  return g_strconcat(text, "\n", NULL);
}

char *
store_chain_index_encode(const StoreChainIndex *index)
{
  g_autoptr(JsonBuilder) builder = json_builder_new();
  json_builder_begin_object(builder);
  put_string(builder, "format", STORE_CHAIN_INDEX_FORMAT);
  put_number(builder, "version", STORE_CHAIN_INDEX_VERSION);
  put_uuid(builder, "store", &index->store);
  put_string(builder, "vm", index->vm);
  json_builder_set_member_name(builder, "points");
  json_builder_begin_array(builder);
  for (guint i = 0; i < index->points->len; i++)
    put_point(builder, index->points->pdata[i]);
  json_builder_end_array(builder);
  json_builder_end_object(builder);
  return print_text(builder);
}

/* ---- reading ---- */

static gboolean
fail_key(const char *key, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, "Move it away, or choose another folder.",
                "the key '%s' is missing or wrong", key);
  return FALSE;
}

static JsonNode *
get_value(JsonObject *object, const char *key, GType type)
{
  JsonNode *node = json_object_get_member(object, key);
  return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type ? node : NULL;
}

/* (transfer none); NULL with ERROR. */
static const char *
get_string(JsonObject *object, const char *key, GError **error)
{
  JsonNode *node = get_value(object, key, G_TYPE_STRING);
  if (!node)
    fail_key(key, error);
  return node ? json_node_get_string(node) : NULL;
}

static gboolean
get_number(JsonObject *object, const char *key, guint64 max, guint64 *value, GError **error)
{
  JsonNode *node = get_value(object, key, G_TYPE_INT64);
  gint64 number = node ? json_node_get_int(node) : -1;
  *value = (guint64) number;
  return (number >= 0 && *value <= max) || fail_key(key, error);
}

/* A name that is safe to be that of a file; (transfer full). OPTIONAL: null gives NULL. */
static gboolean
get_file_name(JsonObject *object, const char *key, gboolean optional, char **name, GError **error)
{
  if (optional && json_object_has_member(object, key) && json_object_get_null_member(object, key))
    return TRUE;
  const char *text = get_string(object, key, error);
  if (!text)
    return FALSE;
  if (!store_point_config_name_is_valid(text))
    return fail_key(key, error);
  *name = g_strdup(text);
  return TRUE;
}

/* OPTIONAL: null gives the nil uuid. */
static gboolean
get_uuid(JsonObject *object, const char *key, gboolean optional, CbtUuid *uuid, GError **error)
{
  *uuid = (CbtUuid){{0}};
  if (optional && json_object_has_member(object, key) && json_object_get_null_member(object, key))
    return TRUE;
  const char *text = get_string(object, key, error);
  return text && (cbt_uuid_parse(text, uuid) || fail_key(key, error));
}

static gboolean
get_disk(JsonObject *object, gpointer data, GError **error)
{
  const char *name = get_string(object, "name", error);
  if (!name || !(cbt_name_is_valid(name) || fail_key("name", error)))
    return FALSE;
  StoreChainDisk *disk = store_chain_point_add_disk(data, name);
  return get_number(object, "size", STORE_DISK_SIZE_MAX, &disk->size, error) &&
         get_file_name(object, "file", FALSE, &disk->file, error) &&
         get_file_name(object, "backing-file", TRUE, &disk->backing_file, error) &&
         get_number(object, "bytes", G_MAXINT64, &disk->bytes, error);
}

static gboolean
get_config(JsonObject *object, gpointer data, GError **error)
{
  g_autofree char *name = NULL;
  if (!get_file_name(object, "name", FALSE, &name, error))
    return FALSE;
  StoreChainConfig *config = store_chain_point_add_config(data, name);
  return get_number(object, "size", G_MAXINT64, &config->size, error);
}

typedef gboolean (*GetFunc)(JsonObject *object, gpointer data, GError **error);

static gboolean
get_array(JsonObject *object, const char *key, GetFunc get, gpointer data, GError **error)
{
  JsonNode *node = json_object_get_member(object, key);
  if (!node || !JSON_NODE_HOLDS_ARRAY(node))
    return fail_key(key, error);
  JsonArray *array = json_node_get_array(node);
  for (guint i = 0; i < json_array_get_length(array); i++) {
    JsonNode *element = json_array_get_element(array, i);
    if (!JSON_NODE_HOLDS_OBJECT(element))
      return fail_key(key, error);
    if (!get(json_node_get_object(element), data, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
get_point_fields(JsonObject *object, StoreChainPoint *point, GError **error)
{
  guint64 time;
  const char *kind = get_string(object, "kind", error);
  if (!kind || !get_number(object, "time", G_MAXINT64 / G_USEC_PER_SEC, &time, error))
    return FALSE;
  point->time = (gint64) time;
  point->incremental = strcmp(kind, "incremental") == 0;
  if (!point->incremental && strcmp(kind, "full") != 0)
    return fail_key("kind", error);
  if (!get_uuid(object, "parent", TRUE, &point->parent, error) ||
      !get_array(object, "disks", get_disk, point, error) ||
      !get_file_name(object, "config-folder", TRUE, &point->config_folder, error) ||
      !get_array(object, "configs", get_config, point, error))
    return FALSE;
  return point->config_folder || point->configs->len == 0 || fail_key("config-folder", error);
}

static gboolean
get_point(JsonObject *object, gpointer data, GError **error)
{
  StoreChainIndex *index = data;
  CbtUuid uuid;
  if (!get_uuid(object, "uuid", FALSE, &uuid, error))
    return FALSE;
  if (store_chain_index_find(index, &uuid))
    return fail_key("uuid", error);
  StoreChainPoint *point = store_chain_point_new(&uuid);
  g_ptr_array_add(index->points, point);
  return get_point_fields(object, point, error);
}

static gboolean
check_version(JsonObject *object, GError **error)
{
  guint64 version;
  const char *format = get_string(object, "format", error);
  if (!format)
    return FALSE;
  if (strcmp(format, STORE_CHAIN_INDEX_FORMAT) != 0)
    return fail_key("format", error);
  if (!get_number(object, "version", G_MAXINT64, &version, error))
    return FALSE;
  if (version == STORE_CHAIN_INDEX_VERSION)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Choose another folder.",
                "version %" G_GUINT64_FORMAT " of the chain's index is not known here", version);
  return FALSE;
}

/* Comments and other quotes, which the parser knows and JSON does not, are refused too. */
static gboolean
nesting_is_bounded(const char *text, gsize length)
{
  gint depth = 0;
  gboolean in_string = FALSE;
  for (gsize i = 0; i < length; i++) {
    if (text[i] == '"')
      in_string = !in_string;
    else if (in_string && text[i] == '\\')
      i++;
    else if (!in_string && (text[i] == '{' || text[i] == '['))
      depth++;
    else if (!in_string && (text[i] == '}' || text[i] == ']'))
      depth--;
    if (depth > STORE_CHAIN_INDEX_DEPTH_MAX || (!in_string && strchr("/#'", text[i])))
      return FALSE;
  }
  return TRUE;
}

static JsonNode *
parse_text(const char *text, gsize length, GError **error)
{
  g_autoptr(JsonParser) parser = json_parser_new();
  if (nesting_is_bounded(text, length) && g_utf8_validate_len(text, length, NULL) &&
      json_parser_load_from_data(parser, text, (gssize) length, NULL)) {
    JsonNode *root = json_parser_steal_root(parser);
    if (root && JSON_NODE_HOLDS_OBJECT(root))
      return root;
    g_clear_pointer(&root, json_node_unref);
  }
  cbt_set_error(error, CBT_ERROR_CORRUPT, "Move it away, or choose another folder.", "is not a JSON object");
  return NULL;
}

StoreChainIndex *
store_chain_index_decode(const char *text, gsize length, GError **error)
{
  CbtUuid store;
  g_autoptr(JsonNode) root = parse_text(text, length, error);
  if (!root)
    return NULL;
  JsonObject *object = json_node_get_object(root);
  if (!check_version(object, error) || !get_uuid(object, "store", FALSE, &store, error))
    return NULL;
  const char *vm = get_string(object, "vm", error);
  if (!vm || !(cbt_name_is_valid(vm) || fail_key("vm", error)))
    return NULL;
  g_autoptr(StoreChainIndex) index = store_chain_index_new(&store, vm);
  return get_array(object, "points", get_point, index, error) ? g_steal_pointer(&index) : NULL;
}
