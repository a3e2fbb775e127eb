/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which points there are is asked of the catalogue, on the main thread, after the collection began: that is
 * one snapshot, while the folder of point files may change under who lists it. But what a point needs is what
 * its file says, which has a checksum: where the row says something else, nothing is collected. The row
 * counts where the file is missing or damaged, for then nothing else is known.
 *
 * A point file that the catalogue does not know would be taken in at the next start. So what it needs stays:
 * it is of a point that is just being committed, or one whose file could not be removed. If it is damaged, it
 * is left to the operator, and no space is given back as long as it is there. And that files are gone is made
 * durable before anything is collected: a removal whose sync failed may come undone.
 */
#include <daemon/gc.h>

#include <daemon/json-util.h>
#include <daemon/main-queue.h>
#include <daemon/point-files.h>
#include <errno.h>
#include <store/gc.h>

typedef struct {
  Daemon *daemon;
  GPtrArray *points; /* of StorePoint */
  GError *error;
} Snapshot;

static void
take_snapshot(gpointer data)
{
  Snapshot *snapshot = data;
  snapshot->points = catalogue_list_points(snapshot->daemon->catalogue, NULL, &snapshot->error);
}

static const StorePoint *
find_known(const GPtrArray *points, guint n_points, const CbtUuid *uuid)
{
  for (guint i = 0; i < n_points; i++)
    if (cbt_uuid_equal(&((const StorePoint *) points->pdata[i])->uuid, uuid))
      return points->pdata[i];
  return NULL;
}

static gboolean
have_same_chunks(const StorePoint *a, const StorePoint *b)
{
  if (a->disks->len != b->disks->len || a->configs->len != b->configs->len)
    return FALSE;
  for (guint i = 0; i < a->disks->len; i++) {
    const StoreManifest *x = &((const StorePointDisk *) a->disks->pdata[i])->manifest;
    const StoreManifest *y = &((const StorePointDisk *) b->disks->pdata[i])->manifest;
    if (x->size != y->size || !store_chunk_id_equal(&x->root, &y->root))
      return FALSE;
  }
  for (guint i = 0; i < a->configs->len; i++) {
    const StorePointConfig *x = a->configs->pdata[i], *y = b->configs->pdata[i];
    if (!store_chunk_id_equal(&x->id, &y->id))
      return FALSE;
  }
  return TRUE;
}

/* The point of a file (transfer full); NULL without an error if it is gone by now, or if it cannot be read
 * and is KNOWN (nullable) of the catalogue. */
static StorePoint *
load_file(const char *folder, const CbtUuid *uuid, const StorePoint *known, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) local = NULL;
  StorePoint *point = store_point_load(cbt_file_ops_default(), folder, uuid, &local);
  if (point || g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return point;
  if (known)
    g_warning("%s; what it needs is taken from the catalogue", local->message);
  else
    cbt_set_error(
        error, CBT_ERROR_CORRUPT,
        "Put the file back from a copy and restart the daemon; or, if the point is not wanted, move it "
        "away.",
        "%s/%s.point is damaged, and what it needs is not known: nothing was collected", folder,
        cbt_uuid_format(uuid, text));
  return NULL;
}

static gboolean
sync_folder(const char *folder, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  if (ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", folder);
  return FALSE;
}

/* Adds the points of files that POINTS has not, and compares the others. */
static gboolean
add_from_files(const Daemon *daemon, GPtrArray *points, GError **error)
{
  g_autofree char *folder = point_files_folder(daemon);
  g_autoptr(GArray) files = sync_folder(folder, error) ? store_point_list(folder, error) : NULL;
  guint n_known = points->len;
  for (guint i = 0; files && i < files->len; i++) {
    const CbtUuid *uuid = &g_array_index(files, CbtUuid, i);
    g_autoptr(GError) local = NULL;
    const StorePoint *known = find_known(points, n_known, uuid);
    g_autoptr(StorePoint) point = load_file(folder, uuid, known, &local);
    if (point && !known)
      g_ptr_array_add(points, g_steal_pointer(&point));
    else if (point && !have_same_chunks(point, known))
      point_files_set_differs(uuid, &local);
    if (local) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
  }
  return files != NULL;
}

/* ---- marking ---- */

static gboolean
mark_all(StoreGc *gc, const GPtrArray *points, GError **error)
{
  g_autoptr(GError) local = NULL;
  if (store_gc_mark(gc, points, &local))
    return TRUE;
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_CANCELLED)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  g_autofree char *message = cbt_error_message(local);
  cbt_set_error(error, cbt_error_code(local),
                "See which recovery points it is with: cbt-backup verify --all. Repair them with --repair, "
                "or give them "
                "up with: cbt-backup forget POINT",
                "a manifest cannot be walked through, so nothing was collected: %s", message);
  return FALSE;
}

/* ---- sweeping ---- */

static void
show_progress(guint64 done, guint64 total, gpointer user_data)
{
  JobDisk *progress = g_ptr_array_index(((Job *) user_data)->disks, 0);
  atomic_store(&progress->total, total);
  atomic_store(&progress->dirty, total);
  atomic_store(&progress->transferred, done);
}

static JsonNode *
result_to_json(const StoreGcResult *result)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_int(builder, "bytes-freed", result->freed);
  json_put_int(builder, "bytes-copied", result->copied);
  json_put_int(builder, "bytes-live", result->live_bytes);
  json_put_int(builder, "chunks-live", result->n_chunks);
  json_put_int(builder, "chunks-missing", result->n_missing);
  json_put_int(builder, "packs-removed", result->n_packs);
  json_put_int(builder, "packs-damaged", result->n_kept);
  json_builder_end_object(builder);
  return json_finish(builder);
}

/* What could be freed was, also beside damage. */
static gboolean
check_result(const StoreGcResult *result, GError **error)
{
  if (result->n_missing + result->n_kept == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, "See which points it is with: cbt-backup verify --all",
                "space was freed, but %" G_GUINT64_FORMAT " chunks are missing, and %" G_GUINT64_FORMAT
                " packs were kept because they are damaged",
                result->n_missing, result->n_kept);
  return FALSE;
}

static gboolean
mark_and_sweep(Daemon *daemon, StoreGc *gc, StoreGcResult *result, GError **error)
{
  Snapshot snapshot = {.daemon = daemon};
  main_queue_call(daemon->queue, take_snapshot, &snapshot);
  g_autoptr(GPtrArray) points = snapshot.points;
  if (!points) {
    g_propagate_error(error, snapshot.error);
    return FALSE;
  }
  /* What the snapshot lacks must be gone for good before its packs go: a row that came back would name them.
   */
  return add_from_files(daemon, points, error) && catalogue_sync(daemon->catalogue, error) &&
         mark_all(gc, points, error) && store_gc_sweep(gc, result, error);
}

static gboolean
gc_run(Daemon *daemon, Job *job, gpointer data G_GNUC_UNUSED, GError **error)
{
  StoreGcResult result = {0};
  StoreGcOptions options = {job->cancellable, show_progress, job};
  job_give_way(daemon);
  StoreGc *gc = store_gc_begin(daemon->store, &options, error);
  if (!gc)
    return FALSE;
  gboolean ok = mark_and_sweep(daemon, gc, &result, error);
  store_gc_end(gc);
  job->result = result_to_json(&result);
  return ok && check_result(&result, error);
}

Job *
gc_job_new(void)
{
  Job *job = job_new(JOB_GC, NULL, NULL, gc_run, NULL, NULL);
  job_add_disk(job, "packs");
  return job;
}
