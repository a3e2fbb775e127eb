/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options may stand before the command, so whether one takes a value must be known before the command is: an
 * option takes a value in all commands or in none. The line is split with that knowledge, then the command is
 * looked up, then its options are checked.
 */
#include "options.h"

#include <common/name.h>
#include <common/size.h>
#include <string.h>

struct CliLine {
  GPtrArray *words;    /* the arguments; the command's own words until it is found */
  GHashTable *options; /* name -> GPtrArray of values, NULL-terminated once parsed */
};

const CliOption cli_global_options[] = {
    {"socket", "PATH", FALSE,
     "the daemon's socket (default: $CBT_BACKUP_SOCKET, or the runtime directory's)"},
    {"json", NULL, FALSE, "print exactly one JSON document"},
    {"quiet", NULL, FALSE, "print nothing but the result"},
    {"help", NULL, FALSE, "explain, and do nothing; behind a command: that command"},
    {"version", NULL, FALSE, "print the version"},
    {0},
};

GQuark
cli_usage_quark(void)
{
  return g_quark_from_static_string("cli-usage");
}

void
cli_set_usage(GError **error, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  g_set_error_literal(error, CLI_USAGE, 0, message);
}

/* Looking up */

static const CliOption *
find_in(const CliOption *options, const char *name)
{
  for (; options && options->name; options++)
    if (strcmp(options->name, name) == 0)
      return options;
  return NULL;
}

const CliOption *
cli_option_find(const CliCommand *command, const char *name)
{
  const CliOption *found = find_in(cli_global_options, name);
  if (!found && command)
    return find_in(command->options, name);
  for (const CliGroup *group = cli_groups; group->commands && !found; group++)
    for (const CliCommand *any = group->commands; any->name && !found; any++)
      found = find_in(any->options, name);
  return found;
}

/* The number of words of COMMAND's name that WORDS begin with, if they begin with all of them; else 0. */
static guint
matches(const CliCommand *command, GPtrArray *words)
{
  g_auto(GStrv) name = g_strsplit(command->name, " ", -1);
  guint n_words = g_strv_length(name);
  if (words->len < n_words)
    return 0;
  for (guint i = 0; i < n_words; i++)
    if (strcmp(name[i], words->pdata[i]) != 0)
      return 0;
  return n_words;
}

const CliCommand *
cli_command_find(GPtrArray *words, guint *n_words)
{
  for (const CliGroup *group = cli_groups; group->commands; group++)
    for (const CliCommand *command = group->commands; command->name; command++)
      if ((*n_words = matches(command, words)) > 0)
        return command;
  return NULL;
}

gboolean
cli_command_is_dashed(const char *word)
{
  for (const CliCommand *command = cli_backup_commands; command->name; command++)
    if (strcmp(command->name, word) == 0)
      return TRUE;
  return FALSE;
}

gboolean
cli_command_is_about(const CliCommand *command, const char *topic)
{
  gsize length = strlen(topic);
  return strncmp(command->name, topic, length) == 0 &&
         (command->name[length] == ' ' || command->name[length] == '\0');
}

static gboolean
topic_exists(const char *topic)
{
  for (const CliGroup *group = cli_groups; group->commands; group++)
    for (const CliCommand *command = group->commands; command->name; command++)
      if (cli_command_is_about(command, topic))
        return TRUE;
  return FALSE;
}

/* Splitting */

static gboolean
add_option(CliLine *line, const CliOption *option, const char *value, GError **error)
{
  GPtrArray *values = g_hash_table_lookup(line->options, option->name);
  if (!values) {
    values = g_ptr_array_new_with_free_func(g_free);
    g_hash_table_insert(line->options, (char *) option->name, values);
  } else if (option->value_name && !option->repeated) {
    cli_set_usage(error, "--%s is given twice", option->name);
    return FALSE;
  }
  g_ptr_array_add(values, g_strdup(value ? value : ""));
  return TRUE;
}

/* "--full NAME" and "--full=NAME": a command that looks like an option. TRUE if WORD is one. */
static gboolean
take_dashed_command(CliLine *line, const char *word)
{
  g_auto(GStrv) parts = g_strsplit(word, "=", 2);
  for (const CliCommand *command = cli_backup_commands; command->name; command++) {
    if (strcmp(command->name, parts[0]) != 0)
      continue;
    g_ptr_array_insert(line->words, 0, g_strdup(parts[0]));
    if (parts[1])
      g_ptr_array_insert(line->words, 1, g_strdup(parts[1]));
    return TRUE;
  }
  return FALSE;
}

/* Takes the option *WORD, and its value behind it; *word moves to the last one taken. */
static gboolean
take_option(CliLine *line, char ***word, GError **error)
{
  const char *text = strcmp(**word, "-h") == 0 ? "help" : **word + 2;
  const char *equals = strchr(text, '=');
  g_autofree char *name = equals ? g_strndup(text, (gsize) (equals - text)) : g_strdup(text);
  const CliOption *option = g_str_has_prefix(**word, "--") || text[0] == 'h' ? cli_option_find(NULL, name) : NULL;
  const char *value = equals ? equals + 1 : NULL;
  if (!option) {
    cli_set_usage(error, "There is no option '%s'", **word);
    return FALSE;
  }
  if (!option->value_name && value) {
    cli_set_usage(error, "--%s takes no value", name);
    return FALSE;
  }
  if (option->value_name && !value && !(value = *++*word)) {
    cli_set_usage(error, "--%s needs a value: --%s %s", name, name, option->value_name);
    return FALSE;
  }
  return add_option(line, option, value, error);
}

