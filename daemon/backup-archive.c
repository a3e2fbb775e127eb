/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The archive that a backup writes beside the store. Where all disks are read as a whole, each worker puts
 * the clusters that it has in hand into extents of its own, which go into the file as they get full: in the
 * order of arrival, as the format allows. Where only changes are read, the archive is made of the committed
 * point.
 *
 * The backup comes first: what fails here is kept until the point is committed, and told then.
 */
#include <daemon/backup-private.h>

#include <common/bytes.h>
#include <daemon/archive-file.h>
#include <stdatomic.h>
#include <store/vma-point.h>
#include <string.h>

struct BackupArchive {
  Backup *backup; /* constant, as all up to sink */
  const char *path;
  GPtrArray *files; /* of ArchiveFile: the archive, and its checksums */
  StoreVmaSink *sink;
  atomic_bool in_pass; /* clusters are taken; FALSE after a failure */
  pthread_mutex_t lock;
  GError *error; /* the first; under lock, as the use of sink */
};

struct BackupArchivePart {
  BackupArchive *archive;
  guint8 device;
  StoreVmaExtent *extent;
};

/* ---- clusters ---- */

static void
keep_error(BackupArchive *archive, GError *error)
{
  archive->in_pass = FALSE;
  if (!archive->error)
    archive->error = g_steal_pointer(&error);
  g_clear_error(&error);
}

static void
write_extent(BackupArchivePart *part)
{
  BackupArchive *archive = part->archive;
  GError *error = NULL;
  store_vma_extent_encode(part->extent, &archive->backup->uuid);
  pthread_mutex_lock(&archive->lock);
  if (archive->in_pass &&
      !store_vma_sink_write(archive->sink, part->extent->buffer, part->extent->length, &error))
    keep_error(archive, error);
  pthread_mutex_unlock(&archive->lock);
  store_vma_extent_clear(part->extent);
}

BackupArchivePart *
backup_archive_part_new(const BackupDisk *disk)
{
  BackupArchive *archive = disk->backup->archive;
  guint index;
  if (!archive || !archive->in_pass || !g_ptr_array_find(disk->backup->disks, disk, &index))
    return NULL;
  BackupArchivePart *part = g_new0(BackupArchivePart, 1);
  part->archive = archive;
  part->device = (guint8) (index + 1);
  part->extent = store_vma_extent_new();
  return part;
}

void
backup_archive_part_add(BackupArchivePart *part, guint64 cluster, const guint8 *data)
{
  if (!part || !part->archive->in_pass)
    return;
  memcpy(store_vma_extent_reserve(part->extent), data, CBT_CLUSTER_SIZE);
  store_vma_extent_add(part->extent, part->device, (guint32) cluster);
  if (store_vma_extent_is_full(part->extent))
    write_extent(part);
}

void
backup_archive_part_add_zeros(BackupArchivePart *part, const CbtExtent *zero)
{
  guint64 end = cbt_div_up(zero->offset + zero->length, CBT_CLUSTER_SIZE);
  for (guint64 cluster = zero->offset / CBT_CLUSTER_SIZE; part && part->archive->in_pass && cluster < end;
       cluster++) {
    store_vma_extent_add_zero(part->extent, part->device, (guint32) cluster);
    if (store_vma_extent_is_full(part->extent))
      write_extent(part);
  }
}

void
backup_archive_part_free(BackupArchivePart *part)
{
  if (!part)
    return;
  if (part->extent->n_clusters > 0)
    write_extent(part);
  store_vma_extent_free(part->extent);
  g_free(part);
}

/* ---- the archive ---- */

BackupArchive *
backup_archive_new(Backup *backup, GError **error)
{
  g_autoptr(GPtrArray) paths = archive_paths_of_vma(backup->request->archive);
  g_autoptr(GPtrArray) files = NULL;
  if (!archive_paths_check(paths, error) || !(files = archive_files_new(paths, backup->job->id, error)))
    return NULL;
  const char *path = backup->request->archive;
  guint zstd_threads = g_str_has_suffix(path, ".zst") ? backup->daemon->config->workers : 0;
  StoreVmaSink *sink = store_vma_sink_new(archive_files_get(files, 0)->fd, zstd_threads,
                                          archive_files_get(files, 1)->fd, error);
  if (!sink)
    return NULL;
  BackupArchive *archive = g_new0(BackupArchive, 1);
  archive->backup = backup;
  archive->path = path;
  archive->files = g_steal_pointer(&files);
  archive->sink = sink;
  pthread_mutex_init(&archive->lock, NULL);
  return archive;
}

void
backup_archive_free(BackupArchive *archive)
{
  if (!archive)
    return;
  store_vma_sink_free(archive->sink);
  g_ptr_array_unref(archive->files);
  pthread_mutex_destroy(&archive->lock);
  g_clear_error(&archive->error);
  g_free(archive);
}

/* The point has its configs by now, but not yet its disks. */
static gboolean
write_header(BackupArchive *archive, GError **error)
{
  const Backup *backup = archive->backup;
  g_autoptr(StoreWorker) worker = store_worker_new(backup->daemon->store);
  g_autoptr(StorePoint) draft = store_point_new();
  draft->uuid = backup->uuid;
  draft->time = backup->time;
  for (guint i = 0; i < backup->point->configs->len; i++) {
    const StorePointConfig *config = backup->point->configs->pdata[i];
    StorePointConfig *copy = store_point_add_config(draft, config->name);
    copy->id = config->id;
    copy->size = config->size;
  }
  for (guint i = 0; i < backup->disks->len; i++) {
    const BackupDisk *disk = backup->disks->pdata[i];
    store_point_add_disk(draft, disk->disk->name)->manifest.size = disk->size;
  }
  gsize length;
  g_autoptr(StoreVmaHeader) header = store_vma_point_header(worker, draft, error);
  g_autofree guint8 *data = header ? store_vma_header_encode(header, &length, error) : NULL;
  return data && store_vma_sink_write(archive->sink, data, length, error);
}

void
backup_archive_begin(BackupArchive *archive)
{
  GError *error = NULL;
  for (guint i = 0; i < archive->backup->disks->len; i++)
    if (((BackupDisk *) archive->backup->disks->pdata[i])->changes_only)
      return;
  archive->in_pass = TRUE;
  if (!write_header(archive, &error))
    keep_error(archive, error);
}

static gboolean
complete(BackupArchive *archive, GError **error)
{
  const Backup *backup = archive->backup;
  if (archive->error) {
    g_propagate_error(error, g_steal_pointer(&archive->error));
    return FALSE;
  }
  if (archive->in_pass)
    return store_vma_sink_finish(archive->sink, error);
  return store_vma_write_point(backup->daemon->store, backup->point, archive->sink,
                               backup->daemon->config->workers, NULL, NULL, backup->job->cancellable, error);
}

gboolean
backup_archive_finish(BackupArchive *archive, GError **error)
{
  if (complete(archive, error) && archive_files_commit(archive->files, error))
    return TRUE;
  g_prefix_error(error, "the recovery point was made, but not its archive %s: ", archive->path);
  return FALSE;
}
