/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The audit: does what the bitmap calls clean still have the digest that the base recorded? A sample of each
 * disk with each incremental, so that a change which was missed by a fault of ours, or made past the export,
 * does not stay unseen for ever.
 *
 * The sample strides over the disk by a step that has no factor in common with the number of clusters: so it
 * is scattered, and yet each cluster has its turn. Where it ended is noted in the catalogue. Holes that were
 * zeros in the base cost next to nothing and do not count, but only so many of them are passed.
 *
 * The guest may write meanwhile, and nobody preserves clean clusters for us. But an export marks the
 * successor's bit before it changes the image: if the bit is unset after the read, nothing had begun when the
 * read ended.
 */
#include <daemon/backup-private.h>

#include <cbt/reader.h>
#include <common/bytes.h>

#define PROBES_PER_SAMPLE 2
#define PROBES_AT_ONCE    4096
#define N_BUFFERS         32

typedef struct {
  guint64 cluster;
  StoreChunkId id; /* in the base */
} Sample;

typedef struct {
  BackupDisk *disk;
  StoreWorker *worker;
  CbtReader *reader;
  GArray *samples; /* of Sample, ascending */
  guint next;      /* the sample to be read next */
  guint64 n_compared;
  guint64 n_different;
  guint64 first_different; /* offset, bytes */
} Audit;

