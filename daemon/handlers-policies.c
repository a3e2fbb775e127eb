/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <api/json.h>
#include <cbt/tracker.h>
#include <daemon/durable.h>
#include <daemon/json-util.h>
#include <daemon/scheduler.h>
#include <daemon/throttle.h>
#include <daemon/vm-files.h>
#include <string.h>

G_STATIC_ASSERT(STORE_POLICY_SPEED_MIN == THROTTLE_SPEED_MIN);

/* ---- showing ---- */

static void
put_settings(JsonBuilder *builder, const StorePolicy *policy)
{
  g_autofree char *schedule = store_schedule_format(&policy->schedule);
  json_put_string(builder, "vm", policy->vm);
  json_put_string(builder, "schedule", schedule);
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    json_put_int(builder, store_retention_rule_name(i), policy->retention.numbers[i]);
  json_put_string(builder, "bitmap", policy->bitmap);
  json_put_int(builder, "speed", policy->speed);
  json_put_int(builder, "verify-share", policy->verify_share);
  json_put_bool(builder, "gc", policy->gc);
  json_put_bool(builder, "enabled", policy->enabled);
}

static void
put_state(JsonBuilder *builder, Daemon *daemon, const StorePolicy *policy)
{
  json_put_time(builder, "next-run", scheduler_due(daemon->scheduler, policy));
  json_put_time(builder, "next-retry", policy->enabled ? policy->next_retry : 0);
  json_put_time(builder, "last-run", policy->last_run);
  json_put_string(builder, "last-result", store_policy_result_name(policy->last_result));
  json_put_string(builder, "errmsg", policy->last_error);
  json_builder_set_member_name(builder, "last-job");
  if (policy->last_job)
    json_builder_add_int_value(builder, policy->last_job);
  else
    json_builder_add_null_value(builder);
  json_put_int(builder, "removed", policy->n_removed);
  json_put_int(builder, "failures", policy->n_failures);
}

JsonNode *
policy_to_json(Daemon *daemon, const StorePolicy *policy)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  put_settings(builder, policy);
  put_state(builder, daemon, policy);
  json_builder_end_object(builder);
  return json_finish(builder);
}

/* No settings but the vm's name, and why. */
JsonNode *
policy_damaged_to_json(const char *vm, const char *why)
{
  static const char *const unknown[] = {"schedule", "bitmap",     "speed",    "verify-share", "gc",
                                        "next-run", "next-retry", "last-run", "last-result",  "last-job"};
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_string(builder, "vm", vm);
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    json_put_string(builder, store_retention_rule_name(i), NULL);
  for (guint i = 0; i < G_N_ELEMENTS(unknown); i++)
    json_put_string(builder, unknown[i], NULL);
  json_put_bool(builder, "enabled", FALSE);
  json_put_string(builder, "errmsg", why);
  json_put_int(builder, "removed", 0);
  json_put_int(builder, "failures", 0);
  json_builder_end_object(builder);
  return json_finish(builder);
}

static void
add_damaged(JsonArray *array, GHashTable *damaged)
{
  g_autoptr(GList) vms = g_list_sort(g_hash_table_get_keys(damaged), (GCompareFunc) strcmp);
  for (const GList *vm = vms; vm; vm = vm->next)
    json_array_add_element(array, policy_damaged_to_json(vm->data, g_hash_table_lookup(damaged, vm->data)));
}

void
handle_policy_list(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(GHashTable) damaged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  g_autoptr(GPtrArray) policies = catalogue_list_policies(daemon->catalogue, damaged, &error);
  if (!policies) {
    api_request_reply_error(request, error);
    return;
  }
  JsonArray *array = json_array_new();
  for (guint i = 0; i < policies->len; i++)
    json_array_add_element(array, policy_to_json(daemon, g_ptr_array_index(policies, i)));
  add_damaged(array, damaged);
  JsonNode *body = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(body, array);
  api_request_reply(request, 200, body);
}

void
handle_policy_show(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(CatalogueVm) vm = handler_get_vm(request, daemon);
  if (!vm)
    return;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(daemon->catalogue, vm->name, &error);
  if (policy)
    api_request_reply(request, 200, policy_to_json(daemon, policy));
  else
    api_request_reply_error(request, error);
}

/* ---- setting ---- */

static gboolean
read_schedule(JsonObject *body, gboolean required, StorePolicy *policy, GError **error)
{
  const char *text = NULL;
  if (!api_json_get_string(body, "schedule", required, &text, error))
    return FALSE;
  if (!text || store_schedule_parse(text, &policy->schedule, error))
    return TRUE;
  g_prefix_error(error, "key 'schedule': ");
  return FALSE;
}

