/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which points there are is asked of the catalogue, on the main thread, after the collection began: that is
 * one snapshot, while the folder of point files may change under who lists it. A point file that the
 * catalogue does not know is damaged, or it would have been taken in at the start; it is left to the
 * operator, and no space is given back as long as it is there.
 */
#include <daemon/gc.h>

#include <daemon/json-util.h>
#include <daemon/main-queue.h>
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

static gboolean
is_known(const GPtrArray *points, const CbtUuid *uuid)
{
  for (guint i = 0; i < points->len; i++)
    if (cbt_uuid_equal(&((const StorePoint *) points->pdata[i])->uuid, uuid))
      return TRUE;
  return FALSE;
}

/* A file that came after the snapshot is of a point that its pins keep. */
static gboolean
check_file(const char *folder, const CbtUuid *uuid, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) local = NULL;
  g_autoptr(StorePoint) point = store_point_load(cbt_file_ops_default(), folder, uuid, &local);
  if (point || g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return TRUE;
  cbt_set_error(
      error, CBT_ERROR_CORRUPT,
      "Put the file back from a copy and restart the daemon; or, if the point is not wanted, move it away.",
      "%s/%s.point is damaged, and what it needs is not known: nothing was collected", folder,
      cbt_uuid_format(uuid, text));
  return FALSE;
}

static gboolean
check_files(const Daemon *daemon, const GPtrArray *points, GError **error)
{
  g_autofree char *folder = g_build_filename(store_directory(daemon->store), "points", NULL);
  g_autoptr(GArray) files = store_point_list(folder, error);
  for (guint i = 0; files && i < files->len; i++) {
    const CbtUuid *uuid = &g_array_index(files, CbtUuid, i);
    if (!is_known(points, uuid) && !check_file(folder, uuid, error))
      return FALSE;
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
  return check_files(daemon, points, error) && mark_all(gc, points, error) &&
         store_gc_sweep(gc, result, error);
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
