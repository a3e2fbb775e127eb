/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk is cut into segments; each thread takes the next one, looks up its chunk ids in one walk, and goes
 * through it window by window. A window is read (if the target has contents), made, and its runs that differ
 * are written. Threads share nothing but the counter and the first error.
 *
 * Reads and writes of the target go past the page cache where it takes that: through it a restore of 5 GiB
 * took twice the time and three times the processor's, half of it to copy and to wait for a sync at the end.
 */
#include <store/extract.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <store/index-format.h>
#include <store/manifest-private.h>
#include <store/store-private.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SEGMENT_CLUSTERS 1024u
#define WINDOW_CLUSTERS  128u
#define DIRECT_ALIGNMENT 4096u
#define MAX_THREADS      8u
#define WINDOW_SIZE      (WINDOW_CLUSTERS * CBT_CLUSTER_SIZE)

typedef struct {
  Store *store; /* constant, as all up to n_segments */
  const StoreManifest *manifest;
  const StoreExtractOptions *options;
  int fd;
  int direct_fd;         /* the same past the page cache; -1: it does not take that */
  gboolean compare_zero; /* the target has contents: zeros must be made */
  gboolean compare_data; /* and data that is there already is not written again */
  guint64 n_segments;
  atomic_ullong next_segment;
  atomic_ullong bytes_done, written, zero;
  atomic_bool failed;
  pthread_mutex_t error_lock;
  GError *error; /* the first; under error_lock */
} Extract;

typedef struct {
  Extract *extract;
  StoreWorker *worker;
  guint64 first_cluster;              /* of the segment */
  StoreChunkId ids[SEGMENT_CLUSTERS]; /* of the segment's clusters */
  guint8 *wanted;                     /* WINDOW_SIZE, aligned */
  guint8 *current;
} ExtractThread;

/* What is to be done with one cluster of a window. */
typedef enum { KEEP, WRITE, MAKE_ZERO } Action;

/* ---- runs ---- */

static gboolean
can_be_direct(const Extract *extract, guint64 length, guint64 offset)
{
  return extract->direct_fd >= 0 && (offset | length) % DIRECT_ALIGNMENT == 0;
}

/* DATA is aligned as OFFSET is. A file system may take direct access when the file is opened, and refuse it
 * then. */
static gboolean
write_at(const Extract *extract, const guint8 *data, guint64 length, guint64 offset)
{
  if (can_be_direct(extract, length, offset)) {
    if (cbt_pwrite_full(extract->direct_fd, data, length, offset))
      return TRUE;
    if (errno != EINVAL)
      return FALSE;
  }
  return cbt_pwrite_full(extract->fd, data, length, offset);
}

static gboolean
write_bytes(Extract *extract, const guint8 *data, guint64 length, guint64 offset, GError **error)
{
  if (!write_at(extract, data, length, offset)) {
    cbt_set_error_errno(error, errno, "cannot write %" G_GUINT64_FORMAT " bytes at offset %" G_GUINT64_FORMAT,
                        length, offset);
    return FALSE;
  }
  atomic_fetch_add(&extract->written, length);
  return TRUE;
}

static gboolean
make_zero(Extract *extract, const guint8 *zeros, guint64 length, guint64 offset, GError **error)
{
  if (fallocate(extract->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) length) == 0)
    return TRUE;
  return write_bytes(extract, zeros, length, offset, error);
}

static gboolean
apply_run(ExtractThread *thread, Action action, guint64 window, guint first, guint end, guint64 window_length,
          GError **error)
{
  guint64 start = first * CBT_CLUSTER_SIZE;
  guint64 length = MIN(end * CBT_CLUSTER_SIZE, window_length) - start;
  if (action == WRITE)
    return write_bytes(thread->extract, thread->wanted + start, length, window + start, error);
  if (action == MAKE_ZERO)
    return make_zero(thread->extract, thread->wanted + start, length, window + start, error);
  return TRUE;
}

