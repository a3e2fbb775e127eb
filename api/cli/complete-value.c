/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the values of the line's forms can be; what the daemon does not tell is not offered. */
#include "complete.h"

#include "output.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_S 5

static void
give_up(int signal_number G_GNUC_UNUSED)
{
  _exit(EXIT_SUCCESS);
}

/* Somebody waits at a prompt: the first question gives all of them their time. */
static void
limit_time(void)
{
  if (signal(SIGALRM, give_up) != give_up)
    alarm(PATIENCE_S);
}

/* GET PATH (transfer full), which is to be an array; NULL if it is not. */
static JsonNode *
ask(const CliCompletion *completion, char *path)
{
  g_autofree char *owned = path;
  limit_time();
  return path ? cli_get(completion->cli, path, JSON_NODE_ARRAY, NULL) : NULL;
}

static JsonObject *
item(JsonNode *list, guint i)
{
  return cli_object(json_array_get_element(json_node_get_array(list), i));
}

static guint
n_items(JsonNode *list)
{
  return list ? json_array_get_length(json_node_get_array(list)) : 0;
}

/* "web" of "web@1", "web/root:b" and "web" (transfer full). */
static char *
vm_of(const char *text)
{
  return g_strndup(text, strcspn(text, "@/:"));
}

/* The vm of the arguments so far (transfer full); NULL if there is none. */
static char *
vm_of_line(const CliCompletion *completion)
{
  return completion->words->len > 0 ? vm_of(completion->words->pdata[0]) : NULL;
}

/* ---- one kind each ---- */

static void
offer_vms(const CliCompletion *completion)
{
  g_autoptr(JsonNode) vms = ask(completion, g_strdup("/v1/vms"));
  for (guint i = 0; i < n_items(vms); i++)
    if (cli_text(item(vms, i), "name"))
      cli_offer(completion, cli_text(item(vms, i), "name"), NULL);
}

/* Of each point its place in the line of its vm and, when one begins so, its uuid. */
static void
offer_points_of(const CliCompletion *completion, const char *vm)
{
  g_autoptr(JsonNode) points = ask(completion, cli_path(NULL, "/v1/points?vm=%s", vm));
  for (guint i = 0; i < n_items(points); i++) {
    JsonObject *point = item(points, i);
    g_autofree char *time = cli_format_time(point, "time");
    const char *kind = cli_text(point, "kind"), *note = cli_text(point, "note");
    g_autofree char *text = g_strdup_printf("%s, %s%s%s", time ? time : "", kind ? kind : "",
                                            note && *note ? ", " : "", note ? note : "");
    g_autofree char *place = g_strdup_printf("%s@%u", vm, i);
    g_autofree char *latest = g_strdup_printf("%s@latest", vm);
    if (i == 0)
      cli_offer(completion, latest, text);
    if (strchr(completion->current, '@'))
      cli_offer(completion, place, text);
    else if (completion->current[0] && cli_text(point, "uuid"))
      cli_offer(completion, cli_text(point, "uuid"), text);
  }
}

static void
offer_points(const CliCompletion *completion)
{
  if (strchr(completion->current, '@')) {
    g_autofree char *vm = vm_of(completion->current);
    offer_points_of(completion, vm);
    return;
  }
  g_autoptr(JsonNode) vms = ask(completion, g_strdup("/v1/vms"));
  for (guint i = 0; i < n_items(vms); i++)
    if (cli_text(item(vms, i), "name"))
      offer_points_of(completion, cli_text(item(vms, i), "name"));
}

/* The disks of VM, of all if it is NULL, each between BEFORE and BEHIND. */
static void
offer_disks(const CliCompletion *completion, const char *vm, gboolean with_vm, const char *behind)
{
  g_autoptr(JsonNode) vms = ask(completion, g_strdup("/v1/vms"));
  for (guint i = 0; i < n_items(vms); i++) {
    const char *name = cli_text(item(vms, i), "name");
    JsonArray *disks = cli_array(item(vms, i), "disks");
    if (!name || (vm && strcmp(vm, name) != 0))
      continue;
    for (guint d = 0; disks && d < json_array_get_length(disks); d++) {
      JsonObject *disk = cli_object(json_array_get_element(disks, d));
      g_autofree char *text = g_strconcat(with_vm ? name : "", with_vm ? "/" : "",
                                          cli_text(disk, "name") ? cli_text(disk, "name") : "", behind, NULL);
      cli_offer(completion, text, cli_text(disk, "path"));
    }
  }
}

