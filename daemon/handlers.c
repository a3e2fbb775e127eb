/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What several handlers need. */
#include <daemon/handlers.h>

#include <daemon/engine.h>
#include <daemon/paths.h>
#include <string.h>

void
handle_openapi(ApiRequest *request, gpointer daemon G_GNUC_UNUSED)
{
  api_request_reply_text(request, 200, "application/json", api_openapi_text());
}

CatalogueVm *
handler_get_vm(ApiRequest *request, Daemon *daemon)
{
  GError *error = NULL;
  CatalogueVm *vm = catalogue_get_vm(daemon->catalogue, api_request_param(request, "vm"), &error);
  if (!vm)
    api_request_reply_error(request, error);
  return vm;
}

const CatalogueDisk *
handler_get_disk(ApiRequest *request, const CatalogueVm *vm)
{
  const char *name = api_request_param(request, "disk");
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    if (strcmp(disk->name, name) == 0)
      return disk;
  }
  GError *error = NULL;
  g_autofree char *hint = g_strdup_printf("See: cbt-backup vm show %s", vm->name);
  cbt_set_error(&error, CBT_ERROR_NOT_FOUND, hint, "vm '%s' has no disk '%s'", vm->name, name);
  api_request_reply_error(request, error);
  return NULL;
}

StorePoint *
handler_get_point(ApiRequest *request, Daemon *daemon)
{
  GError *error = NULL;
  StorePoint *point = catalogue_resolve_point(daemon->catalogue, api_request_param(request, "uuid"), &error);
  if (!point)
    api_request_reply_error(request, error);
  return point;
}

gboolean
handler_parse_lease(const char *text, CbtUuid *id, GError **error)
{
  if (!text || (cbt_uuid_parse(text, id) && !cbt_uuid_is_nil(id)))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID,
                "It is the lease-id that the freeze answered with, and that the bitmap shows.",
                "'lease': '%s' is no id of a lease", text);
  return FALSE;
}

static gboolean
check_unprotected(const StorePoint *point, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (!point->is_protected)
    return TRUE;
  cbt_uuid_format(&point->uuid, text);
  g_autofree char *hint = g_strdup_printf("Lift that with: cbt-backup unprotect %s", text);
  cbt_set_error(error, CBT_ERROR_STATE, hint, "recovery point %s is protected", text);
  return FALSE;
}

static gboolean
check_unread(Daemon *daemon, const StorePoint *point, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  const Job *job = engine_reader_of(daemon->engine, &point->uuid);
  if (!job)
    return TRUE;
  g_autofree char *hint = g_strdup_printf("Wait for it with: cbt-backup job wait %" G_GINT64_FORMAT, job->id);
  cbt_set_error(error, CBT_ERROR_BUSY, hint, "a %s reads recovery point %s (job %" G_GINT64_FORMAT ")",
                job_type_name(job->type), cbt_uuid_format(&point->uuid, text), job->id);
  return FALSE;
}

gboolean
handler_check_removable(Daemon *daemon, const StorePoint *point, GError **error)
{
  return check_unprotected(point, error) && check_unread(daemon, point, error);
}

/* The file first: a point whose file is there when the daemon ends in between is a point still. */
gboolean
handler_forget_point(Daemon *daemon, const StorePoint *point, GError **error)
{
  if (!handler_check_removable(daemon, point, error) || !store_check_in_place(daemon->store, error))
    return FALSE;
  g_autofree char *folder = g_build_filename(store_directory(daemon->store), "points", NULL);
  g_autoptr(GError) local = NULL;
  if (!store_point_remove(cbt_file_ops_default(), folder, &point->uuid, &local) &&
      !g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  return catalogue_remove_point(daemon->catalogue, &point->uuid, error);
}

char *
handler_take_path(ApiRequest *request, Daemon *daemon, const char *path, GError **error)
{
  return paths_take(daemon->config, api_request_is_trusted(request), path, error);
}
