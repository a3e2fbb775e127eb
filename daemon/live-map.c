/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/live-map.h>

#include <cbt/qemu/bitmaps.h>
#include <cbt/qemu/live-map.h>
#include <cbt/qemu/nbd-source.h>
#include <cbt/qemu/offline.h>
#include <daemon/live-rest.h>
#include <daemon/monitors.h>
#include <errno.h>
#include <glib/gstdio.h>

#define READ_TIMEOUT_MS 30000

/* The names in QEMU, ended by NULL; none if there is no such bitmap. */
static guint
find_names(const QemuDisk *disk, const char *prefix, const char *bitmap, LiveMapBits which,
           const char *names[3])
{
  guint n = 0;
  const char *parent = qemu_bitmaps_parent(disk, prefix, bitmap);
  const char *recorder = qemu_bitmaps_recorder(disk, prefix, bitmap);
  if (parent && (which != LIVE_MAP_SUCCESSOR || recorder == parent))
    names[n++] = parent;
  if (recorder && recorder != parent && which != LIVE_MAP_PARENT)
    names[n++] = recorder;
  names[n] = NULL;
  return n;
}

static gboolean
check_found(const CatalogueDisk *disk, const char *bitmap, guint n, GError **error)
{
  if (!bitmap || n > 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "disk '%s' has no bitmap '%s'", disk->name, bitmap);
  return FALSE;
}

static CbtSource *
read_running(Daemon *daemon, const CatalogueDisk *disk, const char *bitmap, LiveMapBits which,
             const char *sockets, GError **error)
{
  const char *names[3];
  g_autofree char *prefix = monitors_bitmap_prefix(daemon->monitors, &disk->id);
  CbtSource *source = NULL;
  Qmp *qmp = monitors_open(daemon->monitors, disk->qmp, NULL, error);
  if (!qmp)
    return NULL;
  g_autoptr(GPtrArray) disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
  const QemuDisk *found = disks ? qemu_disks_find(disks, disk->node, error) : NULL;
  const QemuLiveMapRequest request = {.prefix = monitors_prefix(daemon->monitors),
                                      .socket_dir = sockets,
                                      .bitmaps = bitmap ? names : NULL,
                                      .timeout_ms = MONITOR_TIMEOUT_MS};
  if (found && check_found(disk, bitmap, bitmap ? find_names(found, prefix, bitmap, which, names) : 0, error))
    source = qemu_live_map_read(qmp, found, &request, error);
  monitors_close(daemon->monitors, qmp);
  return source;
}

/* qemu-nbd offers one bitmap; one that is frozen has two, until the next backup or its lease settles it. */
static CbtSource *
read_at_rest(Daemon *daemon, const CatalogueDisk *disk, const char *bitmap, LiveMapBits which,
             const char *sockets, GError **error)
{
  const char *names[3] = {NULL};
  QemuDisk *found = live_rest_look(disk, error);
  g_autofree char *prefix = monitors_bitmap_prefix(daemon->monitors, &disk->id);
  guint n = found && bitmap ? find_names(found, prefix, bitmap, which, names) : 0;
  g_autofree char *name = g_strdup(names[0]);
  gboolean ok = found && check_found(disk, bitmap, n, error);
  g_clear_pointer(&found, qemu_disk_free);
  if (ok && n > 1) {
    cbt_set_error(error, CBT_ERROR_BUSY, "Take a backup, or reclaim it; then ask again.",
                  "bitmap '%s' of disk '%s' is frozen", bitmap, disk->name);
    ok = FALSE;
  }
  g_autoptr(QemuOffline) server =
      ok ? qemu_offline_serve(disk->path, disk->format, name, sockets, NULL, error) : NULL;
  const QemuNbdSourceOptions options = {
      .uri = server ? qemu_offline_uri(server) : NULL, .bitmap = name, .timeout_ms = READ_TIMEOUT_MS};
  return server ? qemu_nbd_source_open(&options, NULL, error) : NULL;
}

char *
live_map_make_folder(Daemon *daemon, const char *vm, GError **error)
{
  char *sockets = g_build_filename(daemon->config->runtime_dir, "live", vm, NULL);
  if (g_mkdir_with_parents(sockets, 0700) == 0)
    return sockets;
  cbt_set_error_errno(error, errno, "cannot make the folder %s", sockets);
  g_clear_pointer(&sockets, g_free);
  return NULL;
}

CbtSource *
live_map_read(Daemon *daemon, const char *vm, const CatalogueDisk *disk, const char *bitmap,
              LiveMapBits which, GError **error)
{
  g_autofree char *sockets = live_map_make_folder(daemon, vm, error);
  if (!sockets)
    return NULL;
  return live_is_off(disk->qmp) ? read_at_rest(daemon, disk, bitmap, which, sockets, error)
                                : read_running(daemon, disk, bitmap, which, sockets, error);
}
