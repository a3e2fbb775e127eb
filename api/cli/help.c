/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --help: written from the same tables that the line is parsed by. */
#include "options.h"

#include <stdio.h>

static void
print_options(const char *title, const CliOption *options)
{
  printf("\n%s:\n", title);
  for (; options->name; options++) {
    g_autofree char *left = g_strconcat("--", options->name, options->value_name ? " " : "",
                                        options->value_name ? options->value_name : "", NULL);
    printf("  %-22s %s%s\n", left, options->help, options->repeated ? " (may be repeated)" : "");
  }
}

static void
print_command(const CliCommand *command)
{
  printf("Usage: cbt-backup %s%s%s\n\n%s.\n", command->name, *command->args ? " " : "", command->args,
         command->help);
  if (command->options)
    print_options("Options", command->options);
  print_options("Everywhere", cli_global_options);
}

static void
print_list(const char *topic)
{
  for (const CliCommand *const *group = cli_groups; *group; group++)
    for (const CliCommand *command = *group; command->name; command++)
      if (command->run && (!topic || cli_command_is_about(command, topic)))
        printf("  %s%s%s\n      %s.\n", command->name, *command->args ? " " : "", command->args,
               command->help);
}

void
cli_help(const CliCommand *command, const char *topic)
{
  if (command) {
    print_command(command);
    return;
  }
  printf("Usage: cbt-backup %s [OPTION ...]\n\n", topic ? topic : "COMMAND");
  if (!topic)
    printf("Incremental backups of QEMU/KVM disks that read only what changed.\n\n");
  print_list(topic);
  if (!topic)
    printf(
        "\nPOINT is a uuid, a unique prefix of one, NAME@latest, or NAME@N: the N-th newest, 0 being the "
        "latest.\n"
        "SIZE is a number of bytes, or one with K, M, G or T behind it. BITMAP is 'default' if not named.\n"
        "DURATION is a number of seconds, or one with s, m, h or d behind it.\n"
        "\nExit status: 0 done, 1 failed, 2 usage, 3 not found, 4 refused in this state, 5 daemon not "
        "reachable,\n"
        "6 damaged data found.\n");
  print_options("Everywhere", cli_global_options);
  printf("\n'cbt-backup COMMAND --help' lists the options of a command.\n");
}
