/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Routes are few, so each request walks the whole table, comparing segment by segment. */
#include <api/router-private.h>

#include <string.h>

void
api_problem_clear(ApiProblem *problem)
{
  g_clear_pointer(&problem->message, g_free);
  g_clear_pointer(&problem->allow, g_free);
}

void
api_problem_set(ApiProblem *problem, guint status, const char *code, const char *hint, const char *format,
                ...)
{
  va_list args;
  va_start(args, format);
  api_problem_clear(problem);
  *problem = (ApiProblem){.status = status, .code = code, .hint = hint};
  problem->message = g_strdup_vprintf(format, args);
  va_end(args);
}

static gboolean
is_param(const char *segment)
{
  return segment[0] == '{';
}

/* Compares GIVEN (unescaped) with PATTERN; *literal counts the segments that stand there word by word. */
static gboolean
matches(char **pattern, char **given, guint *n_literal)
{
  *n_literal = 0;
  for (; *pattern && *given; pattern++, given++) {
    if (**given == '\0')
      return FALSE;
    if (is_param(*pattern))
      continue;
    if (strcmp(*pattern, *given) != 0)
      return FALSE;
    (*n_literal)++;
  }
  return !*pattern && !*given;
}

/* The segments of PATH behind its first '/', unescaped. NULL for a bad escape, NUL, or what is not UTF-8. */
static char **
split_path(const char *path)
{
  g_auto(GStrv) segments = g_strsplit(path + (path[0] == '/'), "/", -1);
  for (char **s = segments; *s; s++) {
    char *plain = g_uri_unescape_string(*s, NULL);
    if (!plain || !g_utf8_validate(plain, -1, NULL)) {
      g_free(plain);
      return NULL;
    }
    g_free(*s);
    *s = plain;
  }
  return g_steal_pointer(&segments);
}

static void
collect_params(const ApiRoute *route, char **given, GHashTable *params)
{
  g_auto(GStrv) pattern = g_strsplit(route->path + 1, "/", -1);
  for (guint i = 0; pattern[i]; i++)
    if (is_param(pattern[i]))
      g_hash_table_insert(params, g_strndup(pattern[i] + 1, strlen(pattern[i]) - 2), g_strdup(given[i]));
}

static void
add_method(GString *methods, const char *method)
{
  if (methods->len > 0)
    g_string_append(methods, ", ");
  g_string_append(methods, method);
}

const ApiRoute *
api_router_find(const ApiRoute *routes, const char *method, const char *path, GHashTable *params,
                ApiProblem *problem)
{
  g_auto(GStrv) given = split_path(path);
  if (!given) {
    api_problem_set(problem, 400, "invalid", NULL, "The path '%s' has a bad escape", path);
    return NULL;
  }
  const ApiRoute *found = NULL;
  guint best = 0;
  g_autoptr(GString) methods = g_string_new(NULL);
  for (const ApiRoute *route = routes; route->method; route++) {
    g_auto(GStrv) pattern = g_strsplit(route->path + 1, "/", -1);
    guint n_literal;
    if (!matches(pattern, given, &n_literal))
      continue;
    if (strcmp(route->method, method) != 0) {
      add_method(methods, route->method);
    } else if (!found || n_literal > best) {
      found = route;
      best = n_literal;
    }
  }
  if (found) {
    collect_params(found, given, params);
    return found;
  }
  if (methods->len > 0) {
    api_problem_set(problem, 405, "method-not-allowed", NULL, "%s is not possible here; %s is", method,
                    methods->str);
    problem->allow = g_strdup(methods->str);
  } else {
    api_problem_set(problem, 404, "not-found", NULL, "There is nothing at '%s'", path);
  }
  return NULL;
}

static gboolean
is_listed(const char *allowed, const char *name)
{
  g_auto(GStrv) names = g_strsplit(allowed ? allowed : "", " ", -1);
  return name[0] != '\0' && g_strv_contains((const char *const *) names, name);
}

static gboolean
take_parameter(const char *text, const char *allowed, GHashTable *values, ApiProblem *problem)
{
  const char *equals = strchr(text, '=');
  g_autofree char *name = g_uri_unescape_segment(text, equals, NULL);
  g_autofree char *value = g_uri_unescape_string(equals ? equals + 1 : "", NULL);
  if (!name || !value || !g_utf8_validate(name, -1, NULL) || !g_utf8_validate(value, -1, NULL)) {
    api_problem_set(problem, 400, "invalid", NULL, "The query parameter '%s' has a bad escape", text);
    return FALSE;
  }
  if (!is_listed(allowed, name)) {
    api_problem_set(problem, 400, "invalid", NULL, "Unknown query parameter '%s'%s%s", name,
                    allowed ? "; known are: " : "; none is known here", allowed ? allowed : "");
    return FALSE;
  }
  if (g_hash_table_contains(values, name)) {
    api_problem_set(problem, 400, "invalid", NULL, "The query parameter '%s' is given twice", name);
    return FALSE;
  }
  g_hash_table_insert(values, g_steal_pointer(&name), g_steal_pointer(&value));
  return TRUE;
}

gboolean
api_router_parse_query(const char *query, const char *allowed, GHashTable *values, ApiProblem *problem)
{
  if (!query)
    return TRUE;
  g_auto(GStrv) parts = g_strsplit(query, "&", -1);
  for (char **part = parts; *part; part++)
    if (**part != '\0' && !take_parameter(*part, allowed, values, problem))
      return FALSE;
  return TRUE;
}
