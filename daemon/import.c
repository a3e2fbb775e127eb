/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An archive may have its clusters in any order, a manifest is made in theirs. So the chunk ids go to a
 * sparse scratch file for each disk first, 16 bytes a cluster, and the manifests are made of these files when
 * everything was read and found complete.
 */
#include <daemon/import.h>

#include <common/bytes.h>
#include <common/fd.h>
#include <common/name.h>
#include <daemon/commit.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <store/pins.h>
#include <store/vma-pump.h>
#include <string.h>
#include <unistd.h>

#define IDS_PER_READ 4096
#define TIME_MAX_S   G_GINT64_CONSTANT(253402300799) /* the end of the year 9999 */

typedef struct {
  char *vm;
  char *path;
  char *note; /* (nullable) */
} ImportRequest;

typedef struct {
  Daemon *daemon;
  Job *job;
  const ImportRequest *request;
  StoreVmaReader *reader;
  StorePoint *point;
  StorePins *pins;
  int ids[STORE_VMA_DEVICE_MAX + 1]; /* by device */
  JobDisk *progress;                 /* of all disks together: which there are, the archive says */
} Import;

typedef struct {
  Import *import;
  StoreWorker *worker;
  guint8 data[STORE_VMA_CLUSTER_SIZE];
} ImportThread;

static void
import_request_free(gpointer data)
{
  ImportRequest *request = data;
  g_free(request->vm);
  g_free(request->path);
  g_free(request->note);
  g_free(request);
}

/* ---- clusters ---- */

static gpointer
thread_new(gpointer import)
{
  ImportThread *thread = g_new0(ImportThread, 1);
  thread->import = import;
  thread->worker = store_worker_new(thread->import->daemon->store);
  store_worker_set_pins(thread->worker, thread->import->pins);
  return thread;
}

static void
thread_free(gpointer data)
{
  ImportThread *thread = data;
  StoreTally tally = {0};
  /* What cannot be written now is tried again when the point is committed. */
  if (!store_worker_flush(thread->worker, &tally, NULL))
    g_debug("import: the last clusters of a thread are not written yet");
  atomic_fetch_add(&thread->import->job->stored, tally.stored_bytes);
  store_worker_free(thread->worker);
  g_free(thread);
}

static gboolean
take_cluster(ImportThread *thread, const StoreVmaCluster *cluster, GError **error)
{
  Import *import = thread->import;
  Job *job = import->job;
  StoreChunkId id;
  StoreTally tally = {0};
  store_vma_cluster_expand(cluster, thread->data);
  if (!store_put(thread->worker, STORE_CHUNK_DATA, thread->data, sizeof thread->data, &id, NULL, &tally,
                 error))
    return FALSE;
  atomic_fetch_add(&job->zero_bytes, tally.zero_bytes);
  atomic_fetch_add(&job->reused, tally.reused_bytes);
  atomic_fetch_add(&job->stored, tally.stored_bytes);
  atomic_fetch_add(&import->progress->transferred, sizeof thread->data);
  if (!store_reserve_note(import->daemon->store_reserve, tally.new_bytes, error))
    return FALSE;
  if (store_chunk_id_is_zero(&id) ||
      cbt_pwrite_full(import->ids[cluster->device], &id, sizeof id, (guint64) cluster->number * sizeof id))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write to the scratch file of the import");
  return FALSE;
}

static gboolean
take_extent(gpointer data, const StoreVmaExtent *extent, GError **error)
{
  ImportThread *thread = data;
  if (!job_check(thread->import->job, error))
    return FALSE;
  for (guint i = 0; i < extent->n_clusters; i++)
    if (!take_cluster(thread, &extent->clusters[i], error))
      return FALSE;
  return TRUE;
}

/* ---- disks ---- */

