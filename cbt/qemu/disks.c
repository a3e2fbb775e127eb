/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * query-block names the device by its id, or by its path in QOM if it has none; of a virtio-blk-pci that is
 * the path of the device within, which is cut off here: iothread, serial and drive can be asked of both, and
 * the PCI address only of the outer one. A SCSI disk has no iothread of its own, but its controller has: the
 * one whose bus it is on.
 */
#include <cbt/qemu/disks.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/peer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BACKEND       "/virtio-backend"
#define QUERY_RETRIES 5
#define FILTER        "copy-before-write" /* driver of a backup's filter */
#define OUR_FILTER    "cbt-filter"        /* member of a disk that is shown as if it were not there */

void
qemu_bitmap_free(gpointer data)
{
  QemuBitmap *bitmap = data;
  g_free(bitmap->name);
  g_free(bitmap);
}

void
qemu_disk_free(gpointer data)
{
  QemuDisk *disk = data;
  char *const texts[] = {disk->node,     disk->drive,    disk->qdev,   disk->format,
                         disk->filename, disk->image,    disk->filter, disk->device_path,
                         disk->serial,   disk->iothread, disk->pci_bus};
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
    g_free(texts[i]);
  g_ptr_array_unref(disk->bitmaps);
  g_free(disk);
}

static char *
dup_filled(const char *text)
{
  return text && *text ? g_strdup(text) : NULL;
}

/* query-block */

GPtrArray *
qemu_disks_parse_bitmaps(JsonObject *node)
{
  GPtrArray *bitmaps = g_ptr_array_new_with_free_func(qemu_bitmap_free);
  JsonArray *array = qemu_json_array(node, "dirty-bitmaps");
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *object = qemu_json_item(array, i);
    const char *name = qemu_json_string(object, "name");
    if (!name)
      continue;
    QemuBitmap *bitmap = g_new0(QemuBitmap, 1);
    bitmap->name = g_strdup(name);
    qemu_json_size(object, "granularity", &bitmap->granularity);
    qemu_json_size(object, "count", &bitmap->count);
    bitmap->is_recording = qemu_json_bool(object, "recording");
    bitmap->is_busy = qemu_json_bool(object, "busy");
    bitmap->is_persistent = qemu_json_bool(object, "persistent");
    bitmap->is_inconsistent = qemu_json_bool(object, "inconsistent");
    g_ptr_array_add(bitmaps, bitmap);
  }
  return bitmaps;
}

/* FALSE if something is inserted of which the size cannot be told. */
static gboolean
parse_inserted(JsonObject *inserted, QemuDisk *disk)
{
  if (!inserted)
    return TRUE;
  disk->node = dup_filled(qemu_json_string(inserted, "node-name"));
  disk->format = dup_filled(qemu_json_string(inserted, "drv"));
  disk->filename = dup_filled(qemu_json_string(inserted, "file"));
  disk->is_read_only = qemu_json_bool(inserted, "ro");
  qemu_json_size(inserted, "backing_file_depth", &disk->backing_depth);
  JsonObject *image = qemu_json_object(inserted, "image");
  JsonObject *specific = qemu_json_object(qemu_json_object(image, "format-specific"), "data");
  disk->has_data_file = qemu_json_string(specific, "data-file") != NULL;
  return disk->node && qemu_json_size(image, "virtual-size", &disk->size_bytes);
}

QemuDisk *
qemu_disk_at_rest(const char *node, const char *filename, const char *format, guint64 size_bytes,
                  GPtrArray *bitmaps)
{
  QemuDisk *disk = g_new0(QemuDisk, 1);
  disk->node = g_strdup(node);
  disk->filename = g_strdup(filename);
  disk->format = g_strdup(format);
  disk->size_bytes = size_bytes;
  disk->scsi_id = disk->lun = -1;
  disk->bitmaps = bitmaps;
  return disk;
}

char *
qemu_device_path(const char *qdev)
{
  if (!qdev)
    return NULL;
  g_autofree char *path = *qdev == '/' ? g_strdup(qdev) : g_strconcat("/machine/peripheral/", qdev, NULL);
  if (g_str_has_suffix(path, BACKEND))
    path[strlen(path) - strlen(BACKEND)] = '\0';
  return g_steal_pointer(&path);
}

