/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backup of disks that a running QEMU has: they are looked for, the instant is QEMU's (cbt/qemu/instant.h),
 * and the bytes come over NBD. All else is as with any other disk.
 *
 * What is done to QEMU is journalled: the first step durably before it is taken, the others behind it, for
 * the guest may stand still meanwhile. A vm that is in the journal is looked at when the daemon starts, and
 * any vm at its next backup.
 */
#include <daemon/backup-live-private.h>

#include <cbt/qemu/bitmaps.h>
#include <cbt/qemu/image-trust.h>
#include <cbt/qemu/instant.h>
#include <cbt/qemu/nbd-source.h>
#include <cbt/qemu/offline.h>
#include <daemon/engine.h>
#include <daemon/job-log.h>
#include <daemon/live-journal.h>
#include <daemon/live-rest.h>
#include <daemon/monitors.h>
#include <errno.h>
#include <string.h>

#define READY_INTERVAL_MS    100
#define LIVE_READ_TIMEOUT_MS 60000 /* without any progress */
#define COMMIT_STALL_MS      60000

BackupLive *
backup_live_new(Backup *backup)
{
  BackupLive *live = g_new0(BackupLive, 1);
  live->backup = backup;
  live->journal = live_journal_new(backup->daemon, backup->request->vm->name, backup->job->id);
  live->names = g_ptr_array_new_with_free_func(g_free);
  live->notes = g_ptr_array_new_with_free_func(g_free);
  live->moved = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  live->servers = g_ptr_array_new_with_free_func((GDestroyNotify) qemu_offline_stop);
  return live;
}

void
backup_live_free(BackupLive *live)
{
  if (!live)
    return;
  g_clear_pointer(&live->instant, qemu_instant_free);
  g_clear_pointer(&live->disks, g_ptr_array_unref);
  g_ptr_array_unref(live->servers);
  g_ptr_array_unref(live->names);
  g_hash_table_unref(live->moved);
  g_free(live->instance);
  live_journal_free(live->journal);
  g_ptr_array_unref(live->notes);
  g_free(live);
}

void
backup_live_note(BackupLive *live, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  char *text = g_strdup_vprintf(format, args);
  va_end(args);
  job_message(live->backup->job, "vm '%s': %s", live->backup->request->vm->name, text);
  g_ptr_array_add(live->notes, text);
}

Qmp *
backup_live_open_monitor(const BackupLive *live, GError **error)
{
  const Backup *backup = live->backup;
  return monitors_open(backup->daemon->monitors, backup->request->vm->qmp, backup->stop, error);
}

void
backup_live_close_monitor(const BackupLive *live, Qmp *qmp)
{
  monitors_close(live->backup->daemon->monitors, qmp);
}

/* ---- the instant ---- */

/* Since it was looked at, somebody may have cleared it, or made another one of that name. */
static gboolean
check_bitmap(const BackupDisk *disk, const char *prefix, const char *parent, GError **error)
{
  const char *bitmap = disk->backup->request->bitmap;
  g_autofree char *expected = disk->changes_only ? qemu_bitmap_name(prefix, bitmap, &disk->parent) : NULL;
  if (parent && (!expected || strcmp(parent, expected) == 0))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, "Run the backup again.",
                "bitmap '%s' of disk '%s' was changed just now", bitmap, disk->disk->name);
  return FALSE;
}

/* The bitmaps as they are now: NAMES keeps what OUT says. */
static gboolean
plan_disk(BackupLive *live, const BackupDisk *disk, QemuInstantDisk *out, GError **error)
{
  const char *bitmap = live->backup->request->bitmap;
  g_autofree char *prefix = monitors_bitmap_prefix(live->backup->daemon->monitors, &disk->disk->id);
  char *recorder = qemu_bitmap_name(prefix, bitmap, &live->backup->uuid);
  g_ptr_array_add(live->names, recorder);
  out->disk = qemu_disks_find(live->disks, disk->disk->node, error);
  if (!out->disk)
    return FALSE;
  out->frozen = qemu_bitmaps_parent(out->disk, prefix, bitmap);
  out->changes_of = disk->changes_only ? out->frozen : NULL;
  out->recorder = recorder;
  out->granularity =
      out->frozen ? qemu_disk_bitmap(out->disk, out->frozen)->granularity : disk->disk->granularity;
  return check_bitmap(disk, prefix, out->frozen, error);
}

static gboolean
plan_all(BackupLive *live, Qmp *qmp, QemuInstantDisk *disks, GError **error)
{
  const GPtrArray *backed_up = live->backup->disks;
  g_clear_pointer(&live->disks, g_ptr_array_unref);
  live->disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
  for (guint i = 0; live->disks && i < backed_up->len; i++)
    if (!plan_disk(live, backed_up->pdata[i], &disks[i], error))
      return FALSE;
  return live->disks != NULL;
}

