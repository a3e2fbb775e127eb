/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an incremental may trust: the bitmap must be good, be based on the point that the catalogue says it
 * should be, and that point must still have the disk in the same size. Whatever is missing is named, and the
 * disk is read again as a whole; the store then keeps only what differs.
 */
#include <daemon/backup-private.h>

#include <cbt/image-use.h>
#include <daemon/durable.h>
#include <daemon/leases.h>
#include <string.h>

#define DEFAULT_BITMAP "default"

/* What the main thread looks up in the catalogue. */
typedef struct {
  Daemon *daemon;
  const BackupDisk *disk;
  const CbtUuid *uuid; /* for point_exists */
  guint64 audit_next;
  CbtUuid expected_base; /* nil: this bitmap never had one */
  StorePoint *base;      /* the point of expected_base; NULL if it is gone */
  StorePoint *latest;    /* newest point with this disk; NULL if there is none */
  gboolean point_exists;
  GError *error;
} Lookup;

static StorePoint *
latest_point_with_disk(Lookup *lookup)
{
  const CatalogueDisk *disk = lookup->disk->disk;
  g_autoptr(GError) local = NULL;
  StorePoint *point = catalogue_latest_point_of_disk(
      lookup->daemon->catalogue, lookup->disk->backup->request->vm->name, disk->name, &disk->id, &local);
  if (!point && !g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    g_propagate_error(&lookup->error, g_steal_pointer(&local));
  return point;
}

static void
look_up_base(gpointer data)
{
  Lookup *lookup = data;
  Catalogue *catalogue = lookup->daemon->catalogue;
  g_autoptr(GError) gone = NULL;
  if (!catalogue_get_base(catalogue, &lookup->disk->disk->id, lookup->disk->backup->request->bitmap,
                          &lookup->expected_base, &lookup->error) ||
      !catalogue_get_audit(catalogue, &lookup->disk->disk->id, lookup->disk->backup->request->bitmap,
                           &lookup->audit_next, &lookup->error))
    return;
  if (!cbt_uuid_is_nil(&lookup->expected_base))
    lookup->base = catalogue_get_point(catalogue, &lookup->expected_base, &gone);
  if (lookup->base) /* its manifest is built on: it must not go meanwhile */
    job_add_point_in_use(lookup->disk->backup->job, &lookup->expected_base);
  lookup->latest = latest_point_with_disk(lookup);
}

static void
look_up_point(gpointer data)
{
  Lookup *lookup = data;
  g_autoptr(StorePoint) point = catalogue_get_point(lookup->daemon->catalogue, lookup->uuid, &lookup->error);
  lookup->point_exists = point != NULL;
  if (g_error_matches(lookup->error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    g_clear_error(&lookup->error);
}

typedef struct {
  Daemon *daemon;
  const CbtUuid *disk_id;
  const char *bitmap;
  const CbtUuid *base;
  gboolean ok;
  GError *error;
} BaseUpdate;

static void
update_base(gpointer data)
{
  BaseUpdate *update = data;
  update->ok = catalogue_set_base(update->daemon->catalogue, update->disk_id, update->bitmap, update->base,
                                  &update->error);
}

gboolean
backup_settle_bitmap(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
                     GError **error)
{
  if (info->state != CBT_BITMAP_FROZEN)
    return TRUE;
  if (lease_is_by_hand(info))
    return leases_check_free(daemon, ref, disk, info, error);
  Lookup lookup = {.daemon = daemon, .uuid = &info->pending};
  main_queue_call(daemon->queue, look_up_point, &lookup);
  if (lookup.error) {
    g_propagate_error(error, lookup.error);
    return FALSE;
  }
  if (lookup.point_exists) {
    BaseUpdate update = {daemon, &disk->id, info->name, &info->pending, FALSE, NULL};
    durable_call(daemon, update_base, &update);
    if (!update.ok) {
      g_propagate_error(error, update.error);
      return FALSE;
    }
  }
  CbtBitmapEvent event = lookup.point_exists ? CBT_BITMAP_ABDICATE : CBT_BITMAP_RECLAIM;
  g_message("bitmap '%s' of disk '%s' was left frozen: %s", info->name, disk->name,
            cbt_bitmap_event_name(event));
  return disk_ref_apply(ref, info->name, event, NULL, NULL, error) &&
         disk_ref_info(ref, info->name, info, error);
}

/* The bitmap of the request; `default` is made when it is missing. */
static gboolean
get_bitmap(BackupDisk *disk, CbtBitmapInfo *info, GError **error)
{
  const char *name = disk->backup->request->bitmap;
  g_autoptr(GError) local = NULL;
  if (disk_ref_info(disk->ref, name, info, &local))
    return TRUE;
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND) || strcmp(name, DEFAULT_BITMAP) != 0) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_ADD, name);
  request.granularity = disk->disk->granularity;
  disk->was_missing = TRUE;
  g_clear_error(&local);
  if (disk_ref_call(disk->ref, &request, NULL, NULL, &local))
    return disk_ref_info(disk->ref, name, info, error);
  if (disk->backup->live && g_error_matches(local, CBT_ERROR, CBT_ERROR_UNSUPPORTED)) {
    /* A raw image at rest has no bitmaps, and needs none: it is read as a whole. */
    *info = (CbtBitmapInfo){.state = CBT_BITMAP_ACTIVE};
    g_strlcpy(info->name, name, sizeof info->name);
    return TRUE;
  }
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

/* NULL if the bitmap can be used; else why not (transfer full). */
static char *
why_not_changes(const BackupDisk *disk, const CbtBitmapInfo *info, const Lookup *lookup)
{
  if (disk->not_adopted)
    return g_strdup_printf(
        "the disk has another image than at the latest backup, and bitmap '%s' could not be "
        "taken over from one below it: %s",
        info->name, disk->not_adopted);
  if (disk->was_missing)
    return g_strdup_printf(
        "bitmap '%s' was gone%s", info->name,
        disk->backup->live ? ": QEMU ended (a raw image keeps none), or somebody removed it" : "");
  if (cbt_uuid_is_nil(&info->base) || info->state == CBT_BITMAP_INCONSISTENT)
    return g_strdup_printf("bitmap '%s': %s", info->name, *info->reason ? info->reason : "it has no base");
  if (!cbt_uuid_equal(&info->base, &lookup->expected_base))
    return g_strdup_printf("bitmap '%s' is of another state than the catalogue knows", info->name);
  if (!lookup->base)
    return g_strdup_printf("the recovery point that bitmap '%s' builds on is gone", info->name);
  const StorePointDisk *base = store_point_find_disk(lookup->base, disk->disk->name);
  if (!base || !cbt_uuid_equal(&base->disk_id, &disk->disk->id))
    return g_strdup("the earlier recovery point does not have this disk");
  if (base->manifest.size != disk->size)
    return g_strdup_printf("its size changed from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT " bytes",
                           base->manifest.size, disk->size);
  return NULL;
}

static void
decide(BackupDisk *disk, const CbtBitmapInfo *info, Lookup *lookup)
{
  if (!disk->backup->request->incremental)
    return;
  StorePoint *earlier = lookup->base ? lookup->base : lookup->latest;
  if (cbt_uuid_is_nil(&lookup->expected_base) || !earlier) {
    disk->reason = lookup->latest ? g_strdup_printf("no backup on bitmap '%s' yet", info->name)
                                  : g_strdup("no earlier recovery point of this disk");
    return;
  }
  disk->parent = earlier->uuid;
  disk->reason = why_not_changes(disk, info, lookup);
  disk->changes_only = disk->reason == NULL;
  if (disk->changes_only)
    disk->base = store_point_find_disk(earlier, disk->disk->name)->manifest;
}

static gboolean
check_same_image(const BackupDisk *disk, const CbtBitmapInfo *info, GError **error)
{
  CbtDiskIdentity here;
  const CbtDiskIdentity *owner = disk_ref_identity(disk->ref);
  if (!cbt_disk_identity_from_fd(cbt_source_fd(disk->source, FALSE), &disk->disk->id, &here, error))
    return FALSE;
  /* The owner looks at its image anew; the bitmap has the size that is tracked. */
  if (here.device == owner->device && here.inode == owner->inode && here.size == info->size)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE,
                "Stop the export and start it again to serve the image that is there now.",
                "%s was replaced or resized while it is exported", disk->disk->path);
  return FALSE;
}