/* The bitmaps of TARGET, "VM/DISK"; behind BEFORE. */
static void
offer_bitmaps_of(const CliCompletion *completion, const char *target, const char *before)
{
  g_auto(GStrv) parts = g_strsplit(target, "/", 2);
  if (!parts[0] || !parts[1])
    return;
  g_autoptr(JsonNode) bitmaps =
      ask(completion, cli_path(NULL, "/v1/vms/%s/disks/%s/bitmaps", parts[0], parts[1]));
  for (guint i = 0; i < n_items(bitmaps); i++) {
    JsonObject *bitmap = item(bitmaps, i);
    g_autofree char *text = g_strconcat(before, cli_text(bitmap, "name"), NULL);
    cli_offer(completion, text, cli_text(bitmap, "state"));
  }
}

static void
offer_bitmap_targets(const CliCompletion *completion)
{
  const char *colon = strchr(completion->current, ':');
  if (!colon) {
    offer_disks(completion, NULL, TRUE, "");
    return;
  }
  g_autofree char *target = g_strndup(completion->current, (gsize) (colon - completion->current));
  g_autofree char *before = g_strconcat(target, ":", NULL);
  offer_bitmaps_of(completion, target, before);
}

/* Those of the disk on the line, or of the first disk of the vm on it: a backup needs one of each disk. */
static void
offer_bitmaps(const CliCompletion *completion)
{
  g_autofree char *vm = vm_of_line(completion);
  if (!vm)
    return;
  const char *slash = strchr(completion->words->pdata[0], '/');
  g_autofree char *named = slash ? g_strndup(slash + 1, strcspn(slash + 1, ":")) : NULL;
  g_autofree char *path = cli_path(NULL, "/v1/vms/%s", vm);
  limit_time();
  g_autoptr(JsonNode) node = path && !named ? cli_get(completion->cli, path, JSON_NODE_OBJECT, NULL) : NULL;
  JsonArray *disks = node ? cli_array(cli_object(node), "disks") : NULL;
  const char *first = disks && json_array_get_length(disks) > 0
                          ? cli_text(cli_object(json_array_get_element(disks, 0)), "name")
                          : NULL;
  g_autofree char *target = g_strdup_printf("%s/%s", vm, named ? named : first ? first : "");
  offer_bitmaps_of(completion, target, "");
}

static void
offer_disks_of_line(const CliCompletion *completion)
{
  g_autofree char *vm = vm_of_line(completion);
  offer_disks(completion, vm, FALSE, "");
}

static void
offer_disk_paths(const CliCompletion *completion)
{
  g_autofree char *vm = vm_of_line(completion);
  if (strchr(completion->current, '='))
    puts(":files");
  else
    offer_disks(completion, vm, FALSE, "=");
}

static void
offer_jobs(const CliCompletion *completion)
{
  if (!completion->command || !g_str_has_prefix(completion->command->name, "job "))
    return;
  g_autoptr(JsonNode) jobs = ask(completion, g_strdup("/v1/jobs?limit=50"));
  for (guint i = 0; i < n_items(jobs); i++) {
    JsonObject *job = item(jobs, i);
    g_autofree char *id = cli_format_number(job, "id");
    const char *type = cli_text(job, "type"), *vm = cli_text(job, "vm"), *status = cli_text(job, "status");
    g_autofree char *text =
        g_strdup_printf("%s %s, %s", type ? type : "", vm ? vm : "", status ? status : "");
    cli_offer(completion, id, text);
  }
}

static void
offer_files(const CliCompletion *completion G_GNUC_UNUSED)
{
  puts(":files");
}

/* ---- forms ---- */

static const struct {
  const char *form;
  void (*offer)(const CliCompletion *completion);
} forms[] = {
    {"NAME", offer_vms},
    {"POINT", offer_points},
    {"DISK", offer_disks_of_line},
    {"DISK=PATH", offer_disk_paths},
    {"NAME/DISK", offer_bitmap_targets},
    {"NAME/DISK[:BITMAP]", offer_bitmap_targets},
    {"BITMAP", offer_bitmaps},
    {"ID", offer_jobs},
    {"PATH", offer_files},
    {"FILE", offer_files},
    {"DIR", offer_files},
    {"SOCKET", offer_files},
    {"[DISK=]IMAGE", offer_files},
};

static void
complete_one(const CliCompletion *completion, const char *form)
{
  for (gsize i = 0; i < G_N_ELEMENTS(forms); i++)
    if (strcmp(forms[i].form, form) == 0)
      forms[i].offer(completion);
  g_autofree char *word = g_strndup(form, strcspn(form, " "));
  if (g_ascii_islower(word[0]))
    cli_offer(completion, word, NULL);
}

void
cli_complete_value(const CliCompletion *completion, const char *form)
{
  g_auto(GStrv) alternatives = g_strsplit(form, "|", -1);
  for (char **alternative = alternatives; *alternative; alternative++)
    complete_one(completion, *alternative);
}