static gboolean
read_bitmap(JsonObject *body, StorePolicy *policy, GError **error)
{
  const char *bitmap = policy->bitmap;
  if (!api_json_get_string(body, "bitmap", FALSE, &bitmap, error) || !cbt_name_check("bitmap", bitmap, error))
    return FALSE;
  if (bitmap != policy->bitmap) {
    g_free(policy->bitmap);
    policy->bitmap = g_strdup(bitmap);
  }
  return TRUE;
}

static gboolean
check_share(guint64 share, GError **error)
{
  if (share <= STORE_POLICY_VERIFY_SHARE_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "key 'verify-share': it is percent, from 0 to 100");
  return FALSE;
}

/* NOT_FOUND if BODY names a bitmap that some disk does not have: each run would fail, as a backup makes no
 * other one than `default`. The bitmap's file tells, so that no export needs to be asked. */
static gboolean
check_has_bitmap(Daemon *daemon, const CatalogueVm *vm, JsonObject *body, const char *bitmap, GError **error)
{
  if (!json_object_has_member(body, "bitmap") || strcmp(bitmap, "default") == 0)
    return TRUE;
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    g_autofree char *folder = daemon_config_bitmap_dir(daemon->config, vm->name, disk->name);
    g_autofree char *path = cbt_tracker_bitmap_path(folder, bitmap);
    if (g_file_test(path, G_FILE_TEST_EXISTS))
      continue;
    g_autofree char *hint =
        g_strdup_printf("Make it first: cbt-backup bitmap add %s/%s:%s", vm->name, disk->name, bitmap);
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, hint, "disk '%s' of vm '%s' has no bitmap '%s'", disk->name,
                  vm->name, bitmap);
    return FALSE;
  }
  return TRUE;
}

/* What BODY names; all else stays. */
static gboolean
change(StorePolicy *policy, JsonObject *body, gboolean is_new, GError **error)
{
  return read_schedule(body, is_new, policy, error) && read_bitmap(body, policy, error) &&
         handler_read_retention(body, &policy->retention, error) &&
         api_json_get_size(body, "speed", FALSE, &policy->speed, error) &&
         throttle_check_speed(policy->speed, error) &&
         api_json_get_count(body, "verify-share", FALSE, &policy->verify_share, error) &&
         check_share(policy->verify_share, error) &&
         api_json_get_bool(body, "gc", FALSE, &policy->gc, error) &&
         api_json_get_bool(body, "enabled", FALSE, &policy->enabled, error);
}

/* The policy as it is, or a new one without a schedule. */
static StorePolicy *
get_or_make(Daemon *daemon, const char *vm, gboolean *is_new, GError **error)
{
  g_autoptr(GError) local = NULL;
  StorePolicy *policy = catalogue_get_policy(daemon->catalogue, vm, &local);
  *is_new = g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND);
  if (*is_new)
    return store_policy_new(vm);
  if (local)
    g_propagate_error(error, g_steal_pointer(&local));
  return policy;
}

static JsonNode *
set_policy(Daemon *daemon, const CatalogueVm *vm, JsonObject *body, GError **error)
{
  gboolean is_new;
  g_autoptr(StorePolicy) policy = get_or_make(daemon, vm->name, &is_new, error);
  if (!policy)
    return NULL;
  StoreSchedule before = policy->schedule;
  gboolean was_enabled = policy->enabled;
  if (!change(policy, body, is_new, error) || !check_has_bitmap(daemon, vm, body, policy->bitmap, error))
    return NULL;
  if (is_new || (policy->enabled && !was_enabled) || memcmp(&before, &policy->schedule, sizeof before) != 0)
    store_policy_restart(policy, g_get_real_time());
  if (!vm_files_set_policy(daemon, policy, error))
    return NULL;
  scheduler_look_again(daemon->scheduler);
  return policy_to_json(daemon, policy);
}

void
handle_policy_set(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(CatalogueVm) vm = handler_get_vm(request, daemon);
  JsonNode *body = vm ? set_policy(daemon, vm, api_request_body(request), &error) : NULL;
  if (body)
    durable_reply(daemon, request, 200, body);
  else if (vm)
    api_request_reply_error(request, error);
}

void
handle_policy_remove(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(CatalogueVm) vm = handler_get_vm(request, daemon);
  if (!vm)
    return;
  if (vm_files_remove_policy(daemon, vm->name, &error))
    durable_reply(daemon, request, 204, NULL);
  else
    api_request_reply_error(request, error);
}
