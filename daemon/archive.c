/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file is made exclusively, beside it FILE.xxh3 with the checksums of what is in it, and both are removed
 * again if the job fails. A stream is just cut off then, which the client sees.
 */
#include <daemon/archive.h>

#include <common/bytes.h>
#include <common/fd.h>
#include <daemon/throttle.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <store/vma-point.h>
#include <store/vma-sums.h>
#include <string.h>

typedef struct {
  Job *job;
  const ArchiveRequest *request;
  Throttle throttle;
  guint disk; /* that the bytes are of, by the order of the disks */
} Archive;

gboolean
archive_format_parse(const char *text, ArchiveFormat *format, GError **error)
{
  *format = ARCHIVE_VMA;
  if (strcmp(text, "vma") == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Use \"vma\".", "'%s' is no format of archives", text);
  return FALSE;
}

void
archive_request_free(ArchiveRequest *request)
{
  g_clear_pointer(&request->point, store_point_free);
  g_clear_pointer(&request->stream, api_stream_free);
  g_free(request->path);
  g_free(request);
}

/* Disks come one after another; the last cluster of each may be less than one. */
static void
on_progress(gpointer data, guint64 bytes)
{
  Archive *archive = data;
  guint64 left = bytes;
  while (left > 0 && archive->disk < archive->job->disks->len) {
    JobDisk *disk = g_ptr_array_index(archive->job->disks, archive->disk);
    guint64 part = MIN(left, cbt_round_up(disk->total, CBT_CLUSTER_SIZE) -
                                 cbt_round_up(disk->transferred, CBT_CLUSTER_SIZE));
    disk->transferred = MIN(disk->total, disk->transferred + part);
    left -= part;
    if (disk->transferred == disk->total)
      archive->disk++;
  }
  throttle_wait(&archive->throttle, bytes, archive->job->cancellable);
}

static gboolean
write_archive(Daemon *daemon, Archive *archive, StoreVmaSink *sink, GError **error)
{
  gboolean ok = store_vma_write_point(daemon->store, archive->request->point, sink, daemon->config->workers,
                                      on_progress, archive, archive->job->cancellable, error);
  archive->job->stored = store_vma_sink_written(sink);
  return ok;
}

/* ---- into a file ---- */

static int
make_file(const char *path, GError **error)
{
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    cbt_set_error_errno(error, errno, "cannot create %s", path);
  return fd;
}

static gboolean
fill_file(Daemon *daemon, Archive *archive, int fd, int sums_fd, GError **error)
{
  const char *path = archive->request->path;
  guint zstd_threads = g_str_has_suffix(path, ".zst") ? daemon->config->workers : 0;
  g_autoptr(StoreVmaSink) sink = store_vma_sink_new(fd, zstd_threads, sums_fd, error);
  if (!sink || !write_archive(daemon, archive, sink, error))
    return FALSE;
  if (fdatasync(fd) == 0 && fdatasync(sums_fd) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", path);
  return FALSE;
}

static gboolean
write_file(Daemon *daemon, Archive *archive, GError **error)
{
  const char *path = archive->request->path;
  g_autofree char *sums_path = g_strconcat(path, STORE_VMA_SUMS_SUFFIX, NULL);
  CBT_AUTO_FD int fd = make_file(path, error);
  if (fd < 0)
    return FALSE;
  CBT_AUTO_FD int sums_fd = make_file(sums_path, error);
  if (sums_fd >= 0 && fill_file(daemon, archive, fd, sums_fd, error))
    return TRUE;
  g_unlink(path);
  if (sums_fd >= 0)
    g_unlink(sums_path);
  return FALSE;
}

/* ---- into a stream ---- */

static gboolean
write_to_client(gpointer data, const guint8 *bytes, gsize length, GError **error)
{
  const Archive *archive = data;
  return api_stream_write(archive->request->stream, bytes, length, archive->job->cancellable, error);
}

static gboolean
write_stream(Daemon *daemon, Archive *archive, GError **error)
{
  g_autoptr(StoreVmaSink) sink = store_vma_sink_new_for(write_to_client, archive);
  return write_archive(daemon, archive, sink, error) &&
         api_stream_finish(archive->request->stream, archive->job->cancellable, error);
}

/* ---- the job ---- */

static gboolean
archive_run(Daemon *daemon, Job *job, gpointer data, GError **error)
{
  ArchiveRequest *request = data;
  Archive archive = {.job = job, .request = request};
  throttle_init(&archive.throttle, request->speed);
  job->uuid = request->point->uuid;
  gboolean ok = request->path ? write_file(daemon, &archive, error) : write_stream(daemon, &archive, error);
  throttle_clear(&archive.throttle);
  if (request->stream) /* the job is remembered for a while; the client must not wait for that */
    api_stream_shutdown(request->stream);
  return ok;
}

Job *
archive_job_new(ArchiveRequest *request, GError **error)
{
  struct stat st;
  if (request->path && lstat(request->path, &st) == 0) {
    cbt_set_error(error, CBT_ERROR_EXISTS, "Choose another name, or remove it.", "%s exists already",
                  request->path);
    archive_request_free(request);
    return NULL;
  }
  Job *job = job_new(JOB_ARCHIVE, request->point->vm, NULL, archive_run, request,
                     (GDestroyNotify) archive_request_free);
  for (guint i = 0; i < request->point->disks->len; i++) {
    const StorePointDisk *disk = g_ptr_array_index(request->point->disks, i);
    JobDisk *progress = job_add_disk(job, disk->name);
    progress->total = progress->dirty = disk->manifest.size;
  }
  return job;
}
