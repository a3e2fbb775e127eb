/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/commit.h>

#include <daemon/main-queue.h>

typedef struct {
  Daemon *daemon;
  Job *job;
  const StorePoint *point;
  void (*also)(gpointer data);
  gpointer data;
  gboolean ok;
  GError *error;
} Commit;

static void
commit_to_catalogue(gpointer data)
{
  Commit *commit = data;
  commit->ok = catalogue_insert_point(commit->daemon->catalogue, commit->point, &commit->error);
  if (commit->ok) /* an archive may be made of it, and bitmaps abdicate to it */
    job_add_point_in_use(commit->job, &commit->point->uuid);
  if (commit->ok && commit->also)
    commit->also(commit->data);
}

gboolean
commit_point(Daemon *daemon, Job *job, const StorePoint *point, void (*also)(gpointer data), gpointer data,
             GError **error)
{
  g_autofree char *folder = g_build_filename(store_directory(daemon->store), "points", NULL);
  if (!store_flush(daemon->store, error) || !job_check(job, error))
    return FALSE;
  if (!store_point_save(cbt_file_ops_default(), folder, point, error)) {
    /* It may stand there all the same, if only the last sync failed: then it must not be found at the next
     * start. */
    if (store_point_remove(cbt_file_ops_default(), folder, &point->uuid, NULL))
      g_debug("the file of the failed recovery point was removed");
    return FALSE;
  }
  Commit commit = {daemon, job, point, also, data, FALSE, NULL};
  main_queue_call(daemon->queue, commit_to_catalogue, &commit);
  if (!commit.ok) {
    g_propagate_error(error, commit.error);
    if (!store_point_remove(cbt_file_ops_default(), folder, &point->uuid, NULL))
      g_warning("the file of the failed recovery point is left in %s", folder);
    return FALSE;
  }
  job->uuid = point->uuid;
  job->reason = g_strdup(point->reason);
  job->final_kind = g_strdup(point->incremental ? "incremental" : "full");
  return TRUE;
}
