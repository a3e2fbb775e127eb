/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cbt-backup, the command line: tables of commands, and what they share.
 *
 * main.c takes the line apart by these tables and runs one command; each file beside it is one group of
 * commands. A command checks what it can judge itself (CLI_USAGE, exit status 2), asks the daemon, and prints
 * its answer: as it came with --json, else for people.
 */
#pragma once

#include <api/client.h>

/* The error domain of what was typed wrong; its code does not matter. */
#define CLI_USAGE (cli_usage_quark())
GQuark cli_usage_quark(void);

typedef struct {
  const char *name;       /* without the dashes */
  const char *value_name; /* NULL: a flag; "none|fs" if there are but these */
  gboolean repeated;
  const char *help;
} CliOption;

typedef struct CliLine CliLine;

typedef struct Cli Cli;

typedef struct {
  const char *name; /* "vm add", "--full" */
  const char *args; /* "NAME --disk DISK=PATH [...]" */
  const char *help; /* a sentence without its dot; NULL: a command for programs, which --help does not show */
  guint min_args, max_args;
  const CliOption *options;                  /* ends with a NULL name; may be NULL */
  gboolean (*run)(Cli *cli, GError **error);
  const char *examples; /* whole command lines, one a line */
} CliCommand;

/* Commands that are for one task; several groups without a title between them are one. */
typedef struct {
  const char *title; /* NULL: more of the group before */
  const CliCommand *commands;
} CliGroup;

struct Cli {
  CliLine *line;
  const CliCommand *command;
  ApiClient *client; /* NULL before the first call */
  const char *socket_path;
  gboolean json;
  gboolean quiet;
  gboolean has_printed; /* the one JSON document is out */
};

/* The commands of each file, ended by a NULL name. */
extern const CliCommand cli_backup_commands[], cli_vm_commands[], cli_export_commands[], cli_point_commands[],
    cli_restore_commands[], cli_archive_commands[], cli_import_commands[], cli_changes_commands[],
    cli_bitmap_commands[], cli_job_commands[], cli_status_commands[], cli_doctor_commands[], cli_ui_commands[], cli_prune_commands[],
    cli_gc_commands[], cli_verify_commands[], cli_rebuild_commands[],
    cli_policy_commands[], cli_store_commands[], cli_complete_commands[],
    cli_manual_commands[];
/* All of them, by what they are for, and an end without commands. */
extern const CliGroup cli_groups[];

/* Arguments and options of the line (transfer none); NULL if not there. */
const char *cli_arg(Cli *cli, guint i);
const char *cli_option(Cli *cli, const char *name);
gboolean cli_flag(Cli *cli, const char *name);
/* All values of a repeated option, NULL-terminated, perhaps none. */
const char *const *cli_option_values(Cli *cli, const char *name);

/* Sets ERROR to a usage error. */
void cli_set_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* A size option into *value, which stays if it is not given. */
gboolean cli_option_size(Cli *cli, const char *name, guint64 *value, gboolean *is_given, GError **error);
/* --speed, of bytes a second: 0, or at least a cluster. */
gboolean cli_option_speed(Cli *cli, guint64 *speed, gboolean *is_given, GError **error);
/* The same in seconds. */
gboolean cli_option_duration(Cli *cli, const char *name, guint64 *seconds, gboolean *is_given,
                             GError **error);
/* The options NAMES (NULL-terminated) that are given become members of BODY, whole numbers of 0 or more. */
gboolean cli_add_counts(Cli *cli, JsonObject *body, const char *const *names, GError **error);
/* TEXT as a name of WHAT ("vm"); a usage error if it cannot be one. */
gboolean cli_check_name(const char *what, const char *text, GError **error);
/* Splits "DISK=PATH"; the path is made absolute (both transfer full). */
gboolean cli_split_disk(const char *option, const char *text, char **disk, char **path, GError **error);
/* "NAME/DISK[:BITMAP]"; BITMAP is NULL if none may be named, and points to "default" if none is (all transfer
 * full). */
gboolean cli_split_target(const char *text, char **vm, char **disk, char **bitmap, GError **error);
/* PATH behind the working directory, if it is relative (transfer full). */
char *cli_absolute(const char *path);

/*
 * The format with its %s escaped as path segments, each not empty, "." or ".." (transfer full); a usage error
 * otherwise. No other conversions.
 */
char *cli_path(GError **error, const char *format, ...) G_GNUC_WARN_UNUSED_RESULT;

/* One call; BODY (transfer full) may be NULL. */
JsonNode *cli_call(Cli *cli, const char *method, const char *path, JsonObject *body,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends the program, by SIGPIPE as is usual, if standard output is a pipe that nobody reads any more (head).
 */
void cli_end_if_nobody_reads(void);
/* Prints NODE as the one JSON document. */
void cli_print_json(Cli *cli, JsonNode *node);
/* Answers a command that changes something: the JSON with --json, nothing with --quiet, else the one line. A
 * null NODE is {}. */
void cli_print_done(Cli *cli, JsonNode *node, const char *format, ...) G_GNUC_PRINTF(3, 4);

/*
 * Waits for JOB to end, with a progress line on a terminal, and prints it. SIGINT and SIGTERM cancel it if
 * CANCEL. FALSE for a job that failed or was cancelled.
 */
gboolean cli_wait_job(Cli *cli, JsonNode *job, gboolean cancel, GError **error);
/* With --no-wait prints JOB (transfer full; NULL: FALSE), else waits for it. */
gboolean cli_run_job(Cli *cli, JsonNode *job, GError **error);
/* Prints what came of a collection. */
void cli_print_gc(JsonObject *job);
/* Prints what a verify has found. */
void cli_print_verify(JsonObject *job);
/* Prints a job, ended or not. */
void cli_print_job(Cli *cli, JsonNode *job);
