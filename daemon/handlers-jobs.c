/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <api/json.h>
#include <common/name.h>
#include <daemon/archive-file.h>
#include <daemon/backup.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/job-events.h>
#include <daemon/leases.h>
#include <daemon/task.h>
#include <daemon/throttle.h>
#include <string.h>

#define DEFAULT_LIMIT 100
#define MAX_WAIT_MS   60000

static gboolean
parse_kind(const char *kind, gboolean *incremental, GError **error)
{
  *incremental = strcmp(kind, "incremental") == 0;
  if (*incremental || strcmp(kind, "full") == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Use \"full\" or \"incremental\".",
                "key 'kind': '%s' is no kind of backup", kind);
  return FALSE;
}

static gboolean
check_audit(guint64 audit, GError **error)
{
  if (audit <= BACKUP_AUDIT_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "key 'audit': at most %d clusters can be compared",
                BACKUP_AUDIT_MAX);
  return FALSE;
}

/* The path of the archive that BODY asks for, in *path (transfer full); NULL there if it does not. */
static gboolean
get_archive(ApiRequest *request, Daemon *daemon, char **path, GError **error)
{
  const char *text = NULL;
  *path = NULL;
  if (!api_json_get_string(api_request_body(request), "archive", FALSE, &text, error))
    return FALSE;
  if (!text)
    return TRUE;
  *path = handler_take_path(request, daemon, text, error);
  g_autoptr(GPtrArray) paths = *path ? archive_paths_of_vma(*path) : NULL;
  return paths && archive_paths_check(paths, error);
}

/* Without a word a guest with an agent has its file systems frozen. */
static gboolean
get_quiesce(const CatalogueVm *vm, JsonObject *body, QemuQuiesceLevel *level, GError **error)
{
  const char *text = NULL;
  *level = vm->qga ? QEMU_QUIESCE_FS : QEMU_QUIESCE_NONE;
  if (!api_json_get_string(body, "quiesce", FALSE, &text, error))
    return FALSE;
  if (!text)
    return TRUE;
  for (*level = QEMU_QUIESCE_NONE; *level <= QEMU_QUIESCE_APP; (*level)++)
    if (strcmp(text, qemu_quiesce_level_name(*level)) == 0)
      break;
  if (*level > QEMU_QUIESCE_APP)
    cbt_set_error(error, CBT_ERROR_INVALID, "Use none, fs or app.", "key 'quiesce': '%s' is no level", text);
  else if (*level != QEMU_QUIESCE_NONE && !vm->qga)
    cbt_set_error(error, CBT_ERROR_STATE,
                  "Add the vm with --qga SOCKET, the path of its agent's socket on this host.",
                  "vm '%s' has no guest agent that could freeze its file systems", vm->name);
  else
    return TRUE;
  return FALSE;
}

static gboolean
get_snapshot(const CatalogueVm *vm, JsonObject *body, gboolean *is_external, GError **error)
{
  const char *text = "none";
  if (!api_json_get_string(body, "snapshot", FALSE, &text, error))
    return FALSE;
  *is_external = strcmp(text, "external") == 0;
  if (!*is_external && strcmp(text, "none") != 0)
    cbt_set_error(error, CBT_ERROR_INVALID, "Use none or external.", "key 'snapshot': '%s' is no kind of it",
                  text);
  else if (*is_external && !catalogue_vm_is_live(vm))
    cbt_set_error(error, CBT_ERROR_STATE, "Leave it out: an export keeps the old bytes itself.",
                  "vm '%s' can have no external snapshots: no QEMU that is known here has its disks",
                  vm->name);
  else
    return TRUE;
  return FALSE;
}

