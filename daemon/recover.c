/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A point is committed when its file is durable and the catalogue has it. A daemon that died between the two
 * leaves a complete file: it is taken into the catalogue, and the bitmap that was frozen for it abdicates. A
 * point that the catalogue has without a file gets its file again if the store has all that it needs, else
 * its row goes: it was removed and collected, and the catalogue is an older copy. So both always hold the
 * same set, and nothing that was told to be done is lost.
 */
#include <daemon/recover.h>

#include <api/json.h>
#include <daemon/backup-private.h>
#include <daemon/job-log.h>
#include <daemon/leases.h>
#include <daemon/live-recover.h>
#include <daemon/point-files.h>
#include <daemon/point-walk.h>
#include <daemon/rebuild.h>
#include <daemon/vm-files.h>

static void
close_dead_jobs(Daemon *daemon)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) jobs = catalogue_list_unfinished_jobs(daemon->catalogue, &error);
  for (guint i = 0; jobs && i < jobs->len; i++) {
    CatalogueJob *job = g_ptr_array_index(jobs, i);
    g_autoptr(JsonNode) node = api_json_from_text(job->json, -1, NULL);
    if (node && JSON_NODE_HOLDS_OBJECT(node)) {
      JsonObject *object = json_node_get_object(node);
      json_object_set_string_member(object, "status", "error");
      json_object_set_string_member(object, "errmsg", "the daemon ended while the job was under way");
      json_object_set_string_member(object, "code", cbt_error_code_name(CBT_ERROR_FAILED));
      json_object_set_int_member(object, "end-time", g_get_real_time() / G_USEC_PER_SEC);
      g_free(job->json);
      job->json = api_json_to_text(node);
    }
    g_free(job->status);
    job->status = g_strdup("error");
    job_error(job, "job %" G_GINT64_FORMAT " (%s) was cut off when the daemon ended", job->id,
              job->vm ? job->vm : job->type);
    if (!catalogue_save_job(daemon->catalogue, job, &error))
      break;
  }
  if (error)
    g_warning("cannot close the jobs of the last run: %s", error->message);
}

/* ---- points
 * --------------------------------------------------------------------------------------------------- */

/* What can change of a point is changed in its file first, so that the file is right. What else differs is
 * left as it is: somebody meant it, or damaged the catalogue. */
static void
compare_point(Daemon *daemon, const StorePoint *known, const StorePoint *file, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (store_point_equal(file, known))
    return;
  cbt_uuid_format(&known->uuid, text);
  if (known->is_protected != file->is_protected || known->verified != file->verified ||
      known->damaged != file->damaged || g_strcmp0(known->note, file->note) != 0) {
    g_message("recovery point %s: note, protection and time of the last verify are taken from its file",
              text);
    if (!catalogue_update_point(daemon->catalogue, file, error))
      return;
  }
  g_autoptr(StorePoint) now = catalogue_get_point(daemon->catalogue, &known->uuid, error);
  if (now && !store_point_equal(file, now))
    g_warning("recovery point %s: its file says something else than the catalogue; 'cbt-backup "
              "rebuild-catalogue' takes what the file says",
              text);
}

/* A damaged file is written again, for the catalogue has all that was in it. */
static void
compare_point_file(Daemon *daemon, const char *folder, const StorePoint *known)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) error = NULL;
  g_autofree char *aside = NULL;
  g_autoptr(StorePoint) point = store_point_load(cbt_file_ops_default(), folder, &known->uuid, &error);
  cbt_uuid_format(&known->uuid, text);
  if (g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    g_warning("%s; it is written again from the catalogue", error->message);
    g_clear_error(&error);
    if (point_files_write_again(daemon, known, &aside, &error))
      g_message("the damaged file of recovery point %s is kept as %s", text, aside);
  } else if (point) {
    compare_point(daemon, known, point, &error);
  }
  if (error)
    g_warning("recovery point %s: %s", text, error->message);
}

static void
adopt_point_file(Daemon *daemon, const char *folder, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = store_point_load(cbt_file_ops_default(), folder, uuid, &error);
  if (point && catalogue_insert_point(daemon->catalogue, point, &error))
    g_message("recovery point %s of vm '%s' was taken into the catalogue", cbt_uuid_format(uuid, text),
              point->vm);
  if (error)
    g_warning("recovery point %s: %s", cbt_uuid_format(uuid, text), error->message);
}

/* It was removed, if the catalogue is an older copy; or so much was lost that it cannot be restored. */
static void
drop_point(Daemon *daemon, const StorePoint *point, const GError *reason)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) error = NULL;
  g_autofree char *message = cbt_error_message(reason);
  g_warning("recovery point %s of vm '%s' is in the catalogue but has no file, and %s: it was removed before "
            "(the catalogue is an older copy) or is lost; it is taken out of the catalogue",
            cbt_uuid_format(&point->uuid, text), point->vm, message);
  if (!catalogue_remove_point(daemon->catalogue, &point->uuid, &error))
    g_warning("%s", error->message);
}

static void
write_missing_file(Daemon *daemon, const char *folder, const StorePoint *point, PointWalk *walk)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) error = NULL;
  cbt_uuid_format(&point->uuid, text);
  if (point_walk_check(walk, point, &error)) {
    g_warning("the file of recovery point %s was missing; it is written again", text);
    if (!store_point_save(cbt_file_ops_default(), folder, point, &error))
      g_warning("%s", error->message);
  } else if (g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    drop_point(daemon, point, error);
  } else {
    g_warning("the file of recovery point %s is missing: %s", text, error->message);
  }
}

