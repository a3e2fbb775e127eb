/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All targets are opened before the first one is written to, so that one that is in use stops the restore of
 * all. A new file is NAME.partial until it is complete and durable, so that a restore that is killed
 * leaves nothing that looks like a disk; it is removed if the restore fails. In place, the image's bitmaps
 * (if it is a registered disk) become inconsistent before the first byte is written: what a restore writes is
 * not tracked.
 */
#include <daemon/restore.h>

#include <cbt/image-use.h>
#include <common/fd.h>
#include <daemon/engine.h>
#include <daemon/images.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <store/extract.h>
#include <string.h>
#include <sys/file.h>

static void
restore_target_free(gpointer data)
{
  RestoreTarget *target = data;
  g_clear_pointer(&target->owner, catalogue_vm_free);
  g_free(target->made);
  g_free(target->disk);
  g_free(target->path);
  g_free(target);
}

RestoreRequest *
restore_request_new(StorePoint *point)
{
  RestoreRequest *request = g_new0(RestoreRequest, 1);
  request->point = point;
  request->targets = g_ptr_array_new_with_free_func(restore_target_free);
  return request;
}

void
restore_request_free(RestoreRequest *request)
{
  store_point_free(request->point);
  g_ptr_array_unref(request->targets);
  g_free(request->folder);
  g_free(request);
}

RestoreTarget *
restore_request_add_target(RestoreRequest *request, const char *disk, const char *path)
{
  RestoreTarget *target = g_new0(RestoreTarget, 1);
  target->fd = -1;
  target->disk = g_strdup(disk);
  target->path = g_strdup(path);
  g_ptr_array_add(request->targets, target);
  return target;
}

/* ---- checks before the job, main thread
 * ----------------------------------------------------------------------- */

static gboolean
find_owner(Daemon *daemon, RestoreTarget *target, GError **error)
{
  g_autoptr(GError) local = NULL;
  target->owner = images_find_owner(daemon->catalogue, target->path, &target->owner_disk, &local);
  if (local) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (!target->owner)
    return TRUE;
  const char *vm = target->owner->name;
  gboolean exported = exports_has(daemon->exports, vm);
  if (!exported && !engine_user_of(daemon->engine, vm))
    return TRUE;
  cbt_set_error(
      error, CBT_ERROR_BUSY, "Shut the guest down and stop the export, or restore into another file.",
      "%s is in use: vm '%s' is %s", target->path, vm, exported ? "exported" : "being backed up or restored");
  return FALSE;
}

static void
set_exists(const char *path, GError **error)
{
  cbt_set_error(error, CBT_ERROR_EXISTS,
                "With --in-place its contents are changed into those of the recovery point.",
                "%s exists already", path);
}

static gboolean
check_target(Daemon *daemon, const RestoreRequest *request, RestoreTarget *target, GError **error)
{
  struct stat st;
  gboolean exists = lstat(target->path, &st) == 0;
  if (!store_point_find_disk(request->point, target->disk)) {
    char uuid[CBT_UUID_TEXT_SIZE];
    g_autofree char *hint =
        g_strdup_printf("See: cbt-backup show %s", cbt_uuid_format(&request->point->uuid, uuid));
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, hint, "the recovery point has no disk '%s'", target->disk);
    return FALSE;
  }
  if (exists && !request->in_place) {
    set_exists(target->path, error);
    return FALSE;
  }
  return !exists || find_owner(daemon, target, error);
}

static gboolean
check_targets(Daemon *daemon, const RestoreRequest *request, GError **error)
{
  for (guint i = 0; i < request->targets->len; i++)
    if (!check_target(daemon, request, g_ptr_array_index(request->targets, i), error))
      return FALSE;
  for (guint i = 0; request->folder && i < request->point->configs->len; i++) {
    const StorePointConfig *config = g_ptr_array_index(request->point->configs, i);
    g_autofree char *path = g_build_filename(request->folder, config->name, NULL);
    if (!request->in_place && g_access(path, F_OK) == 0) {
      cbt_set_error(error, CBT_ERROR_EXISTS, "Choose another folder, or use --in-place.", "%s exists already",
                    path);
      return FALSE;
    }
  }
  return TRUE;
}

/* ---- the job
 * -------------------------------------------------------------------------------------------------- */

