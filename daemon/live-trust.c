/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image may be cut and grown again, at rest or by QEMU itself: what was behind the cut is zeros then, and
 * the bitmap calls it clean. Anything else that changes an image at rest is as bad, but this is what tools
 * do, and it can be seen without reading: a cluster that is clean, has no data any more, and was not zero at
 * the base.
 */
#include <daemon/live-trust.h>

#include <cbt/qemu/nbd-source.h>
#include <cbt/qemu/offline.h>
#include <common/bytes.h>
#include <store/manifest.h>

#define READ_TIMEOUT_MS 60000

/* A file's holes begin and end anywhere. */
static void
set_whole_clusters(CbtBitmap *zeros, const CbtExtent *hole)
{
  guint64 end = hole->offset + hole->length, first = cbt_round_up(hole->offset, CBT_CLUSTER_SIZE);
  guint64 last = end == cbt_bitmap_size(zeros) ? end : cbt_round_down(end, CBT_CLUSTER_SIZE);
  if (first < last)
    cbt_bitmap_set(zeros, first, last - first);
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
      set_whole_clusters(zeros, &run);
    run.offset += run.length;
  }
  return g_steal_pointer(&zeros);
}

CbtBitmap *
live_trust_read_zeros(const CatalogueDisk *disk, const char *sockets, GCancellable *stop, GError **error)
{
  if (g_strcmp0(disk->format, "raw") == 0) {
    g_autoptr(CbtSource) file = cbt_source_open_file(disk->path, error);
    return file ? zeros_of(file, error) : NULL;
  }
  g_autoptr(QemuOffline) server = qemu_offline_serve_shared(disk->path, sockets, stop, error);
  if (!server)
    return NULL;
  const QemuNbdSourceOptions options = {.uri = qemu_offline_uri(server), .timeout_ms = READ_TIMEOUT_MS};
  g_autoptr(CbtSource) source = qemu_nbd_source_open(&options, stop, error);
  return source ? zeros_of(source, error) : NULL;
}

typedef struct {
  Daemon *daemon;
  const CbtUuid *disk_id;
  const char *bitmap, *instance;
  gboolean is_same;
  GError *error;
} Question;

static void
compare_instance(gpointer data)
{
  Question *question = data;
  g_autofree char *known = NULL;
  if (catalogue_get_instance(question->daemon->catalogue, question->disk_id, question->bitmap, &known,
                             &question->error))
    question->is_same = known && g_strcmp0(known, question->instance) == 0;
}

gboolean
live_trust_is_same(Daemon *daemon, const CatalogueDisk *disk, const char *bitmap, const char *instance,
                   gboolean *is_same, GError **error)
{
  Question question = {daemon, &disk->id, bitmap, instance, FALSE, NULL};
  main_queue_call(daemon->queue, compare_instance, &question);
  *is_same = question.is_same;
  if (question.error)
    g_propagate_error(error, question.error);
  return question.error == NULL;
}

typedef struct {
  const CbtBitmap *zeros, *changes;
  gboolean found;
  guint64 offset;
} Search;

static gboolean
look_at_cluster(guint64 cluster, const StoreChunkId *id G_GNUC_UNUSED, gpointer data)
{
  Search *search = data;
  guint64 offset = cluster * CBT_CLUSTER_SIZE;
  if (offset >= cbt_bitmap_size(search->zeros) || offset >= cbt_bitmap_size(search->changes) ||
      !cbt_bitmap_get(search->zeros, offset) || cbt_bitmap_get(search->changes, offset))
    return TRUE;
  search->found = TRUE;
  search->offset = offset;
  return FALSE;
}

gboolean
live_trust_check(Daemon *daemon, const StoreManifest *base, const char *bitmap, const CbtBitmap *zeros,
                 const CbtBitmap *changes, char **lie, GError **error)
{
  Search search = {zeros, changes, FALSE, 0};
  *lie = NULL;
  g_autoptr(StoreWorker) worker = store_worker_new(daemon->store);
  if (!store_manifest_walk(worker, base, 0, store_manifest_n_clusters(base->size), look_at_cluster, &search,
                           error))
    return FALSE;
  if (search.found)
    *lie =
        g_strdup_printf("bitmap '%s' missed that its image was cut and grown again, or changed behind QEMU: "
                        "there is no data at offset %" G_GUINT64_FORMAT " any more",
                        bitmap, search.offset);
  return TRUE;
}
