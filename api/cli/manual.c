/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * manual FILE: prints the manual page FILE, written in mdoc(7), with the commands and options of the tables
 * in the places of its comments COMMANDS and OPTIONS. The build makes the page so: nothing has to be told
 * twice.
 */
#include "options.h"

#include <stdio.h>
#include <string.h>

/* One line of text, with what roff would take for its own. */
static void
print_text(const char *text, const char *end)
{
  if (*text == '.' || *text == '\'')
    fputs("\\&", stdout);
  for (; *text; text++)
    if (*text == '\\')
      fputs("\\e", stdout);
    else if (*text == '-' && text[1] == '-')
      fputs("\\-", stdout);
    else
      putchar(*text);
  printf("%s\n", end);
}

static void
print_options(const CliOption *options)
{
  puts(".Bl -tag -width Ds");
  for (; options->name; options++) {
    printf(".It Fl -%s%s%s\n", options->name, options->value_name ? " Ar " : "",
           options->value_name ? options->value_name : "");
    print_text(options->help, ".");
    if (options->repeated)
      puts("May be repeated.");
  }
  puts(".El");
}

/* What is typed, so that it can be copied from the page. */
static void
print_literal(const char *text)
{
  for (; *text; text++)
    if (*text == '\\')
      fputs("\\e", stdout);
    else if (*text == '\'')
      fputs("\\(aq", stdout);
    else if (*text == '-')
      fputs("\\-", stdout);
    else
      putchar(*text);
}

static void
print_examples(const char *examples)
{
  puts(".Bd -literal -offset indent");
  print_literal(examples);
  puts("\n.Ed");
}

static void
print_command(const CliCommand *command)
{
  fputs(".It Cm \"", stdout);
  print_literal(command->name);
  fputs("\" No \"", stdout);
  print_literal(command->args);
  puts("\"");
  print_text(command->help, ".");
  if (command->options)
    print_options(command->options);
  print_examples(command->examples);
}

static void
print_commands(void)
{
  const char *end = "";
  for (const CliGroup *group = cli_groups; group->commands; group++) {
    if (group->title)
      printf("%s.Ss %s\n.Bl -tag -width Ds\n", end, group->title);
    end = ".El\n";
    for (const CliCommand *command = group->commands; command->name; command++)
      if (command->help)
        print_command(command);
  }
  fputs(end, stdout);
}

static gboolean
manual(Cli *cli, GError **error)
{
  g_autofree char *text = NULL;
  if (!g_file_get_contents(cli_arg(cli, 0), &text, NULL, error))
    return FALSE;
  g_auto(GStrv) lines = g_strsplit(g_strchomp(text), "\n", -1);
  for (char **line = lines; *line; line++)
    if (strcmp(*line, ".\\\" COMMANDS") == 0)
      print_commands();
    else if (strcmp(*line, ".\\\" OPTIONS") == 0)
      print_options(cli_global_options);
    else
      puts(*line);
  return TRUE;
}

const CliCommand cli_manual_commands[] = {
    {"manual", "FILE", NULL, 1, 1, NULL, manual, NULL},
    {0},
};