char *
backup_live_make_folders(const BackupLive *live, GError **error)
{
  const DaemonConfig *config = live->backup->daemon->config;
  char *sockets = g_build_filename(config->runtime_dir, "live", live->backup->request->vm->name, NULL);
  if (g_mkdir_with_parents(sockets, 0700) == 0 && g_mkdir_with_parents(config->fleece_dir, 0700) == 0)
    return sockets;
  cbt_set_error_errno(error, errno, "cannot make the folders %s and %s", sockets, config->fleece_dir);
  g_clear_pointer(&sockets, g_free);
  return NULL;
}

static gboolean
prepare(BackupLive *live, Qmp *qmp, GError **error)
{
  const Backup *backup = live->backup;
  const DaemonConfig *config = backup->daemon->config;
  g_autofree QemuInstantDisk *disks = g_new0(QemuInstantDisk, backup->disks->len);
  g_autofree char *sockets = backup_live_make_folders(live, error);
  QemuInstantOptions options = {.prefix = monitors_prefix(backup->daemon->monitors),
                                .scratch_dir = config->fleece_dir,
                                .scratch_limit = config->fleece_limit,
                                .socket_dir = sockets,
                                .timeout_ms = MONITOR_TIMEOUT_MS,
                                .step = live_journal_note,
                                .user_data = live->journal};
  const char *way = backup->request->is_external ? qemu_way_name(QEMU_WAY_EXTERNAL) : config->qemu_way;
  if (!sockets || !qemu_way_parse(way, &options.way, error) || !plan_all(live, qmp, disks, error))
    return FALSE;
  live->instant = qemu_instant_prepare(qmp, disks, backup->disks->len, &options, error);
  return live->instant != NULL;
}

/* Of QEMU's disks those that are backed up (transfer container). */
static GPtrArray *
backed_up_disks(const BackupLive *live)
{
  GPtrArray *disks = g_ptr_array_new();
  for (guint i = 0; i < live->backup->disks->len; i++) {
    const BackupDisk *disk = live->backup->disks->pdata[i];
    QemuDisk *found = qemu_disks_find(live->disks, disk->disk->node, NULL);
    if (found)
      g_ptr_array_add(disks, found);
  }
  return disks;
}

/* All that takes time is done before the guest's file systems stand still. */
static gboolean
take(BackupLive *live, Qmp *qmp, GError **error)
{
  Backup *backup = live->backup;
  g_autoptr(GPtrArray) disks = backed_up_disks(live);
  if (!backup_quiesce_prepare(backup, disks, error))
    return FALSE;
  backup_quiesce_freeze(backup);
  gboolean ok = qemu_instant_take(live->instant, qmp, error);
  backup_quiesce_thaw(backup);
  if (!ok)
    return FALSE;
  backup->time = qemu_instant_time_us(live->instant);
  backup->job->hold_us = (guint64) qemu_instant_pause_us(live->instant);
  for (guint i = 0; i < backup->disks->len; i++)
    ((BackupDisk *) backup->disks->pdata[i])->is_frozen = TRUE;
  return qemu_instant_offer(live->instant, qmp, error);
}

void
backup_live_explain(const BackupLive *live, const BackupDisk *disk, GError **error)
{
  const GPtrArray *disks = live->backup->disks;
  for (guint i = 0; live->instant && i < disks->len; i++)
    if (disks->pdata[i] == disk)
      qemu_instant_explain(live->instant, i, error);
}

static void
explain_any(const BackupLive *live, GError **error)
{
  const GPtrArray *disks = live->backup->disks;
  for (guint i = 0; i < disks->len && cbt_error_code(*error) == CBT_ERROR_IO; i++) {
    const BackupDisk *disk = disks->pdata[i];
    backup_live_explain(live, disk, error);
    if (cbt_error_code(*error) == CBT_ERROR_NO_SPACE)
      g_prefix_error(error, "disk '%s' (%s): ", disk->disk->name, disk->disk->path);
  }
}

/* Where QEMU pushes the bytes to us, they have to be here. */
static gboolean
wait_until_ready(BackupLive *live, GError **error)
{
  gboolean is_ready = FALSE;
  while (!is_ready) {
    if (!job_check(live->backup->job, error))
      return FALSE;
    Qmp *qmp = backup_live_open_monitor(live, error);
    gboolean ok = qmp && qemu_instant_ready(live->instant, qmp, &is_ready, NULL, NULL, error) &&
                  (is_ready || qmp_pause(qmp, READY_INTERVAL_MS, error));
    if (qmp)
      backup_live_close_monitor(live, qmp);
    if (!ok) {
      explain_any(live, error);
      return FALSE;
    }
  }
  return TRUE;
}

