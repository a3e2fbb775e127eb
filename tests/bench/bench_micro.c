/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts cost, each by itself: bench_micro [FOLDER [--tiny]]. FOLDER (the temporary one if not given)
 * is on the disk to measure, and is given back as it was; --tiny only shows that all of it runs. Prints a
 * table: what, how many a second, and nanoseconds for one.
 */
#include <api/client.h>
#include <api/server.h>
#include <cbt/bitmap.h>
#include <common/bytes.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <stdio.h>
#include <store/index.h>
#include <store/manifest.h>
#include <string.h>

#define GIB (G_GUINT64_CONSTANT(1) << 30)

typedef struct {
  char *folder;  /* of its own, removed at the end */
  guint64 scale; /* what counts are divided by */
} Bench;

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

/* N things took since START; UNIT is their name in the plural. */
static void
row(const char *what, const char *unit, guint64 n, double start)
{
  double seconds = MAX(now() - start, 1e-9);
  printf("| %-52s | %12.0f %-9s | %12.1f |\n", what, (double) n / seconds, unit, seconds * 1e9 / (double) n);
  fflush(stdout);
}

static guint64
scatter(guint64 i)
{
  guint64 a = (i + 1) * 0x9e3779b97f4a7c15u;
  a = (a ^ a >> 30) * 0xbf58476d1ce4e5b9u;
  return (a ^ a >> 27) * 0x94d049bb133111ebu;
}

static void
fill(guint8 *data, gsize length, guint64 seed)
{
  for (gsize at = 0; at < length; at += 8)
    cbt_put_u64(data + at, scatter(seed + at));
}

/* ---- bitmaps ---- */

static void
bench_bitmap(const Bench *bench)
{
  guint64 size = 1024 * GIB, n = 4000000 / bench->scale, n_clusters = size / CBT_CLUSTER_SIZE, n_extents = 0;
  g_autoptr(CbtBitmap) bitmap = cbt_bitmap_new(size, CBT_CLUSTER_SIZE);
  g_autoptr(CbtBitmap) other = cbt_bitmap_new(size, CBT_CLUSTER_SIZE);
  double start = now();
  for (guint64 i = 0; i < n; i++)
    cbt_bitmap_set(bitmap, scatter(i) % n_clusters * CBT_CLUSTER_SIZE, 4096);
  row("bitmap of 1 TiB: set, at random", "sets", n, start);
  CbtExtent extent = {0};
  start = now();
  while (cbt_bitmap_next_dirty(bitmap, extent.offset + extent.length, size, &extent))
    n_extents++;
  row("bitmap of 1 TiB: iterate", "extents", n_extents, start);
  guint rounds = (guint) MAX(1, 100 / bench->scale);
  start = now();
  for (guint i = 0; i < rounds; i++)
    cbt_bitmap_merge(other, bitmap);
  row("bitmap of 1 TiB: merge", "merges", rounds, start);
  check(cbt_bitmap_n_dirty(other) == cbt_bitmap_n_dirty(bitmap), NULL);
}

/* ---- a cluster's bytes ---- */

static void
bench_memory(const Bench *bench)
{
  gsize length = (64 << 20) / bench->scale / CBT_CLUSTER_SIZE * CBT_CLUSTER_SIZE;
  g_autofree guint8 *data = g_malloc0(length);
  guint8 secret[STORE_SECRET_SIZE] = {1, 2, 3};
  guint64 n = 8 * length / CBT_CLUSTER_SIZE, n_zero = 0;
  double start = now();
  for (guint64 i = 0; i < n; i++)
    n_zero += cbt_is_zero(data + i * CBT_CLUSTER_SIZE % length, CBT_CLUSTER_SIZE);
  row("zero test of a cluster of zeros", "clusters", n, start);
  check(n_zero == n, NULL);
  fill(data, length, 1);
  start = now();
  for (guint64 i = 0; i < n; i++)
    n_zero += cbt_is_zero(data + i * CBT_CLUSTER_SIZE % length, CBT_CLUSTER_SIZE);
  row("zero test of a cluster of data", "clusters", n, start);
  start = now();
  guint sum = 0;
  for (guint64 i = 0; i < n; i++)
    sum += store_chunk_id(secret, data + i * CBT_CLUSTER_SIZE % length, CBT_CLUSTER_SIZE).bytes[0];
  row("digest of a cluster", "clusters", n, start);
  check(n_zero == n && sum > 0, NULL);
}

