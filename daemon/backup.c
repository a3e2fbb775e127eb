/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sequence of a backup, and its write order (invariant 3): packs durable, point file durable, catalogue,
 * abdicate. A failure before the catalogue's transaction reclaims; one after it leaves a frozen bitmap that
 * names the committed point, which the next backup (or the next start) lets abdicate.
 */
#include <daemon/backup-private.h>

#include <daemon/commit.h>
#include <daemon/job-log.h>
#include <daemon/json-util.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

BackupRequest *
backup_request_new(CatalogueVm *vm, gboolean incremental, const char *bitmap)
{
  BackupRequest *request = g_new0(BackupRequest, 1);
  request->vm = vm;
  request->incremental = incremental;
  request->bitmap = g_strdup(bitmap ? bitmap : "default");
  request->stop = g_cancellable_new();
  return request;
}

void
backup_request_free(BackupRequest *request)
{
  catalogue_vm_free(request->vm);
  g_free(request->bitmap);
  g_strfreev(request->disks);
  g_free(request->note);
  g_free(request->archive);
  g_object_unref(request->stop);
  g_free(request);
}

static void
backup_disk_free(gpointer data)
{
  BackupDisk *disk = data;
  g_clear_pointer(&disk->session, cbt_session_free);
  g_clear_pointer(&disk->frozen, cbt_bitmap_file_abandon);
  g_clear_pointer(&disk->zeros, cbt_bitmap_free);
  g_clear_pointer(&disk->ref, disk_ref_release);
  g_clear_pointer(&disk->source, cbt_source_close);
  g_clear_pointer(&disk->map, cbt_source_close);
  g_clear_error(&disk->error);
  g_free(disk->reason);
  g_free(disk->not_adopted);
  g_free(disk->lie);
  g_free(disk);
}

gboolean
backup_request_has_disk(const BackupRequest *request, const char *disk)
{
  return !request->disks || g_strv_contains((const char *const *) request->disks, disk);
}

static void
add_disks(Backup *backup)
{
  const CatalogueVm *vm = backup->request->vm;
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *record = g_ptr_array_index(vm->disks, i);
    JobDisk *progress = job_find_disk(backup->job, record->name);
    if (!progress)
      continue;
    BackupDisk *disk = g_new0(BackupDisk, 1);
    disk->backup = backup;
    disk->disk = record;
    disk->progress = progress;
    g_ptr_array_add(backup->disks, disk);
  }
}

static gboolean
plan_all(Backup *backup, GError **error)
{
  for (guint i = 0; i < backup->disks->len; i++)
    if (!job_check(backup->job, error) || !backup_plan_disk(g_ptr_array_index(backup->disks, i), error))
      return FALSE;
  return TRUE;
}

static void *
copy_thread(void *data)
{
  BackupDisk *disk = data;
  /* The job's own thread, which holds the guest's writes for the freeze, is not to be slowed. */
  job_give_way(disk->backup->daemon);
  if (backup_copy_disk(disk, &disk->error) && backup_end_session(disk, &disk->error) &&
      backup_audit_disk(disk, &disk->error))
    return NULL;
  if (disk->backup->live)
    backup_live_explain(disk->backup->live, disk, &disk->error);
  g_prefix_error(&disk->error, "disk '%s' (%s): ", disk->disk->name, disk->disk->path);
  g_cancellable_cancel(disk->backup->stop);
  return NULL;
}

/* The first failure that is not just the others being stopped for it. */
static GError *
first_error(Backup *backup)
{
  GError *found = NULL;
  for (guint i = 0; i < backup->disks->len; i++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    if (disk->error && (!found || g_error_matches(found, CBT_ERROR, CBT_ERROR_CANCELLED)))
      found = disk->error;
  }
  return found ? g_error_copy(found) : NULL;
}

static gboolean
copy_all(Backup *backup, GError **error)
{
  guint n_started = 0;
  for (; n_started < backup->disks->len; n_started++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, n_started);
    int failed = pthread_create(&disk->thread, NULL, copy_thread, disk);
    if (failed == 0)
      continue;
    cbt_set_error_errno(&disk->error, failed, "cannot start a thread");
    g_cancellable_cancel(backup->stop);
    break;
  }
  for (guint i = 0; i < n_started; i++)
    pthread_join(((BackupDisk *) g_ptr_array_index(backup->disks, i))->thread, NULL);
  GError *failure = first_error(backup);
  if (failure)
    g_propagate_error(error, failure);
  return failure == NULL;
}

/* ---- the recovery point
 * --------------------------------------------------------------------------------------- */

