/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/disks.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/exports.h>
#include <daemon/json-util.h>
#include <daemon/leases.h>
#include <daemon/task.h>

static void
put_export(JsonBuilder *builder, const ExportInfo *info)
{
  g_autofree char *escaped = g_uri_escape_string(info->socket, "/", FALSE);
  g_autofree char *uri = g_strdup_printf("nbd+unix:///?socket=%s", escaped);
  json_builder_begin_object(builder);
  json_put_string(builder, "vm", info->vm);
  json_put_string(builder, "disk", info->disk);
  json_put_string(builder, "uri", uri);
  json_put_string(builder, "socket", info->socket);
  json_put_int(builder, "pid", (guint64) info->pid);
  json_put_string(builder, "state", info->running ? "running" : "dead");
  json_builder_end_object(builder);
}

static JsonNode *
exports_to_json(Daemon *daemon, const char *vm_or_null)
{
  g_autoptr(GPtrArray) list = exports_list(daemon->exports, vm_or_null);
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_array(builder);
  for (guint i = 0; i < list->len; i++)
    put_export(builder, g_ptr_array_index(list, i));
  json_builder_end_array(builder);
  return json_finish(builder);
}

void
handle_export_list(ApiRequest *request, gpointer data)
{
  const char *name = api_request_param(request, "vm");
  g_autoptr(CatalogueVm) vm = name ? handler_get_vm(request, data) : NULL;
  if (!name || vm)
    api_request_reply(request, 200, exports_to_json(data, name));
}

/* The catalogue's note of what is exported, on the main thread. */
typedef struct {
  Daemon *daemon;
  const CatalogueVm *vm;
  gboolean exported;
  GError *error;
} Note;

static void
note_exports(gpointer data)
{
  Note *note = data;
  Catalogue *catalogue = note->daemon->catalogue;
  if (!catalogue_remove_exports(catalogue, note->vm->name, &note->error) || !note->exported)
    return;
  g_autoptr(GPtrArray) list = exports_list(note->daemon->exports, note->vm->name);
  for (guint i = 0; i < list->len && !note->error; i++) {
    const ExportInfo *info = g_ptr_array_index(list, i);
    const CatalogueExport record = {info->vm, info->disk, info->pid, info->socket, info->control};
    if (!catalogue_save_export(catalogue, &record, &note->error))
      return;
  }
}

static gboolean
note_state(Daemon *daemon, const CatalogueVm *vm, gboolean exported, GError **error)
{
  Note note = {daemon, vm, exported, NULL};
  durable_call(daemon, note_exports, &note);
  if (note.error)
    g_propagate_error(error, note.error);
  return note.error == NULL;
}

/* While the processes start, nothing that a lease brings about may have the folders of the disks open here.
 * In the order of the disks; nobody else locks more than one. */
static gboolean
start_locked(Daemon *daemon, const CatalogueVm *vm, GError **error)
{
  for (guint i = 0; i < vm->disks->len; i++)
    leases_lock(daemon->leases, &((CatalogueDisk *) g_ptr_array_index(vm->disks, i))->id);
  gboolean ok = exports_start(daemon->exports, vm, error);
  for (guint i = 0; i < vm->disks->len; i++)
    leases_unlock(daemon->leases, &((CatalogueDisk *) g_ptr_array_index(vm->disks, i))->id);
  return ok;
}

static JsonNode *
start_exports(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  const CatalogueVm *vm = data;
  if (!disks_reserve(daemon->disks, vm->name, error))
    return NULL;
  gboolean ok = start_locked(daemon, vm, error);
  disks_unreserve(daemon->disks, vm->name);
  if (!ok)
    return NULL;
  if (note_state(daemon, vm, TRUE, error))
    return exports_to_json(daemon, vm->name);
  if (!exports_stop(daemon->exports, vm->name, NULL))
    g_warning("the exports of vm '%s' are left running", vm->name);
  return NULL;
}

static JsonNode *
stop_exports(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  const CatalogueVm *vm = data;
  if (exports_stop(daemon->exports, vm->name, error))
    (void) !note_state(daemon, vm, FALSE, error);
  return NULL;
}

static gboolean
check_can_export(Daemon *daemon, const CatalogueVm *record, GError **error)
{
  const char *vm = record->name;
  if (catalogue_vm_is_live(record)) {
    cbt_set_error(error, CBT_ERROR_STATE, "It is backed up as it is: cbt-backup --incremental NAME",
                  "vm '%s' is not exported: QEMU has its disks", vm);
    return FALSE;
  }
  if (!engine_user_of(daemon->engine, vm))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it, or cancel it: cbt-backup job list",
                "a backup or restore of vm '%s' is under way", vm);
  return FALSE;
}

static void
run(ApiRequest *request, Daemon *daemon, guint status, TaskFunc func)
{
  GError *error = NULL;
  CatalogueVm *vm = handler_get_vm(request, daemon);
  if (!vm)
    return;
  if (check_can_export(daemon, vm, &error)) {
    task_run(daemon, request, status, func, vm, (GDestroyNotify) catalogue_vm_free);
    return;
  }
  catalogue_vm_free(vm);
  api_request_reply_error(request, error);
}

void
handle_export_start(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, 201, start_exports);
}

void
handle_export_stop(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, 204, stop_exports);
}