/* ---- the index ---- */

static StoreChunkId
random_id(guint64 i)
{
  StoreChunkId id;
  guint64 a = scatter(i);
  memcpy(id.bytes, &a, 8);
  memcpy(id.bytes + 8, &i, 8);
  return id;
}

static void
bench_index(const Bench *bench, guint64 millions)
{
  guint64 n = millions * 1000000 / bench->scale, n_lookups = 2000000 / bench->scale, n_found = 0;
  g_autofree char *path = g_build_filename(bench->folder, "index", NULL), *what = NULL;
  g_autoptr(GError) error = NULL;
  CbtUuid uuid = cbt_uuid_generate();
  StoreLocation at;
  StoreIndex *index = store_index_open(NULL, path, &uuid, &at, &error);
  check(index, error);
  double start = now();
  for (guint64 i = 0; i < n; i++) {
    StoreChunkId id = random_id(i);
    at = (StoreLocation){(guint32) (1 + i / 1000), (guint32) (64 + i % 1000 * 65536), 64};
    check(store_index_insert(index, &id, &at, &error), error);
  }
  what = g_strdup_printf("index: insert, up to %" G_GUINT64_FORMAT " million", millions);
  row(what, "chunks", n, start);
  start = now();
  for (guint64 i = 0; i < n_lookups; i++) {
    StoreChunkId id = random_id(scatter(i) % n);
    n_found += store_index_lookup(index, &id, &at);
  }
  g_free(what);
  what = g_strdup_printf("index: look-up in %" G_GUINT64_FORMAT " million", millions);
  row(what, "chunks", n_lookups, start);
  check(n_found == n_lookups, NULL);
  store_index_close(index);
  g_unlink(path);
}

/* ---- packs and manifests ---- */

static void
remove_folder(const char *path)
{
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  for (const char *name = dir ? g_dir_read_name(dir) : NULL; name; name = g_dir_read_name(dir)) {
    g_autofree char *child = g_build_filename(path, name, NULL);
    remove_folder(child);
  }
  g_remove(path);
}

static void
bench_pack(const Bench *bench)
{
  guint64 n = 32768 / bench->scale;
  g_autofree char *folder = g_build_filename(bench->folder, "packs", NULL);
  g_autofree guint8 *payload = g_malloc(20000); /* a cluster of files, compressed */
  g_autoptr(GError) error = NULL;
  CbtUuid uuid = cbt_uuid_generate();
  fill(payload, 20000, 2);
  check(g_mkdir(folder, 0700) == 0, NULL);
  StorePackSet *set = store_pack_set_open(NULL, folder, &uuid, STORE_PACK_SIZE_DEFAULT, &error);
  check(set, error);
  double start = now();
  for (guint64 i = 0; i < n; i++) {
    StoreRecordInfo info = {random_id(i), STORE_CHUNK_DATA, CBT_CLUSTER_SIZE, TRUE};
    StoreLocation at;
    check(store_pack_append(set, &info, payload, 20000, &at, &error), error);
  }
  row("pack: append 20,000 bytes", "records", n, start);
  start = now();
  check(store_pack_flush(set, &error), error);
  row("pack: make all of them durable", "flushes", 1, start);
  store_pack_set_close(set);
}

/* Changes N_CHANGES scattered clusters of BASE (a zero root: sets them in an empty disk). */
static StoreManifest
change(StoreWorker *worker, const StoreManifest *base, guint64 n_changes, guint64 seed)
{
  g_autoptr(GError) error = NULL;
  StoreManifest result = {0};
  StoreTally tally = {0};
  StoreManifestBuilder *builder = store_manifest_builder_new(worker, base, base->size, &tally, &error);
  check(builder, error);
  guint64 n_clusters = store_manifest_n_clusters(base->size), step = n_clusters / n_changes;
  for (guint64 i = 0; i < n_changes; i++) {
    StoreChunkId id = random_id(seed + i);
    check(store_manifest_builder_set(builder, i * step + scatter(seed + i) % step, &id, &error), error);
  }
  check(store_manifest_builder_finish(builder, &result, &error), error);
  store_manifest_builder_free(builder);
  return result;
}