static BackupRequest *
backup_request_from_json(ApiRequest *request, Daemon *daemon, CatalogueVm *vm, GError **error)
{
  JsonObject *body = api_request_body(request);
  const char *kind = NULL, *bitmap = "default", *note = NULL;
  gboolean incremental;
  g_autoptr(BackupRequest) backup = backup_request_new(vm, FALSE, NULL);
  backup->audit = daemon->config->audit;
  if (!api_json_get_string(body, "kind", TRUE, &kind, error) || !parse_kind(kind, &incremental, error) ||
      !api_json_get_string(body, "bitmap", FALSE, &bitmap, error) ||
      !cbt_name_check("bitmap", bitmap, error) ||
      !api_json_get_size(body, "speed", FALSE, &backup->speed, error) ||
      !throttle_check_speed(backup->speed, error) ||
      !api_json_get_size(body, "audit", FALSE, &backup->audit, error) || !check_audit(backup->audit, error) ||
      !api_json_get_strings(body, "disks", FALSE, &backup->disks, error) ||
      !api_json_get_string(body, "note", FALSE, &note, error) ||
      !get_archive(request, daemon, &backup->archive, error) ||
      !get_quiesce(vm, body, &backup->quiesce, error) || !get_snapshot(vm, body, &backup->is_external, error))
    return NULL;
  if (backup->disks && !backup->disks[0])
    g_clear_pointer(&backup->disks, g_strfreev);
  backup->incremental = incremental;
  g_free(backup->bitmap);
  backup->bitmap = g_strdup(bitmap);
  backup->note = g_strdup(note);
  return g_steal_pointer(&backup);
}

static JsonNode *
submit(Daemon *daemon, Job *job, GError **error)
{
  Job *submitted = engine_submit(daemon->engine, job, error);
  return submitted ? job_to_json(submitted) : NULL;
}

/* A backup whose bitmap has a lease on one of its disks: whether it is frozen by hand is known to its owner.
 */
typedef struct {
  Daemon *daemon;
  Job *job; /* not yet submitted */
  const BackupRequest *backup;
  JsonNode *body;
  GError *error;
} LeasedBackup;

static void
leased_backup_free(gpointer data)
{
  LeasedBackup *leased = data;
  g_clear_pointer(&leased->job, job_unref);
  g_free(leased);
}

static gboolean
check_disk_free(Daemon *daemon, const BackupRequest *backup, const CatalogueDisk *disk, GError **error)
{
  CbtBitmapInfo info;
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, backup->vm->name, disk, NULL);
  /* What else is wrong, the job finds. */
  return !ref || !disk_ref_info(ref, backup->bitmap, &info, NULL) ||
         leases_check_free(daemon, ref, disk, &info, error);
}

static void
submit_leased(gpointer data)
{
  LeasedBackup *leased = data;
  leased->body = submit(leased->daemon, g_steal_pointer(&leased->job), &leased->error);
}

static JsonNode *
check_and_submit(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  LeasedBackup *leased = data;
  const CatalogueVm *vm = leased->backup->vm;
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    if (backup_request_has_disk(leased->backup, disk->name) &&
        !check_disk_free(daemon, leased->backup, disk, error))
      return NULL;
  }
  durable_call(daemon, submit_leased, leased);
  if (leased->error)
    g_propagate_error(error, leased->error);
  return leased->body;
}

static gboolean
has_lease(Daemon *daemon, const BackupRequest *backup)
{
  for (guint i = 0; i < backup->vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(backup->vm->disks, i);
    CatalogueLease lease;
    if (backup_request_has_disk(backup, disk->name) &&
        catalogue_get_lease(daemon->catalogue, &disk->id, backup->bitmap, &lease, NULL) &&
        !cbt_uuid_is_nil(&lease.id))
      return TRUE;
  }
  return FALSE;
}

void
handle_backup(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  CatalogueVm *vm = handler_get_vm(request, daemon);
  if (!vm)
    return;
  BackupRequest *backup = backup_request_from_json(request, daemon, vm, &error);
  Job *job = backup ? backup_job_new(backup, &error) : NULL;
  if (job && has_lease(daemon, backup)) {
    LeasedBackup *leased = g_new0(LeasedBackup, 1);
    *leased = (LeasedBackup){.daemon = daemon, .job = job, .backup = backup};
    task_run(daemon, request, 202, check_and_submit, leased, leased_backup_free);
    return;
  }
  JsonNode *body = job ? submit(daemon, job, &error) : NULL;
  if (body)
    durable_reply(daemon, request, 202, body);
  else
    api_request_reply_error(request, error);
}

