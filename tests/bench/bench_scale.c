/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a store's costs grow: bench_scale FOLDER [GIB [POINTS]]. Makes a store in FOLDER/store of one disk of
 * GIB GiB (1024), every cluster of it distinct, and POINTS points (1000) of vm `scale`, each with 1000 new
 * clusters at random places; or takes the one that is there. Clusters compress to some tens of bytes, and
 * packs are small in proportion, so that numbers of chunks, pages and packs are those of a real store of that
 * size, and only the bytes are not. Then it prints what opening, an incremental's manifest, counting and
 * collecting take.
 */
#include <common/bytes.h>
#include <common/error.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <store/gc.h>
#include <store/manifest.h>
#include <store/mark.h>
#include <store/pins.h>
#include <store/point.h>
#include <string.h>

#define PACK_SIZE (512u << 10) /* about as many packs as 64 MiB ones of real data */
#define N_CHANGES 1000u
#define N_THREADS 2u
#define AT_ONCE   4096u /* clusters a thread puts between two looks at the others */

typedef struct {
  char *directory;
  char *points_folder;
  StoreOptions options;
  guint64 size;
  guint n_points;
} Scale;

static double
now(void)
{
  return (double) g_get_monotonic_time() / 1e6;
}

/* The error is looked at after OK was made. */
#define check(ok, error)                                                                                     \
  do {                                                                                                       \
    if (!(ok))                                                                                               \
      g_error("%s", (error) ? ((const GError *) (error))->message : "failed");                               \
  } while (0)

static guint64
memory_kib(const char *key)
{
  g_autofree char *text = NULL;
  check(g_file_get_contents("/proc/self/status", &text, NULL, NULL), NULL);
  const char *at = strstr(text, key);
  return at ? g_ascii_strtoull(at + strlen(key) + 1, NULL, 10) : 0;
}

static void
report(const char *what, double start)
{
  printf("%-44s %9.3f s   anonymous %5" G_GUINT64_FORMAT " MiB\n", what, now() - start,
         memory_kib("RssAnon:") >> 10);
  fflush(stdout);
}

/* ---- making it ---- */

static void
fill_cluster(guint8 *data, guint64 number)
{
  memset(data, 0x5a, CBT_CLUSTER_SIZE);
  cbt_put_u64(data, number);
  cbt_put_u64(data + 40000, number * 0x9e3779b97f4a7c15u);
}

typedef struct {
  Store *store;
  StoreChunkId *ids;
  guint64 n;
  guint64 next; /* atomic */
} Fill;

static void *
fill_thread(void *user_data)
{
  Fill *fill = user_data;
  g_autoptr(StoreWorker) worker = store_worker_new(fill->store);
  g_autofree guint8 *data = g_malloc(CBT_CLUSTER_SIZE);
  guint64 first;
  while ((first = __atomic_fetch_add(&fill->next, AT_ONCE, __ATOMIC_RELAXED)) < fill->n)
    for (guint64 i = first; i < MIN(first + AT_ONCE, fill->n); i++) {
      g_autoptr(GError) error = NULL;
      fill_cluster(data, i);
      check(store_put(worker, STORE_CHUNK_DATA, data, CBT_CLUSTER_SIZE, &fill->ids[i], NULL, NULL, &error),
            error);
    }
  return NULL;
}

static StorePoint *
new_point(const Scale *scale, guint number)
{
  StorePoint *point = store_point_new();
  CbtUuid uuid = {{0}};
  cbt_put_u64(uuid.bytes + 8, number + 1);
  uuid.bytes[6] = 0x40;
  uuid.bytes[8] = 0x80;
  cbt_put_u32(uuid.bytes + 10, number + 1);
  point->uuid = uuid;
  point->vm = g_strdup("scale");
  point->time = (gint64) 1700000000 * G_USEC_PER_SEC + (gint64) number * 3600 * G_USEC_PER_SEC;
  point->incremental = FALSE;
  StorePointDisk *disk = store_point_add_disk(point, "root");
  disk->manifest.size = scale->size;
  g_free(disk->path);
  disk->path = g_strdup("/nowhere.raw");
  return point;
}

static void
save_point(const Scale *scale, Store *store, const StorePoint *point)
{
  g_autoptr(GError) error = NULL;
  check(store_flush(store, &error), error);
  check(store_point_save(cbt_file_ops_default(), scale->points_folder, point, &error), error);
}

