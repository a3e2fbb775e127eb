/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One instant for all disks: hold all, begin all, let all go. The memory of the sessions is made before the
 * hold, so that what happens under it is a few messages. If a hold ended by itself before its disk began,
 * everything is undone and tried again.
 */
#include <daemon/backup-private.h>

#include <daemon/job-log.h>

#define HOLD_TIMEOUT_MS 2000
#define MAX_ATTEMPTS    3

static gboolean
call(BackupDisk *disk, CbtControlOp op, CbtSession *session, CbtControlReply *reply, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, op, disk->backup->request->bitmap);
  request.pending = disk->backup->uuid;
  request.timeout_ms = HOLD_TIMEOUT_MS;
  request.whole = !disk->changes_only;
  return disk_ref_call(disk->ref, &request, session, reply, error);
}

gboolean
backup_end_session(BackupDisk *disk, GError **error)
{
  g_autoptr(CbtSession) session = g_steal_pointer(&disk->session);
  return !session || call(disk, CBT_CONTROL_END, NULL, NULL, error);
}

void
backup_reclaim(BackupDisk *disk)
{
  g_autoptr(GError) end_error = NULL;
  g_autoptr(GError) error = NULL;
  if (!backup_end_session(disk, &end_error))
    g_debug("disk '%s': %s", disk->disk->name, end_error->message);
  disk->changes = NULL;
  g_clear_pointer(&disk->frozen, cbt_bitmap_file_abandon);
  if (disk->is_frozen &&
      !disk_ref_apply(disk->ref, disk->backup->request->bitmap, CBT_BITMAP_RECLAIM, NULL, NULL, &error))
    job_warning(disk->backup->job, "disk '%s': %s; the next backup settles it", disk->disk->name,
                error->message);
  disk->is_frozen = FALSE;
}

static gboolean
make_sessions(Backup *backup, GError **error)
{
  const DaemonConfig *config = backup->daemon->config;
  for (guint i = 0; i < backup->disks->len; i++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    if (!disk_ref_is_exported(disk->ref) || disk->session)
      continue;
    disk->session = cbt_session_new(disk->size, config->fleece_dir, config->fleece_limit, error);
    if (!disk->session)
      return FALSE;
  }
  return TRUE;
}

static gboolean
hold_all(Backup *backup, GError **error)
{
  for (guint i = 0; i < backup->disks->len; i++)
    if (!call(g_ptr_array_index(backup->disks, i), CBT_CONTROL_HOLD, NULL, NULL, error))
      return FALSE;
  return TRUE;
}

static gboolean
begin_all(Backup *backup, GError **error)
{
  backup->time = g_get_real_time();
  for (guint i = 0; i < backup->disks->len; i++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    if (!call(disk, CBT_CONTROL_BEGIN, disk->session, NULL, error))
      return FALSE;
    disk->is_frozen = TRUE;
  }
  return TRUE;
}

static void
release_all(Backup *backup)
{
  for (guint i = 0; i < backup->disks->len; i++) {
    CbtControlReply reply;
    if (call(g_ptr_array_index(backup->disks, i), CBT_CONTROL_RELEASE, NULL, &reply, NULL))
      backup->job->hold_us = MAX(backup->job->hold_us, reply.value);
  }
}

static gboolean
open_frozen_bitmaps(Backup *backup, GError **error)
{
  for (guint i = 0; i < backup->disks->len; i++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    if (!disk->changes_only)
      continue;
    g_autofree char *path = disk_ref_bitmap_path(disk->ref, backup->request->bitmap);
    disk->frozen = cbt_bitmap_file_open_readonly(path, error);
    if (!disk->frozen)
      return FALSE;
    disk->changes = cbt_bitmap_file_parent(disk->frozen);
  }
  return TRUE;
}

static void
undo_all(Backup *backup)
{
  for (guint i = 0; i < backup->disks->len; i++)
    backup_reclaim(g_ptr_array_index(backup->disks, i));
}

static gboolean
freeze_once(Backup *backup, GError **error)
{
  gboolean ok = make_sessions(backup, error);
  if (ok) {
    ok = hold_all(backup, error) && begin_all(backup, error);
    release_all(backup);
  }
  if (ok && open_frozen_bitmaps(backup, error))
    return TRUE;
  undo_all(backup);
  return FALSE;
}

/* A hold that ended by itself, or writes that took too long to drain. */
static gboolean
may_go_better(const GError *error)
{
  return g_error_matches(error, CBT_ERROR, CBT_ERROR_STATE) ||
         g_error_matches(error, CBT_ERROR, CBT_ERROR_BUSY);
}

gboolean
backup_freeze(Backup *backup, GError **error)
{
  for (guint attempt = 1;; attempt++) {
    g_autoptr(GError) local = NULL;
    if (freeze_once(backup, &local))
      return TRUE;
    if (attempt == MAX_ATTEMPTS || !may_go_better(local)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    job_message(backup->job, "vm '%s': %s; trying again", backup->request->vm->name, local->message);
  }
}
