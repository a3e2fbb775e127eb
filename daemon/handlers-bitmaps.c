/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All in tasks: the owner of a disk's bitmaps is another process, or files. What freezes a bitmap by hand, or
 * ends that, goes by way of daemon/leases.h. */
#include <daemon/handlers.h>

#include <api/json.h>
#include <daemon/backup.h>
#include <daemon/engine.h>
#include <daemon/json-util.h>
#include <daemon/leases.h>
#include <daemon/task.h>
#include <string.h>

#define MAX_ATTEMPTS 3

typedef struct BitmapCall BitmapCall;
typedef gboolean (*BitmapFunc)(Daemon *daemon, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply,
                               GError **error);

struct BitmapCall {
  CatalogueVm *vm;
  const CatalogueDisk *disk;
  CbtControlRequest control;
  BitmapFunc func;
  CbtUuid lease;   /* nil: not named */
  guint64 seconds; /* of a lease */
};

static void
bitmap_call_free(gpointer data)
{
  BitmapCall *call = data;
  catalogue_vm_free(call->vm);
  g_free(call);
}

static void
put_bitmap(JsonBuilder *builder, const CatalogueDisk *disk, const CbtBitmapInfo *info,
           const CatalogueLease *lease)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "name", info->name);
  json_put_string(builder, "disk", disk->name);
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
  json_put_uuid(builder, "lease-id", &lease->id);
  json_put_time(builder, "lease-expires", lease->expires);
  json_builder_end_object(builder);
}

/* All bitmaps of REPLY in an array, or just the one called NAME; NULL if it is not there. */
static JsonNode *
reply_to_json(const CatalogueDisk *disk, const CbtControlReply *reply, const CatalogueLease *leases,
              const char *name)
{
  gboolean found = *name == '\0';
  g_autoptr(JsonBuilder) builder = json_builder_new_immutable();
  if (*name == '\0')
    json_builder_begin_array(builder);
  for (guint i = 0; i < reply->n_bitmaps; i++)
    if (*name == '\0' || strcmp(reply->bitmaps[i].name, name) == 0) {
      put_bitmap(builder, disk, &reply->bitmaps[i], &leases[i]);
      found = TRUE;
    }
  if (*name == '\0')
    json_builder_end_array(builder);
  return found ? json_builder_get_root(builder) : NULL;
}

/* The leases of the bitmaps that are frozen by hand. *complete: each of these has one. */
static gboolean
find_leases(Daemon *daemon, const CatalogueDisk *disk, const CbtControlReply *reply, CatalogueLease *leases,
            gboolean *complete, GError **error)
{
  *complete = TRUE;
  for (guint i = 0; i < reply->n_bitmaps; i++) {
    leases[i] = (CatalogueLease){.expires = 0};
    if (!lease_is_by_hand(&reply->bitmaps[i]))
      continue;
    if (!leases_get(daemon, &disk->id, reply->bitmaps[i].name, &leases[i], error))
      return FALSE;
    *complete &= !cbt_uuid_is_nil(&leases[i].id);
  }
  return TRUE;
}

static gboolean
list_bitmaps(DiskRef *ref, CbtControlReply *reply, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  return disk_ref_call(ref, &request, NULL, reply, error);
}

/* A bitmap that a backup has frozen is the backup's, and what is frozen by hand is not removed. */
static gboolean
check_not_in_use(Daemon *daemon, DiskRef *ref, const BitmapCall *call, GError **error)
{
  CbtBitmapInfo info;
  CbtControlOp op = call->control.op;
  if (op == CBT_CONTROL_LIST || op == CBT_CONTROL_ADD)
    return TRUE;
  if (!disk_ref_info(ref, call->control.name, &info, error))
    return FALSE;
  if (op == CBT_CONTROL_REMOVE && lease_is_by_hand(&info))
    return leases_check_free(daemon, ref, call->disk, &info, error);
  /* Who names a lease is told what became of it. */
  if (info.state != CBT_BITMAP_FROZEN || cbt_uuid_is_nil(&info.pending) || op == CBT_CONTROL_MERGE ||
      !cbt_uuid_is_nil(&call->lease))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it, or cancel it: cbt-backup job list",
                "bitmap '%s' is frozen for a backup", info.name);
  return FALSE;
}

static gboolean
do_as_asked(Daemon *daemon G_GNUC_UNUSED, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply,
            GError **error)
{
  return disk_ref_call(ref, &call->control, NULL, reply, error);
}

static gboolean
do_freeze(Daemon *daemon, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply, GError **error)
{
  return leases_freeze(daemon, ref, call->disk, &call->control, call->seconds, reply, error);
}

static gboolean
do_end(Daemon *daemon, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply, GError **error)
{
  return leases_end(daemon, ref, call->disk, &call->control, &call->lease, reply, error);
}

static gboolean
do_renew(Daemon *daemon, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply, GError **error)
{
  return leases_renew(daemon, ref, call->disk, call->control.name, &call->lease, call->seconds, error) &&
         list_bitmaps(ref, reply, error);
}

/* What changes a state waits for others that do. */
static gboolean
do_call(Daemon *daemon, DiskRef *ref, const BitmapCall *call, CbtControlReply *reply, GError **error)
{
  gboolean locks = call->control.op == CBT_CONTROL_APPLY;
  if (!check_not_in_use(daemon, ref, call, error))
    return FALSE;
  if (locks)
    leases_lock(daemon->leases, &call->disk->id);
  gboolean ok = call->func(daemon, ref, call, reply, error);
  if (locks)
    leases_unlock(daemon->leases, &call->disk->id);
  return ok;
}

