/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* doctor: the daemon looks; where there is none, what can be seen of the host without it. */
#include "output.h"

#include <common/check.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STATE_WANTED (G_GUINT64_CONSTANT(64) << 20)

static const CliOption options[] = {
    {"state-dir", "DIR", FALSE, "the folder to look at where there is no daemon"},
    {0},
};

/* ---- without a daemon ---- */

static char *
default_state_dir(void)
{
  return geteuid() == 0 ? g_strdup("/var/lib/cbt-backup")
                        : g_build_filename(g_get_user_data_dir(), "cbt-backup", NULL);
}

static JsonNode *
checks_to_json(const GPtrArray *checks)
{
  JsonArray *array = json_array_new();
  for (guint i = 0; i < checks->len; i++) {
    const CbtCheck *check = g_ptr_array_index(checks, i);
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "level", cbt_check_level_name(check->level));
    json_object_set_string_member(object, "subject", check->subject);
    json_object_set_string_member(object, "text", check->text);
    if (check->hint)
      json_object_set_string_member(object, "hint", check->hint);
    else
      json_object_set_null_member(object, "hint");
    json_array_add_object_element(array, object);
  }
  JsonNode *node = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(node, array);
  return node;
}

/* ERROR is why the daemon is not reachable. */
static JsonNode *
look_at_host(Cli *cli, const GError *error)
{
  static const char *const nbdkit[] = {"nbdkit", "--version", NULL};
  g_autoptr(GPtrArray) checks = cbt_checks_new();
  g_autofree char *message = cbt_error_message(error), *hint = cbt_error_hint(error);
  g_autofree char *state =
      cli_flag(cli, "state-dir") ? cli_absolute(cli_option(cli, "state-dir")) : default_state_dir();
  cbt_checks_add(checks, CBT_CHECK_FAIL, "daemon", hint, "%s; vms, exports and the store are not looked at",
                 message);
  cbt_check_kernel(checks);
  cbt_check_limits(checks);
  cbt_check_clock(checks, 0);
  cbt_check_program(checks, "nbdkit", nbdkit, "Install it; exports are served by it: apt-get install nbdkit");
  cbt_check_folder(checks, "state", state, STATE_WANTED);
  return checks_to_json(checks);
}

/* ---- for people ---- */

static guint
print_checks(JsonArray *checks, gboolean quiet)
{
  static const char *const colours[] = {CLI_GREEN, CLI_YELLOW, CLI_RED};
  static const char *const levels[] = {"ok", "warn", "fail"};
  guint n_failed = 0;
  gboolean colour = cli_has_colour();
  for (guint i = 0; i < json_array_get_length(checks); i++) {
    JsonObject *check = cli_object(json_array_get_element(checks, i));
    const char *level = cli_text(check, "level"), *hint = cli_text(check, "hint");
    guint at = 0;
    while (at < 2 && g_strcmp0(level, levels[at]) != 0)
      at++;
    n_failed += at == 2;
    if (quiet)
      continue;
    const char *subject = cli_text(check, "subject"), *text = cli_text(check, "text");
    printf("%s%-4s%s  %-14s %s\n", colour ? colours[at] : "", levels[at], colour ? CLI_RESET : "",
           subject ? subject : "-", text ? text : "-");
    if (hint)
      printf("%-21s%s\n", "", hint);
  }
  return n_failed;
}

static JsonNode *
ask(Cli *cli, GError **error)
{
  g_autofree char *path =
      cli_arg(cli, 0) ? cli_path(error, "/v1/doctor?vm=%s", cli_arg(cli, 0)) : g_strdup("/v1/doctor");
  g_autoptr(GError) local = NULL;
  if (!path)
    return NULL;
  JsonNode *node = cli_get(cli, path, JSON_NODE_ARRAY, &local);
  if (node)
    return node;
  if (cbt_error_code(local) == CBT_ERROR_UNREACHABLE)
    return look_at_host(cli, local);
  g_propagate_error(error, g_steal_pointer(&local));
  return NULL;
}

static gboolean
doctor(Cli *cli, GError **error)
{
  g_autoptr(JsonNode) node = ask(cli, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  guint n_failed = print_checks(json_node_get_array(node), cli->json || cli->quiet);
  if (n_failed == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "%u of %u checks failed", n_failed,
                json_array_get_length(json_node_get_array(node)));
  return FALSE;
}

const CliCommand cli_doctor_commands[] = {
    {"doctor", "[NAME] [--state-dir DIR]",
     "Check the host, the store and the disks of one vm or of all, and say what to do (exit status 1 if "
     "something failed)",
     0, 1, options, doctor,
     "cbt-backup doctor\n"
     "cbt-backup doctor web"},
    {0},
};
