/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast two threads put and get: bench_store FOLDER. FOLDER is on the disk to measure, and is given back
 * as it was.
 */
#include <common/bytes.h>
#include <pthread.h>
#include <stdio.h>
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
  if (argc != 2) {
    fprintf(stderr, "usage: bench_store FOLDER\n");
    return 2;
  }
  bench_store(argv[1], TRUE);
  bench_store(argv[1], FALSE);
  return 0;
}