static guint64
common_divisor(guint64 a, guint64 b)
{
  while (b != 0) {
    guint64 rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* About the golden section of N, which scatters well, and prime to it. */
static guint64
stride_of(guint64 n)
{
  guint64 stride = MAX(1, (guint64) ((double) n * 0.6180339887498949));
  while (common_divisor(stride, n) != 1)
    stride++;
  return stride;
}

/* Whether any granule of CLUSTER is marked. Bits only: a summary may be another process's. */
static gboolean
is_marked(const CbtBitmap *bitmap, guint64 cluster)
{
  guint64 end = MIN((cluster + 1) * CBT_CLUSTER_SIZE, cbt_bitmap_size(bitmap));
  for (guint64 at = cluster * CBT_CLUSTER_SIZE; at < end; at += cbt_bitmap_granularity(bitmap))
    if (cbt_bitmap_get(bitmap, at))
      return TRUE;
  return FALSE;
}

/* Whether CLUSTER is nothing but a hole. */
static gboolean
is_hole(const Audit *audit, guint64 cluster, gboolean *hole, GError **error)
{
  CbtSource *source = audit->disk->source;
  guint64 offset = cluster * CBT_CLUSTER_SIZE, length = MIN(CBT_CLUSTER_SIZE, source->size - offset);
  CbtExtent run;
  if (!cbt_source_next_extent(source, offset, length, &run, hole, error))
    return FALSE;
  *hole = *hole && run.length == length;
  return TRUE;
}

/* Of clusters, or of samples, which begin with one. */
static int
compare_clusters(gconstpointer a, gconstpointer b)
{
  guint64 x = *(const guint64 *) a, y = *(const guint64 *) b;
  return (x > y) - (x < y);
}

/* Takes PROBES into the sample, but those which were and are nothing but holes. */
static gboolean
take_probes(Audit *audit, GArray *probes, GError **error)
{
  g_autofree StoreChunkId *ids = g_new0(StoreChunkId, probes->len);
  g_array_sort(probes, compare_clusters);
  if (!store_manifest_get_many(audit->worker, &audit->disk->base, (const guint64 *) (void *) probes->data,
                               probes->len, ids, error))
    return FALSE;
  for (guint i = 0; i < probes->len; i++) {
    Sample sample = {.cluster = g_array_index(probes, guint64, i), .id = ids[i]};
    gboolean hole = FALSE;
    if (!job_check(audit->disk->backup->job, error) ||
        (store_chunk_id_is_zero(&sample.id) && !is_hole(audit, sample.cluster, &hole, error)))
      return FALSE;
    if (!hole)
      g_array_append_val(audit->samples, sample);
  }
  return TRUE;
}

/* The next N_WANTED unmarked clusters; fewer if the disk has not so many. */
static void
find_probes(Audit *audit, guint64 *n_left, guint64 n_wanted, GArray *probes)
{
  BackupDisk *disk = audit->disk;
  const CbtBitmap *frozen = cbt_bitmap_file_parent(disk->frozen);
  guint64 n = store_manifest_n_clusters(disk->size), stride = stride_of(n);
  g_array_set_size(probes, 0);
  for (; *n_left > 0 && probes->len < n_wanted; --*n_left) {
    if (!is_marked(frozen, disk->audit_next))
      g_array_append_val(probes, disk->audit_next);
    disk->audit_next = (disk->audit_next + stride) % n;
  }
}

static gboolean
choose(Audit *audit, GError **error)
{
  BackupDisk *disk = audit->disk;
  guint64 wanted = disk->backup->request->audit, probes_left = wanted * PROBES_PER_SAMPLE;
  guint64 n_left = store_manifest_n_clusters(disk->size);
  g_autoptr(GArray) probes = g_array_new(FALSE, FALSE, sizeof(guint64));
  disk->audit_next %= n_left;
  while (n_left > 0 && probes_left > 0 && audit->samples->len < wanted) {
    guint64 missing = wanted - audit->samples->len;
    find_probes(audit, &n_left, MIN(MIN(missing, probes_left), PROBES_AT_ONCE), probes);
    probes_left -= probes->len;
    if (!take_probes(audit, probes, error))
      return FALSE;
  }
  g_array_sort(audit->samples, compare_clusters);
  return TRUE;
}

static gboolean
next_sample(gpointer data, CbtExtent *extent, GError **error G_GNUC_UNUSED)
{
  Audit *audit = data;
  if (audit->next == audit->samples->len)
    return FALSE;
  guint64 offset = g_array_index(audit->samples, Sample, audit->next++).cluster * CBT_CLUSTER_SIZE;
  *extent = (CbtExtent){offset, MIN(CBT_CLUSTER_SIZE, audit->disk->source->size - offset)};
  return TRUE;
}

/* After the read: see the top. */
static gboolean
was_written_since(const BackupDisk *disk, guint64 cluster)
{
  const CbtBitmap *successor = cbt_bitmap_file_successor(disk->frozen);
#if !defined(__SANITIZE_THREAD__) /* which knows no fences; see cbt/session-copy.c */
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
  return successor && is_marked(successor, cluster);
}

/* A block is a sample: the reader's blocks are one cluster. */
static void
compare(gpointer data, CbtReadBlock *block)
{
  Audit *audit = data;
  BackupDisk *disk = audit->disk;
  const Sample *sample = &g_array_index(audit->samples, Sample, block->sequence);
  g_assert(sample->cluster * CBT_CLUSTER_SIZE == block->offset);
  guint64 length = block->length;
  gboolean equal = store_has_digest(audit->worker, &sample->id, block->data);
  if (equal || !was_written_since(disk, sample->cluster)) {
    audit->n_compared++;
    if (!equal)
      audit->first_different = MIN(audit->first_different, block->offset);
    audit->n_different += !equal;
  }
  cbt_reader_release(audit->reader, block);
  atomic_fetch_add(&disk->backup->job->audited, length);
  throttle_wait(&disk->backup->throttle, length, disk->backup->stop);
}

static gboolean
give_verdict(const Audit *audit, GError **error)
{
  BackupDisk *disk = audit->disk;
  if (audit->n_different == 0)
    return TRUE;
  disk->lie = g_strdup_printf("the audit found a change at offset %" G_GUINT64_FORMAT " that it had missed",
                              audit->first_different);
  cbt_set_error(
      error, CBT_ERROR_CORRUPT,
      "The next backup reads the whole disk again. Points since the last full read may lack changes "
      "too; find out who wrote to the image past its export.",
      "audit: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " clusters that bitmap '%s' calls clean differ "
      "from the latest recovery point, the first at offset %" G_GUINT64_FORMAT,
      audit->n_different, audit->n_compared, disk->backup->request->bitmap, audit->first_different);
  return FALSE;
}

static gboolean
read_samples(Audit *audit, GError **error)
{
  CbtReaderOptions options = {.block_size = CBT_CLUSTER_SIZE, .n_blocks = N_BUFFERS, .direct = TRUE};
  if (audit->samples->len == 0)
    return TRUE;
  audit->reader = cbt_reader_new(audit->disk->source, &options, error);
  if (audit->reader && audit->disk->session)
    cbt_reader_set_nowait(audit->reader);
  return audit->reader &&
         cbt_reader_run(audit->reader, next_sample, compare, audit, audit->disk->backup->stop, error);
}

gboolean
backup_audit_disk(BackupDisk *disk, GError **error)
{
  if (!disk->frozen || disk->backup->request->audit == 0)
    return TRUE;
  Audit audit = {.disk = disk, .first_different = G_MAXUINT64};
  audit.worker = store_worker_new(disk->backup->daemon->store);
  audit.samples = g_array_new(FALSE, FALSE, sizeof(Sample));
  gboolean ok = choose(&audit, error) && read_samples(&audit, error) && give_verdict(&audit, error);
  g_clear_pointer(&audit.reader, cbt_reader_free);
  store_worker_free(audit.worker);
  g_array_unref(audit.samples);
  return ok;
}