static gboolean
count_change(guint64 cluster G_GNUC_UNUSED, const StoreChunkId *id G_GNUC_UNUSED, gpointer n)
{
  ++*(guint64 *) n;
  return TRUE;
}

static void
bench_manifest(const Bench *bench)
{
  g_autofree char *folder = g_build_filename(bench->folder, "store", NULL);
  g_autoptr(GError) error = NULL;
  Store *store = store_open(folder, NULL, &error);
  check(store, error);
  StoreWorker *worker = store_worker_new(store);
  StoreManifest empty = {.size = 1024 * GIB / bench->scale};
  guint64 n_clusters = store_manifest_n_clusters(empty.size), n = 4096 / bench->scale, n_found = 0;
  StoreManifest base = change(worker, &empty, n_clusters / 4, 1);
  double start = now();
  StoreManifest changed = change(worker, &base, n, 1000000000);
  row("manifest of 1 TiB: update of scattered clusters", "clusters", n, start);
  start = now();
  check(store_manifest_changes(worker, &base, &changed, 0, n_clusters, count_change, &n_found, &error),
        error);
  row("manifest of 1 TiB: difference of the two", "clusters", n, start);
  check(n_found >= n, NULL);
  store_worker_free(worker);
  store_close(store);
}

/* ---- the API ---- */

static void
answer(ApiRequest *request, gpointer user_data G_GNUC_UNUSED)
{
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_take_object(node, json_object_new());
  api_request_reply(request, 200, node);
}

typedef struct {
  const Bench *bench;
  const char *socket;
  GMainLoop *loop;
} Caller;

static void *
call_many(void *data)
{
  const Caller *caller = data;
  guint64 n = 2000 / caller->bench->scale;
  ApiClient *client = api_client_new(caller->socket);
  double start = now();
  for (guint64 i = 0; i < n; i++) {
    g_autoptr(GError) error = NULL;
    JsonNode *node = api_client_call(client, "GET", "/v1/nothing", NULL, &error);
    check(node, error);
    json_node_unref(node);
  }
  row("API: call and answer, each by its own connection", "calls", n, start);
  api_client_free(client);
  g_main_loop_quit(caller->loop);
  return NULL;
}

static void
bench_api(const Bench *bench)
{
  static const ApiRoute routes[] = {{"GET", "/v1/nothing", answer, NULL, NULL}, {0}};
  g_autofree char *path = g_build_filename(bench->folder, "api.sock", NULL);
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  g_autoptr(GError) error = NULL;
  ApiServerOptions options = {.socket_path = path};
  ApiServer *server = api_server_new(&options, routes, NULL, &error);
  check(server, error);
  Caller caller = {bench, path, loop};
  pthread_t thread;
  check(pthread_create(&thread, NULL, call_many, &caller) == 0, NULL);
  g_main_loop_run(loop);
  pthread_join(thread, NULL);
  api_server_free(server);
}

int
main(int argc, char **argv)
{
  gboolean tiny = argc == 3 && strcmp(argv[2], "--tiny") == 0;
  if (argc > 3 || (argc == 3 && !tiny)) {
    fprintf(stderr, "usage: bench_micro [FOLDER [--tiny]]\n");
    return 2;
  }
  g_autofree char *template =
      g_build_filename(argc > 1 ? argv[1] : g_get_tmp_dir(), "cbt-micro-XXXXXX", NULL);
  Bench bench = {.folder = g_mkdtemp(template), .scale = tiny ? 1000 : 1};
  if (!bench.folder)
    g_error("cannot make a folder in %s", argc > 1 ? argv[1] : g_get_tmp_dir());
  printf("| what | a second | ns for one |\n|---|---:|---:|\n");
  bench_bitmap(&bench);
  bench_memory(&bench);
  bench_index(&bench, 1);
  bench_index(&bench, 4);
  bench_index(&bench, 16);
  bench_pack(&bench);
  bench_manifest(&bench);
  bench_api(&bench);
  remove_folder(bench.folder);
  return 0;
}
