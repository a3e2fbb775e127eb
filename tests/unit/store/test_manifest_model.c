/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manifests against plain arrays: a line of generations, each with random changes to the one before, some
 * larger, some begun anew and smaller. Walks, single look-ups and the differences of any two must be what the
 * arrays say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <store/manifest.h>
#include <string.h>
#include <tests/support/store-files.h>

#define CLUSTER       CBT_CLUSTER_SIZE
#define N_GENERATIONS 7

typedef struct {
  StoreManifest manifest;
  guint64 n;
  guint32 *contents; /* 0: zeros */
} Generation;

typedef struct {
  char *folder;
  Store *store;
  StoreWorker *worker;
  GRand *random;
  Generation generations[N_GENERATIONS];
} Model;

static int
setup(void **state)
{
  Model *model = g_new0(Model, 1);
  const char *text = g_getenv("CBT_TEST_SEED");
  guint32 seed = text ? (guint32) g_ascii_strtoull(text, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  model->random = g_rand_new_with_seed(seed);
  model->folder = store_test_folder_new();
  g_autofree char *directory = g_build_filename(model->folder, "store", NULL);
  model->store = store_open(directory, NULL, NULL);
  model->worker = store_worker_new(model->store);
  *state = model;
  return 0;
}

static int
teardown(void **state)
{
  Model *model = *state;
  for (guint i = 0; i < N_GENERATIONS; i++)
    g_free(model->generations[i].contents);
  store_worker_free(model->worker);
  store_close(model->store);
  store_test_folder_free(model->folder);
  g_rand_free(model->random);
  g_free(model);
  return 0;
}

static guint32
below(Model *model, guint64 n)
{
  return g_rand_int(model->random) % (guint32) n;
}

static StoreChunkId
id_of(guint32 content)
{
  StoreChunkId id = {{0}};
  if (content > 0)
    store_test_fill_random(id.bytes, 15, content);
  return id;
}

static guint32
content_at(const Generation *generation, guint64 cluster)
{
  return generation && cluster < generation->n ? generation->contents[cluster] : 0;
}

/* Changes runs of the array; few contents, so that some changes change nothing and some go back. */
static void
change_array(Model *model, Generation *generation, gboolean *touched)
{
  guint n_runs = 1 + below(model, 12);
  for (guint r = 0; r < n_runs; r++) {
    guint64 start = below(model, generation->n);
    guint64 length = 1 + below(model, below(model, 3) ? 5 : 400);
    guint kind = below(model, 4);
    for (guint64 i = start; i < MIN(start + length, generation->n); i++) {
      generation->contents[i] = kind == 0 ? 0 : 1 + below(model, kind * 20);
      touched[i] = TRUE;
    }
  }
}

/* GENERATION from BASE (NULL: anew) with N clusters; only what was touched is told to the builder. */
static void
make_generation(Model *model, Generation *generation, const Generation *base, guint64 n)
{
  g_autofree gboolean *touched = g_new0(gboolean, n);
  generation->n = n;
  generation->contents = g_new0(guint32, n);
  if (base)
    memcpy(generation->contents, base->contents, base->n * sizeof *base->contents);
  change_array(model, generation, touched);
  guint64 size = n * CLUSTER - below(model, CLUSTER);
  if (base)
    size = MAX(size, base->manifest.size);
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(model->worker, base ? &base->manifest : NULL, size, NULL, NULL);
  assert_non_null(builder);
  for (guint64 i = 0; i < n; i++) {
    StoreChunkId id = id_of(generation->contents[i]);
    if (touched[i])
      assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &generation->manifest, NULL));
}

static void
make_generations(Model *model, guint64 n)
{
  for (guint i = 0; i < N_GENERATIONS; i++) {
    const Generation *base = i > 0 ? &model->generations[i - 1] : NULL;
    guint what = below(model, 5);
    if (base && what == 0)
      n += 1 + below(model, n); /* grows */
    else if (base && what == 1) {
      n -= below(model, n / 2 + 1); /* shrinks: no base */
      base = NULL;
    } else if (what == 2)
      base = NULL;
    if (base && n < base->n)
      n = base->n;
    make_generation(model, &model->generations[i], base, n);
  }
}

/* ---- walks ---- */

typedef struct {
  const Generation *generation;
  guint64 next; /* the first cluster that was not told of yet */
  guint64 end;
} ExpectedWalk;

static gboolean
check_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  ExpectedWalk *expected = user_data;
  StoreChunkId wanted = id_of(content_at(expected->generation, cluster));
  for (; expected->next < cluster; expected->next++)
    assert_int_equal(content_at(expected->generation, expected->next), 0);
  assert_true(cluster < expected->end);
  assert_int_equal(cluster, expected->next);
  assert_true(store_chunk_id_equal(id, &wanted));
  expected->next++;
  return TRUE;
}