static gboolean
parse_disk(JsonObject *object, QemuDisk *disk)
{
  JsonObject *inserted = qemu_json_object(object, "inserted");
  disk->bitmaps = qemu_disks_parse_bitmaps(inserted);
  disk->scsi_id = disk->lun = -1;
  disk->drive = dup_filled(qemu_json_string(object, "device"));
  disk->qdev = dup_filled(qemu_json_string(object, "qdev"));
  disk->device_path = qemu_device_path(disk->qdev);
  disk->filter = dup_filled(qemu_json_string(object, OUR_FILTER));
  if (!object || !parse_inserted(inserted, disk))
    return FALSE;
  disk->left_out = !inserted                              ? "empty"
                   : disk->is_read_only                   ? "read-only"
                   : !disk->qdev                          ? "not used by a device"
                   : g_strcmp0(disk->format, FILTER) == 0 ? "behind a filter of another program's backup"
                                                          : NULL;
  return TRUE;
}

GPtrArray *
qemu_disks_parse(JsonNode *answer, GError **error)
{
  JsonArray *array = qemu_json_node_array(answer);
  g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(qemu_disk_free);
  gboolean is_good = array != NULL;
  for (guint i = 0; is_good && i < json_array_get_length(array); i++) {
    QemuDisk *disk = g_new0(QemuDisk, 1);
    g_ptr_array_add(disks, disk);
    is_good = parse_disk(qemu_json_item(array, i), disk);
  }
  if (is_good)
    return g_steal_pointer(&disks);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "QEMU's answer to query-block cannot be understood");
  return NULL;
}

/* Devices */

typedef struct {
  QemuQomFunc func;
  gpointer user_data;
  const char *path;
  JsonArray *properties; /* (transfer none) */
} Device;

static gboolean
has_property(const Device *device, const char *name)
{
  for (guint i = 0; i < json_array_get_length(device->properties); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(device->properties, i), "name"), name) == 0)
      return TRUE;
  return FALSE;
}

/* *node is NULL if the device has no such property. */
static gboolean
get_property(const Device *device, const char *name, JsonNode **node, GError **error)
{
  *node = NULL;
  return !has_property(device, name) || device->func(device->path, name, node, device->user_data, error);
}

/* *text is NULL, too, if it is empty, as links to nothing are. */
static gboolean
get_text(const Device *device, const char *name, char **text, GError **error)
{
  g_autoptr(JsonNode) node = NULL;
  if (!get_property(device, name, &node, error))
    return FALSE;
  g_free(*text);
  *text =
      node && json_node_get_value_type(node) == G_TYPE_STRING ? dup_filled(json_node_get_string(node)) : NULL;
  return TRUE;
}

static gboolean
get_number(const Device *device, const char *name, gint64 *number, GError **error)
{
  g_autoptr(JsonNode) node = NULL;
  if (!get_property(device, name, &node, error))
    return FALSE;
  if (node && json_node_get_value_type(node) == G_TYPE_INT64)
    *number = json_node_get_int(node);
  return TRUE;
}

static char *
last_part(const char *path)
{
  const char *slash = strrchr(path, '/');
  return g_strdup(slash ? slash + 1 : path);
}

/* The device whose bus BUS_PATH is. */
static char *
bus_owner(const char *bus_path)
{
  const char *slash = strrchr(bus_path, '/');
  g_autofree char *owner = g_strndup(bus_path, slash ? (gsize) (slash - bus_path) : 0);
  return owner[0] == '/' ? qemu_device_path(owner) : NULL;
}

/* One iothread, or (QEMU 9) several, by queue. */
static gboolean
fill_iothread(const Device *device, QemuDisk *disk, GError **error)
{
  g_autofree char *path = NULL;
  g_autoptr(JsonNode) mapping = NULL;
  if (!get_text(device, "iothread", &path, error) ||
      !get_property(device, "iothread-vq-mapping", &mapping, error))
    return FALSE;
  JsonArray *queues = qemu_json_node_array(mapping);
  const char *first = qemu_json_string(qemu_json_item(queues, 0), "iothread");
  if (path)
    disk->iothread = last_part(path);
  else if (queues && json_array_get_length(queues) > 0)
    disk->iothread = g_strdup(first ? first : "several");
  return TRUE;
}

static gboolean
fill_pci(const Device *device, const char *bus_path, QemuDisk *disk, GError **error)
{
  g_autofree char *address = NULL;
  if (!get_text(device, "legacy-addr", &address, error))
    return FALSE;
  if (!address || !bus_path || sscanf(address, "%x.%x", &disk->pci_slot, &disk->pci_function) != 2)
    return TRUE;
  disk->has_pci = TRUE;
  g_free(disk->pci_bus);
  disk->pci_bus = last_part(bus_path);
  return TRUE;
}

