/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/job.h>

#include <daemon/json-util.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const char *const status_names[] = {
    [JOB_QUEUED] = "queued", [JOB_ACTIVE] = "active",       [JOB_DONE] = "done",
    [JOB_ERROR] = "error",   [JOB_CANCELLED] = "cancelled",
};
static const char *const type_names[] = {
    [JOB_BACKUP] = "backup", [JOB_RESTORE] = "restore", [JOB_ARCHIVE] = "archive",
    [JOB_IMPORT] = "import", [JOB_VERIFY] = "verify",   [JOB_GC] = "gc"};

static void
job_disk_free(gpointer data)
{
  JobDisk *disk = data;
  g_free(disk->name);
  g_free(disk);
}

Job *
job_new(JobType type, const char *vm, const char *kind, JobFunc func, gpointer data, GDestroyNotify free_data)
{
  Job *job = g_new0(Job, 1);
  job->type = type;
  job->vm = g_strdup(vm);
  job->kind = g_strdup(kind);
  job->func = func;
  job->data = data;
  job->free_data = free_data;
  job->cancellable = g_cancellable_new();
  job->status = JOB_QUEUED;
  job->waiters = g_ptr_array_new();
  job->points = g_array_new(FALSE, FALSE, sizeof(CbtUuid));
  job->vms_in_use = g_ptr_array_new_with_free_func(g_free);
  job->disks = g_ptr_array_new_with_free_func(job_disk_free);
  job->n_refs = 1;
  return job;
}

Job *
job_ref(Job *job)
{
  job->n_refs++;
  return job;
}

void
job_unref(Job *job)
{
  if (--job->n_refs > 0)
    return;
  g_assert(job->waiters->len == 0);
  if (job->free_data)
    job->free_data(job->data);
  g_ptr_array_unref(job->waiters);
  g_array_unref(job->points);
  g_ptr_array_unref(job->vms_in_use);
  g_ptr_array_unref(job->disks);
  g_object_unref(job->cancellable);
  g_clear_error(&job->error);
  g_clear_pointer(&job->result, json_node_unref);
  g_free(job->vm);
  g_free(job->kind);
  g_free(job->reason);
  g_free(job->final_kind);
  g_free(job);
}

JobDisk *
job_add_disk(Job *job, const char *name)
{
  JobDisk *disk = g_new0(JobDisk, 1);
  disk->name = g_strdup(name);
  g_ptr_array_add(job->disks, disk);
  return disk;
}

void
job_remove_disk(Job *job, const char *name)
{
  JobDisk *disk = job_find_disk(job, name);
  if (disk)
    g_ptr_array_remove(job->disks, disk);
}

JobDisk *
job_find_disk(const Job *job, const char *name)
{
  for (guint i = 0; i < job->disks->len; i++) {
    JobDisk *disk = job->disks->pdata[i];
    if (strcmp(disk->name, name) == 0)
      return disk;
  }
  return NULL;
}

void
job_add_vm_in_use(Job *job, const char *vm)
{
  g_ptr_array_add(job->vms_in_use, g_strdup(vm));
}

gboolean
job_uses_vm(const Job *job, const char *vm)
{
  return g_ptr_array_find_with_equal_func(job->vms_in_use, vm, g_str_equal, NULL);
}

void
job_add_point_in_use(Job *job, const CbtUuid *point)
{
  g_array_append_val(job->points, *point);
}

void
job_remove_point_in_use(Job *job, const CbtUuid *point)
{
  for (guint i = 0; i < job->points->len; i++)
    if (cbt_uuid_equal(&g_array_index(job->points, CbtUuid, i), point)) {
      g_array_remove_index(job->points, i);
      return;
    }
}

gboolean
job_uses_point(const Job *job, const CbtUuid *point)
{
  for (guint i = 0; i < job->points->len; i++)
    if (cbt_uuid_equal(&g_array_index(job->points, CbtUuid, i), point))
      return TRUE;
  return FALSE;
}