/* The image that stands still, where it can be read without QEMU; else NULL. */
static CbtSource *
open_file(BackupLive *live, guint i)
{
  g_autoptr(GError) local = NULL;
  const BackupDisk *disk = live->backup->disks->pdata[i];
  const char *path = qemu_instant_file(live->instant, i);
  g_autoptr(CbtSource) source = path ? cbt_source_open_file(path, &local) : NULL;
  if (source && source->size == disk->size) {
    backup_live_note(live, "disk '%s' is read from %s", disk->disk->name, path);
    return g_steal_pointer(&source);
  }
  if (path)
    backup_live_note(live, "disk '%s' is read through QEMU: %s", disk->disk->name,
                     local ? local->message : "its image has another size than the disk");
  return NULL;
}

static gboolean
check_size(const BackupDisk *disk, const CbtSource *source, GError **error)
{
  if (source->size == disk->size)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, "Run the backup again.", "disk '%s' was resized just now",
                disk->disk->name);
  return FALSE;
}

/* Over NBD come the bytes, unless they are read from a file already, and what changed. */
static gboolean
open_nbd(BackupLive *live, BackupDisk *disk, const char *uri, const char *bitmap, GError **error)
{
  const QemuNbdSourceOptions options = {.uri = uri, .bitmap = bitmap, .timeout_ms = LIVE_READ_TIMEOUT_MS};
  CbtSource *export = qemu_nbd_source_open(&options, live->backup->stop, error);
  *(disk->source ? &disk->map : &disk->source) = export;
  if (!export || !check_size(disk, export, error))
    return FALSE;
  if (disk->changes_only)
    disk->changes = qemu_nbd_source_changes(export);
  return TRUE;
}

static gboolean
open_source(BackupLive *live, guint i, GError **error)
{
  BackupDisk *disk = live->backup->disks->pdata[i];
  disk->source = open_file(live, i);
  if ((disk->source && !disk->changes_only) ||
      open_nbd(live, disk, qemu_instant_uri(live->instant, i), qemu_instant_bitmap(live->instant, i), error))
    return TRUE;
  backup_live_explain(live, disk, error);
  g_prefix_error(error, "disk '%s' (%s): ", disk->disk->name, disk->disk->path);
  return FALSE;
}

/* A raw image has no bitmaps while no QEMU has it, and is read directly. */
static gboolean
open_at_rest(BackupLive *live, BackupDisk *disk, const char *sockets, GError **error)
{
  const CatalogueDisk *record = disk->disk;
  if (g_strcmp0(record->format, "raw") == 0) {
    disk->source = cbt_source_open_file(record->path, error);
    return disk->source && qemu_image_check_name(cbt_source_fd(disk->source, FALSE), record->path, error);
  }
  const char *bitmap = live->backup->request->bitmap;
  g_autofree char *prefix = monitors_bitmap_prefix(live->backup->daemon->monitors, &record->id);
  QemuDisk *found = live_rest_look(record, error);
  g_autofree char *parent = found ? g_strdup(qemu_bitmaps_parent(found, prefix, bitmap)) : NULL;
  g_clear_pointer(&found, qemu_disk_free);
  if (!check_bitmap(disk, prefix, parent, error) ||
      !disk_ref_apply(disk->ref, bitmap, CBT_BITMAP_CREATE_SUCCESSOR, &live->backup->uuid, NULL, error))
    return FALSE;
  disk->is_frozen = TRUE;
  QemuOffline *server = qemu_offline_serve(record->path, record->format, disk->changes_only ? parent : NULL,
                                           sockets, live->backup->stop, error);
  if (!server)
    return FALSE;
  g_ptr_array_add(live->servers, server);
  return open_nbd(live, disk, qemu_offline_uri(server), disk->changes_only ? parent : NULL, error);
}

static gboolean
freeze_at_rest(BackupLive *live, GError **error)
{
  const Backup *backup = live->backup;
  g_autofree char *sockets = backup_live_make_folders(live, error);
  live->backup->time = g_get_real_time();
  if (!sockets)
    return FALSE;
  for (guint i = 0; i < backup->disks->len; i++)
    if (!open_at_rest(live, backup->disks->pdata[i], sockets, error))
      return FALSE;
  return TRUE;
}

gboolean
backup_live_check(BackupLive *live, GError **error)
{
  for (guint i = 0; i < live->servers->len; i++) {
    gboolean changed = FALSE;
    if (!qemu_offline_check_changed(live->servers->pdata[i], &changed, error))
      return FALSE;
    if (changed) {
      cbt_set_error(error, CBT_ERROR_STATE, "Run the backup again.",
                    "an image of vm '%s' was written by another program while it was read",
                    live->backup->request->vm->name);
      return FALSE;
    }
  }
  return TRUE;
}

