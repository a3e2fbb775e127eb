/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Points are verified one after the other. On the main thread a point is looked up and put into use, and when
 * it was read its verdict is noted, together with whatever was noted of it in between. A verdict that cannot
 * be noted, on a full disk say, does not end the run: to know what is damaged is worth more.
 *
 * What the run before had finished comes first: its manifest pages are read, so that what these points share
 * with others is not read again.
 */
#include <daemon/verify-private.h>

#include <common/file-ops.h>
#include <daemon/main-queue.h>
#include <daemon/point-files.h>
#include <errno.h>

VerifyRequest *
verify_request_new(const char *scope, const GPtrArray *points)
{
  VerifyRequest *request = g_new0(VerifyRequest, 1);
  request->scope = g_strdup(scope);
  request->points = g_array_new(FALSE, FALSE, sizeof(CbtUuid));
  for (guint i = 0; i < points->len; i++) {
    const StorePoint *point = points->pdata[i];
    g_array_append_val(request->points, point->uuid);
    for (guint d = 0; d < point->disks->len; d++)
      request->total += ((const StorePointDisk *) point->disks->pdata[d])->manifest.size;
  }
  return request;
}

void
verify_request_free(VerifyRequest *request)
{
  g_free(request->vm);
  g_free(request->from_disk);
  g_free(request->from_path);
  store_point_free(request->from_point);
  g_free(request->scope);
  g_array_unref(request->points);
  g_free(request);
}

/* ---- what the store tells of its progress ---- */

static gboolean
on_progress(guint64 record_bytes, guint64 disk_bytes, gpointer user_data)
{
  Verify *verify = user_data;
  Job *job = verify->job;
  atomic_fetch_add(&((JobDisk *) g_ptr_array_index(job->disks, 0))->transferred, disk_bytes);
  if (record_bytes > 0) {
    atomic_fetch_add(&job->bytes_read, record_bytes);
    atomic_fetch_add(&job->n_reads, 1);
    throttle_wait(&verify->throttle, record_bytes, job->cancellable);
  }
  return !g_cancellable_is_cancelled(job->cancellable);
}

static void
on_reached(const StorePoint *point, const StoreVerifyPlace *place, gpointer user_data)
{
  Verify *verify = user_data;
  char text[CBT_UUID_TEXT_SIZE];
  g_free(verify->progress.point);
  verify->progress.point = g_strdup(cbt_uuid_format(&point->uuid, text));
  verify->progress.place = *place;
  verify_progress_save(&verify->progress, FALSE);
}

/* ---- points, on the main thread ---- */

typedef struct {
  Verify *verify;
  const CbtUuid *uuid;
  StorePoint *point;
  gboolean damaged;
  GError *error;
} PointCall;