static gboolean
check_enabled(const BackupDisk *disk, const CbtBitmapInfo *info, GError **error)
{
  if (info->state != CBT_BITMAP_DISABLED)
    return TRUE;
  g_autofree char *target = disk_ref_target(disk->ref, info->name);
  g_autofree char *hint = g_strdup_printf("Enable it with: cbt-backup bitmap enable %s", target);
  cbt_set_error(error, CBT_ERROR_STATE, hint, "bitmap '%s' of disk '%s' is disabled", info->name,
                disk->disk->name);
  return FALSE;
}

/* A guest that writes past an export: what is read would be of no instant, and what changes is not recorded.
 */
static gboolean
check_not_written(const BackupDisk *disk, GError **error)
{
  const char *vm = disk->backup->request->vm->name;
  if (disk_ref_is_exported(disk->ref))
    return TRUE;
  g_autofree char *hint = g_strdup_printf(
      "Shut the guest down, or connect it to the tracked export: cbt-backup export start %s", vm);
  return cbt_image_check_use(cbt_source_fd(disk->source, FALSE), disk->disk->path, CBT_IMAGE_READ, hint,
                             error);
}

/* In this order: what was written before the tracker looked at the image, it knows of. */
static gboolean
open_image(BackupDisk *disk, CbtBitmapInfo *info, GError **error)
{
  disk->source = cbt_source_open_file(disk->disk->path, error);
  if (!disk->source || !check_not_written(disk, error))
    return FALSE;
  disk->size = disk->source->size;
  return get_bitmap(disk, info, error) && check_same_image(disk, info, error);
}

