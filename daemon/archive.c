/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files have their names only when they are complete (daemon/archive-file.h); a stream is just cut off when
 * the job fails, which the client sees. */
#include <daemon/archive-private.h>

#include <store/chain.h>
#include <string.h>

void
archive_progress(Archive *archive, JobDisk *disk, guint64 bytes)
{
  atomic_fetch_add(&disk->transferred, bytes);
  throttle_wait(&archive->throttle, bytes, archive->job->cancellable);
}

gboolean
archive_write_to_client(gpointer data, const guint8 *bytes, gsize length, GError **error)
{
  const Archive *archive = data;
  return api_stream_write(archive->request->stream, bytes, length, archive->job->cancellable, error);
}

static gboolean
write_format(Archive *archive, GError **error)
{
  switch (archive->request->format) {
  case ARCHIVE_VMA:
    return archive_write_vma(archive, error);
  case ARCHIVE_CHAIN:
    return archive_write_chain(archive, error);
  case ARCHIVE_RAW:
  case ARCHIVE_QCOW2:
  default:
    return archive_write_images(archive, error);
  }
}

static gboolean
write_files(Archive *archive, GError **error)
{
  g_autoptr(GPtrArray) files = archive_files_new(archive->request->files, archive->job->id, error);
  archive->files = files;
  return files && write_format(archive, error) && job_check(archive->job, error) &&
         archive_files_commit(files, error);
}

static gboolean
write_stream(Archive *archive, GError **error)
{
  return write_format(archive, error) &&
         api_stream_finish(archive->request->stream, archive->job->cancellable, error);
}

static gboolean
write_archive(Archive *archive, GError **error)
{
  if (archive->request->format == ARCHIVE_CHAIN)
    return archive_write_chain(archive, error);
  return archive->request->path ? write_files(archive, error) : write_stream(archive, error);
}

static gboolean
archive_run(Daemon *daemon, Job *job, gpointer data, GError **error)
{
  ArchiveRequest *request = data;
  Archive archive = {.daemon = daemon, .job = job, .request = request};
  job_give_way(daemon); /* as the threads do that it starts: what is asked of the daemon comes first */
  throttle_init(&archive.throttle, request->speed);
  job->uuid = request->point->uuid;
  gboolean ok = write_archive(&archive, error);
  throttle_clear(&archive.throttle);
  return ok;
}

/* The job is remembered for a while; neither the client nor its connection may wait for that. */
static void
close_stream(Job *job, gpointer data)
{
  ArchiveRequest *request = data;
  if (request->stream && job->error)
    api_stream_fail(request->stream, job->error);
  g_clear_pointer(&request->stream, api_stream_free);
}

/* A chain reads those that it is made of. */
static void
note_points(Job *job, const ArchiveRequest *request)
{
  job_add_point_in_use(job, &request->point->uuid);
  if (!request->points)
    return;
  g_autoptr(GPtrArray) chain = store_chain_select(request->points, &request->point->uuid);
  for (guint i = 0; i < chain->len; i++)
    job_add_point_in_use(job, &((const StorePoint *) chain->pdata[i])->uuid);
}

Job *
archive_job_new(ArchiveRequest *request)
{
  Job *job = job_new(JOB_ARCHIVE, request->point->vm, NULL, archive_run, request,
                     (GDestroyNotify) archive_request_free);
  job->on_end = close_stream;
  job->on_end_data = request;
  note_points(job, request);
  for (guint i = 0; i < request->disks->len; i++) {
    const StorePointDisk *disk = g_ptr_array_index(request->disks, i);
    JobDisk *progress = job_add_disk(job, disk->name);
    progress->total = progress->dirty = disk->manifest.size;
  }
  return job;
}
