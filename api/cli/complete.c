/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * complete WORD ...: prints what the last WORD could become, a line each, with a tab and an explanation
 * behind it where there is one; ":files" where names of files could stand. The shells' files (completion/)
 * are only shells around it, so that the tables in which commands and options are written down are the one
 * list of them. It says nothing on errors.
 */
#include "complete.h"

#include "options.h"

#include <stdio.h>
#include <string.h>

void
cli_offer(const CliCompletion *completion, const char *candidate, const char *description)
{
  if (g_str_has_prefix(candidate, completion->current))
    printf("%s%s%s%s\n", completion->fixed, candidate, description ? "\t" : "",
           description ? description : "");
}

/* ---- options and commands ---- */

static void
offer_options(const CliCompletion *completion, const CliOption *options)
{
  for (; options && options->name; options++) {
    g_autofree char *dashed = g_strconcat("--", options->name, NULL);
    cli_offer(completion, dashed, options->help);
  }
}

/* The word of COMMAND behind those of WORDS that are typed (transfer full); NULL if it is no such command. */
static char *
next_word(const CliCommand *command, GPtrArray *words)
{
  g_auto(GStrv) name = g_strsplit(command->name, " ", -1);
  for (guint i = 0; i < words->len; i++)
    if (g_strcmp0(name[i], words->pdata[i]) != 0)
      return NULL;
  return g_strdup(name[words->len]);
}

/* A word that several commands have is offered once, without saying what only one of them does. */
static void
offer_commands(const CliCompletion *completion)
{
  g_autofree char *last = NULL;
  for (const CliGroup *group = cli_groups; group->commands; group++)
    for (const CliCommand *command = group->commands; command->name; command++) {
      char *word = command->help ? next_word(command, completion->words) : NULL;
      if (word && g_strcmp0(word, last) != 0)
        cli_offer(completion, word, g_str_has_suffix(command->name, word) ? command->help : NULL);
      if (word) {
        g_free(last);
        last = word;
      }
    }
}

/* ---- arguments ---- */

/* The form of the argument that comes next in ARGS (transfer full): "[NAME]" is "NAME"; NULL if none can. */
static char *
argument_form(const char *args, guint i)
{
  static const char pattern[] = "\\[[^\\]]*\\]|\\S+";
  g_autoptr(GRegex) regex = g_regex_new(pattern, 0, 0, NULL);
  g_autoptr(GMatchInfo) match = NULL;
  g_regex_match(regex, args, 0, &match);
  for (; g_match_info_matches(match); g_match_info_next(match, NULL)) {
    g_autofree char *form = g_match_info_fetch(match, 0);
    if (strchr("(-|", form[0]) || g_str_has_prefix(form, "[--"))
      return NULL;
    if (i-- > 0)
      continue;
    gsize length = strlen(form);
    return form[0] == '[' ? g_strndup(form + 1, length - 2) : g_steal_pointer(&form);
  }
  return NULL;
}

static void
offer_word(const CliCompletion *completion)
{
  const CliCommand *command = completion->command;
  if (completion->current[0] == '-') {
    if (command)
      offer_options(completion, command->options);
    else
      offer_commands(completion);
    offer_options(completion, cli_global_options);
    return;
  }
  if (!command) {
    offer_commands(completion);
    return;
  }
  g_autofree char *form = argument_form(command->args, completion->words->len);
  if (form)
    cli_complete_value(completion, form);
}

/* ---- the line so far ---- */

/* The option that WORD is, and its value if that stands in the same word. */
static const CliOption *
find_option(const char *word, const char **value)
{
  const char *equals = strchr(word, '=');
  g_autofree char *name = equals ? g_strndup(word + 2, (gsize) (equals - word - 2)) : g_strdup(word + 2);
  *value = equals ? equals + 1 : NULL;
  return cli_option_find(NULL, name);
}

/* Takes one word in front of the current one; returns the option whose value comes next, or NULL. */
static const CliOption *
take_word(CliCompletion *completion, const char *word)
{
  const char *value = NULL;
  if (!g_str_has_prefix(word, "--") || cli_command_is_dashed(word)) {
    g_ptr_array_add(completion->words, (char *) word);
    return NULL;
  }
  const CliOption *option = find_option(word, &value);
  return option && option->value_name && !value ? option : NULL;
}

static void
find_command(CliCompletion *completion)
{
  guint n_words;
  completion->command = cli_command_find(completion->words, &n_words);
  if (completion->command)
    g_ptr_array_remove_range(completion->words, 0, n_words);
}

/* The last of WORDS as an option with its value: "--disk=ro". */
static const CliOption *
split_current(CliCompletion *completion, char **fixed)
{
  const char *value = NULL, *current = completion->current;
  const CliOption *option = g_str_has_prefix(current, "--") ? find_option(current, &value) : NULL;
  if (!option || !value)
    return NULL;
  *fixed = g_strndup(current, (gsize) (value - current));
  completion->fixed = *fixed;
  completion->current = value;
  return option;
}

static gboolean
complete(Cli *cli, GError **error G_GNUC_UNUSED)
{
  g_autoptr(GPtrArray) words = g_ptr_array_new();
  g_autofree char *fixed = NULL;
  CliCompletion completion = {.cli = cli, .words = words, .fixed = ""};
  const CliOption *option = NULL;
  for (guint i = 0; cli_arg(cli, i + 1); i++) {
    const char *word = cli_arg(cli, i);
    if (option && strcmp(option->name, "socket") == 0)
      cli->socket_path = word;
    option = option ? NULL : take_word(&completion, word);
    completion.current = cli_arg(cli, i + 1);
  }
  if (!completion.current)
    completion.current = cli_arg(cli, 0);
  find_command(&completion);
  if (!option)
    option = split_current(&completion, &fixed);
  if (!option)
    offer_word(&completion);
  else if ((option = cli_option_find(completion.command, option->name)) && option->value_name)
    cli_complete_value(&completion, option->value_name);
  return TRUE;
}

const CliCommand cli_complete_commands[] = {
    {"complete", "WORD ...", NULL, 1, G_MAXUINT, NULL, complete, NULL},
    {0},
};