static gboolean
put_configs(Backup *backup, GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(backup->daemon->store);
  const GPtrArray *paths = backup->request->vm->configs;
  store_worker_set_pins(worker, backup->pins);
  for (guint i = 0; i < paths->len; i++) {
    const char *path = g_ptr_array_index(paths, i);
    g_autofree char *name = g_path_get_basename(path);
    gsize length;
    g_autofree char *data =
        cbt_file_read(cbt_file_ops_default(), path, STORE_CHUNK_LENGTH_MAX - 1, &length, error);
    if (!data)
      return FALSE;
    StorePointConfig *config = store_point_add_config(backup->point, name);
    config->size = length;
    if (length > 0 && !store_put(worker, STORE_CHUNK_BLOB, data, length, &config->id, NULL, NULL, error))
      return FALSE;
  }
  return TRUE;
}

static void
add_point_disk(StorePoint *point, const BackupDisk *disk)
{
  StorePointDisk *out = store_point_add_disk(point, disk->disk->name);
  out->disk_id = disk->disk->id;
  g_free(out->path);
  out->path = g_strdup(disk->disk->path);
  g_free(out->bitmap);
  out->bitmap = g_strdup(disk->backup->request->bitmap);
  out->manifest = disk->result;
  out->parent = disk->parent;
  out->reason = g_strdup(disk->reason);
  out->dirty = disk->dirty;
  out->zero = disk->tally.zero_bytes;
  out->reused = disk->tally.reused_bytes;
  out->stored = disk->tally.stored_bytes;
  if (cbt_uuid_is_nil(&point->parent))
    point->parent = disk->parent;
}

/* "disk: why; disk: why" of all disks that were not read as asked; NULL if all were. */
static char *
join_reasons(const Backup *backup)
{
  g_autoptr(GString) text = g_string_new(NULL);
  for (guint i = 0; i < backup->disks->len; i++) {
    const BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    if (disk->reason)
      g_string_append_printf(text, "%s%s: %s", text->len > 0 ? "; " : "", disk->disk->name, disk->reason);
  }
  return text->len > 0 ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

static void
fill_point(const Backup *backup)
{
  StorePoint *point = backup->point;
  point->uuid = backup->uuid;
  point->vm = g_strdup(backup->request->vm->name);
  point->time = backup->time;
  point->note = g_strdup(backup->request->note);
  point->reason = join_reasons(backup);
  point->consistency = backup->consistency;
  point->consistency_reason = g_strdup(backup->consistency_reason);
  point->frozen_ms = backup->frozen_ms;
  for (guint i = 0; i < backup->disks->len; i++)
    add_point_disk(point, g_ptr_array_index(backup->disks, i));
  point->incremental = !cbt_uuid_is_nil(&point->parent);
}

/* A base that is not noted costs a full read. */
static void
note_base(const Backup *backup, const BackupDisk *disk)
{
  const char *bitmap = backup->request->bitmap;
  g_autoptr(GError) error = NULL;
  const CatalogueBase base = {backup->uuid, disk->audit_next,
                              backup->live ? backup_live_instance(backup->live) : NULL};
  if (!catalogue_note_base(backup->daemon->catalogue, &disk->disk->id, bitmap, &base, &error))
    job_warning(backup->job, "cannot note the base of bitmap '%s': %s", bitmap, error->message);
}

static void
note_bases(gpointer data)
{
  const Backup *backup = data;
  for (guint i = 0; i < backup->disks->len; i++)
    note_base(backup, g_ptr_array_index(backup->disks, i));
}

static gboolean
commit(Backup *backup, GError **error)
{
  fill_point(backup);
  return commit_point(backup->daemon, backup->job, backup->point, note_bases, backup, error);
}

static void
abdicate_all(Backup *backup)
{
  for (guint i = 0; i < backup->disks->len; i++) {
    BackupDisk *disk = g_ptr_array_index(backup->disks, i);
    g_autoptr(GError) error = NULL;
    if (disk->is_frozen &&
        !disk_ref_apply(disk->ref, backup->request->bitmap, CBT_BITMAP_ABDICATE, NULL, NULL, &error))
      job_warning(backup->job, "disk '%s': %s; the next backup settles it", disk->disk->name, error->message);
    disk->is_frozen = FALSE;
  }
}

/* A bitmap that lied is believed no more: the next backup reads the disk again. */
static void
give_back(BackupDisk *disk)
{
  g_autoptr(GError) error = NULL;
  backup_reclaim(disk);
  if (disk->lie && !disk_ref_apply(disk->ref, disk->backup->request->bitmap, CBT_BITMAP_MARK_INCONSISTENT,
                                   NULL, disk->lie, &error))
    job_warning(disk->backup->job, "disk '%s': %s", disk->disk->name, error->message);
}

static gboolean
open_archive(Backup *backup, GError **error)
{
  if (backup->request->archive)
    backup->archive = backup_archive_new(backup, error);
  return !backup->request->archive || backup->archive;
}

static gboolean
freeze(Backup *backup, GError **error)
{
  if (backup->live)
    return backup_live_freeze(backup->live, error);
  if (!backup_quiesce_prepare(backup, NULL, error))
    return FALSE;
  backup_quiesce_freeze(backup);
  gboolean ok = backup_freeze(backup, error);
  backup_quiesce_thaw(backup);
  return ok;
}

static gboolean
copy(Backup *backup, GError **error)
{
  gboolean ok = copy_all(backup, error);
  if (ok)
    backup_flush_now(backup->flush); /* while the instant is taken out of QEMU */
  ok = ok && (!backup->live || backup_live_check(backup->live, error));
  if (backup->live)
    backup_live_end(backup->live);
  return ok;
}

static gboolean
run_steps(Backup *backup, GError **error)
{
  if (backup->live && !backup_live_look(backup->live, error))
    return FALSE;
  add_disks(backup);
  if (!put_configs(backup, error) || !plan_all(backup, error) || !open_archive(backup, error) ||
      !freeze(backup, error))
    return FALSE;
  if (backup->archive)
    backup_archive_begin(backup->archive);
  if (copy(backup, error) && commit(backup, error)) {
    abdicate_all(backup);
    return !backup->archive || backup_archive_finish(backup->archive, error);
  }
  for (guint i = 0; i < backup->disks->len; i++)
    give_back(g_ptr_array_index(backup->disks, i));
  return FALSE;
}

/* What a job of this type says beside the common members. */
static JsonNode *
make_result(const Backup *backup)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_string(builder, "consistency", store_consistency_name(backup->consistency));
  json_put_string(builder, "consistency-reason", backup->consistency_reason);
  json_put_int(builder, "frozen-ms", backup->frozen_ms);
  json_builder_set_member_name(builder, "notes");
  json_builder_begin_array(builder);
  const GPtrArray *notes = backup->live ? backup_live_notes(backup->live) : NULL;
  for (guint i = 0; notes && i < notes->len; i++)
    json_builder_add_string_value(builder, notes->pdata[i]);
  json_builder_end_array(builder);
  json_builder_end_object(builder);
  return json_finish(builder);
}

