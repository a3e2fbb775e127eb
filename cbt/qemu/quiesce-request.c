/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/quiesce-private.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>

#define BUDGET_MS          5000
#define CONNECT_TIMEOUT_MS 5000
#define SCRIPT_TIMEOUT_MS  30000
#define THAW_TIMEOUT_MS    60000
#define PRE_SCRIPT         "/etc/cbt-backup/pre-freeze"
#define POST_SCRIPT        "/etc/cbt-backup/post-thaw"

static const char *const level_names[] = {"none", "fs", "app"};

const char *
qemu_quiesce_level_name(QemuQuiesceLevel level)
{
  return level_names[level];
}

static void
disk_free(gpointer data)
{
  QemuDisk *disk = data;
  g_free(disk->node);
  g_free(disk->serial);
  g_free(disk->pci_bus);
  g_free(disk);
}

static GPtrArray *
copy_disks(GPtrArray *disks)
{
  GPtrArray *copies = g_ptr_array_new_with_free_func(disk_free);
  for (guint i = 0; i < disks->len; i++) {
    const QemuDisk *disk = disks->pdata[i];
    QemuDisk *copy = g_new0(QemuDisk, 1);
    copy->node = g_strdup(qemu_disk_lasting_name(disk));
    copy->serial = g_strdup(disk->serial);
    copy->has_pci = disk->has_pci;
    copy->pci_bus = g_strdup(disk->pci_bus);
    copy->pci_slot = disk->pci_slot;
    copy->pci_function = disk->pci_function;
    g_ptr_array_add(copies, copy);
  }
  return copies;
}

static gboolean
check(const QemuQuiesceRequest *request, GError **error)
{
  if (request->level != QEMU_QUIESCE_FS && request->level != QEMU_QUIESCE_APP)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "Quiescing is to the level fs or app");
  else if (request->budget_ms > QEMU_QUIESCE_MAX_BUDGET_MS)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "A guest may be frozen for %d ms at most, not %u",
                  QEMU_QUIESCE_MAX_BUDGET_MS, request->budget_ms);
  else if (request->disks && request->disks->len == 0)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "There are no disks to quiesce");
  else
    return TRUE;
  return FALSE;
}

gboolean
qemu_quiesce_request_init(QemuQuiesceRequest *request, const QemuQuiesceOptions *options, GError **error)
{
  *request = (QemuQuiesceRequest){
      .socket = g_strdup(options->socket),
      .disks = options->disks ? copy_disks(options->disks) : NULL,
      .level = options->level,
      .budget_ms = options->budget_ms ? options->budget_ms : BUDGET_MS,
      .connect_timeout_ms = options->connect_timeout_ms ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS,
      .script_timeout_ms = options->script_timeout_ms ? options->script_timeout_ms : SCRIPT_TIMEOUT_MS,
      .thaw_timeout_ms = options->thaw_timeout_ms ? options->thaw_timeout_ms : THAW_TIMEOUT_MS,
      .pre_script = g_strdup(options->pre_script ? options->pre_script : PRE_SCRIPT),
      .post_script = g_strdup(options->post_script ? options->post_script : POST_SCRIPT)};
  return check(request, error);
}

void
qemu_quiesce_request_clear(QemuQuiesceRequest *request)
{
  g_clear_pointer(&request->socket, g_free);
  g_clear_pointer(&request->disks, g_ptr_array_unref);
  g_clear_pointer(&request->pre_script, g_free);
  g_clear_pointer(&request->post_script, g_free);
}

/* JSON */

static JsonNode *
encode_disks(GPtrArray *disks)
{
  if (!disks)
    return NULL;
  JsonNode *list = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(list, json_array_new());
  for (guint i = 0; i < disks->len; i++) {
    const QemuDisk *disk = disks->pdata[i];
    JsonNode *pci = disk->has_pci ? qmp_dict("bus", qmp_str(disk->pci_bus), "slot", qmp_int(disk->pci_slot),
                                             "function", qmp_int(disk->pci_function), NULL)
                                  : NULL;
    json_array_add_element(json_node_get_array(list), qmp_dict("name", qmp_str(disk->node), "serial",
                                                               qmp_str(disk->serial), "pci", pci, NULL));
  }
  return list;
}

JsonObject *
qemu_quiesce_request_encode(const QemuQuiesceRequest *request)
{
  return qmp_args(
      "socket", qmp_str(request->socket), "level", qmp_str(qemu_quiesce_level_name(request->level)), "disks",
      encode_disks(request->disks), "budget-ms", qmp_int(request->budget_ms), "connect-timeout-ms",
      qmp_int(request->connect_timeout_ms), "script-timeout-ms", qmp_int(request->script_timeout_ms),
      "thaw-timeout-ms", qmp_int(request->thaw_timeout_ms), "pre-script", qmp_str(request->pre_script),
      "post-script", qmp_str(request->post_script), NULL);
}

static GPtrArray *
decode_disks(JsonArray *array)
{
  GPtrArray *disks = g_ptr_array_new_with_free_func(disk_free);
  for (guint i = 0; i < json_array_get_length(array); i++) {
    JsonObject *object = qemu_json_item(array, i), *pci = qemu_json_object(object, "pci");
    QemuDisk *disk = g_new0(QemuDisk, 1);
    guint64 slot = 0, function = 0;
    disk->node = g_strdup(qemu_json_string(object, "name"));
    disk->serial = g_strdup(qemu_json_string(object, "serial"));
    disk->has_pci = qemu_json_size(pci, "slot", &slot) && qemu_json_size(pci, "function", &function);
    disk->pci_bus = g_strdup(qemu_json_string(pci, "bus"));
    disk->pci_slot = (guint) slot;
    disk->pci_function = (guint) function;
    g_ptr_array_add(disks, disk);
  }
  return disks;
}

static guint
decode_ms(JsonObject *object, const char *key)
{
  guint64 value = 0;
  return qemu_json_size(object, key, &value) ? (guint) MIN(value, G_MAXINT) : 0;
}

gboolean
qemu_quiesce_request_decode(QemuQuiesceRequest *request, JsonObject *object, GError **error)
{
  const char *level = qemu_json_string(object, "level");
  JsonArray *array = qemu_json_array(object, "disks");
  g_autoptr(GPtrArray) disks = array ? decode_disks(array) : NULL;
  QemuQuiesceOptions options = {
      .socket = qemu_json_string(object, "socket"),
      .disks = disks,
      .level = g_strcmp0(level, "app") == 0  ? QEMU_QUIESCE_APP
               : g_strcmp0(level, "fs") == 0 ? QEMU_QUIESCE_FS
                                             : QEMU_QUIESCE_NONE,
      .budget_ms = decode_ms(object, "budget-ms"),
      .connect_timeout_ms = decode_ms(object, "connect-timeout-ms"),
      .script_timeout_ms = decode_ms(object, "script-timeout-ms"),
      .thaw_timeout_ms = decode_ms(object, "thaw-timeout-ms"),
      .pre_script = qemu_json_string(object, "pre-script"),
      .post_script = qemu_json_string(object, "post-script"),
  };
  if (qemu_quiesce_request_init(request, &options, error) && request->socket)
    return TRUE;
  if (!request->socket && error && !*error)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "The agent's socket is missing");
  return FALSE;
}
