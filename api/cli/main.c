/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Takes the line apart, runs its command, and turns an error into text, JSON and an exit status. */
#include "options.h"

#include <api/json.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXIT_USAGE 2

const CliGroup cli_groups[] = {
    {"Vms and their disks", cli_vm_commands},
    {NULL, cli_export_commands},
    {"Backing up", cli_backup_commands},
    {NULL, cli_policy_commands},
    {"Looking", cli_status_commands},
    {NULL, cli_job_commands},
    {NULL, cli_ui_commands},
    {NULL, cli_doctor_commands},
    {"Recovery points", cli_point_commands},
    {NULL, cli_prune_commands},
    {"Getting data back", cli_restore_commands},
    {NULL, cli_archive_commands},
    {NULL, cli_import_commands},
    {"Keeping the store sound", cli_verify_commands},
    {NULL, cli_gc_commands},
    {NULL, cli_rebuild_commands},
    {NULL, cli_store_commands},
    {"What changed", cli_changes_commands},
    {NULL, cli_bitmap_commands},
    {NULL, cli_complete_commands},
    {NULL, cli_manual_commands},
    {0},
};

/* The system's daemon; but the user's own where he has one. */
static char *
default_socket(void)
{
  static const char system[] = "/run/cbt-backup/api.sock";
  const char *set = g_getenv("CBT_BACKUP_SOCKET");
  if (set && *set)
    return g_strdup(set);
  g_autofree char *own = g_build_filename(g_get_user_runtime_dir(), "cbt-backup", "api.sock", NULL);
  gboolean has_own = geteuid() != 0 && (g_file_test(own, G_FILE_TEST_EXISTS) || access(system, F_OK) != 0);
  return has_own ? g_steal_pointer(&own) : g_strdup(system);
}

JsonNode *
cli_call(Cli *cli, const char *method, const char *path, JsonObject *body, GError **error)
{
  g_autoptr(JsonNode) node = NULL;
  if (body) {
    node = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(node, body);
  }
  if (!cli->client)
    cli->client = api_client_new(cli->socket_path);
  return api_client_call(cli->client, method, path, node, error);
}

void
cli_print_json(Cli *cli, JsonNode *node)
{
  g_autofree char *text = api_json_to_text(node);
  puts(text);
  cli->has_printed = TRUE;
}

void
cli_print_done(Cli *cli, JsonNode *node, const char *format, ...)
{
  if (cli->json && JSON_NODE_HOLDS_NULL(node))
    puts("{}");
  else if (cli->json)
    cli_print_json(cli, node);
  if (cli->json || cli->quiet)
    return;
  va_list args;
  va_start(args, format);
  g_autofree char *line = g_strdup_vprintf(format, args);
  va_end(args);
  puts(line);
}

static void
print_json_error(Cli *cli, const GError *error, gboolean is_usage)
{
  g_autoptr(GError) as_invalid =
      is_usage ? g_error_new_literal(CBT_ERROR, CBT_ERROR_INVALID, error->message) : NULL;
  g_autoptr(JsonNode) node = api_json_from_error(is_usage ? as_invalid : error);
  cli_print_json(cli, node);
}

/* Shows ERROR (transfer full) and returns the exit status that it means. */
static int
fail(Cli *cli, GError *error)
{
  gboolean is_usage = error->domain == CLI_USAGE;
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  fflush(stdout);
  fprintf(stderr, "cbt-backup: %s\n", message);
  if (hint)
    fprintf(stderr, "%s\n", hint);
  if (is_usage)
    fprintf(stderr, "Try: cbt-backup %s%s--help\n", cli->command ? cli->command->name : "",
            cli->command ? " " : "");
  if (cli->json && !cli->has_printed)
    print_json_error(cli, error, is_usage);
  int status = is_usage ? EXIT_USAGE : cbt_error_exit_status((int) cbt_error_code(error));
  g_error_free(error);
  return status;
}

/* Answers --help and --version; FALSE if neither was asked for. */
static gboolean
explain(CliLine *line, const CliCommand *command)
{
  gboolean is_help = cli_line_option(line, "help") != NULL;
  if (is_help)
    cli_help(command, cli_line_help_topic(line));
  else if (cli_line_option(line, "version"))
    puts("cbt-backup " CBT_VERSION);
  else
    return FALSE;
  return TRUE;
}

static int
run(Cli *cli, char **words)
{
  GError *error = NULL;
  cli->line = cli_line_parse(words, &cli->command, &error);
  cli->json = cli_flag(cli, "json") || g_strv_contains((const char *const *) words, "--json");
  cli->quiet = cli_flag(cli, "quiet");
  if (error)
    return fail(cli, error);
  if (explain(cli->line, cli->command))
    return EXIT_SUCCESS;
  g_autofree char *socket_path =
      cli_flag(cli, "socket") ? g_strdup(cli_option(cli, "socket")) : default_socket();
  cli->socket_path = socket_path;
  return cli->command->run(cli, &error) ? EXIT_SUCCESS : fail(cli, error);
}

/* GIO ignores SIGPIPE. */
void
cli_end_if_nobody_reads(void)
{
  struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
  if (poll(&output, 1, 0) <= 0 || !(output.revents & POLLERR))
    return;
  signal(SIGPIPE, SIG_DFL);
  raise(SIGPIPE);
}

/* A result that did not get out, to a full disk for example, is no success. */
static int
flush(int status)
{
  if (fflush(stdout) == 0 && !ferror(stdout))
    return status;
  int errsv = errno;
  cli_end_if_nobody_reads();
  errno = errsv;
  perror("cbt-backup: Cannot write the result");
  return status != EXIT_SUCCESS ? status : EXIT_FAILURE;
}

int
main(int argc, char **argv)
{
  (void) argc;
  Cli cli = {0};
  int status = run(&cli, argv + 1);
  api_client_free(cli.client);
  cli_line_free(cli.line);
  return flush(status);
}
