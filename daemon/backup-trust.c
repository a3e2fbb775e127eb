/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a bitmap of QEMU's can be believed. An image may be cut and grown again, at rest or by QEMU itself:
 * what was behind the cut is zeros then, and the bitmap calls it clean. Anything else that changes an image
 * at rest is as bad, but this is what tools do, and it can be seen without reading: a cluster that is clean,
 * has no data any more, and was not zero at the base.
 *
 * The layout is looked at before the instant. What becomes zeros between the two is marked as dirty by then.
 */
#include <daemon/backup-private.h>

#include <cbt/qemu/nbd-source.h>
#include <cbt/qemu/offline.h>
#include <store/manifest.h>

#define READ_TIMEOUT_MS 60000

typedef struct {
  const BackupDisk *disk;
  const char *instance;
  gboolean is_same;
  GError *error;
} Question;

static void
compare_instance(gpointer data)
{
  Question *question = data;
  const Backup *backup = question->disk->backup;
  g_autofree char *known = NULL;
  if (catalogue_get_instance(backup->daemon->catalogue, &question->disk->disk->id, backup->request->bitmap,
                             &known, &question->error))
    question->is_same = known && g_strcmp0(known, question->instance) == 0;
}

static CbtBitmap *
zeros_of(CbtSource *source, GError **error)
{
  g_autoptr(CbtBitmap) zeros = cbt_bitmap_new(source->size, CBT_CLUSTER_SIZE);
  CbtExtent run = {0, 0};
  while (run.offset < source->size) {
    gboolean hole;
    if (!cbt_source_next_extent(source, run.offset, source->size - run.offset, &run, &hole, error))
      return NULL;
    if (hole)
      cbt_bitmap_set(zeros, run.offset, run.length);
    run.offset += run.length;
  }
  return g_steal_pointer(&zeros);
}

static CbtBitmap *
read_zeros(const BackupDisk *disk, const char *sockets, GError **error)
{
  GCancellable *stop = disk->backup->stop;
  if (g_strcmp0(disk->disk->format, "raw") == 0) {
    g_autoptr(CbtSource) file = cbt_source_open_file(disk->disk->path, error);
    return file ? zeros_of(file, error) : NULL;
  }
  g_autoptr(QemuOffline) server = qemu_offline_serve_shared(disk->disk->path, sockets, stop, error);
  if (!server)
    return NULL;
  const QemuNbdSourceOptions options = {.uri = qemu_offline_uri(server), .timeout_ms = READ_TIMEOUT_MS};
  g_autoptr(CbtSource) source = qemu_nbd_source_open(&options, stop, error);
  return source ? zeros_of(source, error) : NULL;
}

gboolean
backup_trust_look(BackupDisk *disk, const char *instance, const char *sockets, GError **error)
{
  Question question = {disk, instance, FALSE, NULL};
  g_autoptr(GError) local = NULL;
  g_clear_pointer(&disk->zeros, cbt_bitmap_free);
  if (!disk->changes_only)
    return TRUE;
  disk->zeros = read_zeros(disk, sockets, &local);
  if (disk->zeros)
    return TRUE;
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_CANCELLED)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  main_queue_call(disk->backup->daemon->queue, compare_instance, &question);
  if (question.error) {
    g_propagate_error(error, question.error);
    return FALSE;
  }
  /* An image that is none of this host's: its QEMU had it all the time. */
  if (question.is_same)
    return TRUE;
  g_autofree char *why = cbt_error_message(local);
  disk->changes_only = FALSE;
  disk->reason =
      g_strdup_printf("another QEMU has it than at the latest backup, and whether its image was changed "
                      "meanwhile cannot be seen: %s",
                      why);
  return TRUE;
}

typedef struct {
  const BackupDisk *disk;
  gboolean found;
  guint64 cluster;
} Search;

static gboolean
look_at_cluster(guint64 cluster, const StoreChunkId *id G_GNUC_UNUSED, gpointer data)
{
  Search *search = data;
  guint64 offset = cluster * CBT_CLUSTER_SIZE;
  if (offset >= cbt_bitmap_size(search->disk->zeros) || !cbt_bitmap_get(search->disk->zeros, offset) ||
      cbt_bitmap_get(search->disk->changes, offset))
    return TRUE;
  search->found = TRUE;
  search->cluster = cluster;
  return FALSE;
}

gboolean
backup_trust_check(BackupDisk *disk, gboolean *lies, GError **error)
{
  Search search = {disk, FALSE, 0};
  *lies = FALSE;
  if (!disk->zeros || !disk->changes_only)
    return TRUE;
  g_autoptr(StoreWorker) worker = store_worker_new(disk->backup->daemon->store);
  if (!store_manifest_walk(worker, &disk->base, 0, store_manifest_n_clusters(disk->base.size),
                           look_at_cluster, &search, error))
    return FALSE;
  g_clear_pointer(&disk->zeros, cbt_bitmap_free);
  *lies = search.found;
  if (!search.found)
    return TRUE;
  disk->changes_only = FALSE;
  disk->reason = g_strdup_printf(
      "bitmap '%s' missed that its image was cut and grown again, or changed behind QEMU: there is no data "
      "at offset %" G_GUINT64_FORMAT " any more",
      disk->backup->request->bitmap, search.cluster * CBT_CLUSTER_SIZE);
  return TRUE;
}