static gboolean
apply_actions(ExtractThread *thread, const Action *actions, guint64 window, guint64 length, GError **error)
{
  guint n = (guint) cbt_div_up(length, CBT_CLUSTER_SIZE), first = 0;
  for (guint i = 1; i <= n; i++) {
    if (i < n && actions[i] == actions[first])
      continue;
    if (!apply_run(thread, actions[first], window, first, i, length, error))
      return FALSE;
    first = i;
  }
  return TRUE;
}

/* ---- windows ---- */

static gboolean
is_hole(int fd, guint64 offset, guint64 length)
{
  off_t data = lseek(fd, (off_t) offset, SEEK_DATA);
  return data < 0 ? errno == ENXIO : (guint64) data >= offset + length;
}

static Action
decide(const ExtractThread *thread, const StoreChunkId *id, guint64 start, guint64 length)
{
  const Extract *extract = thread->extract;
  gboolean zero = store_chunk_id_is_zero(id);
  if (zero ? !extract->compare_zero : !extract->compare_data)
    return zero ? KEEP : WRITE;
  if (memcmp(thread->wanted + start, thread->current + start, length) == 0)
    return KEEP;
  return zero ? MAKE_ZERO : WRITE;
}

static gboolean
read_current(ExtractThread *thread, guint64 window, guint64 length, GError **error)
{
  const Extract *extract = thread->extract;
  gssize n = -1;
  if (can_be_direct(extract, length, window))
    n = cbt_pread_full(extract->direct_fd, thread->current, length, window);
  if (n < 0) /* a read error shows itself again */
    n = cbt_pread_full(extract->fd, thread->current, length, window);
  if (n < 0) {
    cbt_set_error_errno(error, errno, "cannot read the target at offset %" G_GUINT64_FORMAT, window);
    return FALSE;
  }
  memset(thread->current + n, 0, length - (gsize) n);
  return TRUE;
}

static gboolean
has_zero_id(const StoreChunkId *ids, guint n)
{
  for (guint i = 0; i < n; i++)
    if (store_chunk_id_is_zero(&ids[i]))
      return TRUE;
  return FALSE;
}

/* Makes cluster I of the window in wanted, counts it if it is zero. */
static gboolean
fill_wanted(ExtractThread *thread, const StoreChunkId *id, guint i, guint64 window, guint64 length,
            GError **error)
{
  guint64 start = i * CBT_CLUSTER_SIZE;
  if (store_chunk_id_is_zero(id))
    atomic_fetch_add(&thread->extract->zero, MIN(CBT_CLUSTER_SIZE, length - start));
  return store_manifest_get_cluster(thread->worker, id, thread->wanted + start, window + start, error);
}

typedef struct {
  guint64 place; /* of its record in the packs, as a number that orders */
  guint number;  /* of the cluster in the window */
} Source;

static int
compare_places(const void *a, const void *b)
{
  guint64 x = ((const Source *) a)->place, y = ((const Source *) b)->place;
  return (x > y) - (x < y);
}

/*
 * Makes the N clusters IDS of a window, in the order in which they stand in the packs: after many
 * incrementals they are from more groups than are kept, and each group is to be decompressed once a window.
 */
static gboolean
fill_window(ExtractThread *thread, const StoreChunkId *ids, guint n, guint64 window, guint64 length,
            GError **error)
{
  Source sources[WINDOW_CLUSTERS];
  for (guint i = 0; i < n; i++) {
    StoreLocation location;
    gboolean is_there = store_index_lookup(thread->extract->store->index, &ids[i], &location);
    sources[i] = (Source){is_there ? store_index_pack_location(&location) : 0, i};
  }
  qsort(sources, n, sizeof *sources, compare_places);
  for (guint i = 0; i < n; i++)
    if (!fill_wanted(thread, &ids[sources[i].number], sources[i].number, window, length, error))
      return FALSE;
  return TRUE;
}