/* What is wrong with QEMU's bitmaps was noted as the reason; sound ones take their place. */
static gboolean
settle_inconsistent(BackupDisk *disk, const CbtBitmapInfo *info, GError **error)
{
  return info->state != CBT_BITMAP_INCONSISTENT ||
         disk_ref_apply(disk->ref, info->name, CBT_BITMAP_MARK_INCONSISTENT, NULL, NULL, error);
}

/* FALSE if that is the end of the backup; that the bitmap cannot be had is not. */
static gboolean
adopt_from_below(BackupDisk *disk, const Lookup *lookup, CbtBitmapInfo *info, GError **error)
{
  const Backup *backup = disk->backup;
  g_autoptr(GError) local = NULL;
  if (!disk->was_missing || !backup->request->incremental || !lookup->base ||
      !backup_live_has_moved(backup->live, disk))
    return TRUE;
  if (backup_live_adopt(backup->live, disk, &lookup->expected_base, &local)) {
    disk->was_missing = FALSE;
    return disk_ref_info(disk->ref, info->name, info, error);
  }
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_CANCELLED)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  disk->not_adopted = cbt_error_message(local);
  return TRUE;
}

gboolean
backup_plan_disk(BackupDisk *disk, GError **error)
{
  Daemon *daemon = disk->backup->daemon;
  CbtBitmapInfo info;
  disk->ref = disks_acquire(daemon->disks, disk->backup->request->vm->name, disk->disk, error);
  if (!disk->ref || !(disk->backup->live ? get_bitmap(disk, &info, error) : open_image(disk, &info, error)) ||
      !backup_settle_bitmap(daemon, disk->ref, disk->disk, &info, error) ||
      !check_enabled(disk, &info, error))
    return FALSE;
  if (disk->backup->live)
    disk->size = disk->disk->size;
  disk->progress->total = disk->size;
  Lookup lookup = {.daemon = daemon, .disk = disk};
  main_queue_call(daemon->queue, look_up_base, &lookup);
  disk->audit_next = lookup.audit_next;
  if (!lookup.error && (!disk->backup->live || adopt_from_below(disk, &lookup, &info, &lookup.error)))
    decide(disk, &info, &lookup);
  g_clear_pointer(&lookup.base, store_point_free);
  g_clear_pointer(&lookup.latest, store_point_free);
  if (lookup.error) {
    g_propagate_error(error, lookup.error);
    return FALSE;
  }
  return !disk->backup->live || settle_inconsistent(disk, &info, error);
}