static void
write_missing_files(Daemon *daemon, const char *folder, GHashTable *missing)
{
  GHashTableIter iter;
  gpointer point;
  g_autoptr(PointWalk) walk = point_walk_new(daemon);
  g_hash_table_iter_init(&iter, missing);
  while (g_hash_table_iter_next(&iter, NULL, &point))
    write_missing_file(daemon, folder, point, walk);
}

static gboolean
sync_point_files(Daemon *daemon, GError **error)
{
  g_autofree char *folder = point_files_folder(daemon);
  g_autoptr(GArray) files = store_point_list(folder, error);
  g_autoptr(GPtrArray) points = files ? catalogue_list_points(daemon->catalogue, NULL, error) : NULL;
  if (!points)
    return FALSE;
  g_autoptr(GHashTable) missing = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  for (guint i = 0; i < points->len; i++) {
    StorePoint *point = g_ptr_array_index(points, i);
    char text[CBT_UUID_TEXT_SIZE];
    g_hash_table_insert(missing, g_strdup(cbt_uuid_format(&point->uuid, text)), point);
  }
  for (guint i = 0; i < files->len; i++) {
    const CbtUuid *uuid = &g_array_index(files, CbtUuid, i);
    char text[CBT_UUID_TEXT_SIZE];
    const StorePoint *known = g_hash_table_lookup(missing, cbt_uuid_format(uuid, text));
    if (known)
      compare_point_file(daemon, folder, known);
    else
      adopt_point_file(daemon, folder, uuid);
    g_hash_table_remove(missing, text);
  }
  write_missing_files(daemon, folder, missing);
  return TRUE;
}

/* ---- exports and bitmaps, in a thread
 * ------------------------------------------------------------------------- */

static void
settle_disk(Daemon *daemon, const CatalogueVm *vm, const CatalogueDisk *disk, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm->name, disk, error);
  if (!ref || !disk_ref_call(ref, &request, NULL, &reply, error))
    return;
  for (guint i = 0; i < reply.n_bitmaps; i++) {
    CbtBitmapInfo *info = &reply.bitmaps[i];
    if (lease_is_by_hand(info) ? !leases_settle(daemon, ref, disk, info, error)
                               : !backup_settle_bitmap(daemon, ref, disk, info, error))
      return;
  }
}

typedef struct {
  Daemon *daemon;
  GPtrArray *vms;       /* of CatalogueVm */
  GHashTable *exported; /* names of vms */
  gboolean done;
} Recovery;

static void
on_recovered(gpointer data)
{
  ((Recovery *) data)->done = TRUE;
}

static void *
recover_thread(void *data)
{
  Recovery *recovery = data;
  Daemon *daemon = recovery->daemon;
  for (guint i = 0; i < recovery->vms->len; i++) {
    const CatalogueVm *vm = g_ptr_array_index(recovery->vms, i);
    g_autoptr(GError) error = NULL;
    if (g_hash_table_contains(recovery->exported, vm->name) && !exports_start(daemon->exports, vm, &error))
      g_warning("vm '%s': %s", vm->name, error->message);
    /* A QEMU may hang, and there may be many: only one that was left in the middle is asked. */
    if (!live_recover(daemon, vm))
      continue;
    for (guint j = 0; j < vm->disks->len; j++) {
      g_autoptr(GError) settle_error = NULL;
      settle_disk(daemon, vm, g_ptr_array_index(vm->disks, j), &settle_error);
      if (settle_error)
        g_warning("vm '%s': %s", vm->name, settle_error->message);
    }
  }
  main_queue_post(daemon->queue, on_recovered, recovery);
  return NULL;
}

/* Exports outlive the daemon. One that listens is noted, also when the catalogue, made again or an older copy,
 * does not know of it: nobody else can have its bitmaps. */
static gboolean
note_running_exports(Daemon *daemon, const CatalogueVm *vm, GError **error)
{
  if (!exports_are_listening(daemon->exports, vm))
    return TRUE;
  g_message("vm '%s' is exported", vm->name);
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = vm->disks->pdata[i];
    const CatalogueExport export = {vm->name, disk->name, 0, "", ""};
    if (!catalogue_save_export(daemon->catalogue, &export, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
find_running_exports(Daemon *daemon, const GPtrArray *vms, GError **error)
{
  for (guint i = 0; i < vms->len; i++) {
    const CatalogueVm *vm = vms->pdata[i];
    g_autoptr(GPtrArray) known = catalogue_list_exports(daemon->catalogue, vm->name, error);
    if (!known || (known->len == 0 && !note_running_exports(daemon, vm, error)))
      return FALSE;
  }
  return TRUE;
}

static void
recover_exports_and_bitmaps(Daemon *daemon)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) exported = g_hash_table_new(g_str_hash, g_str_equal);
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &error);
  g_autoptr(GPtrArray) exports = vms && find_running_exports(daemon, vms, &error)
                                     ? catalogue_list_exports(daemon->catalogue, NULL, &error)
                                     : NULL;
  if (!exports) {
    g_warning("cannot read the catalogue: %s", error->message);
    return;
  }
  for (guint i = 0; i < exports->len; i++)
    g_hash_table_add(exported, ((CatalogueExport *) g_ptr_array_index(exports, i))->vm);
  Recovery recovery = {daemon, vms, exported, FALSE};
  pthread_t thread;
  if (pthread_create(&thread, NULL, recover_thread, &recovery) != 0) {
    g_warning("cannot start a thread");
    return;
  }
  while (!recovery.done)
    g_main_context_iteration(NULL, TRUE);
  pthread_join(thread, NULL);
}

gboolean
recover(Daemon *daemon, GError **error)
{
  close_dead_jobs(daemon);
  if (!rebuild_if_lost(daemon, error) || !vm_files_sync(daemon, error) || !sync_point_files(daemon, error))
    return FALSE;
  recover_exports_and_bitmaps(daemon);
  return TRUE;
}
