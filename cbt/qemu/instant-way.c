/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/instant-private.h>

static const char *const names[] = {
    [QEMU_WAY_AUTO] = "auto", [QEMU_WAY_FILTER] = "filter",     [QEMU_WAY_FLEECE] = "fleece",
    [QEMU_WAY_PUSH] = "push", [QEMU_WAY_EXTERNAL] = "external",
};

const char *
qemu_way_name(QemuWay way)
{
  return (guint) way < G_N_ELEMENTS(names) ? names[way] : "unknown";
}

gboolean
qemu_way_parse(const char *name, QemuWay *way, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS(names); i++)
    if (g_strcmp0(names[i], name) == 0) {
      *way = (QemuWay) i;
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_INVALID, "It is auto, filter, fleece, push or external.",
                "There is no way called '%s' to keep an instant of QEMU's disks", name ? name : "");
  return FALSE;
}

static const QemuDisk *
first_with_iothread(const QemuInstantDisk *disks, guint n_disks)
{
  for (guint i = 0; i < n_disks; i++)
    if (disks[i].disk->iothread)
      return disks[i].disk;
  return NULL;
}

static const char *
name_of(const QemuDisk *disk)
{
  const char *name = qemu_disk_lasting_name(disk);
  return name ? name : disk->node;
}

/* *value (transfer full) is NULL if DISK has no device, or that no such property. */
static gboolean
ask_device(Qmp *qmp, const QemuDisk *disk, const char *property, guint timeout_ms, JsonNode **value,
           GError **error)
{
  g_autoptr(GError) local = NULL;
  *value = NULL;
  if (!disk->device_path ||
      qmp_call(qmp, "qom-get",
               qmp_args("path", qmp_str(disk->device_path), "property", qmp_str(property), NULL), timeout_ms,
               value, &local) ||
      cbt_error_code(local) == CBT_ERROR_FAILED || cbt_error_code(local) == CBT_ERROR_NOT_FOUND)
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

/* Whether the device tells its node: then it can be given another one, as of QEMU 6.1 (qdev_prop_drive). */
static gboolean
has_drive(Qmp *qmp, const QemuDisk *disk, guint timeout_ms, gboolean *has, GError **error)
{
  g_autoptr(JsonNode) node = NULL;
  if (!ask_device(qmp, disk, "drive", timeout_ms, &node, error))
    return FALSE;
  *has = node != NULL;
  return TRUE;
}

/* *obstacle (transfer full) is why no filter can be put in front of all the disks, or NULL. */
static gboolean
find_obstacle(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, guint timeout_ms, char **obstacle,
              GError **error)
{
  *obstacle = NULL;
  if (!qmp_version_is_at_least(qmp, 7, 1)) {
    const QmpVersion *version = qmp_version(qmp);
    *obstacle = g_strdup_printf("QEMU %u.%u has no filter that spares the guest; 7.1 has", version->major,
                                version->minor);
    return TRUE;
  }
  for (guint i = 0; i < n_disks && !*obstacle; i++) {
    gboolean has;
    if (!has_drive(qmp, disks[i].disk, timeout_ms, &has, error))
      return FALSE;
    if (!has)
      *obstacle = g_strdup_printf("the device of %s cannot be given a filter", name_of(disks[i].disk));
  }
  return TRUE;
}

static gboolean
set_impossible(QemuWay way, const char *obstacle, const char *hint, GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, hint,
                "An instant of these disks cannot be kept in the way '%s': %s", qemu_way_name(way), obstacle);
  return FALSE;
}

static char *
reason_of_iothread(const QemuDisk *disk)
{
  return g_strdup_printf("%s has the iothread %s, with which a reader of QEMU's NBD server that leaves can "
                         "abort QEMU",
                         name_of(disk), disk->iothread);
}

static gboolean
choose_for_iothread(QemuWay asked, const QemuDisk *disk, const char *obstacle, QemuWay *way, char **why,
                    GError **error)
{
  g_autofree char *reason = reason_of_iothread(disk);
  *way = QEMU_WAY_PUSH;
  if (asked != QEMU_WAY_AUTO && asked != QEMU_WAY_PUSH)
    return set_impossible(asked, reason, "Let it be pushed: auto, or push.", error);
  if (obstacle)
    return set_impossible(QEMU_WAY_PUSH, obstacle, "Back it up without its iothread, or switched off.",
                          error);
  *why = g_strdup_printf("push: %s", reason);
  return TRUE;
}

