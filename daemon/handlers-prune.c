/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <api/json.h>
#include <daemon/prune.h>
#include <daemon/task.h>

gboolean
handler_read_retention(JsonObject *body, StoreRetention *retention, GError **error)
{
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    if (!api_json_get_count(body, store_retention_rule_name(i), FALSE, &retention->numbers[i], error))
      return FALSE;
  return TRUE;
}

static JsonNode *
run_prune(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  return prune_run(data, error) ? prune_to_json(data) : NULL;
}

void
handle_prune(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  JsonObject *body = api_request_body(request);
  const char *vm = NULL;
  gboolean dry_run = FALSE;
  StoreRetention retention = {0};
  Prune *prune = NULL;
  if (api_json_get_string(body, "vm", FALSE, &vm, &error) && (!vm || cbt_name_check("vm", vm, &error)) &&
      api_json_get_bool(body, "dry-run", FALSE, &dry_run, &error) &&
      handler_read_retention(body, &retention, &error))
    prune = prune_new(daemon, vm, &retention, dry_run, &error);
  if (prune)
    task_run(daemon, request, 200, run_prune, prune, (GDestroyNotify) prune_free);
  else
    api_request_reply_error(request, error);
}