static void
check_walk(Model *model, const Generation *generation, guint64 first, guint64 count)
{
  ExpectedWalk expected = {generation, first, first + count};
  assert_true(store_manifest_walk(model->worker, &generation->manifest, first, count, check_cluster,
                                  &expected, NULL));
  for (; expected.next < expected.end; expected.next++)
    assert_int_equal(content_at(generation, expected.next), 0);
}

static void
check_gets(Model *model, const Generation *generation)
{
  for (guint i = 0; i < 50; i++) {
    guint64 cluster = below(model, generation->n + 10);
    StoreChunkId id, expected = id_of(content_at(generation, cluster));
    assert_true(store_manifest_get(model->worker, &generation->manifest, cluster, &id, NULL));
    assert_true(store_chunk_id_equal(&id, &expected));
  }
}

/* Some in a row, some far from each other, some twice, some behind the end. */
static void
check_get_many(Model *model, const Generation *generation)
{
  guint64 clusters[100];
  StoreChunkId ids[G_N_ELEMENTS(clusters)];
  guint n = 0;
  for (guint64 cluster = below(model, 10); n < G_N_ELEMENTS(clusters) && cluster < generation->n + 10;
       cluster += below(model, 4) ? below(model, 3) : below(model, 1 + generation->n / 4))
    clusters[n++] = cluster;
  assert_true(store_manifest_get_many(model->worker, &generation->manifest, clusters, n, ids, NULL));
  for (guint i = 0; i < n; i++) {
    StoreChunkId expected = id_of(content_at(generation, clusters[i]));
    assert_true(store_chunk_id_equal(&ids[i], &expected));
  }
}

static void
check_rebuilt_from_nothing_is_the_same(Model *model, const Generation *generation)
{
  StoreManifest again;
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(model->worker, NULL, generation->manifest.size, NULL, NULL);
  for (guint64 i = 0; i < generation->n; i++) {
    StoreChunkId id = id_of(generation->contents[i]);
    if (generation->contents[i])
      assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &again, NULL));
  assert_true(store_chunk_id_equal(&again.root, &generation->manifest.root));
}

/* ---- differences ---- */

typedef struct {
  CbtExtent extent;
  gboolean zero;
} Run;

static gboolean
keep_run(const CbtExtent *extent, gboolean zero, gpointer user_data)
{
  Run run = {*extent, zero};
  g_array_append_val((GArray *) user_data, run);
  return TRUE;
}

/* The runs by the arrays: maximal, of one kind each. */
static GArray *
naive_difference(const Generation *from, const Generation *to, guint64 offset)
{
  GArray *runs = g_array_new(FALSE, FALSE, sizeof(Run));
  for (guint64 i = offset / CLUSTER; i < to->n; i++) {
    guint64 start = MAX(i * CLUSTER, offset), end = MIN((i + 1) * CLUSTER, to->manifest.size);
    gboolean zero = to->contents[i] == 0;
    Run *last = runs->len ? &g_array_index(runs, Run, runs->len - 1) : NULL;
    if (start >= end || content_at(from, i) == to->contents[i])
      continue;
    if (last && last->zero == zero && last->extent.offset + last->extent.length == start) {
      last->extent.length += end - start;
      continue;
    }
    Run run = {{start, end - start}, zero};
    g_array_append_val(runs, run);
  }
  return runs;
}

static void
check_difference(Model *model, const Generation *from, const Generation *to, guint64 offset)
{
  g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(Run));
  g_autoptr(GArray) expected = naive_difference(from, to, offset);
  assert_true(store_manifest_difference(model->worker, from ? &from->manifest : NULL, &to->manifest, offset,
                                        keep_run, runs, NULL));
  assert_int_equal(runs->len, expected->len);
  for (guint i = 0; i < runs->len; i++) {
    const Run *a = &g_array_index(runs, Run, i), *b = &g_array_index(expected, Run, i);
    assert_int_equal(a->extent.offset, b->extent.offset);
    assert_int_equal(a->extent.length, b->extent.length);
    assert_int_equal(a->zero, b->zero);
  }
}

/* What changed in a part of the disk, cluster by cluster. */
typedef struct {
  const Generation *from; /* (nullable) */
  const Generation *to;
  guint64 next;
  guint64 end;
} ExpectedChanges;

static gboolean
is_changed(const ExpectedChanges *expected, guint64 cluster)
{
  return content_at(expected->from, cluster) != content_at(expected->to, cluster);
}

static gboolean
check_change(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  ExpectedChanges *expected = user_data;
  StoreChunkId wanted = id_of(content_at(expected->to, cluster));
  for (; expected->next < cluster; expected->next++)
    assert_false(is_changed(expected, expected->next));
  assert_true(cluster < expected->end && cluster == expected->next && is_changed(expected, cluster));
  assert_true(store_chunk_id_equal(id, &wanted));
  expected->next++;
  return TRUE;
}

