/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All in tasks: the owner of a disk's bitmaps is another process, or files. */
#include <daemon/handlers.h>

#include <api/json.h>
#include <daemon/disks.h>
#include <daemon/engine.h>
#include <daemon/json-util.h>
#include <daemon/task.h>
#include <string.h>

typedef struct {
  CatalogueVm *vm;
  const CatalogueDisk *disk;
  CbtControlRequest control;
} BitmapCall;

static void
bitmap_call_free(gpointer data)
{
  BitmapCall *call = data;
  catalogue_vm_free(call->vm);
  g_free(call);
}

static void
put_bitmap(JsonBuilder *builder, const char *disk, const CbtBitmapInfo *info)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "name", info->name);
  json_put_string(builder, "disk", disk);
  json_put_int(builder, "granularity", info->granularity);
  json_put_string(builder, "state", cbt_bitmap_state_name(info->state));
  json_put_bool(builder, "persistent", TRUE);
  json_put_int(builder, "count", info->count);
  if (info->has_successor)
    json_put_int(builder, "successor", info->successor_count);
  else
    json_put_string(builder, "successor", NULL);
  json_put_uuid(builder, "base", &info->base);
  json_put_uuid(builder, "pending", &info->pending);
  json_put_int(builder, "generation", info->generation);
  json_put_string(builder, "reason", *info->reason ? info->reason : NULL);
  json_builder_end_object(builder);
}

static JsonNode *
bitmap_to_json(const char *disk, const CbtBitmapInfo *info)
{
  JsonBuilder *builder = json_builder_new_immutable();
  put_bitmap(builder, disk, info);
  return json_finish(builder);
}

static JsonNode *
bitmaps_to_json(const char *disk, const CbtControlReply *reply)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_array(builder);
  for (guint i = 0; i < reply->n_bitmaps; i++)
    put_bitmap(builder, disk, &reply->bitmaps[i]);
  json_builder_end_array(builder);
  return json_finish(builder);
}

/* A bitmap that a backup has frozen is the backup's. */
static gboolean
check_not_of_a_job(DiskRef *ref, const BitmapCall *call, GError **error)
{
  CbtBitmapInfo info;
  if (call->control.op == CBT_CONTROL_LIST || call->control.op == CBT_CONTROL_ADD)
    return TRUE;
  if (!disk_ref_info(ref, call->control.name, &info, error))
    return FALSE;
  if (info.state != CBT_BITMAP_FROZEN || cbt_uuid_is_nil(&info.pending) ||
      call->control.op == CBT_CONTROL_MERGE)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it, or cancel it: cbt-backup job list",
                "bitmap '%s' is frozen for a backup", info.name);
  return FALSE;
}

static JsonNode *
run_bitmap_call(Daemon *daemon, gpointer data, guint *status, GError **error)
{
  BitmapCall *call = data;
  CbtControlReply reply;
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, call->vm->name, call->disk, error);
  if (!ref || !check_not_of_a_job(ref, call, error) ||
      !disk_ref_call(ref, &call->control, NULL, &reply, error))
    return NULL;
  if (call->control.op == CBT_CONTROL_LIST && !*call->control.name)
    return bitmaps_to_json(call->disk->name, &reply);
  if (call->control.op == CBT_CONTROL_REMOVE) {
    *status = 204;
    return NULL;
  }
  for (guint i = 0; i < reply.n_bitmaps; i++)
    if (strcmp(reply.bitmaps[i].name, call->control.name) == 0)
      return bitmap_to_json(call->disk->name, &reply.bitmaps[i]);
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-backup bitmap list.", "disk '%s' has no bitmap '%s'",
                call->disk->name, call->control.name);
  return NULL;
}

static gboolean
check_bitmap_name(ApiRequest *request, const char *name)
{
  GError *error = NULL;
  if (cbt_name_check("bitmap", name, &error))
    return TRUE;
  api_request_reply_error(request, error);
  return FALSE;
}

