/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --help: written from the same tables that the line is parsed by. */
#include "options.h"

#include <stdio.h>
#include <string.h>

#define WIDTH  80
#define COLUMN 28 /* where explanations begin */

/* TEXT in lines that begin at COLUMN, where the first one is already. */
static void
print_wrapped(const char *text, int column)
{
  g_auto(GStrv) words = g_strsplit(text, " ", -1);
  int at = column;
  for (char **word = words; *word; word++) {
    int length = (int) strlen(*word);
    if (at > column && at + 1 + length > WIDTH) {
      printf("\n%*s", column, "");
      at = column;
    }
    at += printf("%s%s", at > column ? " " : "", *word);
  }
  putchar('\n');
}

/* "  TERM      text", with the text below if the term is long. */
static void
print_term(const char *term, const char *text)
{
  int at = printf("  %s", term);
  if (at + 2 > COLUMN)
    printf("\n%*s", COLUMN, "");
  else
    printf("%*s", COLUMN - at, "");
  print_wrapped(text, COLUMN);
}

static void
print_options(const char *title, const CliOption *options)
{
  printf("\n%s:\n", title);
  for (; options->name; options++) {
    g_autofree char *left = g_strconcat("--", options->name, options->value_name ? " " : "",
                                        options->value_name ? options->value_name : "", NULL);
    g_autofree char *right = g_strconcat(options->help, options->repeated ? " (may be repeated)" : "", NULL);
    print_term(left, right);
  }
}

static void
print_examples(const char *examples)
{
  g_auto(GStrv) lines = g_strsplit(examples, "\n", -1);
  printf("\n%s:\n", lines[1] ? "Examples" : "Example");
  for (char **line = lines; *line; line++)
    printf("  %s\n", *line);
}

static void
print_command(const CliCommand *command)
{
  g_autofree char *usage = g_strconcat("cbt-backup ", command->name, " ", command->args, NULL);
  fputs("Usage: ", stdout);
  print_wrapped(g_strchomp(usage), 7);
  g_autofree char *help = g_strconcat(command->help, ".", NULL);
  putchar('\n');
  print_wrapped(help, 0);
  if (command->options)
    print_options("Options", command->options);
  print_options("Everywhere", cli_global_options);
  print_examples(command->examples);
}

static void
print_usage(const CliCommand *command)
{
  g_autofree char *usage = g_strconcat(command->name, " ", command->args, NULL);
  g_autofree char *help = g_strconcat(command->help, ".", NULL);
  fputs("  ", stdout);
  print_wrapped(g_strchomp(usage), 6);
  printf("%*s", 6, "");
  print_wrapped(help, 6);
}

/* The commands that begin with TOPIC, with their arguments. */
static void
print_topic(const char *topic)
{
  printf("Usage: cbt-backup %s COMMAND ...\n\n", topic);
  for (const CliGroup *group = cli_groups; group->commands; group++)
    for (const CliCommand *command = group->commands; command->name; command++)
      if (command->help && cli_command_is_about(command, topic))
        print_usage(command);
  printf("\n'cbt-backup %s COMMAND --help' has options and examples.\n", topic);
}

static void
print_groups(void)
{
  for (const CliGroup *group = cli_groups; group->commands; group++) {
    if (group->title)
      printf("\n%s:\n", group->title);
    for (const CliCommand *command = group->commands; command->name; command++)
      if (command->help)
        print_term(command->name, command->help);
  }
}

static void
print_all(void)
{
  puts("Usage: cbt-backup COMMAND [ARGUMENT ...] [OPTION ...]\n\n"
       "Incremental backups of QEMU/KVM disks that read only what changed. cbt-backupd does\n"
       "the work; it has to run.\n\n"
       "To begin with:\n"
       "  cbt-backup vm add web --disk root=/var/lib/images/web.raw\n"
       "  cbt-backup export start web                    # what it prints is the disk for QEMU\n"
       "  cbt-backup --full web\n"
       "  cbt-backup --incremental web                   # from now on\n"
       "  cbt-backup restore web@latest --to /srv/web\n\n"
       "'cbt-backup COMMAND --help' has the arguments, options and examples of a command.");
  print_groups();
  print_options("Everywhere", cli_global_options);
  puts("\nPOINT is a uuid, a unique prefix of one, NAME@latest, or NAME@N: the N-th newest, 0\n"
       "being the latest. SIZE is a number of bytes, or one with K, M, G or T behind it. BITMAP\n"
       "is 'default' if not named. DURATION is a number of seconds, or one with s, m, h or d\n"
       "behind it.\n\n"
       "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 refused in this state, 5 daemon\n"
       "not reachable, 6 damaged data found.");
}

void
cli_help(const CliCommand *command, const char *topic)
{
  if (command)
    print_command(command);
  else if (topic)
    print_topic(topic);
  else
    print_all();
}
