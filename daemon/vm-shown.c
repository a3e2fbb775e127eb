/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/vm-shown.h>

#include <cbt/source.h>
#include <daemon/exports.h>
#include <daemon/json-util.h>

struct VmShown {
  CatalogueVm *vm;
  guint64 n_points;
  CbtUuid latest;
  gboolean is_exported;
};

VmShown *
vm_shown_new(Daemon *daemon, CatalogueVm *vm)
{
  VmShown *shown = g_new0(VmShown, 1);
  CataloguePointSummary points;
  shown->vm = vm;
  shown->is_exported = exports_has(daemon->exports, vm->name);
  if (catalogue_summarize_points(daemon->catalogue, vm->name, &points, NULL)) {
    shown->n_points = points.n_points;
    shown->latest = points.latest;
    catalogue_point_summary_clear(&points);
  }
  return shown;
}

void
vm_shown_free(VmShown *shown)
{
  if (!shown)
    return;
  catalogue_vm_free(shown->vm);
  g_free(shown);
}

/* QEMU is not asked: it may hang, and others wait for this. */
static void
put_live_disk(JsonBuilder *builder, const CatalogueDisk *disk)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "name", disk->name);
  json_put_string(builder, "path", disk->path);
  json_put_string(builder, "node", disk->node);
  json_put_string(builder, "format", disk->format);
  json_put_uuid(builder, "id", &disk->id);
  json_put_int(builder, "granularity", disk->granularity);
  json_put_int(builder, "size", disk->size);
  json_put_string(builder, "error", NULL);
  json_builder_end_object(builder);
}

static void
put_disk(JsonBuilder *builder, const CatalogueDisk *disk)
{
  if (disk->node) {
    put_live_disk(builder, disk);
    return;
  }
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = cbt_source_open_file(disk->path, &error);
  g_autofree char *message = error ? cbt_error_message(error) : NULL;
  json_builder_begin_object(builder);
  json_put_string(builder, "name", disk->name);
  json_put_string(builder, "path", disk->path);
  json_put_uuid(builder, "id", &disk->id);
  json_put_int(builder, "granularity", disk->granularity);
  json_put_int(builder, "size", source ? source->size : 0);
  json_put_string(builder, "error", message);
  json_builder_end_object(builder);
}

void
vm_shown_put(JsonBuilder *builder, const VmShown *shown)
{
  const CatalogueVm *vm = shown->vm;
  json_builder_begin_object(builder);
  json_put_string(builder, "name", vm->name);
  json_put_time(builder, "created", vm->created);
  json_put_string(builder, "qmp", vm->qmp);
  json_put_string(builder, "qga", vm->qga);
  json_put_bool(builder, "follows-disks", vm->follows);
  json_builder_set_member_name(builder, "disks");
  json_builder_begin_array(builder);
  for (guint i = 0; i < vm->disks->len; i++)
    put_disk(builder, g_ptr_array_index(vm->disks, i));
  json_builder_end_array(builder);
  json_builder_set_member_name(builder, "configs");
  json_builder_begin_array(builder);
  for (guint i = 0; i < vm->configs->len; i++)
    json_builder_add_string_value(builder, g_ptr_array_index(vm->configs, i));
  json_builder_end_array(builder);
  json_put_bool(builder, "exported", shown->is_exported);
  json_put_int(builder, "points", shown->n_points);
  json_put_uuid(builder, "latest", &shown->latest);
  json_builder_end_object(builder);
}
