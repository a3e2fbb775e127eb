/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/archive.h>
#include <daemon/import.h>

#include <api/json.h>
#include <common/size.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/json-util.h>
#include <daemon/point-files.h>
#include <daemon/restore.h>
#include <daemon/throttle.h>

static void
put_point_disk(JsonBuilder *builder, const StorePointDisk *disk)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "name", disk->name);
  json_put_int(builder, "size", disk->manifest.size);
  json_put_int(builder, "dirty", disk->dirty);
  json_put_int(builder, "zero-bytes", disk->zero);
  json_put_int(builder, "reused", disk->reused);
  json_put_int(builder, "stored", disk->stored);
  json_put_uuid(builder, "parent", &disk->parent);
  json_put_string(builder, "bitmap", disk->bitmap);
  json_put_string(builder, "reason", disk->reason);
  json_builder_end_object(builder);
}

static void
put_point(JsonBuilder *builder, const StorePoint *point)
{
  json_builder_begin_object(builder);
  json_put_uuid(builder, "uuid", &point->uuid);
  json_put_string(builder, "vm", point->vm);
  json_put_string(builder, "kind", point->incremental ? "incremental" : "full");
  json_put_uuid(builder, "parent", &point->parent);
  json_put_time(builder, "time", point->time);
  json_put_string(builder, "reason", point->reason);
  json_put_bool(builder, "protected", point->is_protected);
  json_put_string(builder, "note", point->note);
  json_put_string(builder, "consistency", store_consistency_name(point->consistency));
  json_put_string(builder, "consistency-reason", point->consistency_reason);
  json_put_int(builder, "frozen-ms", point->frozen_ms);
  json_put_time(builder, "verified", point->verified);
  json_put_time(builder, "damaged", point->damaged);
  json_builder_set_member_name(builder, "disks");
  json_builder_begin_array(builder);
  for (guint i = 0; i < point->disks->len; i++)
    put_point_disk(builder, g_ptr_array_index(point->disks, i));
  json_builder_end_array(builder);
  json_builder_set_member_name(builder, "configs");
  json_builder_begin_array(builder);
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = g_ptr_array_index(point->configs, i);
    json_builder_begin_object(builder);
    json_put_string(builder, "name", config->name);
    json_put_int(builder, "size", config->size);
    json_builder_end_object(builder);
  }
  json_builder_end_array(builder);
  json_builder_end_object(builder);
}

JsonNode *
point_to_json(const StorePoint *point)
{
  JsonBuilder *builder = json_builder_new_immutable();
  put_point(builder, point);
  return json_finish(builder);
}

/* An unknown vm that has points (it was removed) is listed; one without any is an error. */
static gboolean
check_vm_known(Daemon *daemon, const char *vm, guint n_points, GError **error)
{
  if (!vm || n_points > 0)
    return TRUE;
  g_autoptr(CatalogueVm) found = catalogue_get_vm(daemon->catalogue, vm, error);
  return found != NULL;
}

void
handle_point_list(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  const char *vm = api_request_query(request, "vm");
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm, &error);
  if (!points || !check_vm_known(daemon, vm, points->len, &error)) {
    api_request_reply_error(request, error);
    return;
  }
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_array(builder);
  for (guint i = 0; i < points->len; i++)
    put_point(builder, g_ptr_array_index(points, i));
  json_builder_end_array(builder);
  api_request_reply(request, 200, json_finish(builder));
}

void
handle_point_show(ApiRequest *request, gpointer daemon)
{
  g_autoptr(StorePoint) point = handler_get_point(request, daemon);
  if (point)
    api_request_reply(request, 200, point_to_json(point));
}

static gboolean
change_point(Daemon *daemon, StorePoint *point, JsonObject *body, GError **error)
{
  const char *note = point->note;
  if (!api_json_get_bool(body, "protected", FALSE, &point->is_protected, error) ||
      !api_json_get_string(body, "note", FALSE, &note, error))
    return FALSE;
  if (note != point->note) {
    g_free(point->note);
    point->note = *note ? g_strdup(note) : NULL;
  }
  return point_files_update(daemon, point, error);
}

void
handle_point_change(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  g_autoptr(StorePoint) point = handler_get_point(request, daemon);
  if (!point)
    return;
  if (change_point(daemon, point, api_request_body(request), &error))
    api_request_reply(request, 200, point_to_json(point));
  else
    api_request_reply_error(request, error);
}