static gboolean
extract_window(ExtractThread *thread, guint64 window, guint64 length, GError **error)
{
  Extract *extract = thread->extract;
  const StoreChunkId *ids = &thread->ids[window / CBT_CLUSTER_SIZE - thread->first_cluster];
  guint n = (guint) cbt_div_up(length, CBT_CLUSTER_SIZE);
  Action actions[WINDOW_CLUSTERS];
  gboolean compare = extract->compare_data || (extract->compare_zero && has_zero_id(ids, n));
  if (compare && !read_current(thread, window, length, error))
    return FALSE;
  if (!fill_window(thread, ids, n, window, length, error))
    return FALSE;
  for (guint i = 0; i < n; i++) {
    guint64 start = i * CBT_CLUSTER_SIZE;
    actions[i] = decide(thread, &ids[i], start, MIN(CBT_CLUSTER_SIZE, length - start));
  }
  return apply_actions(thread, actions, window, length, error);
}

/* TRUE if the range is all zeros and the target has them already; it is counted then. */
static gboolean
skip_zeros(ExtractThread *thread, guint64 offset, guint64 length)
{
  Extract *extract = thread->extract;
  const StoreChunkId *ids = &thread->ids[offset / CBT_CLUSTER_SIZE - thread->first_cluster];
  if (!cbt_is_zero(ids, cbt_div_up(length, CBT_CLUSTER_SIZE) * sizeof *ids) ||
      (extract->compare_zero && !is_hole(extract->fd, offset, length)))
    return FALSE;
  atomic_fetch_add(&extract->zero, length);
  return TRUE;
}

/* ---- segments ---- */

static gboolean
keep_id(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  ExtractThread *thread = user_data;
  thread->ids[cluster - thread->first_cluster] = *id;
  return TRUE;
}

static gboolean
check_going_on(Extract *extract, GError **error)
{
  if (!extract->options->cancellable || !g_cancellable_is_cancelled(extract->options->cancellable))
    return !atomic_load(&extract->failed);
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return FALSE;
}

static void
report(Extract *extract, guint64 length)
{
  guint64 done = atomic_fetch_add(&extract->bytes_done, length) + length;
  if (extract->options->progress)
    extract->options->progress(done, extract->options->user_data);
}

static gboolean
extract_segment(ExtractThread *thread, guint64 segment, GError **error)
{
  Extract *extract = thread->extract;
  const StoreManifest *manifest = extract->manifest;
  thread->first_cluster = segment * SEGMENT_CLUSTERS;
  memset(thread->ids, 0, sizeof thread->ids);
  if (!store_manifest_walk(thread->worker, manifest, thread->first_cluster, SEGMENT_CLUSTERS, keep_id, thread,
                           error))
    return FALSE;
  guint64 start = thread->first_cluster * CBT_CLUSTER_SIZE;
  guint64 end = MIN(start + SEGMENT_CLUSTERS * CBT_CLUSTER_SIZE, manifest->size);
  if (!check_going_on(extract, error))
    return FALSE;
  if (skip_zeros(thread, start, end - start)) {
    report(extract, end - start);
    return TRUE;
  }
  for (guint64 window = start; window < end; window += WINDOW_SIZE) {
    guint64 length = MIN(WINDOW_SIZE, end - window);
    if (!check_going_on(extract, error))
      return FALSE;
    if (!skip_zeros(thread, window, length) && !extract_window(thread, window, length, error))
      return FALSE;
    report(extract, length);
  }
  return TRUE;
}

static void
fail(Extract *extract, GError *error)
{
  atomic_store(&extract->failed, TRUE);
  pthread_mutex_lock(&extract->error_lock);
  if (!extract->error)
    extract->error = g_steal_pointer(&error);
  pthread_mutex_unlock(&extract->error_lock);
  g_clear_error(&error);
}

