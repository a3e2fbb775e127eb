/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's commands about file systems and disks. An entry that lacks what it must have is left out: a
 * caller that does not find a disk then knows less, but nothing wrong. */
#include <cbt/qemu/qga.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>

static gboolean
set_odd(const char *command, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "The guest agent's answer to %s is none", command);
  return FALSE;
}

/* Freezing */

gboolean
qga_fsfreeze_status(Qga *self, guint timeout_ms, gboolean *is_frozen, GError **error)
{
  static const char command[] = "guest-fsfreeze-status";
  g_autoptr(JsonNode) answer = NULL;
  if (!qga_call(self, command, NULL, timeout_ms, &answer, error))
    return FALSE;
  const char *status =
      json_node_get_value_type(answer) == G_TYPE_STRING ? json_node_get_string(answer) : NULL;
  *is_frozen = g_strcmp0(status, "frozen") == 0;
  return *is_frozen || g_strcmp0(status, "thawed") == 0 || set_odd(command, error);
}

static gboolean
call_for_count(Qga *self, const char *command, JsonObject *arguments, guint timeout_ms, guint *count,
               GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!qga_call(self, command, arguments, timeout_ms, &answer, error))
    return FALSE;
  gint64 number = json_node_get_value_type(answer) == G_TYPE_INT64 ? json_node_get_int(answer) : -1;
  if (number < 0 || number > G_MAXINT)
    return set_odd(command, error);
  *count = (guint) number;
  return TRUE;
}

gboolean
qga_fsfreeze_freeze(Qga *self, const char *const *mountpoints, guint timeout_ms, guint *count, GError **error)
{
  if (!mountpoints)
    return call_for_count(self, "guest-fsfreeze-freeze", NULL, timeout_ms, count, error);
  JsonNode *list = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(list, json_array_new());
  for (guint i = 0; mountpoints[i]; i++)
    json_array_add_string_element(json_node_get_array(list), mountpoints[i]);
  return call_for_count(self, "guest-fsfreeze-freeze-list", qmp_args("mountpoints", list, NULL), timeout_ms,
                        count, error);
}

gboolean
qga_fsfreeze_thaw(Qga *self, guint timeout_ms, guint *count, GError **error)
{
  return call_for_count(self, "guest-fsfreeze-thaw", NULL, timeout_ms, count, error);
}

/* Disks and file systems */

static void
address_free(QgaDiskAddress *address)
{
  if (!address)
    return;
  g_free(address->serial);
  g_free(address->device);
  g_free(address->bus_type);
  g_free(address);
}

static void
filesystem_free(gpointer data)
{
  QgaFilesystem *filesystem = data;
  g_free(filesystem->name);
  g_free(filesystem->mountpoint);
  g_free(filesystem->type);
  g_ptr_array_unref(filesystem->disks);
  g_free(filesystem);
}

static void
disk_free(gpointer data)
{
  QgaDisk *disk = data;
  g_free(disk->name);
  g_strfreev(disk->dependencies);
  g_free(disk->alias);
  address_free(disk->address);
  g_free(disk);
}

/* Numbers below zero are what the agent says when it does not know. */
static gboolean
parse_pci(JsonObject *pci, QgaDiskAddress *address)
{
  static const char *const keys[] = {"domain", "bus", "slot", "function"};
  guint *const values[] = {&address->pci_domain, &address->pci_bus, &address->pci_slot,
                           &address->pci_function};
  for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
    guint64 value;
    if (!qemu_json_size(pci, keys[i], &value) || value > G_MAXUINT)
      return FALSE;
    *values[i] = (guint) value;
  }
  return TRUE;
}

static QgaDiskAddress *
parse_address(JsonObject *object)
{
  QgaDiskAddress *address = g_new0(QgaDiskAddress, 1);
  const char *bus_type = qemu_json_string(object, "bus-type");
  address->serial = g_strdup(qemu_json_string(object, "serial"));
  address->device = g_strdup(qemu_json_string(object, "dev"));
  address->bus_type = g_strdup(bus_type ? bus_type : "unknown");
  address->has_pci = parse_pci(qemu_json_object(object, "pci-controller"), address);
  address->bus = address->target = address->unit = -1;
  qemu_json_int(object, "bus", &address->bus);
  qemu_json_int(object, "target", &address->target);
  qemu_json_int(object, "unit", &address->unit);
  return address;
}

static gpointer
parse_filesystem(JsonObject *object)
{
  const char *mountpoint = qemu_json_string(object, "mountpoint");
  const char *name = qemu_json_string(object, "name"), *type = qemu_json_string(object, "type");
  JsonArray *disks = qemu_json_array(object, "disk");
  if (!mountpoint)
    return NULL;
  QgaFilesystem *filesystem = g_new0(QgaFilesystem, 1);
  filesystem->name = g_strdup(name ? name : "");
  filesystem->mountpoint = g_strdup(mountpoint);
  filesystem->type = g_strdup(type ? type : "");
  filesystem->disks = g_ptr_array_new_with_free_func((GDestroyNotify) address_free);
  for (guint i = 0; disks && i < json_array_get_length(disks); i++)
    if (qemu_json_item(disks, i))
      g_ptr_array_add(filesystem->disks, parse_address(qemu_json_item(disks, i)));
  return filesystem;
}

static char **
parse_strings(JsonArray *array)
{
  g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonNode *node = json_array_get_element(array, i);
    if (json_node_get_value_type(node) == G_TYPE_STRING)
      g_strv_builder_add(builder, json_node_get_string(node));
  }
  return g_strv_builder_end(builder);
}

static gpointer
parse_disk(JsonObject *object)
{
  const char *name = qemu_json_string(object, "name");
  JsonObject *address = qemu_json_object(object, "address");
  if (!name)
    return NULL;
  QgaDisk *disk = g_new0(QgaDisk, 1);
  disk->name = g_strdup(name);
  disk->is_partition = qemu_json_bool(object, "partition");
  disk->dependencies = parse_strings(qemu_json_array(object, "dependencies"));
  disk->alias = g_strdup(qemu_json_string(object, "alias"));
  disk->address = address ? parse_address(address) : NULL;
  return disk;
}

/* ANSWER to COMMAND, an array, each item taken by PARSE, which may leave it out. */
static GPtrArray *
parse_list(JsonNode *answer, const char *command, gpointer (*parse)(JsonObject *), GDestroyNotify free_item,
           GError **error)
{
  JsonArray *array = qemu_json_node_array(answer);
  if (!array) {
    set_odd(command, error);
    return NULL;
  }
  g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(free_item);
  for (guint i = 0; i < json_array_get_length(array); i++) {
    gpointer item = parse(qemu_json_item(array, i));
    if (item)
      g_ptr_array_add(list, item);
  }
  return g_steal_pointer(&list);
}

GPtrArray *
qga_parse_fsinfo(JsonNode *answer, GError **error)
{
  return parse_list(answer, "guest-get-fsinfo", parse_filesystem, filesystem_free, error);
}

GPtrArray *
qga_parse_disks(JsonNode *answer, GError **error)
{
  return parse_list(answer, "guest-get-disks", parse_disk, disk_free, error);
}

GPtrArray *
qga_get_fsinfo(Qga *self, guint timeout_ms, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  return qga_call(self, "guest-get-fsinfo", NULL, timeout_ms, &answer, error)
             ? qga_parse_fsinfo(answer, error)
             : NULL;
}

GPtrArray *
qga_get_disks(Qga *self, guint timeout_ms, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  return qga_call(self, "guest-get-disks", NULL, timeout_ms, &answer, error) ? qga_parse_disks(answer, error)
                                                                             : NULL;
}
