/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before a backup of a live vm: what an earlier one left is taken away, and the vm's disks are brought in
 * line with those that QEMU has, or with its images at rest.
 */
#include <daemon/backup-live-private.h>

#include <cbt/qemu/adopt.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/live-map.h>
#include <cbt/qemu/overlay.h>
#include <daemon/durable.h>
#include <daemon/live-rest.h>
#include <daemon/live-vm.h>
#include <daemon/vm-files.h>
#include <string.h>

typedef struct {
  Backup *backup;
  CatalogueDisk *disk; /* of the request's vm */
  gboolean is_new;
  GError *error;
} DiskUpdate;

static void
update_disk(gpointer data)
{
  DiskUpdate *update = data;
  Backup *backup = update->backup;
  const CatalogueVm *vm = backup->request->vm;
  if (!(update->is_new ? catalogue_insert_disk(backup->daemon->catalogue, vm, update->disk, &update->error)
                       : catalogue_update_disk(backup->daemon->catalogue, update->disk, &update->error)) ||
      !vm_files_save(backup->daemon, vm->name, &update->error) || !update->is_new)
    return;
  job_add_disk(backup->job, update->disk->name);
}

static gboolean
tell_catalogue(Backup *backup, CatalogueDisk *disk, gboolean is_new, GError **error)
{
  DiskUpdate update = {backup, disk, is_new, NULL};
  durable_call(backup->daemon, update_disk, &update);
  if (update.error)
    g_propagate_error(error, update.error);
  return update.error == NULL;
}

typedef struct {
  Job *job;
  const char *disk;
} Removal;

static void
remove_disk(gpointer data)
{
  const Removal *removal = data;
  job_remove_disk(removal->job, removal->disk);
}

/* The vm keeps it, for it may come back. */
static void
leave_out(BackupLive *live, guint index)
{
  Backup *backup = live->backup;
  GPtrArray *disks = backup->request->vm->disks;
  const CatalogueDisk *disk = disks->pdata[index];
  Removal removal = {backup->job, disk->name};
  main_queue_call(backup->daemon->queue, remove_disk, &removal);
  backup_live_note(live, "disk '%s' is not in QEMU any more: left out", disk->name);
  g_ptr_array_remove_index(disks, index);
}

/* The path is read later on while no QEMU has it, by who may read everything: that QEMU says it is not
 * enough. */
static gboolean
follow_disk(BackupLive *live, CatalogueDisk *disk, const QemuDisk *found, GError **error)
{
  const char *path = found->image ? found->image : live_vm_path_of(found);
  gboolean is_other = strcmp(disk->path, path) != 0 || g_strcmp0(disk->format, found->format) != 0;
  if (is_other && live_vm_is_unseen(found)) {
    backup_live_note(live,
                     "disk '%s' is %s (%s) by what QEMU tells, but is not seen to be open there: it stays %s",
                     disk->name, path, found->format ? found->format : "?", disk->path);
    is_other = FALSE;
  }
  if (!is_other && disk->size == found->size_bytes)
    return TRUE;
  if (is_other) {
    g_hash_table_add(live->moved, g_strdup(disk->name));
    g_free(disk->path);
    g_free(disk->format);
    disk->path = g_strdup(path);
    disk->format = g_strdup(found->format);
  }
  disk->size = found->size_bytes;
  return tell_catalogue(live->backup, disk, FALSE, error);
}