static gboolean
backup_run(Daemon *daemon, Job *job, gpointer data, GError **error)
{
  Backup backup = {.daemon = daemon, .job = job, .request = data, .uuid = cbt_uuid_generate()};
  backup.point = store_point_new();
  backup.pins = store_pins_new(daemon->store);
  backup.stop = backup.request->stop;
  backup.disks = g_ptr_array_new_with_free_func(backup_disk_free);
  backup.flush = backup_flush_new(daemon);
  throttle_init(&backup.throttle, backup.request->speed);
  if (catalogue_vm_is_live(backup.request->vm))
    backup.live = backup_live_new(&backup);

  gboolean ok = store_reserve_check(daemon->store_reserve, error) && run_steps(&backup, error);
  if (!ok)
    store_reserve_explain(daemon->store_reserve, error);

  job->result = make_result(&backup);
  backup_archive_free(backup.archive);
  backup_live_free(backup.live);
  g_free(backup.consistency_reason);
  g_ptr_array_unref(backup.disks);
  backup_flush_free(backup.flush);
  throttle_clear(&backup.throttle);
  store_pins_free(backup.pins);
  store_point_free(backup.point);
  return ok;
}

static void
on_job_cancelled(GCancellable *cancellable G_GNUC_UNUSED, gpointer stop)
{
  g_cancellable_cancel(stop);
}

/* Here, on the main thread, and not in the job's: GLib's table of all handlers is under a lock of its own
 * that race detectors do not see. */
static void
stop_with(BackupRequest *request, GCancellable *cancellable)
{
  g_cancellable_connect(cancellable, G_CALLBACK(on_job_cancelled), g_object_ref(request->stop),
                        g_object_unref);
}

Job *
backup_job_new(BackupRequest *request, GError **error)
{
  const CatalogueVm *vm = request->vm;
  for (char **name = request->disks; name && *name; name++) {
    gboolean found = FALSE;
    for (guint i = 0; i < vm->disks->len; i++)
      found |= strcmp(((CatalogueDisk *) g_ptr_array_index(vm->disks, i))->name, *name) == 0;
    if (!found) {
      g_autofree char *hint = g_strdup_printf("See: cbt-backup vm show %s", vm->name);
      cbt_set_error(error, CBT_ERROR_NOT_FOUND, hint, "vm '%s' has no disk '%s'", vm->name, *name);
      backup_request_free(request);
      return NULL;
    }
  }
  Job *job = job_new(JOB_BACKUP, vm->name, request->incremental ? "incremental" : "full", backup_run, request,
                     (GDestroyNotify) backup_request_free);
  stop_with(request, job->cancellable);
  job_add_vm_in_use(job, vm->name);
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    if (backup_request_has_disk(request, disk->name))
      job_add_disk(job, disk->name);
  }
  return job;
}