/* The newest state: memory's for jobs that are there, else the catalogue's. */
static JsonNode *
current_json(Daemon *daemon, const CatalogueJob *record)
{
  Job *job = engine_find(daemon->engine, record->id);
  return job ? job_to_json(job) : api_json_from_text(record->json, -1, NULL);
}

void
handle_job_list(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  guint64 limit = DEFAULT_LIMIT;
  const char *vm = api_request_query(request, "vm");
  g_autoptr(GPtrArray) jobs = NULL;
  if (api_query_get_u64("limit", api_request_query(request, "limit"), &limit, &error))
    jobs = catalogue_list_jobs(daemon->catalogue, vm ? G_MAXUINT : (guint) MIN(limit, G_MAXUINT), &error);
  if (!jobs) {
    api_request_reply_error(request, error);
    return;
  }
  JsonArray *array = json_array_new();
  for (guint i = 0; i < jobs->len && json_array_get_length(array) < limit; i++) {
    const CatalogueJob *record = g_ptr_array_index(jobs, i);
    JsonNode *node = !vm || g_strcmp0(record->vm, vm) == 0 ? current_json(daemon, record) : NULL;
    if (node)
      json_array_add_element(array, node);
  }
  JsonNode *body = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(body, array);
  api_request_reply(request, 200, body);
}

static gboolean
parse_id(const char *text, gint64 *id, GError **error)
{
  guint64 number = 0;
  if (g_ascii_string_to_unsigned(text, 10, 1, G_MAXINT64, &number, NULL)) {
    *id = (gint64) number;
    return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-backup job list.", "there is no job '%s'", text);
  return FALSE;
}

/* The job that REQUEST names: *job (transfer none) if it is in memory, else *record (transfer full). */
static gboolean
find_job(ApiRequest *request, Daemon *daemon, Job **job, CatalogueJob **record, GError **error)
{
  gint64 id;
  if (!parse_id(api_request_param(request, "id"), &id, error))
    return FALSE;
  *job = engine_find(daemon->engine, id);
  *record = *job ? NULL : catalogue_get_job(daemon->catalogue, id, error);
  return *job || *record;
}

static void
reply_ended_job(ApiRequest *request, const CatalogueJob *record)
{
  GError *error = NULL;
  JsonNode *body = api_json_from_text(record->json, -1, &error);
  if (body)
    api_request_reply(request, 200, body);
  else
    api_request_reply_error(request, error);
}

void
handle_job_show(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  guint64 wait_ms = 0;
  Job *job = NULL;
  g_autoptr(CatalogueJob) record = NULL;
  if (!api_query_get_u64("wait-ms", api_request_query(request, "wait-ms"), &wait_ms, &error) ||
      !find_job(request, daemon, &job, &record, &error))
    api_request_reply_error(request, error);
  else if (job)
    engine_wait(daemon->engine, job, request, (guint) MIN(wait_ms, MAX_WAIT_MS));
  else
    reply_ended_job(request, record);
}

void
handle_job_events(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Job *job = NULL;
  g_autoptr(CatalogueJob) record = NULL;
  if (!find_job(request, daemon, &job, &record, &error))
    api_request_reply_error(request, error);
  else if (job)
    job_events_follow(daemon->job_events, job, request);
  else
    job_events_tell_end(daemon->job_events, record->json, request);
}

void
handle_job_cancel(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Job *job = NULL;
  g_autoptr(CatalogueJob) record = NULL;
  if (find_job(request, daemon, &job, &record, &error) && record)
    cbt_set_error(&error, CBT_ERROR_STATE, NULL, "job %" G_GINT64_FORMAT " has ended already (%s)",
                  record->id, record->status);
  if (job && engine_cancel(daemon->engine, job, &error))
    api_request_reply(request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}