static gboolean
is_base(Daemon *daemon, const StorePoint *point, const StorePointDisk *disk, const CatalogueVm *vm)
{
  CbtUuid base;
  gboolean has_disk = FALSE;
  for (guint i = 0; i < vm->disks->len; i++)
    has_disk |= cbt_uuid_equal(&((CatalogueDisk *) g_ptr_array_index(vm->disks, i))->id, &disk->disk_id);
  return has_disk && catalogue_get_base(daemon->catalogue, &disk->disk_id, disk->bitmap, &base, NULL) &&
         cbt_uuid_equal(&base, &point->uuid);
}

char *
handler_cost_of_forgetting(Daemon *daemon, const StorePoint *point)
{
  g_autoptr(CatalogueVm) vm = catalogue_get_vm(daemon->catalogue, point->vm, NULL);
  g_autoptr(GString) disks = g_string_new(NULL);
  guint64 bytes = 0;
  for (guint i = 0; vm && i < point->disks->len; i++) {
    const StorePointDisk *disk = g_ptr_array_index(point->disks, i);
    if (!is_base(daemon, point, disk, vm))
      continue;
    g_string_append_printf(disks, "%s'%s'", disks->len > 0 ? ", " : "", disk->name);
    bytes += disk->manifest.size;
  }
  if (disks->len == 0)
    return NULL;
  g_autofree char *size = cbt_size_format(bytes);
  return g_strdup_printf(
      "the next incremental of vm '%s' was to build on this point: it will read disk %s as a "
      "whole (%s), and store what differs from what the store has",
      point->vm, disks->str, size);
}

static JsonNode *
forgotten_to_json(const StorePoint *point, const char *warning)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_uuid(builder, "uuid", &point->uuid);
  json_put_string(builder, "warning", warning);
  json_builder_end_object(builder);
  return json_finish(builder);
}

void
handle_point_forget(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  g_autoptr(StorePoint) point = handler_get_point(request, daemon);
  if (!point)
    return;
  g_autofree char *warning = handler_cost_of_forgetting(daemon, point);
  if (!handler_forget_point(daemon, point, &error))
    api_request_reply_error(request, error);
  else if (warning)
    durable_reply(daemon, request, 200, forgotten_to_json(point, warning));
  else
    durable_reply(daemon, request, 204, NULL);
}

/* ---- restore
 * -------------------------------------------------------------------------------------------------- */

static gboolean
add_target(ApiRequest *request, Daemon *daemon, RestoreRequest *restore, JsonObject *object, GError **error)
{
  const char *disk = NULL, *path = NULL;
  if (!api_json_check_keys(object, "disk path", error) ||
      !api_json_get_string(object, "disk", TRUE, &disk, error) ||
      !api_json_get_string(object, "path", TRUE, &path, error))
    return FALSE;
  g_autofree char *taken = handler_take_path(request, daemon, path, error);
  g_autofree char *real = taken ? realpath(taken, NULL) : NULL;
  if (taken)
    restore_request_add_target(restore, disk, real ? real : taken);
  return taken != NULL;
}

static gboolean
add_targets(ApiRequest *request, Daemon *daemon, RestoreRequest *restore, JsonArray *targets, GError **error)
{
  for (guint i = 0; targets && i < json_array_get_length(targets); i++)
    if (!add_target(request, daemon, restore, json_array_get_object_element(targets, i), error))
      return FALSE;
  return TRUE;
}

/* A file that is there already may be a link out of the allowed folders. */
static gboolean
take_folder(ApiRequest *request, Daemon *daemon, RestoreRequest *restore, const char *folder, GError **error)
{
  restore->folder = handler_take_path(request, daemon, folder, error);
  for (guint i = 0; restore->folder && i < restore->point->disks->len; i++) {
    g_autofree char *path = restore_path_in_folder(restore, restore->point->disks->pdata[i]);
    g_autofree char *taken = handler_take_path(request, daemon, path, error);
    if (!taken)
      return FALSE;
  }
  return restore->folder != NULL;
}