static void
make_first(const Scale *scale, Store *store, StoreManifest *manifest)
{
  guint64 n = store_manifest_n_clusters(scale->size);
  Fill fill = {.store = store, .n = n};
  g_autofree StoreChunkId *ids = g_new(StoreChunkId, n);
  g_autoptr(GError) error = NULL;
  pthread_t threads[N_THREADS];
  fill.ids = ids;
  for (guint i = 0; i < N_THREADS; i++)
    check(pthread_create(&threads[i], NULL, fill_thread, &fill) == 0, NULL);
  for (guint i = 0; i < N_THREADS; i++)
    pthread_join(threads[i], NULL);
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  StoreManifestBuilder *builder = store_manifest_builder_new(worker, NULL, scale->size, NULL, &error);
  check(builder != NULL, error);
  for (guint64 i = 0; i < n; i++)
    check(store_manifest_builder_set(builder, i, &ids[i], &error), error);
  check(store_manifest_builder_finish(builder, manifest, &error), error);
  store_manifest_builder_free(builder);
}

static int
compare_numbers(const void *a, const void *b)
{
  guint64 x = *(const guint64 *) a, y = *(const guint64 *) b;
  return (x > y) - (x < y);
}

/* The manifest of NUMBER's incremental, with N_CHANGES new clusters. */
static void
make_next(const Scale *scale, Store *store, StorePins *pins, guint number, StoreManifest *manifest)
{
  guint64 n = store_manifest_n_clusters(scale->size), places[N_CHANGES];
  g_autoptr(GRand) rand = g_rand_new_with_seed(number);
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  g_autofree guint8 *data = g_malloc(CBT_CLUSTER_SIZE);
  store_worker_set_pins(worker, pins);
  for (guint i = 0; i < N_CHANGES; i++)
    places[i] = (((guint64) g_rand_int(rand) << 32) | g_rand_int(rand)) % n;
  qsort(places, N_CHANGES, sizeof places[0], compare_numbers);
  StoreManifestBuilder *builder = store_manifest_builder_new(worker, manifest, scale->size, NULL, &error);
  check(builder != NULL, error);
  for (guint i = 0; i < N_CHANGES; i++) {
    StoreChunkId id;
    if (i > 0 && places[i] == places[i - 1])
      continue;
    fill_cluster(data, n + (guint64) number * N_CHANGES + i);
    check(store_put(worker, STORE_CHUNK_DATA, data, CBT_CLUSTER_SIZE, &id, NULL, NULL, &error), error);
    check(store_manifest_builder_set(builder, places[i], &id, &error), error);
  }
  check(store_manifest_builder_finish(builder, manifest, &error), error);
  store_manifest_builder_free(builder);
}

static void
make(const Scale *scale)
{
  g_autoptr(GError) error = NULL;
  double start = now();
  StoreManifest manifest;
  Store *store = store_open(scale->directory, &scale->options, &error);
  check(store != NULL, error);
  make_first(scale, store, &manifest);
  report("made: the first point", start);
  for (guint i = 0; i < scale->n_points; i++) {
    g_autoptr(StorePoint) point = new_point(scale, i);
    if (i > 0)
      make_next(scale, store, NULL, i, &manifest);
    ((StorePointDisk *) point->disks->pdata[0])->manifest = manifest;
    save_point(scale, store, point);
  }
  store_close(store);
  report("made: all points", start);
}

/* ---- measuring ---- */

static GPtrArray *
load_points(const Scale *scale)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) uuids = store_point_list(scale->points_folder, &error);
  check(uuids != NULL, error);
  GPtrArray *points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  for (guint i = 0; i < uuids->len; i++) {
    StorePoint *point = store_point_load(cbt_file_ops_default(), scale->points_folder,
                                         &g_array_index(uuids, CbtUuid, i), &error);
    check(point != NULL, error);
    g_ptr_array_add(points, point);
  }
  return points;
}

static int
compare_times(gconstpointer a, gconstpointer b)
{
  const StorePoint *x = *(StorePoint *const *) a, *y = *(StorePoint *const *) b;
  return (x->time > y->time) - (x->time < y->time);
}

static void
measure_incremental(const Scale *scale, Store *store, const StorePoint *last)
{
  StoreManifest manifest = ((const StorePointDisk *) last->disks->pdata[0])->manifest;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePins) pins = store_pins_new(store);
  guint number = 1000000 + (guint) (g_get_real_time() % 1000000);
  double start = now();
  make_next(scale, store, pins, number, &manifest);
  report("incremental: 1000 scattered clusters", start);
  check(store_flush(store, &error), error);
  report("incremental: the same, durable", start);
}

static void
measure_freed(Store *store, const GPtrArray *points, guint n_removed)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) kept = g_ptr_array_new();
  g_autoptr(GPtrArray) removed = g_ptr_array_new();
  StoreMarkFreed freed;
  for (guint i = 0; i < points->len; i++)
    g_ptr_array_add(i < n_removed ? removed : kept, points->pdata[i]);
  double start = now();
  check(store_mark_freed(store, kept, removed, NULL, &freed, &error), error);
  g_autofree char *what = g_strdup_printf("prune: counting what %u points free", n_removed);
  report(what, start);
}

