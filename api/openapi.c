/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The document is linked in as it stands in the tree. A bug in it is found when the daemon starts. */
#include <api/openapi.h>

#include <api/json.h>
#include <string.h>

#define REF_PREFIX "#/components/"

struct ApiRoutes {
  GStringChunk *strings; /* of the routes */
  GArray *table;         /* of ApiRoute, ends with an empty one */
};

typedef struct {
  JsonObject *document;
  const ApiOperation *operations;
  ApiRoutes *routes;
} Reading;

__asm__(".pushsection .rodata\n"
        ".global api_openapi_bytes\n"
        "api_openapi_bytes: .incbin \"" API_OPENAPI_FILE "\"\n"
        ".byte 0\n"
        ".popsection");
extern const char api_openapi_bytes[];

const char *
api_openapi_text(void)
{
  return api_openapi_bytes;
}

static JsonObject *
get_object(JsonObject *object, const char *key)
{
  JsonNode *node = object ? json_object_get_member(object, key) : NULL;
  return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* What OBJECT stands for, if all that it has is a "$ref" to a component. */
static JsonObject *
follow(const Reading *reading, JsonObject *object)
{
  const char *ref = object ? json_object_get_string_member_with_default(object, "$ref", NULL) : NULL;
  if (!ref || !g_str_has_prefix(ref, REF_PREFIX))
    return object;
  JsonObject *found = get_object(reading->document, "components");
  g_auto(GStrv) steps = g_strsplit(ref + strlen(REF_PREFIX), "/", -1);
  for (char **step = steps; *step; step++)
    found = get_object(found, *step);
  return found;
}

/* NAMES as a route has them; NULL if there are none. */
static const char *
keep_names(const Reading *reading, const GString *names)
{
  return names->len > 0 ? g_string_chunk_insert(reading->routes->strings, names->str) : NULL;
}

static void
add_name(GString *names, const char *name)
{
  if (names->len > 0)
    g_string_append_c(names, ' ');
  g_string_append(names, name);
}

static const char *
query_keys(const Reading *reading, JsonObject *operation)
{
  g_autoptr(GString) names = g_string_new(NULL);
  JsonNode *node = json_object_get_member(operation, "parameters");
  JsonArray *parameters = node ? json_node_get_array(node) : NULL;
  for (guint i = 0; parameters && i < json_array_get_length(parameters); i++) {
    JsonObject *parameter = follow(reading, json_array_get_object_element(parameters, i));
    if (parameter &&
        g_strcmp0(json_object_get_string_member_with_default(parameter, "in", NULL), "query") == 0)
      add_name(names, json_object_get_string_member(parameter, "name"));
  }
  return keep_names(reading, names);
}

static const char *
body_keys(const Reading *reading, JsonObject *operation)
{
  JsonObject *body = follow(reading, get_object(operation, "requestBody"));
  JsonObject *json = get_object(get_object(body, "content"), "application/json");
  JsonObject *properties = get_object(follow(reading, get_object(json, "schema")), "properties");
  g_autoptr(GString) names = g_string_new(NULL);
  g_autoptr(GList) keys = properties ? json_object_get_members(properties) : NULL;
  for (const GList *key = keys; key; key = key->next)
    add_name(names, key->data);
  if (names->len > 0 && !json_object_get_boolean_member_with_default(body, "required", FALSE))
    g_string_prepend_c(names, '?');
  return keep_names(reading, names);
}

static ApiHandler
find_handler(const Reading *reading, const char *id)
{
  for (const ApiOperation *operation = reading->operations; operation->id; operation++)
    if (g_strcmp0(operation->id, id) == 0)
      return operation->handler;
  return NULL;
}

static gboolean
add_route(const Reading *reading, const char *path, const char *method, JsonObject *operation, GError **error)
{
  const char *id = json_object_get_string_member_with_default(operation, "operationId", NULL);
  g_autofree char *upper = g_ascii_strup(method, -1);
  ApiRoute route = {.method = g_string_chunk_insert(reading->routes->strings, upper),
                    .path = g_string_chunk_insert(reading->routes->strings, path),
                    .handler = find_handler(reading, id),
                    .body_keys = body_keys(reading, operation),
                    .query_keys = query_keys(reading, operation)};
  if (!route.handler) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "nothing does the operation %s of the API's document", id);
    return FALSE;
  }
  g_array_append_val(reading->routes->table, route);
  return TRUE;
}

/* All that a path has but its common parameters are operations. */
static gboolean
add_path(const Reading *reading, const char *path, JsonObject *item, GError **error)
{
  g_autoptr(GList) methods = json_object_get_members(item);
  for (const GList *method = methods; method; method = method->next) {
    JsonObject *operation = get_object(item, method->data);
    if (operation && !add_route(reading, path, method->data, operation, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
check_count(const Reading *reading, GError **error)
{
  guint n = 0;
  while (reading->operations[n].id)
    n++;
  if (n == reading->routes->table->len)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the API's document has %u operations, and there are %u",
                reading->routes->table->len, n);
  return FALSE;
}

static gboolean
add_paths(const Reading *reading, GError **error)
{
  JsonObject *paths = get_object(reading->document, "paths");
  g_autoptr(GList) names = paths ? json_object_get_members(paths) : NULL;
  for (const GList *name = names; name; name = name->next)
    if (!add_path(reading, name->data, get_object(paths, name->data), error))
      return FALSE;
  return check_count(reading, error);
}

ApiRoutes *
api_routes_new(const char *document, const ApiOperation *operations, GError **error)
{
  g_autoptr(JsonNode) node = api_json_from_text(document, -1, error);
  if (!node)
    return NULL;
  g_autoptr(ApiRoutes) routes = g_new0(ApiRoutes, 1);
  routes->strings = g_string_chunk_new(4096);
  routes->table = g_array_new(TRUE, FALSE, sizeof(ApiRoute));
  const Reading reading = {json_node_get_object(node), operations, routes};
  return add_paths(&reading, error) ? g_steal_pointer(&routes) : NULL;
}

void
api_routes_free(ApiRoutes *routes)
{
  if (!routes)
    return;
  g_array_unref(routes->table);
  g_string_chunk_free(routes->strings);
  g_free(routes);
}

const ApiRoute *
api_routes_table(const ApiRoutes *routes)
{
  return (const ApiRoute *) routes->table->data;
}