/* What device and controller have alike; *bus_path is the bus that it is on. */
static gboolean
fill_from(const Device *device, QemuDisk *disk, char **bus_path, GError **error)
{
  return get_text(device, "parent_bus", bus_path, error) &&
         (disk->iothread || fill_iothread(device, disk, error)) &&
         (disk->has_pci || fill_pci(device, *bus_path, disk, error));
}

static gboolean
open_device(Device *device, const char *path, JsonNode **list, GError **error)
{
  device->path = path;
  if (!device->func(path, NULL, list, device->user_data, error))
    return FALSE;
  device->properties = qemu_json_node_array(*list);
  if (!device->properties)
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "QEMU's answer to qom-list cannot be understood");
  return device->properties != NULL;
}

static gboolean
fill_disk(QemuDisk *disk, QemuQomFunc func, gpointer user_data, GError **error)
{
  Device device = {.func = func, .user_data = user_data};
  g_autoptr(JsonNode) list = NULL, owner_list = NULL;
  g_autofree char *bus = NULL, *owner_bus = NULL;
  if (!open_device(&device, disk->device_path, &list, error) || !fill_from(&device, disk, &bus, error) ||
      !get_text(&device, "serial", &disk->serial, error) ||
      !get_number(&device, "scsi-id", &disk->scsi_id, error) ||
      !get_number(&device, "lun", &disk->lun, error))
    return FALSE;
  g_autofree char *owner = bus ? bus_owner(bus) : NULL;
  if (disk->has_pci || !owner)
    return TRUE; /* not behind a controller */
  return open_device(&device, owner, &owner_list, error) && fill_from(&device, disk, &owner_bus, error);
}

gboolean
qemu_disks_fill(GPtrArray *disks, QemuQomFunc func, gpointer user_data, GError **error)
{
  for (guint i = 0; i < disks->len; i++) {
    QemuDisk *disk = disks->pdata[i];
    if (!disk->left_out && !fill_disk(disk, func, user_data, error))
      return FALSE;
  }
  return TRUE;
}

/* Filters of backups */

static gboolean
is_behind_filter(JsonObject *disk)
{
  return g_strcmp0(qemu_json_string(qemu_json_object(disk, "inserted"), "drv"), FILTER) == 0;
}

static gboolean
are_behind_filters(JsonNode *answer)
{
  JsonArray *array = qemu_json_node_array(answer);
  for (guint i = 0; array && i < json_array_get_length(array); i++)
    if (is_behind_filter(qemu_json_item(array, i)))
      return TRUE;
  return FALSE;
}

static JsonObject *
find_node(JsonNode *nodes, const char *name)
{
  JsonArray *array = qemu_json_node_array(nodes);
  for (guint i = 0; name && array && i < json_array_get_length(array); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(array, i), "node-name"), name) == 0)
      return qemu_json_item(array, i);
  return NULL;
}

/* (transfer full) */
static JsonObject *
without_filter(JsonObject *disk, JsonNode *nodes, JsonNode *fdsets)
{
  const char *filter = qemu_json_string(qemu_json_object(disk, "inserted"), "node-name");
  g_autofree char *hidden = filter ? qemu_leftovers_hidden(filter, nodes, fdsets) : NULL;
  JsonObject *inserted = find_node(nodes, hidden);
  if (!inserted)
    return json_object_ref(disk);
  JsonObject *shown = json_object_new();
  g_autoptr(GList) members = json_object_get_members(disk);
  for (GList *link = members; link; link = link->next)
    json_object_set_member(shown, link->data, json_object_dup_member(disk, link->data));
  json_object_set_object_member(shown, "inserted", json_object_ref(inserted));
  json_object_set_string_member(shown, OUR_FILTER, filter);
  return shown;
}

JsonNode *
qemu_disks_see_through(JsonNode *answer, JsonNode *nodes, JsonNode *fdsets)
{
  JsonArray *array = qemu_json_node_array(answer);
  if (!array)
    return json_node_ref(answer);
  JsonArray *shown = json_array_new();
  for (guint i = 0; i < json_array_get_length(array); i++) {
    JsonObject *disk = qemu_json_item(array, i);
    if (disk && is_behind_filter(disk))
      json_array_add_object_element(shown, without_filter(disk, nodes, fdsets));
    else
      json_array_add_element(shown, json_array_dup_element(array, i));
  }
  JsonNode *node = json_node_init_array(json_node_alloc(), shown);
  json_array_unref(shown);
  return node;
}

/* QMP */

