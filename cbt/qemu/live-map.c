/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap that records cannot be exported read-only, and two cannot be exported as one. So one of our own,
 * which does not record, takes what they mark.
 */
#include <cbt/qemu/live-map.h>

#include <cbt/qemu/instant-private.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/nbd-source.h>
#include <common/error.h>

#define GRANULARITY 65536

static char *
bitmap_name(const char *prefix)
{
  return qemu_name(prefix, "map", -1);
}

gboolean
qemu_live_map_clear(Qmp *qmp, const QemuDisk *disk, const char *prefix, guint timeout_ms, GError **error)
{
  g_autofree char *name = bitmap_name(prefix);
  return !qemu_disk_bitmap(disk, name) ||
         qmp_call(qmp, "block-dirty-bitmap-remove",
                  qmp_args("node", qmp_str(disk->node), "name", qmp_str(name), NULL), timeout_ms, NULL,
                  error);
}

static gboolean
add_bitmap(Qmp *qmp, const QemuDisk *disk, const QemuLiveMapRequest *request, const char *name,
           GError **error)
{
  JsonArray *actions = json_array_new(), *sources = json_array_new();
  for (const char *const *source = request->bitmaps; *source; source++)
    json_array_add_string_element(sources, *source);
  JsonNode *list = json_node_new(JSON_NODE_ARRAY), *merged = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(merged, sources);
  json_array_add_element(
      actions, qmp_action("block-dirty-bitmap-add",
                          qmp_args("node", qmp_str(disk->node), "name", qmp_str(name), "granularity",
                                   qmp_int(GRANULARITY), "disabled", qmp_bool(TRUE), NULL)));
  json_array_add_element(
      actions, qmp_action("block-dirty-bitmap-merge", qmp_args("node", qmp_str(disk->node), "target",
                                                               qmp_str(name), "bitmaps", merged, NULL)));
  json_node_take_array(list, actions);
  return qmp_call(qmp, "transaction", qmp_args("actions", list, NULL), request->timeout_ms, NULL, error);
}

static gboolean
export_disk(const QemuInstant *instant, const QemuSteps *steps, const char *bitmap, GError **error)
{
  const InstantDisk *disk = instant->disks->pdata[0];
  g_autofree char *name = qemu_name(instant->prefix, QEMU_NAME_EXPORT, 0);
  JsonNode *which = bitmap ? qmp_str(bitmap) : NULL;
  if (which && qmp_version_is_at_least(steps->qmp, 7, 1))
    which = qmp_dict("node", qmp_str(disk->node), "name", which, NULL);
  return qemu_step(steps, "block-export-add", name,
                   qmp_args("type", qmp_str("nbd"), "id", qmp_str(name), "node-name", qmp_str(disk->node),
                            "name", qmp_str(name), "writable", qmp_bool(FALSE), "bitmaps",
                            which ? qmp_list(which, NULL) : NULL, NULL),
                   error);
}

static CbtSource *
read_map(QemuInstant *instant, const QemuSteps *steps, const char *bitmap, GError **error)
{
  const InstantDisk *disk = instant->disks->pdata[0];
  g_autofree char *path = g_uri_escape_string(disk->socket_path, "/", FALSE);
  g_autofree char *name = qemu_name(instant->prefix, QEMU_NAME_EXPORT, 0);
  g_autofree char *uri = g_strdup_printf("nbd+unix:///%s?socket=%s", name, path);
  const QemuNbdSourceOptions options = {.uri = uri, .bitmap = bitmap, .timeout_ms = instant->timeout_ms};
  if (!qemu_instant_start_server(instant, steps, error))
    return NULL;
  CbtSource *source =
      export_disk(instant, steps, bitmap, error) ? qemu_nbd_source_open(&options, NULL, error) : NULL;
  /* What was read is here. */
  if (qemu_leftovers_clear_by(steps, instant->prefix, NULL, source ? error : NULL))
    return source;
  g_clear_pointer(&source, cbt_source_close);
  return NULL;
}

/* Whether MEMBER of an item of ARRAY is one of PREFIX, other than SPARED. */
static gboolean
has_ours(JsonArray *array, const char *member, const char *prefix, const char *spared)
{
  g_autofree char *begin = g_strconcat(prefix, "-", NULL);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    const char *name = qemu_json_string(qemu_json_item(array, i), member);
    if (name && g_str_has_prefix(name, begin) && g_strcmp0(name, spared) != 0)
      return TRUE;
  }
  return FALSE;
}

/*
 * The end here takes away all of the prefix: so nothing of a backup may be there. The mark of the server
 * alone is that of a map whose reader died: a backup has other nodes, too.
 */
static gboolean
check_no_backup(const QemuSteps *steps, const char *prefix, GError **error)
{
  g_autofree char *marker = qemu_name(prefix, QEMU_NAME_NBD, -1);
  g_autoptr(JsonNode) jobs = NULL;
  g_autoptr(JsonNode) nodes = qemu_nodes_query(steps, error);
  if (!nodes || !qmp_call(steps->qmp, "query-jobs", NULL, steps->timeout_ms, &jobs, error))
    return FALSE;
  if (!has_ours(qemu_json_node_array(nodes), "node-name", prefix, marker) &&
      !has_ours(qemu_json_node_array(jobs), "id", prefix, NULL))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Ask again when it has ended.", "a backup of the vm is under way");
  return FALSE;
}

CbtSource *
qemu_live_map_read(Qmp *qmp, const QemuDisk *disk, const QemuLiveMapRequest *request, GError **error)
{
  if (disk->iothread) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Take an incremental backup, and compare with that point.",
                  "disk %s has an iothread: with it, QEMU's NBD server can end QEMU", disk->node);
    return NULL;
  }
  g_autofree char *name = request->bitmaps ? bitmap_name(request->prefix) : NULL;
  g_autofree char *socket_name = g_strdup_printf("%s-%s", request->prefix, QEMU_NAME_NBD);
  g_autofree char *socket_path = g_build_filename(request->socket_dir, socket_name, NULL);
  InstantDisk only = {.node = disk->node, .socket_path = socket_path};
  QemuInstant instant = {.prefix = (char *) request->prefix, .timeout_ms = request->timeout_ms};
  QemuSteps steps = qemu_instant_steps(&instant, qmp);
  if (!check_no_backup(&steps, request->prefix, error) ||
      !qemu_leftovers_clear_by(&steps, request->prefix, NULL, error) ||
      !qemu_live_map_clear(qmp, disk, request->prefix, request->timeout_ms, error) ||
      (name && !add_bitmap(qmp, disk, request, name, error)))
    return NULL;
  instant.disks = g_ptr_array_new();
  g_ptr_array_add(instant.disks, &only);
  CbtSource *source = read_map(&instant, &steps, name, error);
  g_ptr_array_unref(instant.disks);
  JsonObject *bitmap = qmp_args("node", qmp_str(disk->node), "name", qmp_str(name), NULL);
  if (name &&
      !qmp_call(qmp, "block-dirty-bitmap-remove", json_object_ref(bitmap), request->timeout_ms, NULL, NULL))
    g_message("bitmap %s is left on disk %s; it is removed the next time", name, disk->node);
  json_object_unref(bitmap);
  return source;
}