/* NULL if the request has been answered. NAME may be NULL. */
static BitmapCall *
bitmap_call_new(ApiRequest *request, Daemon *daemon, CbtControlOp op, const char *name)
{
  if (name && !check_bitmap_name(request, name))
    return NULL;
  g_autoptr(CatalogueVm) vm = handler_get_vm(request, daemon);
  const CatalogueDisk *disk = vm ? handler_get_disk(request, vm) : NULL;
  if (!disk)
    return NULL;
  BitmapCall *call = g_new0(BitmapCall, 1);
  call->vm = g_steal_pointer(&vm);
  call->disk = disk;
  cbt_control_request_init(&call->control, op, name);
  return call;
}

static void
run(ApiRequest *request, Daemon *daemon, BitmapCall *call, guint status)
{
  if (call)
    task_run(daemon, request, status, run_bitmap_call, call, bitmap_call_free);
}

void
handle_bitmap_list(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, bitmap_call_new(request, daemon, CBT_CONTROL_LIST, NULL), 200);
}

void
handle_bitmap_show(ApiRequest *request, gpointer daemon)
{
  run(request, daemon,
      bitmap_call_new(request, daemon, CBT_CONTROL_LIST, api_request_param(request, "bitmap")), 200);
}

void
handle_bitmap_add(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  const char *name = NULL;
  guint64 granularity = 0;
  JsonObject *body = api_request_body(request);
  if (!api_json_get_string(body, "name", TRUE, &name, &error) ||
      !api_json_get_size(body, "granularity", FALSE, &granularity, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  BitmapCall *call = bitmap_call_new(request, daemon, CBT_CONTROL_ADD, name);
  if (call)
    call->control.granularity = granularity ? granularity : call->disk->granularity;
  run(request, daemon, call, 201);
}

void
handle_bitmap_remove(ApiRequest *request, gpointer daemon)
{
  run(request, daemon,
      bitmap_call_new(request, daemon, CBT_CONTROL_REMOVE, api_request_param(request, "bitmap")), 204);
}

void
handle_bitmap_merge(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  const char *source = NULL;
  if (!api_json_get_string(api_request_body(request), "from", TRUE, &source, &error) ||
      !cbt_name_check("bitmap", source, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  BitmapCall *call =
      bitmap_call_new(request, daemon, CBT_CONTROL_MERGE, api_request_param(request, "bitmap"));
  if (call)
    g_strlcpy(call->control.source, source, sizeof call->control.source);
  run(request, daemon, call, 200);
}

static gboolean
parse_event(const char *name, CbtBitmapEvent *event)
{
  static const CbtBitmapEvent allowed[] = {CBT_BITMAP_CREATE_SUCCESSOR, CBT_BITMAP_ABDICATE,
                                           CBT_BITMAP_RECLAIM,          CBT_BITMAP_ENABLE,
                                           CBT_BITMAP_DISABLE,          CBT_BITMAP_CLEAR};
  for (gsize i = 0; i < G_N_ELEMENTS(allowed); i++) {
    *event = allowed[i];
    if (strcmp(cbt_bitmap_event_name(allowed[i]), name) == 0)
      return TRUE;
  }
  return FALSE;
}

void
handle_bitmap_event(ApiRequest *request, gpointer daemon)
{
  const char *name = api_request_param(request, "event");
  CbtBitmapEvent event;
  if (!parse_event(name, &event)) {
    GError *error = NULL;
    cbt_set_error(&error, CBT_ERROR_NOT_FOUND, "See docs/api.md.", "a bitmap has no action '%s'", name);
    api_request_reply_error(request, error);
    return;
  }
  BitmapCall *call =
      bitmap_call_new(request, daemon, CBT_CONTROL_APPLY, api_request_param(request, "bitmap"));
  if (call)
    call->control.event = event;
  run(request, daemon, call, 200);
}
