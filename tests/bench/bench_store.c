/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Figures of the store: bench_store FOLDER [MILLIONS]. FOLDER is on the disk to measure, and is given back as
 * it was; MILLIONS (16) is the size of the large index.
 */
#include <common/bytes.h>
#include <pthread.h>
#include <stdio.h>
#include <store/index.h>
#include <store/store.h>
#include <string.h>
#include <unistd.h>

#define N_THREADS  2
#define PUT_BYTES  (G_GUINT64_CONSTANT(1) << 30)
#define PER_THREAD ((guint) (PUT_BYTES / CBT_CLUSTER_SIZE / N_THREADS))

static double
now(void)
{
  return (double) g_get_monotonic_time() / 1e6;
}

static void
check(gboolean ok, const GError *error)
{
  if (!ok)
    g_error("%s", error ? error->message : "failed");
}

static void
fill(guint64 *words, gsize length, guint64 seed)
{
  guint64 state = (seed + 1) * 0x9e3779b97f4a7c15u;
  for (gsize i = 0; i < length / 8; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    words[i] = state;
  }
}

/* --- memory --- */

static void
bench_memory(void)
{
  gsize length = 64 << 20;
  g_autofree guint64 *data = g_malloc0(length);
  guint8 secret[STORE_SECRET_SIZE] = {1, 2, 3};
  guint sum = 0;
  double start = now();
  for (guint round = 0; round < 8; round++)
    for (gsize at = 0; at < length; at += CBT_CLUSTER_SIZE)
      sum += (guint) cbt_is_zero((guint8 *) data + at, CBT_CLUSTER_SIZE);
  double zero = now() - start;
  fill(data, length, 1);
  start = now();
  for (guint round = 0; round < 8; round++)
    for (gsize at = 0; at < length; at += CBT_CLUSTER_SIZE)
      sum ^= store_chunk_id(secret, (guint8 *) data + at, CBT_CLUSTER_SIZE).bytes[0];
  double digest = now() - start;
  printf("zero test      %6.1f GB/s\n", 8 * (double) length / zero / 1e9);
  printf("digest         %6.1f GB/s   (%u)\n", 8 * (double) length / digest / 1e9, sum);
}

/* --- index --- */

static StoreChunkId
random_id(guint64 i)
{
  StoreChunkId id;
  guint64 a = (i + 1) * 0x9e3779b97f4a7c15u;
  a = (a ^ a >> 30) * 0xbf58476d1ce4e5b9u;
  a = (a ^ a >> 27) * 0x94d049bb133111ebu;
  memcpy(id.bytes, &a, 8);
  memcpy(id.bytes + 8, &i, 8);
  return id;
}

static void
bench_index(const char *folder, guint64 n)
{
  g_autofree char *path = g_build_filename(folder, "bench-index", NULL);
  g_autoptr(GError) error = NULL;
  CbtUuid uuid = cbt_uuid_generate();
  StoreLocation covered;
  StoreIndex *index = store_index_open(NULL, path, &uuid, &covered, &error);
  check(index != NULL, error);
  double start = now();
  for (guint64 i = 0; i < n; i++) {
    StoreChunkId id = random_id(i);
    StoreLocation at = {
        .pack = (guint32) (1 + i / 1000), .offset = (guint32) (64 + i % 1000 * 65536), .length = 64};
    check(store_index_insert(index, &id, &at, &error), error);
  }
  double insert = now() - start;
  guint64 found = 0;
  start = now();
  for (guint64 i = 0; i < 2000000; i++) {
    StoreChunkId id = random_id(i * 7919 % n);
    found += store_index_lookup(index, &id, &covered);
  }
  double lookup = now() - start;
  start = now();
  check(store_index_checkpoint(index, &covered, &error), error);
  double checkpoint = now() - start;
  store_index_close(index);
  start = now();
  index = store_index_open(NULL, path, &uuid, &covered, &error);
  double open_time = now() - start;
  check(index && store_index_count(index) == n && found == 2000000, error);
  store_index_close(index);
  unlink(path);
  printf("index %2.0fM      insert %5.2f M/s, look-up %5.2f M/s, checkpoint %.2f s, open %.3f ms\n",
         (double) n / 1e6, (double) n / insert / 1e6, 2 / lookup, checkpoint, open_time * 1e3);
}

/* --- store --- */

typedef struct {
  Store *store;
  guint64 first;
  gboolean compressible;
  StoreChunkId *ids;
  StoreTally tally;
} Job;

/* Compressible: a quarter of each KiB is random, the rest repeats it. */
static void
make_cluster(guint8 *data, guint64 i, gboolean compressible)
{
  fill((guint64 *) (gpointer) data, CBT_CLUSTER_SIZE, i);
  for (gsize at = 0; compressible && at < CBT_CLUSTER_SIZE; at += 1024)
    memset(data + at + 256, 'x', 768);
}

