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

/* Whether the device tells its node: then it can be given another one, as of QEMU 6.1 (qdev_prop_drive). */
static gboolean
has_drive(Qmp *qmp, const QemuDisk *disk, guint timeout_ms, gboolean *has, GError **error)
{
  g_autoptr(GError) local = NULL;
  *has = disk->device_path &&
         qmp_call(qmp, "qom-get",
                  qmp_args("path", qmp_str(disk->device_path), "property", qmp_str("drive"), NULL),
                  timeout_ms, NULL, &local);
  if (!local || cbt_error_code(local) == CBT_ERROR_FAILED || cbt_error_code(local) == CBT_ERROR_NOT_FOUND)
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
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

static gboolean
choose_for_iothread(QemuWay asked, const QemuDisk *disk, const char *obstacle, QemuWay *way, char **why,
                    GError **error)
{
  g_autofree char *reason = g_strdup_printf("%s has the iothread %s, with which a reader of QEMU's NBD "
                                            "server that leaves can abort QEMU",
                                            name_of(disk), disk->iothread);
  *way = QEMU_WAY_PUSH;
  if (asked != QEMU_WAY_AUTO && asked != QEMU_WAY_PUSH)
    return set_impossible(asked, reason, "Let it be pushed: auto, or push.", error);
  if (obstacle)
    return set_impossible(QEMU_WAY_PUSH, obstacle, "Back it up without its iothread, or switched off.",
                          error);
  *why = g_strdup_printf("push: %s", reason);
  return TRUE;
}

static gboolean
choose_external(const QemuDisk *threaded, QemuWay *way, char **why, GError **error)
{
  *way = QEMU_WAY_EXTERNAL;
  *why = g_strdup("external: as asked for; an overlay took what the guest wrote, and is committed");
  if (!threaded)
    return TRUE;
  g_clear_pointer(why, g_free);
  g_autofree char *reason =
      g_strdup_printf("%s has the iothread %s, with which a reader of QEMU's NBD server "
                      "that leaves can abort QEMU",
                      name_of(threaded), threaded->iothread);
  return set_impossible(QEMU_WAY_EXTERNAL, reason,
                        "Back it up without an external snapshot: it is pushed then.", error);
}

gboolean
qemu_instant_choose(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, const QemuInstantOptions *options,
                    QemuWay *way, char **why, GError **error)
{
  g_autofree char *obstacle = NULL;
  QemuWay asked = options->way;
  const QemuDisk *threaded = first_with_iothread(disks, n_disks);
  if (asked == QEMU_WAY_EXTERNAL)
    return choose_external(threaded, way, why, error);
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
