/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/commit.h>

#include <daemon/durable.h>
#include <daemon/point-files.h>

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

/* A file that stands there would be taken in at the next start, as a point that nobody was told of. */
static void
remove_file(const char *folder, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) error = NULL;
  if (store_point_remove(cbt_file_ops_default(), folder, uuid, &error) ||
      g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return;
  g_warning(
      "the file of recovery point %s, whose backup failed, may be left, and the next start may take it in: "
      "%s",
      cbt_uuid_format(uuid, text), error->message);
}

gboolean
commit_point(Daemon *daemon, Job *job, const StorePoint *point, void (*also)(gpointer data), gpointer data,
             GError **error)
{
  g_autofree char *folder = point_files_folder(daemon);
  if (!store_flush(daemon->store, error) || !job_check(job, error))
    return FALSE;
  if (!store_point_save(cbt_file_ops_default(), folder, point, error)) {
    remove_file(folder, &point->uuid); /* it may be there all the same, if only the last sync failed */
    return FALSE;
  }
  Commit commit = {daemon, job, point, also, data, FALSE, NULL};
  durable_call(daemon, commit_to_catalogue, &commit);
  if (!commit.ok) {
    g_propagate_error(error, commit.error);
    remove_file(folder, &point->uuid);
    return FALSE;
  }
  job->uuid = point->uuid;
  job->reason = g_strdup(point->reason);
  job->final_kind = g_strdup(point->incremental ? "incremental" : "full");
  return TRUE;
}