/* When a commit is over, QEMU lets requests that were held up while the disk was drained pass to the image
 * before it renews the image's permissions (mirror_exit_common; not so as of 9.0): a write ends QEMU there,
 * if the image had given up writing to its file meanwhile. A qcow2 never does. And of a virtio-blk with an
 * ioeventfd nothing is taken while its disk is drained; of other devices there is: commands of IDE, the next
 * one of a chain of SCSI's discards. */
static gboolean
survives_commit(Qmp *qmp, const QemuDisk *disk, guint timeout_ms, gboolean *survives, GError **error)
{
  g_autoptr(JsonNode) type = NULL, eventfd = NULL;
  *survives =
      qmp_version_is_at_least(qmp, 9, 0) || (g_strcmp0(disk->format, "qcow2") == 0 && !disk->has_data_file);
  if (*survives)
    return TRUE;
  if (!ask_device(qmp, disk, "type", timeout_ms, &type, error) ||
      !ask_device(qmp, disk, "ioeventfd", timeout_ms, &eventfd, error))
    return FALSE;
  *survives = type && json_node_get_value_type(type) == G_TYPE_STRING &&
              g_str_has_prefix(json_node_get_string(type), "virtio-blk-") && eventfd &&
              json_node_get_value_type(eventfd) == G_TYPE_BOOLEAN && json_node_get_boolean(eventfd);
  return TRUE;
}

static char *
reason_of_commit(Qmp *qmp, const QemuDisk *disk)
{
  const QmpVersion *version = qmp_version(qmp);
  return g_strdup_printf(
      "%s is no qcow2 with all in one file, and its device no virtio-blk with an ioeventfd: "
      "a write of the guest could abort QEMU %u.%u when the overlay is committed",
      name_of(disk), version->major, version->minor);
}

static gboolean
choose_external(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, guint timeout_ms, GError **error)
{
  const QemuDisk *threaded = first_with_iothread(disks, n_disks);
  g_autofree char *reason = threaded ? reason_of_iothread(threaded) : NULL;
  for (guint i = 0; i < n_disks && !reason; i++) {
    gboolean survives;
    if (!survives_commit(qmp, disks[i].disk, timeout_ms, &survives, error))
      return FALSE;
    if (!survives)
      reason = reason_of_commit(qmp, disks[i].disk);
  }
  return !reason ||
         set_impossible(QEMU_WAY_EXTERNAL, reason, "Back it up without an external snapshot.", error);
}

gboolean
qemu_instant_choose(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, const QemuInstantOptions *options,
                    QemuWay *way, char **why, GError **error)
{
  g_autofree char *obstacle = NULL;
  QemuWay asked = options->way;
  const QemuDisk *threaded = first_with_iothread(disks, n_disks);
  if (asked == QEMU_WAY_EXTERNAL) {
    *way = QEMU_WAY_EXTERNAL;
    *why = g_strdup("external: as asked for; an overlay took what the guest wrote, and is committed");
    return choose_external(qmp, disks, n_disks, options->timeout_ms, error);
  }
  if (!find_obstacle(qmp, disks, n_disks, options->timeout_ms, &obstacle, error))
    return FALSE;
  if (threaded)
    return choose_for_iothread(asked, threaded, obstacle, way, why, error);
  if (obstacle && (asked == QEMU_WAY_FILTER || asked == QEMU_WAY_PUSH))
    return set_impossible(asked, obstacle, "Let it be fleeced: auto, or fleece.", error);
  *way = asked != QEMU_WAY_AUTO ? asked : obstacle ? QEMU_WAY_FLEECE : QEMU_WAY_FILTER;
  if (asked != QEMU_WAY_AUTO)
    *why = g_strdup_printf("%s: as asked for", qemu_way_name(asked));
  else if (obstacle)
    *why = g_strdup_printf("fleece: %s", obstacle);
  else
    *why = g_strdup("filter: each device can be given one, and no write of the guest can fail");
  return TRUE;
}
