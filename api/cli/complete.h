/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What could stand where the cursor is: for the shells' completion. */
#pragma once

#include "cli.h"

typedef struct {
  Cli *cli;
  const CliCommand *command; /* NULL: not typed yet */
  GPtrArray *words;          /* the command's arguments in front of the current one */
  const char *fixed;         /* what the current word begins with and candidates repeat: "--disk=", or "" */
  const char *current;       /* what is typed of it behind that */
} CliCompletion;

/* Prints CANDIDATE with its DESCRIPTION (nullable), if it begins with what is typed. */
void cli_offer(const CliCompletion *completion, const char *candidate, const char *description);

/*
 * Offers what an argument or an option's value can be by its FORM, as the tables write it: "NAME", "POINT|live",
 * "none|fs|app", "DISK=PATH". What only the daemon knows is asked there; without an answer nothing is offered.
 */
void cli_complete_value(const CliCompletion *completion, const char *form);