void
job_give_way(const Daemon *daemon)
{
  if (setpriority(PRIO_PROCESS, (id_t) gettid(), (int) daemon->config->nice) != 0)
    g_debug("cannot set the priority of a thread: %s", g_strerror(errno));
}

const char *
job_type_name(JobType type)
{
  return type_names[type];
}

const char *
job_status_name(JobStatus status)
{
  return status_names[status];
}

gboolean
job_is_finished(const Job *job)
{
  return job->status != JOB_QUEUED && job->status != JOB_ACTIVE;
}

gboolean
job_check(Job *job, GError **error)
{
  if (!g_cancellable_is_cancelled(job->cancellable))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return FALSE;
}

static void
put_error(JsonBuilder *builder, const GError *error)
{
  g_autofree char *message = error ? cbt_error_message(error) : NULL;
  g_autofree char *hint = error ? cbt_error_hint(error) : NULL;
  json_put_string(builder, "errmsg", message);
  json_put_string(builder, "code", error ? cbt_error_code_name(cbt_error_code(error)) : NULL);
  json_put_string(builder, "hint", hint);
}

static void
put_sums(JsonBuilder *builder, Job *job)
{
  guint64 total = 0, dirty = 0, transferred = 0;
  for (guint i = 0; i < job->disks->len; i++) {
    JobDisk *disk = g_ptr_array_index(job->disks, i);
    total += disk->total;
    dirty += disk->dirty;
    transferred += disk->transferred;
  }
  json_put_int(builder, "total", total);
  json_put_int(builder, "dirty", dirty);
  json_put_int(builder, "transferred", transferred);
  json_put_int(builder, "zero-bytes", job->zero_bytes);
  json_put_int(builder, "reused", job->reused);
  json_put_int(builder, "stored", job->stored);
  json_put_int(builder, "read", job->bytes_read);
  json_put_int(builder, "reads", job->n_reads);
  json_put_int(builder, "audited", job->audited);
}

static void
put_disks(JsonBuilder *builder, Job *job)
{
  json_builder_set_member_name(builder, "disks");
  json_builder_begin_array(builder);
  for (guint i = 0; i < job->disks->len; i++) {
    JobDisk *disk = g_ptr_array_index(job->disks, i);
    json_builder_begin_object(builder);
    json_put_string(builder, "name", disk->name);
    json_put_int(builder, "total", disk->total);
    json_put_int(builder, "dirty", disk->dirty);
    json_put_int(builder, "transferred", disk->transferred);
    json_builder_end_object(builder);
  }
  json_builder_end_array(builder);
}

/* The members of what the job has found. */
static void
put_result(JsonBuilder *builder, const Job *job)
{
  if (!job->result)
    return;
  JsonObjectIter iter;
  const char *key;
  JsonNode *value;
  json_object_iter_init(&iter, json_node_get_object(job->result));
  while (json_object_iter_next(&iter, &key, &value)) {
    json_builder_set_member_name(builder, key);
    json_builder_add_value(builder, json_node_copy(value));
  }
}

JsonNode *
job_to_json(Job *job)
{
  gboolean finished = job_is_finished(job);
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_int(builder, "id", (guint64) job->id);
  json_put_string(builder, "type", type_names[job->type]);
  json_put_string(builder, "vm", job->vm);
  json_put_string(builder, "kind", finished && job->final_kind ? job->final_kind : job->kind);
  json_put_string(builder, "status", status_names[job->status]);
  json_put_string(builder, "trigger", job->by_policy ? "policy" : "manual");
  put_error(builder, finished ? job->error : NULL);
  put_sums(builder, job);
  json_builder_set_member_name(builder, "hold-ms");
  json_builder_add_double_value(builder, finished ? (double) job->hold_us / 1000 : 0);
  json_put_time(builder, "start-time", job->start_time);
  json_put_time(builder, "end-time", job->end_time);
  CbtUuid none = {{0}};
  json_put_uuid(builder, "uuid", finished ? &job->uuid : &none);
  json_put_string(builder, "reason", finished ? job->reason : NULL);
  put_disks(builder, job);
  if (finished)
    put_result(builder, job);
  json_builder_end_object(builder);
  return json_finish(builder);
}