/* *answer is that of query-block, as if no backup had filters. */
static gboolean
query_block(Qmp *qmp, guint timeout_ms, JsonNode **answer, GError **error)
{
  QemuSteps steps = {.qmp = qmp, .timeout_ms = timeout_ms};
  g_autoptr(JsonNode) found = NULL, fdsets = NULL;
  if (!qmp_call(qmp, "query-block", NULL, timeout_ms, &found, error))
    return FALSE;
  if (!are_behind_filters(found)) {
    *answer = g_steal_pointer(&found);
    return TRUE;
  }
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&steps, error);
  if (!nodes || !qmp_call(qmp, "query-fdsets", NULL, timeout_ms, &fdsets, error))
    return FALSE;
  *answer = qemu_disks_see_through(found, nodes, fdsets);
  return TRUE;
}

typedef struct {
  Qmp *qmp;
  guint timeout_ms;
} Asker;

static gboolean
ask_qom(const char *path, const char *property, JsonNode **answer, gpointer user_data, GError **error)
{
  Asker *asker = user_data;
  return qmp_call(asker->qmp, property ? "qom-get" : "qom-list",
                  qmp_args("path", qmp_str(path), "property", qmp_str(property), NULL), asker->timeout_ms,
                  answer, error);
}

GPtrArray *
qemu_disks_query(Qmp *qmp, guint timeout_ms, GError **error)
{
  Asker asker = {.qmp = qmp, .timeout_ms = timeout_ms};
  for (guint i = 0;; i++) {
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) answer = NULL;
    if (!query_block(qmp, timeout_ms, &answer, error))
      return NULL;
    if (i < QUERY_RETRIES && are_behind_filters(answer))
      continue; /* one that goes just now, or another program's */
    g_autoptr(GPtrArray) disks = qemu_disks_parse(answer, error);
    if (!disks)
      return NULL;
    if (qemu_disks_fill(disks, ask_qom, &asker, &local))
      return g_steal_pointer(&disks);
    if (i >= QUERY_RETRIES || cbt_error_code(local) != CBT_ERROR_NOT_FOUND) {
      g_propagate_error(error, g_steal_pointer(&local));
      return NULL;
    }
  }
}

/* A link could lead elsewhere later on. What a device's name leads to is numbered anew at each boot. */
static char *
path_to_keep(const char *path)
{
  struct stat status;
  char *real = stat(path, &status) == 0 && S_ISBLK(status.st_mode) ? NULL : realpath(path, NULL);
  return real ? real : g_strdup(path);
}

void
qemu_disks_see(GPtrArray *disks, Qmp *qmp)
{
  for (guint i = 0; i < disks->len; i++) {
    QemuDisk *disk = disks->pdata[i];
    g_autofree char *path =
        !disk->image && !disk->left_out && disk->filename ? qemu_peer_find(qmp, disk->filename) : NULL;
    if (path)
      disk->image = path_to_keep(path);
  }
}

/* Looking up */

static gboolean
is_called(const QemuDisk *disk, const char *name)
{
  return g_strcmp0(disk->node, name) == 0 || g_strcmp0(disk->drive, name) == 0 ||
         g_strcmp0(disk->qdev, name) == 0 || g_strcmp0(disk->serial, name) == 0;
}

QemuDisk *
qemu_disks_find(GPtrArray *disks, const char *name, GError **error)
{
  QemuDisk *found = NULL;
  for (guint i = 0; i < disks->len; i++) {
    if (!is_called(disks->pdata[i], name))
      continue;
    if (found) {
      cbt_set_error(error, CBT_ERROR_INVALID, "Name them by their nodes.",
                    "Several disks of QEMU are called %s", name);
      return NULL;
    }
    found = disks->pdata[i];
  }
  if (!found)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "Name it by its node, drive, device or serial.",
                  "QEMU has no disk that is called %s", name);
  else if (found->left_out)
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "The disk %s of QEMU is %s", name, found->left_out);
  return found && !found->left_out ? found : NULL;
}

const char *
qemu_disk_lasting_name(const QemuDisk *disk)
{
  const char *const names[] = {disk->node && disk->node[0] != '#' ? disk->node : NULL, disk->drive,
                               disk->serial, disk->qdev && disk->qdev[0] != '/' ? disk->qdev : NULL};
  for (guint i = 0; i < G_N_ELEMENTS(names); i++)
    if (names[i])
      return names[i];
  return NULL;
}

const QemuBitmap *
qemu_disk_bitmap(const QemuDisk *disk, const char *name)
{
  for (guint i = 0; i < disk->bitmaps->len; i++) {
    const QemuBitmap *bitmap = disk->bitmaps->pdata[i];
    if (g_str_equal(bitmap->name, name))
      return bitmap;
  }
  return NULL;
}