static RestoreRequest *
restore_request_from_json(ApiRequest *request, Daemon *daemon, StorePoint *point, GError **error)
{
  JsonObject *body = api_request_body(request);
  const char *folder = NULL;
  JsonArray *targets = NULL;
  g_autoptr(RestoreRequest) restore = restore_request_new(point);
  if (!api_json_get_string(body, "to", FALSE, &folder, error) ||
      !api_json_get_objects(body, "targets", FALSE, &targets, error) ||
      !api_json_get_bool(body, "in-place", FALSE, &restore->in_place, error) ||
      (folder && !take_folder(request, daemon, restore, folder, error)) ||
      !add_targets(request, daemon, restore, targets, error))
    return NULL;
  if ((folder != NULL) == (restore->targets->len > 0)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "name either a folder ('to') or targets");
    return NULL;
  }
  return g_steal_pointer(&restore);
}

void
handle_point_restore(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  StorePoint *point = handler_get_point(request, daemon);
  if (!point)
    return;
  RestoreRequest *restore = restore_request_from_json(request, daemon, point, &error);
  Job *job = restore ? restore_job_new(daemon, restore, &error) : NULL;
  job = job ? engine_submit(daemon->engine, job, &error) : NULL;
  if (job)
    durable_reply(daemon, request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}

/* ---- archives ---- */

/* What both ways to ask have in common; TEXT: the format, NULL: vma. The chain of a point is chosen from all
 * points of the vm. */
static gboolean
complete_archive(Daemon *daemon, ArchiveRequest *archive, const char *text, const char *disk, GError **error)
{
  archive->disk = g_strdup(disk);
  if (!archive_format_parse(text ? text : "vma", &archive->format, error) ||
      !archive_request_check(archive, error))
    return FALSE;
  if (archive->format == ARCHIVE_CHAIN)
    archive->points = catalogue_list_points(daemon->catalogue, archive->point->vm, error);
  return archive->format != ARCHIVE_CHAIN || archive->points;
}

void
handle_point_archive(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  JsonObject *body = api_request_body(request);
  const char *format = NULL, *path = NULL, *disk = NULL;
  StorePoint *point = handler_get_point(request, daemon);
  Job *job = NULL;
  if (!point)
    return;
  g_autoptr(ArchiveRequest) archive = g_new0(ArchiveRequest, 1);
  archive->point = point;
  if (api_json_get_string(body, "format", FALSE, &format, &error) &&
      api_json_get_string(body, "path", TRUE, &path, &error) &&
      (archive->path = handler_take_path(request, daemon, path, &error)) &&
      api_json_get_string(body, "disk", FALSE, &disk, &error) &&
      api_json_get_size(body, "speed", FALSE, &archive->speed, &error) &&
      throttle_check_speed(archive->speed, &error) && complete_archive(daemon, archive, format, disk, &error))
    job = engine_submit(daemon->engine, archive_job_new(g_steal_pointer(&archive)), &error);
  if (job)
    durable_reply(daemon, request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}

void
handle_point_stream(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  StorePoint *point = handler_get_point(request, daemon);
  if (!point)
    return;
  g_autoptr(ArchiveRequest) archive = g_new0(ArchiveRequest, 1);
  archive->point = point;
  if (!api_query_get_u64("speed", api_request_query(request, "speed"), &archive->speed, &error) ||
      !throttle_check_speed(archive->speed, &error) ||
      !complete_archive(daemon, archive, api_request_query(request, "format"),
                        api_request_query(request, "disk"), &error)) {
    api_request_reply_error(request, error);
    return;
  }
  ApiStream *stream = archive->stream = api_request_reply_stream(request, "application/octet-stream");
  if (!stream)
    return;
  Job *job = job_ref(archive_job_new(g_steal_pointer(&archive))); /* the stream is the job's */
  if (!engine_submit(daemon->engine, job, &error))
    api_stream_fail(stream, error);
  g_clear_error(&error);
  job_unref(job);
}

void
handle_import(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  JsonObject *body = api_request_body(request);
  const char *path = NULL, *note = NULL, *vm = api_request_param(request, "vm");
  Job *job = NULL;
  g_autofree char *taken = NULL;
  if (cbt_name_check("vm", vm, &error) && api_json_get_string(body, "path", TRUE, &path, &error) &&
      (taken = handler_take_path(request, daemon, path, &error)) &&
      api_json_get_string(body, "note", FALSE, &note, &error))
    job = engine_submit(daemon->engine, import_job_new(vm, taken, note), &error);
  if (job)
    durable_reply(daemon, request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}