static int
open_scratch(Daemon *daemon, guint64 length, GError **error)
{
  g_autofree char *path = g_build_filename(daemon->config->state_dir, "import.XXXXXX", NULL);
  CBT_AUTO_FD int fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0)
    unlink(path);
  if (fd < 0 || ftruncate(fd, (off_t) length) != 0) {
    cbt_set_error_errno(error, errno, "cannot make a scratch file in %s", daemon->config->state_dir);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

static gboolean
add_disk(Import *import, const StoreVmaDevice *device, GError **error)
{
  if (!cbt_name_check("disk", device->name, error))
    return FALSE;
  guint64 n_clusters = cbt_div_up(device->size, STORE_VMA_CLUSTER_SIZE);
  import->ids[device->id] = open_scratch(import->daemon, n_clusters * sizeof(StoreChunkId), error);
  if (import->ids[device->id] < 0)
    return FALSE;
  atomic_fetch_add(&import->progress->total, device->size);
  atomic_fetch_add(&import->progress->dirty, device->size);
  return TRUE;
}

typedef struct {
  StoreManifestBuilder *builder;
  const StoreChunkId *ids;
  guint64 first;
} IdRun;

static gboolean
set_ids(const IdRun *run, guint n, GError **error)
{
  for (guint i = 0; i < n; i++)
    if (!store_chunk_id_is_zero(&run->ids[i]) &&
        !store_manifest_builder_set(run->builder, run->first + i, &run->ids[i], error))
      return FALSE;
  return TRUE;
}

static gboolean
build_manifest(Import *import, const StoreVmaDevice *device, guint64 size, StoreManifest *manifest,
               GError **error)
{
  StoreTally tally = {0};
  g_autofree StoreChunkId *ids = g_new(StoreChunkId, IDS_PER_READ);
  g_autoptr(StoreWorker) worker = store_worker_new(import->daemon->store);
  g_autoptr(StoreManifestBuilder) builder = store_manifest_builder_new(worker, NULL, size, &tally, error);
  store_worker_set_pins(worker, import->pins);
  guint64 n = cbt_div_up(size, STORE_VMA_CLUSTER_SIZE);
  off_t at = 0;
  int fd = import->ids[device->id];
  while (builder && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
    guint64 first = (guint64) at / sizeof *ids;
    guint count = (guint) MIN(IDS_PER_READ, n - MIN(n, first));
    if (count == 0)
      break;
    IdRun run = {builder, ids, first};
    if (cbt_pread_full(fd, ids, count * sizeof *ids, first * sizeof *ids) != (gssize) (count * sizeof *ids)) {
      cbt_set_error_errno(error, errno, "cannot read the scratch file of the import");
      return FALSE;
    }
    if (!set_ids(&run, count, error))
      return FALSE;
    at = (off_t) ((first + count) * sizeof *ids);
  }
  if (builder && at < 0 && errno != ENXIO) {
    cbt_set_error_errno(error, errno, "cannot read the scratch file of the import");
    return FALSE;
  }
  if (!builder || !store_manifest_builder_finish(builder, manifest, error))
    return FALSE;
  atomic_fetch_add(&import->job->stored, tally.stored_bytes);
  return TRUE;
}

/* What is known of a state stream's length is how much of it came. */
static guint64
device_size(const Import *import, const StoreVmaDevice *device)
{
  if (!store_vma_device_is_state(device))
    return device->size;
  return store_vma_reader_n_clusters(import->reader, device->id) * STORE_VMA_CLUSTER_SIZE;
}

static gboolean
add_point_disks(Import *import, const StoreVmaHeader *header, GError **error)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    StorePointDisk *disk = store_point_add_disk(import->point, device->name);
    g_free(disk->path);
    disk->path = g_strdup(import->request->path);
    disk->dirty = device_size(import, device);
    if (!build_manifest(import, device, disk->dirty, &disk->manifest, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
add_configs(Import *import, const StoreVmaHeader *header, GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(import->daemon->store);
  store_worker_set_pins(worker, import->pins);
  for (guint i = 0; i < header->configs->len; i++) {
    const StoreVmaConfig *from = header->configs->pdata[i];
    if (!store_point_config_name_is_valid(from->name)) {
      g_autofree char *shown = cbt_printable(from->name);
      cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the archive has a configuration file named '%s'", shown);
      return FALSE;
    }
    StorePointConfig *config = store_point_add_config(import->point, from->name);
    config->size = from->size;
    if (from->size > 0 &&
        !store_put(worker, STORE_CHUNK_BLOB, from->data, from->size, &config->id, NULL, NULL, error))
      return FALSE;
  }
  return TRUE;
}

/* ---- the job ---- */

/* When the archive was made; an impossible time is none. */
static gint64
time_of(const StoreVmaHeader *header)
{
  return header->time >= 0 && header->time <= TIME_MAX_S ? header->time * G_USEC_PER_SEC : g_get_real_time();
}

static gboolean
import_archive(Import *import, StoreVmaSource *source, GError **error)
{
  g_autoptr(StoreVmaReader) reader = store_vma_reader_new(source, error);
  if (!reader)
    return FALSE;
  import->reader = reader;
  const StoreVmaHeader *header = store_vma_reader_header(reader);
  for (guint i = 0; i < header->devices->len; i++)
    if (!add_disk(import, header->devices->pdata[i], error))
      return FALSE;
  StoreVmaTaker taker = {thread_new, thread_free, take_extent, import};
  import->point->uuid = cbt_uuid_generate();
  import->point->vm = g_strdup(import->request->vm);
  import->point->note = g_strdup(import->request->note);
  import->point->time = time_of(header);
  return add_configs(import, header, error) &&
         store_vma_pump(reader, &taker, import->daemon->config->workers, error) &&
         add_point_disks(import, header, error) &&
         commit_point(import->daemon, import->job, import->point, NULL, NULL, error);
}

static gboolean
open_and_import(Import *import, GError **error)
{
  const char *path = import->request->path;
  GError *local = NULL;
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return FALSE;
  }
  g_autoptr(StoreVmaSums) sums = store_vma_sums_open(path, &local);
  StoreVmaSource *source = local ? NULL : store_vma_source_new(fd, sums, &local);
  gboolean ok = source && import_archive(import, source, &local);
  g_clear_pointer(&source, store_vma_source_free);
  if (!ok)
    g_propagate_prefixed_error(error, local, "%s: ", path);
  return ok;
}

static gboolean
import_run(Daemon *daemon, Job *job, gpointer request, GError **error)
{
  Import import = {
      .daemon = daemon, .job = job, .request = request, .progress = g_ptr_array_index(job->disks, 0)};
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    import.ids[id] = -1;
  import.point = store_point_new();
  import.pins = store_pins_new(daemon->store);
  gboolean ok = store_reserve_check(daemon->store_reserve, error) && open_and_import(&import, error);
  if (!ok)
    store_reserve_explain(daemon->store_reserve, error);
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    cbt_clear_fd(&import.ids[id]);
  store_pins_free(import.pins);
  store_point_free(import.point);
  return ok;
}

Job *
import_job_new(const char *vm, const char *path, const char *note)
{
  ImportRequest *request = g_new0(ImportRequest, 1);
  *request = (ImportRequest){g_strdup(vm), g_strdup(path), g_strdup(note)};
  Job *job = job_new(JOB_IMPORT, vm, NULL, import_run, request, import_request_free);
  g_autofree char *name = g_path_get_basename(path);
  job_add_disk(job, name);
  return job;
}