static JsonNode *
run_bitmap_call(Daemon *daemon, gpointer data, guint *status, GError **error)
{
  BitmapCall *call = data;
  CbtControlReply reply;
  CatalogueLease leases[CBT_TRACKER_MAX_BITMAPS];
  gboolean complete = FALSE;
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, call->vm->name, call->disk, error);
  if (!ref || !do_call(daemon, ref, call, &reply, error))
    return NULL;
  if (call->control.op == CBT_CONTROL_REMOVE) {
    *status = 204;
    return NULL;
  }
  /* One that has no lease was just let go by somebody else. */
  for (guint attempt = 0; !complete && attempt < MAX_ATTEMPTS; attempt++)
    if ((attempt > 0 && !list_bitmaps(ref, &reply, error)) ||
        !find_leases(daemon, call->disk, &reply, leases, &complete, error))
      return NULL;
  JsonNode *body = reply_to_json(call->disk, &reply, leases, call->control.name);
  CbtBitmapInfo none;
  if (!body && disk_ref_info(ref, call->control.name, &none, error)) /* says that it is not there */
    cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "bitmap '%s' was just made", none.name);
  return body;
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
  call->func = do_as_asked;
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

/* A call that applies EVENT; NULL if the request has been answered. */
static BitmapCall *
event_call_new(ApiRequest *request, Daemon *daemon, CbtBitmapEvent event)
{
  BitmapCall *call =
      bitmap_call_new(request, daemon, CBT_CONTROL_APPLY, api_request_param(request, "bitmap"));
  if (call)
    call->control.event = event;
  return call;
}

void
handle_bitmap_clear(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, event_call_new(request, daemon, CBT_BITMAP_CLEAR), 200);
}

void
handle_bitmap_enable(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, event_call_new(request, daemon, CBT_BITMAP_ENABLE), 200);
}

void
handle_bitmap_disable(ApiRequest *request, gpointer daemon)
{
  run(request, daemon, event_call_new(request, daemon, CBT_BITMAP_DISABLE), 200);
}

/* ---- freezes by hand
 * ------------------------------------------------------------------------------------------ */

/* The id of a lease, which stays nil if there is none and it is not REQUIRED. */
static gboolean
get_lease_id(JsonObject *body, gboolean required, CbtUuid *id, GError **error)
{
  const char *text = NULL;
  return api_json_get_string(body, "lease", required, &text, error) && handler_parse_lease(text, id, error);
}

/* BUSY if a backup on the same bitmap waits or runs: one of the two would fail. */
static gboolean
check_no_backup(Daemon *daemon, const BitmapCall *call, GError **error)
{
  const Job *job = engine_user_of(daemon->engine, call->vm->name);
  const BackupRequest *backup = job && job->type == JOB_BACKUP ? job->data : NULL;
  const char *bitmap = call->control.name;
  if (!backup || strcmp(backup->bitmap, bitmap) != 0 || !backup_request_has_disk(backup, call->disk->name))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it, or cancel it: cbt-backup job list",
                "a backup on bitmap '%s' is %s (job %" G_GINT64_FORMAT ")", bitmap,
                job_status_name(job->status), job->id);
  return FALSE;
}

void
handle_bitmap_freeze(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  guint64 seconds = LEASE_DEFAULT_S;
  if (!api_json_get_duration(api_request_body(request), "lease", FALSE, &seconds, &error) ||
      !lease_check_seconds("lease", seconds, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  BitmapCall *call = event_call_new(request, daemon, CBT_BITMAP_CREATE_SUCCESSOR);
  if (call && !check_no_backup(daemon, call, &error)) {
    bitmap_call_free(call);
    api_request_reply_error(request, error);
    return;
  }
  if (call) {
    call->func = do_freeze;
    call->seconds = seconds;
  }
  run(request, daemon, call, 200);
}

static void
end_freeze(ApiRequest *request, Daemon *daemon, CbtBitmapEvent event)
{
  GError *error = NULL;
  CbtUuid lease = {{0}};
  if (!get_lease_id(api_request_body(request), FALSE, &lease, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  BitmapCall *call = event_call_new(request, daemon, event);
  if (call) {
    call->func = do_end;
    call->lease = lease;
  }
  run(request, daemon, call, 200);
}

void
handle_bitmap_abdicate(ApiRequest *request, gpointer daemon)
{
  end_freeze(request, daemon, CBT_BITMAP_ABDICATE);
}

void
handle_bitmap_reclaim(ApiRequest *request, gpointer daemon)
{
  end_freeze(request, daemon, CBT_BITMAP_RECLAIM);
}

void
handle_bitmap_renew(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  JsonObject *body = api_request_body(request);
  CbtUuid lease = {{0}};
  guint64 seconds = LEASE_DEFAULT_S;
  if (!get_lease_id(body, TRUE, &lease, &error) ||
      !api_json_get_duration(body, "seconds", FALSE, &seconds, &error) ||
      !lease_check_seconds("seconds", seconds, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  /* No event goes to the bitmap's owner, but it is in turn with those that do. */
  BitmapCall *call = event_call_new(request, daemon, CBT_BITMAP_CREATE_SUCCESSOR);
  if (call) {
    call->func = do_renew;
    call->lease = lease;
    call->seconds = seconds;
  }
  run(request, daemon, call, 200);
}
