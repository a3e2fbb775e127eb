/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The forms that arguments have: names, sizes, DISK=PATH, NAME/DISK:BITMAP, and the URLs made of them. */
#include "cli.h"

#include <common/duration.h>
#include <common/name.h>
#include <common/size.h>
#include <stdarg.h>
#include <string.h>

#define SPEED_MIN 4096

/* Moves LOCAL (transfer full), with its hint, to ERROR as a usage error. */
static gboolean
fail_usage(GError *local, const char *prefix, GError **error)
{
  cli_set_usage(error, "%s%s", prefix, local->message);
  g_error_free(local);
  return FALSE;
}

gboolean
cli_option_size(Cli *cli, const char *name, guint64 *value, gboolean *is_given, GError **error)
{
  GError *local = NULL;
  const char *text = cli_option(cli, name);
  *is_given = text != NULL;
  g_autofree char *prefix = g_strdup_printf("--%s: ", name);
  return !text || cbt_size_parse(text, value, &local) || fail_usage(local, prefix, error);
}

gboolean
cli_option_speed(Cli *cli, guint64 *speed, gboolean *is_given, GError **error)
{
  if (!cli_option_size(cli, "speed", speed, is_given, error))
    return FALSE;
  if (!*is_given || *speed == 0 || *speed >= SPEED_MIN)
    return TRUE;
  cli_set_usage(error, "--speed: %s is less than the minimum of 4K a second (0: no limit)",
                cli_option(cli, "speed"));
  return FALSE;
}

gboolean
cli_option_duration(Cli *cli, const char *name, guint64 *seconds, gboolean *is_given, GError **error)
{
  GError *local = NULL;
  const char *text = cli_option(cli, name);
  *is_given = text != NULL;
  g_autofree char *prefix = g_strdup_printf("--%s: ", name);
  return !text || cbt_duration_parse(text, seconds, &local) || fail_usage(local, prefix, error);
}

gboolean
cli_add_counts(Cli *cli, JsonObject *body, const char *const *names, GError **error)
{
  for (; *names; names++) {
    const char *text = cli_option(cli, *names);
    guint64 number;
    if (!text)
      continue;
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, &number, NULL)) {
      cli_set_usage(error, "--%s: '%s' is no whole number", *names, text);
      return FALSE;
    }
    json_object_set_int_member(body, *names, (gint64) number);
  }
  return TRUE;
}

gboolean
cli_check_name(const char *what, const char *text, GError **error)
{
  GError *local = NULL;
  return cbt_name_check(what, text, &local) || fail_usage(local, "", error);
}

char *
cli_absolute(const char *path)
{
  if (g_path_is_absolute(path))
    return g_strdup(path);
  g_autofree char *here = g_get_current_dir();
  while (g_str_has_prefix(path, "./"))
    for (path += 2; *path == '/';)
      path++;
  return strcmp(path, ".") == 0 || *path == '\0' ? g_steal_pointer(&here)
                                                 : g_build_filename(here, path, NULL);
}

gboolean
cli_split_disk(const char *option, const char *text, char **disk, char **path, GError **error)
{
  const char *equals = strchr(text, '=');
  if (!equals || equals == text || equals[1] == '\0') {
    cli_set_usage(error, "--%s needs DISK=PATH, not '%s'", option, text);
    return FALSE;
  }
  g_autofree char *name = g_strndup(text, (gsize) (equals - text));
  if (!cli_check_name("Disk", name, error))
    return FALSE;
  *disk = g_steal_pointer(&name);
  *path = cli_absolute(equals + 1);
  return TRUE;
}

static gboolean
check_target(const char *vm, const char *disk, const char *bitmap, GError **error)
{
  return cli_check_name("Vm", vm, error) && cli_check_name("Disk", disk, error) &&
         (!bitmap || cli_check_name("Bitmap", bitmap, error));
}

gboolean
cli_split_target(const char *text, char **vm, char **disk, char **bitmap, GError **error)
{
  g_auto(GStrv) parts = g_strsplit(text, "/", 2);
  char *colon = parts[0] && parts[1] ? strchr(parts[1], ':') : NULL;
  if (!parts[0] || !parts[1] || (colon && !bitmap)) {
    cli_set_usage(error, "'%s' is not of the form NAME/DISK%s", text, bitmap ? "[:BITMAP]" : "");
    return FALSE;
  }
  if (colon)
    *colon = '\0';
  const char *name = colon ? colon + 1 : "default";
  if (!check_target(parts[0], parts[1], name, error))
    return FALSE;
  *vm = g_strdup(parts[0]);
  *disk = g_strdup(parts[1]);
  if (bitmap)
    *bitmap = g_strdup(name);
  return TRUE;
}

char *
cli_path(GError **error, const char *format, ...)
{
  GString *path = g_string_new(NULL);
  va_list args;
  va_start(args, format);
  for (const char *at = format; *at; at++) {
    if (at[0] != '%' || at[1] != 's') {
      g_string_append_c(path, *at);
      continue;
    }
    at++;
    const char *segment = va_arg(args, const char *);
    if (*segment == '\0' || strcmp(segment, ".") == 0 || strcmp(segment, "..") == 0) {
      cli_set_usage(error, "'%s' cannot be a name", segment);
      va_end(args);
      g_string_free(path, TRUE);
      return NULL;
    }
    g_string_append_uri_escaped(path, segment, "@:", FALSE);
  }
  va_end(args);
  return g_string_free(path, FALSE);
}