static void *
put_all(void *user_data)
{
  Job *job = user_data;
  g_autoptr(StoreWorker) worker = store_worker_new(job->store);
  g_autoptr(GError) error = NULL;
  /* Clusters are made from a few templates and a number, so that making them costs little. */
  g_autofree guint8 *templates = g_malloc(16 * CBT_CLUSTER_SIZE);
  for (guint i = 0; i < 16; i++)
    make_cluster(templates + i * CBT_CLUSTER_SIZE, job->first + i, job->compressible);
  for (guint i = 0; i < PER_THREAD; i++) {
    guint8 *data = templates + i % 16 * CBT_CLUSTER_SIZE;
    cbt_put_u64(data, job->first + i);
    check(
        store_put(worker, STORE_CHUNK_DATA, data, CBT_CLUSTER_SIZE, &job->ids[i], NULL, &job->tally, &error),
        error);
  }
  return NULL;
}

static void *
get_all(void *user_data)
{
  Job *job = user_data;
  g_autoptr(StoreWorker) worker = store_worker_new(job->store);
  g_autoptr(GError) error = NULL;
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  gsize length;
  for (guint i = 0; i < PER_THREAD; i++)
    check(store_get(worker, &job->ids[i], data, &length, &error), error);
  return NULL;
}

static double
run(Job jobs[N_THREADS], void *(*func)(void *), Store *flush)
{
  pthread_t threads[N_THREADS];
  g_autoptr(GError) error = NULL;
  double start = now();
  for (guint i = 0; i < N_THREADS; i++)
    check(pthread_create(&threads[i], NULL, func, &jobs[i]) == 0, NULL);
  for (guint i = 0; i < N_THREADS; i++)
    pthread_join(threads[i], NULL);
  if (flush) {
    double flush_start = now();
    check(store_flush(flush, &error), error);
    printf("  flush        %6.2f s\n", now() - flush_start);
  }
  return now() - start;
}

static void
remove_store(const char *directory)
{
  static const char *const names[] = {"format", "index", "lock", "points", "packs"};
  g_autofree char *packs = g_build_filename(directory, "packs", NULL);
  g_autoptr(GDir) dir = g_dir_open(packs, 0, NULL);
  for (const char *name = dir ? g_dir_read_name(dir) : NULL; name; name = g_dir_read_name(dir)) {
    g_autofree char *path = g_build_filename(packs, name, NULL);
    unlink(path);
  }
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = g_build_filename(directory, names[i], NULL);
    remove(path);
  }
  rmdir(directory);
}

static void
bench_store(const char *folder, gboolean compressible)
{
  g_autofree char *directory = g_build_filename(folder, "bench-store", NULL);
  g_autoptr(GError) error = NULL;
  remove_store(directory);
  Store *store = store_open(directory, NULL, &error);
  check(store != NULL, error);
  Job jobs[N_THREADS] = {0};
  for (guint i = 0; i < N_THREADS; i++)
    jobs[i] = (Job){.store = store,
                    .first = (guint64) i * PER_THREAD,
                    .compressible = compressible,
                    .ids = g_new(StoreChunkId, PER_THREAD)};
  const char *what = compressible ? "compressible" : "random";
  double megabytes = (double) PUT_BYTES / 1e6;
  printf("put %-12s %5.0f MB/s\n", what, megabytes / run(jobs, put_all, store));
  printf("put again        %5.0f MB/s (all reused, bytes compared)\n", megabytes / run(jobs, put_all, NULL));
  printf("get %-12s %5.0f MB/s\n", what, megabytes / run(jobs, get_all, NULL));
  printf("  stored       %6.0f MB of %.0f MB\n",
         (double) (jobs[0].tally.stored_bytes + jobs[1].tally.stored_bytes) / 1e6, megabytes);
  store_close(store);
  double start = now();
  store = store_open(directory, NULL, &error);
  printf("  open         %6.1f ms\n", (now() - start) * 1e3);
  store_close(store);
  for (guint i = 0; i < N_THREADS; i++)
    g_free(jobs[i].ids);
  remove_store(directory);
}

int
main(int argc, char **argv)
{
  if (argc < 2) {
    fprintf(stderr, "usage: bench_store FOLDER [MILLIONS]\n");
    return 2;
  }
  guint64 millions = argc > 2 ? g_ascii_strtoull(argv[2], NULL, 10) : 16;
  bench_memory();
  bench_index(argv[1], 1000000);
  if (millions > 1)
    bench_index(argv[1], millions * 1000000);
  bench_store(argv[1], TRUE);
  bench_store(argv[1], FALSE);
  return 0;
}
