/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All disks and configuration files in one VMA archive; beside a file, FILE.xxh3 with the checksums of it. */
#include <daemon/archive-private.h>

#include <common/bytes.h>
#include <store/vma-point.h>

typedef struct {
  Archive *archive;
  guint disk; /* that the bytes are of, by the order of the disks */
} VmaProgress;

/* Disks come one after another; the last cluster of each may be less than one. */
static void
on_progress(gpointer data, guint64 bytes)
{
  VmaProgress *progress = data;
  Job *job = progress->archive->job;
  guint64 left = bytes;
  while (left > 0 && progress->disk < job->disks->len) {
    JobDisk *disk = g_ptr_array_index(job->disks, progress->disk);
    guint64 part = MIN(left, cbt_round_up(disk->total, CBT_CLUSTER_SIZE) -
                                 cbt_round_up(disk->transferred, CBT_CLUSTER_SIZE));
    disk->transferred = MIN(disk->total, disk->transferred + part);
    left -= part;
    if (disk->transferred == disk->total)
      progress->disk++;
  }
  throttle_wait(&progress->archive->throttle, bytes, job->cancellable);
}

static StoreVmaSink *
open_sink(Archive *archive, GError **error)
{
  if (!archive->files)
    return store_vma_sink_new_for(archive_write_to_client, archive);
  gboolean compressed = g_str_has_suffix(archive->request->path, ".zst");
  return store_vma_sink_new(archive_files_get(archive->files, 0)->fd,
                            compressed ? archive->daemon->config->workers : 0,
                            archive_files_get(archive->files, 1)->fd, error);
}

gboolean
archive_write_vma(Archive *archive, GError **error)
{
  VmaProgress progress = {archive, 0};
  g_autoptr(StoreVmaSink) sink = open_sink(archive, error);
  if (!sink)
    return FALSE;
  gboolean ok = store_vma_write_point(archive->daemon->store, archive->request->point, sink,
                                      archive->daemon->config->workers, on_progress, &progress,
                                      archive->job->cancellable, error);
  archive->job->stored = store_vma_sink_written(sink);
  return ok;
}