/* Those that are registered; USED gets the QemuDisks that they are. */
static gboolean
match_known(BackupLive *live, GHashTable *used, GError **error)
{
  Backup *backup = live->backup;
  CatalogueVm *vm = backup->request->vm;
  for (guint i = 0; i < vm->disks->len;) {
    CatalogueDisk *disk = vm->disks->pdata[i];
    g_autoptr(GError) local = NULL;
    const QemuDisk *found = qemu_disks_find(live->disks, disk->node, &local);
    if (found) {
      g_hash_table_add(used, (gpointer) found);
      if (!follow_disk(live, disk, found, error))
        return FALSE;
      i++;
    } else if (vm->follows && !backup->request->disks &&
               g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
      leave_out(live, i);
    } else {
      g_propagate_prefixed_error(error, g_steal_pointer(&local), "disk '%s': ", disk->name);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
take_new(BackupLive *live, GHashTable *used, GError **error)
{
  Backup *backup = live->backup;
  CatalogueVm *vm = backup->request->vm;
  for (guint i = 0; i < live->disks->len; i++) {
    const QemuDisk *found = live->disks->pdata[i];
    if (found->left_out || g_hash_table_contains(used, found))
      continue;
    CatalogueDisk *disk = live_vm_take_disk(vm, found, CBT_GRANULARITY_DEFAULT, error);
    if (!disk || !tell_catalogue(backup, disk, TRUE, error))
      return FALSE;
    backup_live_note(live, "disk '%s' is new in QEMU: it gets a full of its own", disk->name);
    if (live_vm_is_unseen(found))
      backup_live_note(
          live,
          "disk '%s' is %s by what QEMU tells, but is not seen to be open there: it is backed up "
          "only while its guest runs",
          disk->name, found->filename);
  }
  return TRUE;
}

/* Nothing here can know which of the two the guest should have: the file stays. */
static void
warn_of_strays(BackupLive *live, const QemuDisk *disk)
{
  const char *prefix = monitors_prefix(live->backup->daemon->monitors);
  g_autoptr(GPtrArray) strays = qemu_overlay_strays(live_vm_path_of(disk), prefix);
  if (qemu_overlay_is_path(disk->filename, prefix))
    backup_live_note(
        live,
        "WARNING: QEMU was started on %s, the overlay of an earlier backup, in which QEMU ended; shut the "
        "guest down, commit it, and start QEMU on its image: see docs/external-snapshots.md",
        disk->filename);
  for (guint i = 0; i < strays->len; i++)
    backup_live_note(
        live,
        "WARNING: %s holds what the guest wrote during an earlier backup, in which QEMU ended; QEMU does not "
        "use it, so the guest goes on without that. To get it, shut the guest down and see "
        "docs/external-snapshots.md; "
        "remove the file if it is not wanted",
        (const char *) strays->pdata[i]);
}

static gboolean
look(BackupLive *live, Qmp *qmp, GError **error)
{
  const char *prefix = monitors_prefix(live->backup->daemon->monitors);
  g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(GPtrArray) images = live_vm_images(live->backup->daemon, live->backup->request->vm->qmp);
  const QemuSteps steps = {.qmp = qmp, .timeout_ms = MONITOR_TIMEOUT_MS, .images = images};
  gboolean ok = qemu_leftovers_clear_by(&steps, prefix, found, error);
  for (guint i = 0; i < found->len; i++)
    backup_live_note(live, "left by an earlier backup, and taken away: %s", (const char *) found->pdata[i]);
  if (!ok)
    return FALSE;
  live->instance = qmp_instance(qmp);
  live->disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
  for (guint i = 0; live->disks && i < live->disks->len; i++)
    if (!qemu_live_map_clear(qmp, live->disks->pdata[i], prefix, MONITOR_TIMEOUT_MS, error))
      return FALSE;
  for (guint i = 0; live->disks && i < live->disks->len; i++)
    warn_of_strays(live, live->disks->pdata[i]);
  if (live->disks)
    qemu_disks_see(live->disks, qmp);
  return live->disks != NULL;
}

/* Without it, the image is of no moment if the commit had begun: its owner has to say. */
static gboolean
check_no_strays(const BackupLive *live, const CatalogueDisk *disk, GError **error)
{
  g_autoptr(GPtrArray) strays =
      qemu_overlay_strays(disk->path, monitors_prefix(live->backup->daemon->monitors));
  if (strays->len == 0)
    return TRUE;
  cbt_set_error(
      error, CBT_ERROR_STATE,
      "Commit it, or remove it if the guest was used without it: docs/external-snapshots.md says how.",
      "disk '%s' is off, and %s holds what its guest wrote during an earlier backup, in which QEMU "
      "ended",
      disk->name, (const char *) strays->pdata[0]);
  return FALSE;
}

static gboolean
look_at_rest(BackupLive *live, GError **error)
{
  const CatalogueVm *vm = live->backup->request->vm;
  live->is_off = TRUE;
  live->disks = g_ptr_array_new_with_free_func(qemu_disk_free);
  backup_live_note(live, "the guest is off: its images are read at rest");
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = vm->disks->pdata[i];
    if (!backup_request_has_disk(live->backup->request, disk->name))
      continue;
    QemuDisk *found = check_no_strays(live, disk, error) ? live_rest_look(disk, error) : NULL;
    if (!found)
      return FALSE;
    g_ptr_array_add(live->disks, found);
    if (!follow_disk(live, vm->disks->pdata[i], found, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
backup_live_look(BackupLive *live, GError **error)
{
  if (live_is_off(live->backup->request->vm->qmp))
    return look_at_rest(live, error);
  const BackupRequest *request = live->backup->request;
  g_autoptr(GHashTable) used = g_hash_table_new(NULL, NULL);
  Qmp *qmp = backup_live_open_monitor(live, error);
  gboolean ok = qmp && look(live, qmp, error);
  if (qmp)
    backup_live_close_monitor(live, qmp);
  return ok && match_known(live, used, error) &&
         (!request->vm->follows || request->disks || take_new(live, used, error));
}

/* ---- the bitmap of an image below ---- */

gboolean
backup_live_has_moved(const BackupLive *live, const BackupDisk *disk)
{
  return !live->is_off && g_hash_table_contains(live->moved, disk->disk->name);
}

/* As they are now: with the bitmap that was made just before. */
static gboolean
adopt(const BackupLive *live, Qmp *qmp, const BackupDisk *disk, const CbtUuid *base, GError **error)
{
  Monitors *monitors = live->backup->daemon->monitors;
  g_autofree char *sockets = backup_live_make_folders(live, error);
  g_autofree char *bitmap_prefix = monitors_bitmap_prefix(monitors, &disk->disk->id);
  const QemuAdoptRequest request = {.prefix = monitors_prefix(monitors),
                                    .bitmap_prefix = bitmap_prefix,
                                    .bitmap = live->backup->request->bitmap,
                                    .base = base,
                                    .socket_dir = sockets,
                                    .timeout_ms = MONITOR_TIMEOUT_MS,
                                    .cancellable = live->backup->stop,
                                    .step = live_journal_note,
                                    .user_data = live->journal};
  g_autoptr(GPtrArray) disks = sockets ? qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error) : NULL;
  const QemuDisk *found = disks ? qemu_disks_find(disks, disk->disk->node, error) : NULL;
  return found && qemu_adopt_bitmap(qmp, found, &request, error);
}

gboolean
backup_live_adopt(BackupLive *live, const BackupDisk *disk, const CbtUuid *base, GError **error)
{
  Qmp *qmp = backup_live_open_monitor(live, error);
  gboolean ok = qmp && adopt(live, qmp, disk, base, error);
  if (qmp)
    backup_live_close_monitor(live, qmp);
  if (ok)
    backup_live_note(
        live,
        "disk '%s' writes to %s now: its bitmap was taken over from an image below, with what is "
        "in those above that",
        disk->disk->name, disk->disk->path);
  return ok;
}