static gboolean
mark_bitmaps(DiskRef *ref, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!disk_ref_call(ref, &request, NULL, &reply, error))
    return FALSE;
  for (guint i = 0; i < reply.n_bitmaps; i++)
    if (!disk_ref_apply(ref, reply.bitmaps[i].name, CBT_BITMAP_MARK_INCONSISTENT, NULL,
                        "a recovery point was restored into the image", error))
      return FALSE;
  return TRUE;
}

/* Takes the registered disk that has the target's image, if there is one. */
static gboolean
take_owner(Daemon *daemon, RestoreTarget *target, GError **error)
{
  if (!target->owner)
    return TRUE;
  target->ref = disks_acquire(daemon->disks, target->owner->name, target->owner_disk, error);
  if (!target->ref)
    return FALSE;
  if (!disk_ref_is_exported(target->ref))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Shut the guest down and stop the export.",
                "%s is in use: vm '%s' is exported", target->path, target->owner->name);
  return FALSE;
}

static gboolean
is_at(int fd, const char *path)
{
  struct stat here, there;
  return fstat(fd, &here) == 0 && lstat(path, &there) == 0 && here.st_dev == there.st_dev &&
         here.st_ino == there.st_ino;
}

/* Makes PATH anew. What a killed restore left there goes away; what one that is under way has locked does
 * not. */
static int
make_partial(const char *path, GError **error)
{
  CBT_AUTO_FD int leftover = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (leftover >= 0 && flock(leftover, LOCK_EX | LOCK_NB) == 0)
    g_unlink(path);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (fd < 0 && errno != EEXIST)
    cbt_set_error_errno(error, errno, "cannot make %s", path);
  else if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0 || !is_at(fd, path))
    cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it: cbt-backup job list",
                  "%s is being written by another restore", path);
  else
    return cbt_steal_fd(&fd);
  return -1;
}

/* Gives a new file that is complete and durable its name. */
static gboolean
finish_target(RestoreTarget *target, GError **error)
{
  g_autofree char *folder = g_path_get_dirname(target->path);
  if (!target->made)
    return TRUE;
  int failed = renameat2(AT_FDCWD, target->made, AT_FDCWD, target->path, RENAME_NOREPLACE);
  if (failed && errno == EINVAL && g_access(target->path, F_OK) != 0) /* a file system that cannot check */
    failed = rename(target->made, target->path);
  if (failed || cbt_file_ops_default()->fsync_dir(cbt_file_ops_default(), folder) != 0) {
    cbt_set_error_errno(error, errno, "cannot give %s its name %s", target->made, target->path);
    return FALSE;
  }
  g_free(target->made);
  target->made = g_strdup(target->path);
  return TRUE;
}

static gboolean
open_target(const RestoreRequest *request, RestoreTarget *target, GError **error)
{
  struct stat st;
  gboolean exists = lstat(target->path, &st) == 0;
  g_autofree char *partial = g_strconcat(target->path, ".partial", NULL);
  if (!exists) {
    target->fd = make_partial(partial, error);
    target->made = target->fd >= 0 ? g_steal_pointer(&partial) : NULL;
  } else if (request->in_place)
    target->fd = cbt_image_open(target->path, CBT_IMAGE_REPLACE,
                                "End that use of it (shut the guest down, unmount it), or restore into "
                                "another file.",
                                error);
  else
    set_exists(target->path, error);
  return target->fd >= 0;
}

static gboolean
open_targets(Daemon *daemon, const RestoreRequest *request, GError **error)
{
  for (guint i = 0; i < request->targets->len; i++) {
    RestoreTarget *target = g_ptr_array_index(request->targets, i);
    if (!take_owner(daemon, target, error) || !open_target(request, target, error))
      return FALSE;
  }
  return TRUE;
}

static void
close_targets(const RestoreRequest *request)
{
  for (guint i = 0; i < request->targets->len; i++) {
    RestoreTarget *target = g_ptr_array_index(request->targets, i);
    cbt_clear_fd(&target->fd);
    g_clear_pointer(&target->ref, disk_ref_release);
  }
}

static void
on_progress(guint64 bytes_done, gpointer data)
{
  JobDisk *progress = data;
  progress->transferred = bytes_done;
}