static void *
extract_thread(void *data)
{
  Extract *extract = data;
  GError *error = NULL;
  ExtractThread *thread = g_new0(ExtractThread, 1);
  thread->extract = extract;
  thread->worker = store_worker_new(extract->store);
  thread->wanted = g_aligned_alloc(1, WINDOW_SIZE, 4096);
  thread->current = g_aligned_alloc(1, WINDOW_SIZE, 4096);
  guint64 segment;
  while ((segment = atomic_fetch_add(&extract->next_segment, 1)) < extract->n_segments &&
         extract_segment(thread, segment, &error))
    continue;
  if (error)
    fail(extract, error);
  store_worker_free(thread->worker);
  g_aligned_free(thread->wanted);
  g_aligned_free(thread->current);
  g_free(thread);
  return NULL;
}

static void
run_threads(Extract *extract)
{
  guint n_threads = extract->options->n_threads ? extract->options->n_threads : g_get_num_processors();
  /* One waits for the disk while one computes; more would outgrow the cache of groups, and 256 MB. */
  n_threads = (guint) MIN(MIN(n_threads * 2, MAX_THREADS), extract->n_segments);
  g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);
  guint n_started = 0;
  while (n_started < n_threads && pthread_create(&threads[n_started], NULL, extract_thread, extract) == 0)
    n_started++;
  if (n_started == 0)
    extract_thread(extract); /* no thread to be had, or nothing to do */
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

/* ---- the target ---- */

static gboolean
prepare_block_device(int fd, guint64 size, GError **error)
{
  guint64 device_size = 0;
  if (ioctl(fd, BLKGETSIZE64, &device_size) != 0) {
    cbt_set_error_errno(error, errno, "cannot get the size of the device");
    return FALSE;
  }
  if (device_size >= size)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                "the device has %" G_GUINT64_FORMAT " bytes, the disk %" G_GUINT64_FORMAT, device_size, size);
  return FALSE;
}

/* A new file is holes all over once it has been cut to nothing and given its size. */
static gboolean
prepare_file(int fd, guint64 size, gboolean keep, GError **error)
{
  if ((keep || ftruncate(fd, 0) == 0) && ftruncate(fd, (off_t) size) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot give the target file %" G_GUINT64_FORMAT " bytes", size);
  return FALSE;
}

/* Makes the target ready, and decides what of its contents counts: a device always has old ones. */
static gboolean
prepare_target(Extract *extract, GError **error)
{
  struct stat st;
  gboolean in_place = extract->options->in_place;
  extract->compare_data = extract->compare_zero = in_place;
  if (fstat(extract->fd, &st) != 0) {
    cbt_set_error_errno(error, errno, "cannot look at the target");
    return FALSE;
  }
  if (S_ISREG(st.st_mode))
    return prepare_file(extract->fd, extract->manifest->size, in_place, error);
  if (S_ISBLK(st.st_mode)) {
    extract->compare_zero = TRUE;
    return prepare_block_device(extract->fd, extract->manifest->size, error);
  }
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the target is neither a file nor a block device");
  return FALSE;
}

/* The file behind FD once more, for direct access; -1 if it does not take that. */
static int
reopen_direct(int fd)
{
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
  return open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
}

gboolean
store_extract_raw(Store *store, const StoreManifest *manifest, int fd, const StoreExtractOptions *options,
                  StoreExtractResult *result, GError **error)
{
  Extract extract = {.store = store, .manifest = manifest, .options = options, .fd = fd};
  extract.n_segments = cbt_div_up(store_manifest_n_clusters(manifest->size), SEGMENT_CLUSTERS);
  if (!prepare_target(&extract, error))
    return FALSE;
  CBT_AUTO_FD int direct_fd = reopen_direct(fd);
  extract.direct_fd = direct_fd;
  pthread_mutex_init(&extract.error_lock, NULL);
  run_threads(&extract);
  pthread_mutex_destroy(&extract.error_lock);
  if (!extract.error && fdatasync(fd) != 0)
    cbt_set_error_errno(&extract.error, errno, "cannot make the target durable");
  *result = (StoreExtractResult){.written = extract.written, .zero = extract.zero};
  if (extract.error)
    g_propagate_error(error, extract.error);
  return extract.error == NULL;
}