static gboolean
split(CliLine *line, char **words, GError **error)
{
  gboolean only_words = FALSE;
  for (char **word = words; *word; word++) {
    if (!g_utf8_validate(*word, -1, NULL)) {
      cli_set_usage(error, "An argument is not UTF-8");
      return FALSE;
    }
    if (!only_words && strcmp(*word, "--") == 0)
      only_words = TRUE;
    else if (only_words || **word != '-' || strcmp(*word, "-") == 0)
      g_ptr_array_add(line->words, g_strdup(*word));
    else if (!take_dashed_command(line, *word) && !take_option(line, &word, error))
      return FALSE;
    if (!*word)
      break;
  }
  return TRUE;
}

/* Checking */

static gboolean
check_options(CliLine *line, const CliCommand *command, GError **error)
{
  GHashTableIter iter;
  gpointer name, values;
  g_hash_table_iter_init(&iter, line->options);
  while (g_hash_table_iter_next(&iter, &name, &values)) {
    if (find_in(cli_global_options, name) || find_in(command->options, name))
      continue;
    cli_set_usage(error, "--%s is no option of '%s'", (char *) name, command->name);
    return FALSE;
  }
  return TRUE;
}

static gboolean
check_args(CliLine *line, const CliCommand *command, GError **error)
{
  if (line->words->len >= command->min_args && line->words->len <= command->max_args)
    return TRUE;
  cli_set_usage(error, "%s arguments; usage: cbt-backup %s%s%s",
                line->words->len < command->min_args ? "Missing" : "Too many", command->name,
                *command->args ? " " : "", command->args);
  return FALSE;
}

static gboolean
set_unknown(CliLine *line, GError **error)
{
  const char *first = line->words->len > 0 ? line->words->pdata[0] : NULL;
  const char *second = line->words->len > 1 ? line->words->pdata[1] : NULL;
  if (!first)
    cli_set_usage(error, "A command is missing");
  else if (!topic_exists(first))
    cli_set_usage(error, "There is no command '%s'", first);
  else if (second)
    cli_set_usage(error, "There is no command '%s %s'; see: cbt-backup %s --help", first, second, first);
  else
    cli_set_usage(error, "'%s' is half a command; see: cbt-backup %s --help", first, first);
  return FALSE;
}

static gboolean
resolve(CliLine *line, const CliCommand **command, GError **error)
{
  guint n_words;
  gboolean is_help = cli_line_option(line, "help") != NULL;
  *command = cli_command_find(line->words, &n_words);
  if (!*command)
    return cli_line_option(line, "version") ||
           (is_help && (line->words->len == 0 || topic_exists(line->words->pdata[0]))) ||
           set_unknown(line, error);
  g_ptr_array_remove_range(line->words, 0, n_words);
  return is_help || (check_options(line, *command, error) && check_args(line, *command, error));
}

CliLine *
cli_line_parse(char **words, const CliCommand **command, GError **error)
{
  CliLine *line = g_new0(CliLine, 1);
  line->words = g_ptr_array_new_with_free_func(g_free);
  line->options = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify) g_ptr_array_unref);
  guint n_words;
  if (split(line, words, error))
    resolve(line, command, error);
  else
    *command = cli_command_find(line->words, &n_words); /* as far as it was told */
  GHashTableIter iter;
  gpointer values;
  g_hash_table_iter_init(&iter, line->options);
  while (g_hash_table_iter_next(&iter, NULL, &values))
    g_ptr_array_add(values, NULL);
  return line;
}

void
cli_line_free(CliLine *line)
{
  g_ptr_array_unref(line->words);
  g_hash_table_unref(line->options);
  g_free(line);
}

const char *
cli_line_option(CliLine *line, const char *name)
{
  GPtrArray *values = g_hash_table_lookup(line->options, name);
  return values ? values->pdata[0] : NULL;
}

const char *
cli_line_help_topic(CliLine *line)
{
  return line->words->len > 0 ? line->words->pdata[0] : NULL;
}

/* What commands use */

const char *
cli_arg(Cli *cli, guint i)
{
  return i < cli->line->words->len ? cli->line->words->pdata[i] : NULL;
}

const char *
cli_option(Cli *cli, const char *name)
{
  return cli_line_option(cli->line, name);
}

gboolean
cli_flag(Cli *cli, const char *name)
{
  return g_hash_table_contains(cli->line->options, name);
}

const char *const *
cli_option_values(Cli *cli, const char *name)
{
  static const char *const none[] = {NULL};
  GPtrArray *values = g_hash_table_lookup(cli->line->options, name);
  return values ? (const char *const *) values->pdata : none;
}