static void
give_back_all(BackupLive *live)
{
  for (guint i = 0; i < live->backup->disks->len; i++)
    backup_reclaim(live->backup->disks->pdata[i]);
}

static gboolean
freeze_running(BackupLive *live, GError **error)
{
  Qmp *qmp = backup_live_open_monitor(live, error);
  gboolean ok = qmp && prepare(live, qmp, error) && take(live, qmp, error);
  if (qmp)
    backup_live_close_monitor(live, qmp);
  if (live->instant)
    backup_live_note(live, "%s", qemu_instant_why(live->instant));
  ok = ok && wait_until_ready(live, error);
  for (guint i = 0; ok && i < live->backup->disks->len; i++)
    ok = open_source(live, i, error);
  return ok;
}

static gboolean
look_before(BackupLive *live, GError **error)
{
  g_autofree char *sockets = backup_live_make_folders(live, error);
  if (!sockets)
    return FALSE;
  for (guint i = 0; i < live->backup->disks->len; i++)
    if (!backup_trust_look(live->backup->disks->pdata[i], live->instance, sockets, error))
      return FALSE;
  return TRUE;
}

/* *again if a bitmap turned out to lie: the disk is to be read as a whole, of another instant. */
static gboolean
freeze_once(BackupLive *live, gboolean *again, GError **error)
{
  *again = FALSE;
  if (!look_before(live, error) ||
      !(live->is_off ? freeze_at_rest(live, error) : freeze_running(live, error)))
    return FALSE;
  for (guint i = 0; i < live->backup->disks->len; i++) {
    gboolean lies;
    if (!backup_trust_check(live->backup->disks->pdata[i], &lies, error))
      return FALSE;
    *again |= lies;
  }
  return TRUE;
}

gboolean
backup_live_freeze(BackupLive *live, GError **error)
{
  gboolean again = TRUE, ok = TRUE;
  while (ok && again) {
    ok = freeze_once(live, &again, error);
    if (!ok || again) {
      backup_live_end(live);
      give_back_all(live);
    }
  }
  return ok;
}

/* A QEMU that hangs is not waited for once more a disk: the next backup settles its bitmaps. */
static void
leave_frozen(BackupLive *live)
{
  for (guint i = 0; i < live->backup->disks->len; i++)
    ((BackupDisk *) live->backup->disks->pdata[i])->is_frozen = FALSE;
}

/* Also when the job was cancelled. A commit may take long: others may speak to QEMU between two looks at it,
 * and the end of the daemon is not kept waiting, for it goes on in QEMU, and the journal has the vm. */
static gboolean
end_instant(BackupLive *live, GError **error)
{
  Daemon *daemon = live->backup->daemon;
  gint64 moved_us = g_get_monotonic_time();
  for (guint64 before = 0;;) {
    guint64 committed = 0;
    g_autoptr(GError) local = NULL;
    Qmp *qmp = monitors_open(daemon->monitors, live->backup->request->vm->qmp, NULL, &local);
    gboolean ok = qmp && qemu_instant_end_within(live->instant, qmp, READY_INTERVAL_MS, &committed, &local);
    if (qmp)
      monitors_close(daemon->monitors, qmp);
    if (ok)
      return TRUE;
    if (committed != before)
      moved_us = g_get_monotonic_time();
    before = committed;
    if (!committed || engine_is_stopping(daemon->engine) ||
        g_get_monotonic_time() - moved_us >= COMMIT_STALL_MS * G_GINT64_CONSTANT(1000)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    g_usleep(READY_INTERVAL_MS * 1000);
  }
}

/* What is left in QEMU if this fails, the next backup takes away: nothing of it is needed any more. */
void
backup_live_end(BackupLive *live)
{
  g_autoptr(GError) error = NULL;
  for (guint i = 0; i < live->backup->disks->len; i++) {
    BackupDisk *disk = live->backup->disks->pdata[i];
    disk->changes = NULL;
    g_clear_pointer(&disk->source, cbt_source_close);
    g_clear_pointer(&disk->map, cbt_source_close);
  }
  g_ptr_array_set_size(live->servers, 0);
  if (!live->instant)
    return;
  if (end_instant(live, &error))
    live_journal_forget(live->journal);
  if (error)
    backup_live_note(live, "not all of the backup could be taken out of QEMU, the next one does that: %s",
                     error->message);
  if (g_error_matches(error, CBT_ERROR, CBT_ERROR_UNREACHABLE))
    leave_frozen(live);
  g_clear_pointer(&live->instant, qemu_instant_free);
}

const char *
backup_live_instance(const BackupLive *live)
{
  return live->instance;
}

const GPtrArray *
backup_live_notes(const BackupLive *live)
{
  return live->notes;
}
