/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line taken apart: which command, its arguments and its options, wherever on the line they
 * stand. */
#pragma once

#include "cli.h"

extern const CliOption cli_global_options[];

/*
 * Parses the words behind the program name. With *command NULL and no error, --help or --version came without
 * a command, or with the first word of some (cli_line_help_topic). Errors are usage errors.
 */
CliLine *cli_line_parse(char **words, const CliCommand **command, GError **error);
void cli_line_free(CliLine *line);

const char *cli_line_option(CliLine *line, const char *name);
/* What was typed besides options; "vm" of "cbt-backup vm --help". */
const char *cli_line_help_topic(CliLine *line);

/* The option NAME, without dashes, of COMMAND or of all; without a COMMAND that of any: they agree on whether
 * it takes a value. NULL if there is none. */
const CliOption *cli_option_find(const CliCommand *command, const char *name);
/* The command that WORDS begin with, and of how many words its name is; NULL if there is none. */
const CliCommand *cli_command_find(GPtrArray *words, guint *n_words);
/* TRUE for a command that looks like an option: "--full". */
gboolean cli_command_is_dashed(const char *word);

/* TRUE if COMMAND is TOPIC, or begins with that word. */
gboolean cli_command_is_about(const CliCommand *command, const char *topic);

/* Writes the help of COMMAND, or of all commands that begin with the word TOPIC, or of everything, to
 * standard output. */
void cli_help(const CliCommand *command, const char *topic);