static gboolean
restore_disk(Daemon *daemon, Job *job, const RestoreRequest *request, guint index, GError **error)
{
  RestoreTarget *target = g_ptr_array_index(request->targets, index);
  const StorePointDisk *disk = store_point_find_disk(request->point, target->disk);
  if (target->ref && !mark_bitmaps(target->ref, error))
    return FALSE;
  StoreExtractResult result = {0};
  StoreExtractOptions options = {.in_place = !target->made,
                                 .n_threads = daemon->config->workers,
                                 .cancellable = job->cancellable,
                                 .progress = on_progress,
                                 .user_data = g_ptr_array_index(job->disks, index)};
  gboolean ok = store_extract_raw(daemon->store, &disk->manifest, target->fd, &options, &result, error);
  atomic_fetch_add(&job->stored, result.written);
  atomic_fetch_add(&job->zero_bytes, result.zero);
  if (ok)
    return finish_target(target, error);
  g_prefix_error(error, "%s: ", target->path);
  return FALSE;
}

static gboolean
restore_config(Daemon *daemon, const RestoreRequest *request, const StorePointConfig *config, GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(daemon->store);
  g_autofree char *path = g_build_filename(request->folder, config->name, NULL);
  g_autofree char *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  gsize length = 0;
  if (config->size > 0 && !store_get(worker, &config->id, data, &length, error))
    return FALSE;
  return cbt_file_replace(cbt_file_ops_default(), path, data, length, 0600, error);
}

static gboolean
restore_all(Daemon *daemon, Job *job, const RestoreRequest *request, GError **error)
{
  for (guint i = 0; i < request->targets->len; i++)
    if (!job_check(job, error) || !restore_disk(daemon, job, request, i, error))
      return FALSE;
  for (guint i = 0; request->folder && i < request->point->configs->len; i++)
    if (!restore_config(daemon, request, g_ptr_array_index(request->point->configs, i), error))
      return FALSE;
  return TRUE;
}

static void
remove_created(const RestoreRequest *request)
{
  for (guint i = 0; i < request->targets->len; i++) {
    const RestoreTarget *target = g_ptr_array_index(request->targets, i);
    if (target->made)
      g_unlink(target->made);
  }
}

static gboolean
restore_run(Daemon *daemon, Job *job, gpointer data, GError **error)
{
  const RestoreRequest *request = data;
  if (request->folder && g_mkdir_with_parents(request->folder, 0755) != 0) {
    cbt_set_error_errno(error, errno, "cannot make %s", request->folder);
    return FALSE;
  }
  job->uuid = request->point->uuid;
  gboolean ok = open_targets(daemon, request, error) && restore_all(daemon, job, request, error);
  close_targets(request);
  if (!ok)
    remove_created(request);
  return ok;
}

char *
restore_path_in_folder(const RestoreRequest *request, const StorePointDisk *disk)
{
  return g_strdup_printf("%s/%s.raw", request->folder, disk->name);
}

static void
fill_targets_from_folder(RestoreRequest *request)
{
  for (guint i = 0; request->folder && i < request->point->disks->len; i++) {
    const StorePointDisk *disk = g_ptr_array_index(request->point->disks, i);
    g_autofree char *path = restore_path_in_folder(request, disk);
    restore_request_add_target(request, disk->name, path);
  }
}

/* Disks that the vm has now and the point has not, as text (transfer full); NULL: none, or no such vm. */
static char *
name_missing_disks(Daemon *daemon, const StorePoint *point)
{
  g_autoptr(CatalogueVm) vm = catalogue_get_vm(daemon->catalogue, point->vm, NULL);
  g_autoptr(GString) names = g_string_new(NULL);
  for (guint i = 0; vm && i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    if (!store_point_find_disk(point, disk->name))
      g_string_append_printf(names, "%s'%s'", names->len > 0 ? ", " : "", disk->name);
  }
  return names->len > 0 ? g_strdup_printf("the recovery point does not have disk %s of the vm", names->str)
                        : NULL;
}

Job *
restore_job_new(Daemon *daemon, RestoreRequest *request, GError **error)
{
  fill_targets_from_folder(request);
  if (!check_targets(daemon, request, error)) {
    restore_request_free(request);
    return NULL;
  }
  Job *job = job_new(JOB_RESTORE, request->point->vm, NULL, restore_run, request,
                     (GDestroyNotify) restore_request_free);
  job_add_point_in_use(job, &request->point->uuid);
  job->reason = request->folder ? name_missing_disks(daemon, request->point) : NULL;
  for (guint i = 0; i < request->targets->len; i++) {
    const RestoreTarget *target = g_ptr_array_index(request->targets, i);
    JobDisk *progress = job_add_disk(job, target->disk);
    progress->total = store_point_find_disk(request->point, target->disk)->manifest.size;
    progress->dirty = progress->total;
    if (target->owner)
      job_add_vm_in_use(job, target->owner->name);
  }
  return job;
}
