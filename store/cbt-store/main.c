/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cbt-store: looks into a store without a daemon, and changes nothing. `cbt-backup store` runs it. */
#include "tool.h"

#include <common/error.h>
#include <common/json-text.h>
#include <common/name.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2

static const char help[] =
    "Usage: cbt-backup store COMMAND [--store DIR] [--json] [--quiet]\n"
    "\n"
    "Looks into a store without the daemon, and changes nothing in it. DIR is the store's folder; without it "
    "the one\n"
    "that a daemon started without options uses.\n"
    "\n"
    "  check                     read everything: format, packs record by record, tables of contents, point "
    "files,\n"
    "                            and all chunks of each point; name what is damaged (exit status 6)\n"
    "  dump packs                the packs\n"
    "  dump pack NUMBER          the records of one; NUMBER as in its file's name\n"
    "  dump points               the recovery points\n"
    "  dump point UUID           one of them, or a unique beginning of its uuid\n"
    "  dump manifest UUID/DISK   which chunk each cluster of a disk has, and where that is\n"
    "  dump index                what the index says of itself, and whether it agrees with the packs\n"
    "  dump format               version and uuid of the store\n";

static const struct {
  const char *name;
  gboolean (*run)(Tool *tool, char **args, GError **error);
} commands[] = {{"check", tool_check}, {"dump", tool_dump}};

G_DEFINE_QUARK(tool - usage, tool_usage)

void
tool_set_usage(GError **error, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  g_set_error(error, TOOL_USAGE, 0, "%s", message);
}

/* ---- what is printed ---- */

void
tool_print_json(Tool *tool, JsonObject *object)
{
  g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, object);
  g_autofree char *text = cbt_json_escape(json_to_string(node, FALSE));
  puts(text);
  tool->has_printed = TRUE;
}

void
tool_put_uuid(JsonObject *object, const char *key, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (cbt_uuid_is_nil(uuid))
    json_object_set_null_member(object, key);
  else
    json_object_set_string_member(object, key, cbt_uuid_format(uuid, text));
}

void
tool_put_chunk(JsonObject *object, const char *key, const StoreChunkId *id)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  json_object_set_string_member(object, key, store_chunk_id_format(id, text));
}

void
tool_put_pack(JsonObject *object, const char *key, guint32 number)
{
  g_autofree char *text = g_strdup_printf("%08x", number);
  if (number == 0)
    json_object_set_null_member(object, key);
  else
    json_object_set_string_member(object, key, text);
}

char *
tool_format_time(gint64 time_us)
{
  g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(time_us / G_USEC_PER_SEC);
  return time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S") : g_strdup("-");
}

const char *
tool_type_name(StoreChunkType type)
{
  return type == STORE_CHUNK_DATA ? "data" : type == STORE_CHUNK_PAGE ? "page" : "config";
}

char *
tool_points_folder(Tool *tool)
{
  return g_build_filename(tool->directory, "points", NULL);
}

/* ---- the line ---- */

/* The store of a daemon that was started without options. */
static char *
default_directory(void)
{
  return geteuid() == 0 ? g_strdup("/var/lib/cbt-backup/store")
                        : g_build_filename(g_get_user_data_dir(), "cbt-backup", "store", NULL);
}

static gboolean
take_option(Tool *tool, char **words, guint *i, GError **error)
{
  const char *word = words[*i];
  const char *value = NULL;
  if (strcmp(word, "--json") == 0) {
    tool->json = TRUE;
    return TRUE;
  }
  if (strcmp(word, "--quiet") == 0) {
    tool->quiet = TRUE;
    return TRUE;
  }
  if (g_str_has_prefix(word, "--store="))
    value = word + strlen("--store=");
  else if (strcmp(word, "--store") == 0 && words[*i + 1])
    value = words[++*i];
  if (!value || !*value) {
    tool_set_usage(
        error, strcmp(word, "--store") == 0 || value ? "%s needs a folder" : "there is no option %s", word);
    return FALSE;
  }
  g_free(tool->directory);
  tool->directory = g_strdup(value);
  return TRUE;
}

static gboolean
run(Tool *tool, char **words, GError **error)
{
  g_autoptr(GPtrArray) args = g_ptr_array_new();
  for (guint i = 0; words[i]; i++) {
    if (strcmp(words[i], "--help") == 0)
      return fputs(help, stdout) >= 0;
    if (strcmp(words[i], "--version") == 0)
      return printf("cbt-store %s\n", CBT_VERSION) > 0;
    if (!g_str_has_prefix(words[i], "--"))
      g_ptr_array_add(args, words[i]);
    else if (!take_option(tool, words, &i, error))
      return FALSE;
  }
  g_ptr_array_add(args, NULL);
  for (gsize i = 0; args->pdata[0] && i < G_N_ELEMENTS(commands); i++)
    if (strcmp(args->pdata[0], commands[i].name) == 0)
      return commands[i].run(tool, (char **) args->pdata + 1, error);
  tool_set_usage(error, args->pdata[0] ? "there is no command '%s'" : "say what to do: check or dump",
                 (const char *) args->pdata[0]);
  return FALSE;
}

static void
print_json_error(Tool *tool, int code, const char *message, const char *hint)
{
  JsonObject *object = json_object_new(), *inner = json_object_new();
  json_object_set_string_member(inner, "code", cbt_error_code_name(code));
  json_object_set_string_member(inner, "message", message);
  json_object_set_string_member(inner, "hint", hint);
  json_object_set_object_member(object, "error", inner);
  tool_print_json(tool, object);
}

static int
fail(Tool *tool, const GError *error)
{
  gboolean is_usage = error->domain == TOOL_USAGE;
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = is_usage ? g_strdup("Try: cbt-backup store --help") : cbt_error_hint(error);
  g_autofree char *shown = cbt_printable(message);
  if (tool->json && !tool->has_printed)
    print_json_error(tool, is_usage ? CBT_ERROR_INVALID : (int) cbt_error_code(error), message, hint);
  fflush(stdout);
  fprintf(stderr, "cbt-backup store: %s\n%s%s", shown, hint ? hint : "", hint ? "\n" : "");
  if (is_usage)
    return EXIT_USAGE;
  return cbt_error_exit_status(cbt_error_code(error));
}

int
main(int argc G_GNUC_UNUSED, char **argv)
{
  g_autoptr(GError) error = NULL;
  Tool tool = {.directory = default_directory()};
  gboolean ok = run(&tool, argv + 1, &error);
  if (fflush(stdout) != 0 && ok) {
    perror("cbt-backup store: cannot write the result");
    g_free(tool.directory);
    return 1;
  }
  int status = ok ? 0 : fail(&tool, error);
  g_free(tool.directory);
  return status;
}