static void
check_changes(Model *model, const Generation *from, const Generation *to, guint64 first, guint64 count)
{
  ExpectedChanges expected = {from, to, first, MIN(first + count, to->n)};
  assert_true(store_manifest_changes(model->worker, from ? &from->manifest : NULL, &to->manifest, first, count,
                                     check_change, &expected, NULL));
  for (; expected.next < expected.end; expected.next++)
    assert_false(is_changed(&expected, expected.next));
}

static void
check_all(Model *model)
{
  for (guint i = 0; i < N_GENERATIONS; i++) {
    const Generation *to = &model->generations[i];
    check_walk(model, to, 0, to->n);
    for (guint k = 0; k < 10; k++)
      check_walk(model, to, below(model, to->n), below(model, to->n + 1));
    check_gets(model, to);
    check_get_many(model, to);
    check_rebuilt_from_nothing_is_the_same(model, to);
    check_difference(model, NULL, to, 0);
    check_difference(model, NULL, to, to->manifest.size);
    check_changes(model, NULL, to, below(model, to->n), below(model, to->n + 1));
    for (guint j = 0; j < N_GENERATIONS; j++) {
      check_changes(model, &model->generations[j], to, below(model, to->n), below(model, to->n + 1));
      check_difference(model, &model->generations[j], to, 0);
      check_difference(model, &model->generations[j], to,
                       below(model, to->n) * CLUSTER + below(model, CLUSTER));
    }
  }
}

static void
run_model(void **state, guint64 n)
{
  Model *model = *state;
  make_generations(model, n);
  check_all(model);
}

static void
test_one_cluster(void **state)
{
  run_model(state, 1);
}

static void
test_one_leaf(void **state)
{
  run_model(state, 128);
}

static void
test_one_more_than_a_leaf(void **state)
{
  run_model(state, 129);
}

static void
test_hundreds_of_clusters(void **state)
{
  run_model(state, 1000);
}

static void
test_two_full_levels(void **state)
{
  run_model(state, 16384);
}

static void
test_one_more_than_two_levels(void **state)
{
  run_model(state, 16385);
}

/* ---- stops and large disks ---- */

typedef struct {
  guint left;
  guint seen;
} Countdown;

static gboolean
stop_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  Countdown *countdown = user_data;
  (void) cluster;
  (void) id;
  countdown->seen++;
  return --countdown->left > 0;
}

static gboolean
stop_extent(const CbtExtent *extent, gboolean zero, gpointer user_data)
{
  (void) zero;
  return stop_cluster(extent->offset, NULL, user_data);
}

static void
test_callback_stops_walk_and_difference(void **state)
{
  Model *model = *state;
  StoreManifest manifest;
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(model->worker, NULL, 40000 * CLUSTER, NULL, NULL);
  for (guint64 i = 0; i < 40000; i += 50) {
    StoreChunkId id = id_of(1 + (guint32) i);
    assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &manifest, NULL));
  for (guint n = 1; n <= 800; n += 7) {
    Countdown walk = {n, 0}, difference = {n, 0};
    assert_true(store_manifest_walk(model->worker, &manifest, 0, 40000, stop_cluster, &walk, NULL));
    assert_true(store_manifest_difference(model->worker, NULL, &manifest, 0, stop_extent, &difference, NULL));
    assert_int_equal(walk.seen, n);
    assert_int_equal(difference.seen, n);
  }
}

static void
test_sparse_16_tib_is_quick(void **state)
{
  Model *model = *state;
  const guint64 size = G_GUINT64_CONSTANT(16) << 40, n = size / CLUSTER, step = n / 100;
  Generation none = {.manifest = {.size = size}, .n = 0};
  StoreManifest manifest;
  g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(Run));
  g_autoptr(StoreManifestBuilder) builder = store_manifest_builder_new(model->worker, NULL, size, NULL, NULL);
  for (guint64 i = 0; i < 100; i++) {
    StoreChunkId id = id_of(1 + (guint32) i);
    assert_true(store_manifest_builder_set(builder, i * step, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &manifest, NULL));
  gint64 start = g_get_monotonic_time();
  assert_true(store_manifest_difference(model->worker, &none.manifest, &manifest, 0, keep_run, runs, NULL));
  assert_int_equal(runs->len, 100);
  for (guint i = 0; i < 100; i++)
    assert_int_equal(g_array_index(runs, Run, i).extent.offset, i * step * CLUSTER);
  assert_true(store_manifest_difference(model->worker, &manifest, &none.manifest, 0, keep_run, runs, NULL));
  assert_int_equal(runs->len, 200);
  assert_true(g_array_index(runs, Run, 150).zero);
  assert_true(g_get_monotonic_time() - start < 10 * G_USEC_PER_SEC);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_one_cluster),
      TEST(test_one_leaf),
      TEST(test_one_more_than_a_leaf),
      TEST(test_hundreds_of_clusters),
      TEST(test_two_full_levels),
      TEST(test_one_more_than_two_levels),
      TEST(test_callback_stops_walk_and_difference),
      TEST(test_sparse_16_tib_is_quick),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
