/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/engine.h>
#include <daemon/exports.h>
#include <daemon/json-util.h>
#include <sys/statvfs.h>

static void
put_store(JsonBuilder *builder, Daemon *daemon)
{
  StoreStatistics statistics = {0};
  struct statvfs vfs = {0};
  store_statistics(daemon->store, &statistics);
  guint64 free_bytes =
      statvfs(store_directory(daemon->store), &vfs) == 0 ? (guint64) vfs.f_bavail * vfs.f_frsize : 0;
  json_builder_set_member_name(builder, "store");
  json_builder_begin_object(builder);
  json_put_int(builder, "chunks", statistics.n_chunks);
  json_put_int(builder, "packs", statistics.n_packs);
  json_put_int(builder, "bytes", statistics.pack_bytes);
  json_put_int(builder, "free", free_bytes);
  json_builder_end_object(builder);
}

static void
put_vm(JsonBuilder *builder, Daemon *daemon, const CatalogueVm *vm)
{
  const CbtUuid none = {{0}};
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm->name, NULL);
  const StorePoint *latest = points && points->len > 0 ? g_ptr_array_index(points, 0) : NULL;
  Job *job = engine_user_of(daemon->engine, vm->name);
  json_builder_begin_object(builder);
  json_put_string(builder, "name", vm->name);
  json_put_int(builder, "disks", vm->disks->len);
  json_put_int(builder, "points", points ? points->len : 0);
  json_put_uuid(builder, "latest", latest ? &latest->uuid : &none);
  json_put_time(builder, "latest-time", latest ? latest->time : 0);
  json_put_bool(builder, "exported", exports_has(daemon->exports, vm->name));
  if (job)
    json_put_int(builder, "job", (guint64) job->id);
  else
    json_put_string(builder, "job", NULL);
  json_builder_end_object(builder);
}

void
handle_status(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  guint n_active, n_queued;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &error);
  if (!vms) {
    api_request_reply_error(request, error);
    return;
  }
  engine_counts(daemon->engine, &n_active, &n_queued);
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_string(builder, "version", CBT_VERSION);
  json_put_int(builder, "uptime", (guint64) ((g_get_real_time() - daemon->started) / G_USEC_PER_SEC));
  json_put_string(builder, "state-dir", daemon->config->state_dir);
  put_store(builder, daemon);
  json_builder_set_member_name(builder, "vms");
  json_builder_begin_array(builder);
  for (guint i = 0; i < vms->len; i++)
    put_vm(builder, daemon, g_ptr_array_index(vms, i));
  json_builder_end_array(builder);
  json_put_int(builder, "jobs-active", n_active);
  json_put_int(builder, "jobs-queued", n_queued);
  json_builder_end_object(builder);
  api_request_reply(request, 200, json_finish(builder));
}