/* A backup that goes on beside a collection: what its slowest put and flush took. */
typedef struct {
  Store *store;
  gint is_over; /* atomic */
  double put, flush;
  guint n_puts;
} Beside;

static void *
put_beside(void *user_data)
{
  Beside *beside = user_data;
  g_autoptr(StorePins) pins = store_pins_new(beside->store);
  g_autoptr(StoreWorker) worker = store_worker_new(beside->store);
  g_autofree guint8 *data = g_malloc(CBT_CLUSTER_SIZE);
  guint64 first = (guint64) g_get_real_time() << 20;
  store_worker_set_pins(worker, pins);
  for (; !g_atomic_int_get(&beside->is_over); beside->n_puts++) {
    StoreChunkId id;
    g_autoptr(GError) error = NULL;
    fill_cluster(data, first + beside->n_puts);
    double start = now();
    check(store_put(worker, STORE_CHUNK_DATA, data, CBT_CLUSTER_SIZE, &id, NULL, NULL, &error), error);
    beside->put = MAX(beside->put, now() - start);
    if (beside->n_puts % 1000 == 0) {
      start = now();
      check(store_flush(beside->store, &error), error);
      beside->flush = MAX(beside->flush, now() - start);
    }
    g_usleep(500);
  }
  return NULL;
}

static void
measure_gc(Store *store, const GPtrArray *points, const char *what)
{
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  Beside beside = {.store = store};
  pthread_t thread;
  check(pthread_create(&thread, NULL, put_beside, &beside) == 0, NULL);
  double start = now();
  StoreGc *gc = store_gc_begin(store, NULL, &error);
  check(gc != NULL, error);
  check(store_gc_mark(gc, points, &error), error);
  report("  marked", start);
  check(store_gc_sweep(gc, &result, &error), error);
  store_gc_end(gc);
  report(what, start);
  g_atomic_int_set(&beside.is_over, 1);
  pthread_join(thread, NULL);
  printf("  beside it %u puts, the slowest %.1f ms; flushes, the slowest %.1f ms\n", beside.n_puts,
         beside.put * 1000, beside.flush * 1000);
  printf("  %" G_GUINT64_FORMAT " chunks live, %" G_GUINT64_FORMAT " packs out, %" G_GUINT64_FORMAT
         " bytes copied, %" G_GUINT64_FORMAT " freed\n",
         result.n_chunks, result.n_packs, result.copied, result.freed);
}

static void
measure(const Scale *scale)
{
  g_autoptr(GError) error = NULL;
  StoreStatistics statistics;
  double start = now();
  Store *store = store_open(scale->directory, &scale->options, &error);
  check(store != NULL, error);
  report("open", start);
  store_statistics(store, &statistics);
  printf("  %" G_GUINT64_FORMAT " chunks in %" G_GUINT64_FORMAT " packs of %" G_GUINT64_FORMAT " MiB\n",
         statistics.n_chunks, statistics.n_packs, statistics.pack_bytes >> 20);
  start = now();
  g_autoptr(GPtrArray) points = load_points(scale);
  g_ptr_array_sort(points, compare_times);
  report("points: reading their files", start);
  measure_incremental(scale, store, points->pdata[points->len - 1]);
  measure_freed(store, points, 1);
  measure_gc(store, points, "gc: after an incremental that was given up");
  const StorePoint *middle = points->pdata[points->len / 2];
  check(store_point_remove(cbt_file_ops_default(), scale->points_folder, &middle->uuid, &error), error);
  g_ptr_array_remove_index(points, points->len / 2);
  measure_gc(store, points, "gc: after pruning one point");
  store_close(store);
}

int
main(int argc, char **argv)
{
  if (argc < 2) {
    fprintf(stderr, "Usage: bench_scale FOLDER [GIB [POINTS]]\n");
    return 2;
  }
  guint64 gib = argc > 2 ? g_ascii_strtoull(argv[2], NULL, 10) : 1024;
  Scale scale = {
      .directory = g_build_filename(argv[1], "store", NULL),
      .points_folder = g_build_filename(argv[1], "store", "points", NULL),
      .options = {.dedup_verify = TRUE, .pack_size = PACK_SIZE},
      .size = gib << 30,
      .n_points = argc > 3 ? (guint) g_ascii_strtoull(argv[3], NULL, 10) : 1000,
  };
  printf("disk of %" G_GUINT64_FORMAT " GiB, %u points\n", gib, scale.n_points);
  if (!g_file_test(scale.directory, G_FILE_TEST_EXISTS))
    make(&scale);
  measure(&scale);
  g_free(scale.directory);
  g_free(scale.points_folder);
  return 0;
}
