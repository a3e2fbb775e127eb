/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/disks.h>
#include <daemon/engine.h>
#include <daemon/json-util.h>
#include <daemon/task.h>

/* Status is what one looks at when something hangs. */
#define FREE_SPACE_TIMEOUT_MS 500

static void
put_store(JsonBuilder *builder, Daemon *daemon)
{
  StoreStatistics statistics = {0};
  guint64 free_bytes;
  gboolean is_known;
  store_statistics(daemon->store, &statistics);
  gboolean answers = free_space_get(daemon->store_space, FREE_SPACE_TIMEOUT_MS, &free_bytes, &is_known);
  json_builder_set_member_name(builder, "store");
  json_builder_begin_object(builder);
  json_put_int(builder, "chunks", statistics.n_chunks);
  json_put_int(builder, "packs", statistics.n_packs);
  json_put_int(builder, "bytes", statistics.pack_bytes);
  if (is_known)
    json_put_int(builder, "free", free_bytes);
  else
    json_put_string(builder, "free", NULL);
  json_put_int(builder, "reserve", store_reserve_bytes(daemon->store_reserve));
  json_put_bool(builder, "answers", answers);
  json_builder_end_object(builder);
}

/* What the main thread knows of a vm; the rest is asked of its exports, in a task. */
typedef struct {
  CatalogueVm *vm;
  guint n_points;
  guint n_damaged; /* of them, when they were last verified */
  CbtUuid latest;
  gint64 latest_time;
  gint64 job; /* 0: none */
  gboolean exported;
  JsonNode *policy; /* (nullable) */
} VmStatus;

typedef struct {
  GPtrArray *vms; /* of VmStatus */
  guint n_active;
  guint n_queued;
} Status;

static void
vm_status_free(gpointer data)
{
  VmStatus *status = data;
  catalogue_vm_free(status->vm);
  g_clear_pointer(&status->policy, json_node_unref);
  g_free(status);
}

static void
status_free(gpointer data)
{
  Status *status = data;
  g_ptr_array_unref(status->vms);
  g_free(status);
}

/* NULL if it has none. */
static JsonNode *
policy_or_damage(Daemon *daemon, const char *vm)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(daemon->catalogue, vm, &error);
  if (policy)
    return policy_to_json(daemon, policy);
  if (g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return NULL;
  g_autofree char *why = cbt_error_message(error);
  return policy_damaged_to_json(vm, why);
}

static VmStatus *
vm_status_new(Daemon *daemon, CatalogueVm *vm)
{
  VmStatus *status = g_new0(VmStatus, 1);
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm->name, NULL);
  const StorePoint *latest = points && points->len > 0 ? g_ptr_array_index(points, 0) : NULL;
  const Job *job = engine_user_of(daemon->engine, vm->name);
  status->vm = vm;
  status->n_points = points ? points->len : 0;
  for (guint i = 0; i < status->n_points; i++)
    status->n_damaged += ((const StorePoint *) points->pdata[i])->damaged != 0;
  if (latest) {
    status->latest = latest->uuid;
    status->latest_time = latest->time;
  }
  status->job = job ? job->id : 0;
  status->exported = exports_has(daemon->exports, vm->name);
  status->policy = policy_or_damage(daemon, vm->name);
  return status;
}

/* Dirty bytes of the `default` bitmaps of VM's disks; FALSE if some disk cannot tell. */
static gboolean
count_dirty(Daemon *daemon, const CatalogueVm *vm, guint64 *dirty)
{
  *dirty = 0;
  for (guint i = 0; i < vm->disks->len; i++) {
    CbtBitmapInfo info;
    g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm->name, g_ptr_array_index(vm->disks, i), NULL);
    if (!ref || !disk_ref_info(ref, "default", &info, NULL))
      return FALSE;
    *dirty += info.count + info.successor_count;
  }
  return TRUE;
}

static void
put_vm(JsonBuilder *builder, Daemon *daemon, const VmStatus *status)
{
  guint64 dirty = 0;
  json_builder_begin_object(builder);
  json_put_string(builder, "name", status->vm->name);
  json_put_int(builder, "disks", status->vm->disks->len);
  json_put_int(builder, "points", status->n_points);
  json_put_int(builder, "damaged-points", status->n_damaged);
  json_put_uuid(builder, "latest", &status->latest);
  json_put_time(builder, "latest-time", status->latest_time);
  json_put_bool(builder, "exported", status->exported);
  if (status->exported && count_dirty(daemon, status->vm, &dirty))
    json_put_int(builder, "dirty", dirty);
  else
    json_put_string(builder, "dirty", NULL);
  if (status->job)
    json_put_int(builder, "job", (guint64) status->job);
  else
    json_put_string(builder, "job", NULL);
  json_builder_set_member_name(builder, "policy");
  json_builder_add_value(builder,
                         status->policy ? json_node_ref(status->policy) : json_node_new(JSON_NODE_NULL));
  json_builder_end_object(builder);
}

static JsonNode *
run_status(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  const Status *known = data;
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_string(builder, "version", CBT_VERSION);
  json_put_int(builder, "uptime", (guint64) ((g_get_real_time() - daemon->started) / G_USEC_PER_SEC));
  json_put_string(builder, "state-dir", daemon->config->state_dir);
  put_store(builder, daemon);
  json_builder_set_member_name(builder, "vms");
  json_builder_begin_array(builder);
  for (guint i = 0; i < known->vms->len; i++)
    put_vm(builder, daemon, g_ptr_array_index(known->vms, i));
  json_builder_end_array(builder);
  json_put_int(builder, "jobs-active", known->n_active);
  json_put_int(builder, "jobs-queued", known->n_queued);
  json_builder_end_object(builder);
  return json_finish(builder);
}

void
handle_status(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &error);
  if (!vms) {
    api_request_reply_error(request, error);
    return;
  }
  Status *status = g_new0(Status, 1);
  status->vms = g_ptr_array_new_with_free_func(vm_status_free);
  engine_counts(daemon->engine, &status->n_active, &status->n_queued);
  while (vms->len > 0)
    g_ptr_array_add(status->vms, vm_status_new(daemon, g_ptr_array_steal_index(vms, 0)));
  task_run(daemon, request, 200, run_status, status, status_free);
}