static void
take_point(gpointer data)
{
  PointCall *call = data;
  call->point = catalogue_get_point(call->verify->daemon->catalogue, call->uuid, &call->error);
  if (call->point)
    job_add_point_in_use(call->verify->job, call->uuid);
  else if (g_error_matches(call->error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    g_clear_error(&call->error);
}

static void
release_point(gpointer data)
{
  PointCall *call = data;
  job_remove_point_in_use(call->verify->job, call->uuid);
}

static void
note_verdict(gpointer data)
{
  PointCall *call = data;
  Daemon *daemon = call->verify->daemon;
  g_autoptr(StorePoint) point = catalogue_get_point(daemon->catalogue, call->uuid, &call->error);
  if (point) {
    gint64 now = g_get_real_time();
    point->damaged = call->damaged ? now : 0;
    if (!call->damaged)
      point->verified = now;
    if (!point_files_update(daemon, point, &call->error))
      g_assert(call->error);
  }
  job_remove_point_in_use(call->verify->job, call->uuid);
}

/* ---- one point ---- */

/* The point file is what the catalogue would be made from again: so it is looked at too. It is written again
 * with the verdict. */
static char *
check_file(const Daemon *daemon, const CbtUuid *uuid)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *folder = point_files_folder(daemon);
  g_autoptr(StorePoint) point = store_point_load(cbt_file_ops_default(), folder, uuid, &error);
  return point ? NULL : cbt_error_message(error);
}

static const StoreVerifyPlace *
place_in(const Verify *verify, const StorePoint *point)
{
  char text[CBT_UUID_TEXT_SIZE];
  return g_strcmp0(verify->progress.point, cbt_uuid_format(&point->uuid, text)) == 0 ? &verify->progress.place
                                                                                     : NULL;
}

static gboolean
read_point(Verify *verify, const StorePoint *point, StoreVerifyVerdict *verdict, GError **error)
{
  StoreVerifyPlace place = {0};
  const StoreVerifyPlace *from = place_in(verify, point);
  if (from) {
    place = *from;
    from = store_verify_skip(verify->store, point, &place) ? &place : NULL;
  }
  return store_verify_point(verify->store, point, from, verdict, error);
}

static void
damaged_clear(gpointer data)
{
  VerifyDamagedPoint *damaged = data;
  g_free(damaged->vm);
  g_free(damaged->file_error);
}

static GArray *
damaged_new(void)
{
  GArray *damaged = g_array_new(FALSE, FALSE, sizeof(VerifyDamagedPoint));
  g_array_set_clear_func(damaged, damaged_clear);
  return damaged;
}

static void
add_damaged(Verify *verify, const StorePoint *point, const StoreVerifyVerdict *verdict, char *file_error)
{
  VerifyDamagedPoint damaged = {point->uuid, g_strdup(point->vm), *verdict, file_error};
  g_array_append_val(verify->damaged, damaged);
}

/* Takes ERROR (nullable), which noting the verdict of a point ended with. */
static void
keep_note_error(Verify *verify, const CbtUuid *uuid, GError *error)
{
  char text[CBT_UUID_TEXT_SIZE];
  cbt_uuid_format(uuid, text);
  if (!error) {
    g_hash_table_remove(verify->unnoted, text);
    return;
  }
  g_hash_table_add(verify->unnoted, g_strdup(text));
  if (verify->note_error && !g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    g_error_free(error);
    return;
  }
  g_clear_error(&verify->note_error);
  verify->note_error = error;
}

static gboolean
verify_point(Verify *verify, const CbtUuid *uuid, GError **error)
{
  PointCall call = {.verify = verify, .uuid = uuid};
  StoreVerifyVerdict verdict;
  main_queue_call(verify->daemon->queue, take_point, &call);
  g_autoptr(StorePoint) point = call.point;
  if (!point) {
    verify->n_gone++;
    if (call.error)
      g_propagate_error(error, call.error);
    return !call.error;
  }
  char *file_error = check_file(verify->daemon, uuid);
  if (!read_point(verify, point, &verdict, error)) {
    g_free(file_error);
    return FALSE;
  }
  call.damaged = verdict.n_uses > 0;
  main_queue_call(verify->daemon->queue, note_verdict, &call);
  verify->n_verified++;
  if (call.damaged || file_error)
    add_damaged(verify, point, &verdict, file_error);
  else if (!call.error)
    verify_progress_finish(&verify->progress, uuid);
  verify_progress_save(&verify->progress, verify->progress.saved_point);
  keep_note_error(verify, uuid, call.error);
  return TRUE;
}

/* ---- the job ---- */

static guint64
size_of(const StorePoint *point)
{
  guint64 size = 0;
  for (guint d = 0; d < point->disks->len; d++)
    size += ((const StorePointDisk *) point->disks->pdata[d])->manifest.size;
  return size;
}

/* A point that the run before found good; FALSE if it has to be verified after all. */
static gboolean
skip_point(Verify *verify, const CbtUuid *uuid)
{
  PointCall call = {.verify = verify, .uuid = uuid};
  main_queue_call(verify->daemon->queue, take_point, &call);
  g_clear_error(&call.error);
  g_autoptr(StorePoint) point = call.point;
  gboolean ok = point && store_verify_skip(verify->store, point, NULL);
  main_queue_call(verify->daemon->queue, release_point, &call);
  if (!ok)
    return FALSE;
  verify->n_skipped++;
  on_progress(0, size_of(point), verify);
  return TRUE;
}

static gboolean
verify_all(Verify *verify, GError **error)
{
  const GArray *points = verify->request->points;
  g_autofree gboolean *is_done = g_new0(gboolean, points->len);
  for (guint i = 0; i < points->len; i++) {
    const CbtUuid *uuid = &g_array_index(points, CbtUuid, i);
    if (!job_check(verify->job, error))
      return FALSE;
    is_done[i] = verify_progress_has_finished(&verify->progress, uuid) && skip_point(verify, uuid);
  }
  for (guint i = 0; i < points->len; i++)
    if (!is_done[i] &&
        (!job_check(verify->job, error) || !verify_point(verify, &g_array_index(points, CbtUuid, i), error)))
      return FALSE;
  return TRUE;
}

/* Verdicts on what is left after a repair. */
gboolean
verify_damaged_again(Verify *verify, GError **error)
{
  g_autoptr(GArray) before = g_steal_pointer(&verify->damaged);
  verify->damaged = damaged_new();
  for (guint i = 0; i < before->len; i++) {
    const CbtUuid *uuid = &g_array_index(before, VerifyDamagedPoint, i).uuid;
    verify->n_verified--; /* it was counted already */
    if (!job_check(verify->job, error) || !verify_point(verify, uuid, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
has_damage(const Verify *verify)
{
  StoreVerifyCounts counts;
  store_verify_counts(verify->store, &counts);
  return counts.n_damaged > 0;
}

static gboolean
verify_and_repair(Verify *verify, GError **error)
{
  return (!verify->request->repair || verify_repair_open(verify->request, error)) &&
         verify_all(verify, error) &&
         (!verify->request->repair || !has_damage(verify) || verify_repair(verify, error));
}

static gboolean
verify_run(Daemon *daemon, Job *job, gpointer data, GError **error)
{
  const VerifyRequest *request = data;
  Verify verify = {.daemon = daemon, .job = job, .request = request};
  StoreVerifyOptions options = {.progress = on_progress, .reached = on_reached, .user_data = &verify};
  job_give_way(daemon); /* the threads that read inherit it */
  throttle_init(&verify.throttle, request->speed);
  verify_progress_load(&verify.progress, daemon->config->state_dir, request->scope, request->restart);
  if (g_hash_table_size(verify.progress.finished) > 0 || verify.progress.point)
    verify.resumed_from = verify.progress.started;
  verify.store = store_verify_new(daemon->store, &options);
  verify.damaged = damaged_new();
  verify.unnoted = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  gboolean ok = verify_and_repair(&verify, error);
  if (ok && g_hash_table_size(verify.unnoted) == 0) /* else the next run goes on with these */
    verify_progress_remove(&verify.progress);
  else
    verify_progress_save(&verify.progress, TRUE);
  job->result = verify_result_to_json(&verify);
  ok = ok && verify_result_check(&verify, error);
  store_verify_free(verify.store);
  g_array_unref(verify.damaged);
  g_hash_table_unref(verify.unnoted);
  g_clear_error(&verify.note_error);
  verify_progress_clear(&verify.progress);
  throttle_clear(&verify.throttle);
  return ok;
}

Job *
verify_job_new(VerifyRequest *request)
{
  Job *job =
      job_new(JOB_VERIFY, request->vm, NULL, verify_run, request, (GDestroyNotify) verify_request_free);
  JobDisk *progress = job_add_disk(job, "points");
  if (request->from_point)
    job_add_point_in_use(job, &request->from_point->uuid);
  progress->total = progress->dirty = request->total;
  return job;
}
