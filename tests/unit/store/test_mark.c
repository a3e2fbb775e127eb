/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random histories of disks in a store of small packs, against a count that knows nothing of sharing: all ids
 * of each point one by one, and the lengths of records as the pack files have them. */
#include "store-fixture.h"

#include <store/manifest-private.h>
#include <store/mark.h>

#define CLUSTERS 700 /* more than five leaves */

static StorePoint *
point_new(const StoreManifest *manifests, guint n)
{
  StorePoint *point = store_point_new();
  point->vm = g_strdup("vm");
  for (guint i = 0; i < n; i++) {
    g_autofree char *name = g_strdup_printf("disk%u", i);
    store_point_add_disk(point, name)->manifest = manifests[i];
  }
  return point;
}

static StoreManifest
change_disk(Fixture *fixture, const StoreManifest *base, guint64 n_clusters, guint n_changes, GRand *rand)
{
  StoreManifest result;
  StoreManifestBuilder *builder =
      store_manifest_builder_new(fixture->worker, base, n_clusters * CBT_CLUSTER_SIZE, NULL, NULL);
  assert_non_null(builder);
  for (guint64 cluster = 0; cluster < n_clusters; cluster++) {
    StoreChunkId id = {{0}};
    if ((guint) g_rand_int_range(rand, 0, (gint32) n_clusters) >= n_changes)
      continue;
    /* Few contents, so that much is shared; some are zeros. */
    guint32 content = (guint32) g_rand_int_range(rand, 0, 60);
    if (content > 0)
      assert_true(put_cluster(fixture->worker, content, &id, NULL, NULL));
    assert_true(store_manifest_builder_set(builder, cluster, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &result, NULL));
  store_manifest_builder_free(builder);
  return result;
}

/* ---- the naive count ---- */

static guint
hash_id(gconstpointer id)
{
  guint hash;
  memcpy(&hash, id, sizeof hash);
  return hash;
}

static gboolean
equal_ids(gconstpointer a, gconstpointer b)
{
  return memcmp(a, b, sizeof(StoreChunkId)) == 0;
}

static GHashTable *
naive_set(void)
{
  return g_hash_table_new_full(hash_id, equal_ids, g_free, g_free);
}

static void
naive_add(GHashTable *set, const StoreChunkId *id)
{
  if (!store_chunk_id_is_zero(id))
    g_hash_table_add(set, g_memdup2(id, sizeof *id));
}

static void
naive_tree(StoreWorker *worker, GHashTable *set, const StoreChunkId *id, guint level)
{
  StorePage page;
  if (store_chunk_id_is_zero(id))
    return;
  naive_add(set, id);
  assert_true(store_page_load(worker, id, level, &page, NULL));
  for (guint i = 0; i < STORE_PAGE_FANOUT; i++) {
    if (level > 0)
      naive_tree(worker, set, &page.entries[i], level - 1);
    else
      naive_add(set, &page.entries[i]);
  }
}

static GHashTable *
naive_mark(StoreWorker *worker, const GPtrArray *points)
{
  GHashTable *set = g_hash_table_new_full(hash_id, equal_ids, g_free, NULL);
  for (guint i = 0; i < points->len; i++) {
    const StorePoint *point = points->pdata[i];
    for (guint d = 0; d < point->disks->len; d++) {
      const StoreManifest *manifest = &((const StorePointDisk *) point->disks->pdata[d])->manifest;
      naive_tree(worker, set, &manifest->root, store_manifest_n_levels(manifest->size) - 1);
    }
    for (guint c = 0; c < point->configs->len; c++)
      naive_add(set, &((const StorePointConfig *) point->configs->pdata[c])->id);
  }
  return set;
}

static gboolean
note_length(const StoreRecordInfo *info, const StoreLocation *location, gpointer lengths)
{
  guint64 length = (location->length + 15) / 16 * 16;
  g_hash_table_insert(lengths, g_memdup2(&info->id, sizeof info->id), g_memdup2(&length, sizeof length));
  return TRUE;
}

/* The store is flushed. */
static GHashTable *
naive_lengths(const Fixture *fixture)
{
  g_autofree char *packs = path_of(fixture, "packs");
  GHashTable *lengths = naive_set();
  StorePackSet *set = store_pack_set_open(NULL, packs, store_uuid(fixture->store), 0, NULL);
  assert_non_null(set);
  assert_true(store_pack_scan(set, NULL, note_length, lengths, NULL, NULL));
  store_pack_set_close(set);
  return lengths;
}

static StoreMarkFreed
naive_freed(const Fixture *fixture, const GPtrArray *kept, const GPtrArray *removed)
{
  StoreMarkFreed freed = {0};
  g_autoptr(GHashTable) stays = naive_mark(fixture->worker, kept);
  g_autoptr(GHashTable) goes = naive_mark(fixture->worker, removed);
  g_autoptr(GHashTable) lengths = naive_lengths(fixture);
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, goes);
  while (g_hash_table_iter_next(&iter, &id, NULL)) {
    if (g_hash_table_contains(stays, id))
      continue;
    const guint64 *length = g_hash_table_lookup(lengths, id);
    assert_non_null(length);
    freed.bytes += *length;
    freed.n_chunks++;
  }
  return freed;
}

/* ---- tests ---- */

static GPtrArray *
points_new(void)
{
  return g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
}

static void
add_config(Fixture *fixture, StorePoint *point, gconstpointer data, gsize length)
{
  StorePointConfig *config = store_point_add_config(point, "vm.conf");
  config->size = length;
  assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, data, length, &config->id, NULL, NULL, NULL));
}

static GPtrArray *
make_history(Fixture *fixture, guint n_points, GRand *rand)
{
  GPtrArray *points = points_new();
  StoreManifest disks[2] = {change_disk(fixture, NULL, CLUSTERS, CLUSTERS / 2, rand),
                            change_disk(fixture, NULL, 5, 5, rand)};
  for (guint i = 0; i < n_points; i++) {
    StorePoint *point = point_new(disks, 2);
    guint32 config = (guint32) g_rand_int_range(rand, 0, 3);
    add_config(fixture, point, &config, sizeof config);
    g_ptr_array_add(points, point);
    disks[0] = change_disk(fixture, &disks[0], CLUSTERS, (guint) g_rand_int_range(rand, 0, 20), rand);
    disks[1] = change_disk(fixture, &disks[1], 5, (guint) g_rand_int_range(rand, 0, 2), rand);
  }
  assert_true(store_flush(fixture->store, NULL));
  return points;
}

static GRand *
rand_new(void)
{
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  return g_rand_new_with_seed(seed);
}

static void
test_a_mark_has_all_that_points_reach_and_no_more(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = make_history(fixture, 6, rand);
  g_autoptr(StoreMark) mark = store_mark_new(fixture->store, NULL);
  g_autoptr(GPtrArray) some = g_ptr_array_new();
  for (guint i = 0; i < points->len; i += 2)
    g_ptr_array_add(some, points->pdata[i]);
  assert_true(store_mark_add(mark, some, NULL));
  g_autoptr(GHashTable) expected = naive_mark(fixture->worker, some);
  g_autoptr(GHashTable) all = naive_lengths(fixture);
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, all);
  while (g_hash_table_iter_next(&iter, &id, NULL))
    assert_int_equal(store_mark_contains(mark, id), g_hash_table_contains(expected, id));
  assert_int_equal(store_mark_count(mark), g_hash_table_size(expected));
}

static void
test_what_comes_free_is_what_a_naive_count_says(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = make_history(fixture, 10, rand);
  for (guint round = 0; round < 20; round++) {
    StoreMarkFreed freed;
    g_autoptr(GPtrArray) kept = g_ptr_array_new();
    g_autoptr(GPtrArray) removed = g_ptr_array_new();
    for (guint i = 0; i < points->len; i++)
      g_ptr_array_add(g_rand_int_range(rand, 0, 20) < (gint32) round ? removed : kept, points->pdata[i]);
    StoreMarkFreed expected = naive_freed(fixture, kept, removed);
    assert_true(store_mark_freed(fixture->store, kept, removed, NULL, &freed, NULL));
    assert_int_equal(freed.n_chunks, expected.n_chunks);
    assert_int_equal(freed.bytes, expected.bytes);
  }
}

static void
test_a_count_of_what_comes_free_ends_when_it_is_cancelled(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = make_history(fixture, 3, rand);
  g_autoptr(GPtrArray) none = g_ptr_array_new();
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(GError) error = NULL;
  StoreMarkFreed freed;
  assert_true(store_mark_freed(fixture->store, none, points, cancellable, &freed, NULL));
  assert_true(freed.n_chunks > 0);
  g_cancellable_cancel(cancellable);
  assert_false(store_mark_freed(fixture->store, none, points, cancellable, &freed, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CANCELLED));
}

static void
test_a_file_with_the_bytes_of_a_page_does_not_hide_what_is_below_the_page(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  StoreManifest disk = change_disk(fixture, NULL, 5, 5, rand);
  guint8 page[STORE_CHUNK_LENGTH_MAX];
  gsize length;
  assert_true(store_get(fixture->worker, &disk.root, page, &length, NULL));
  g_autoptr(GPtrArray) points = points_new();
  g_ptr_array_add(points, point_new(NULL, 0));
  add_config(fixture, points->pdata[0], page, length);
  g_ptr_array_add(points, point_new(&disk, 1));
  g_autoptr(StoreMark) mark = store_mark_new(fixture->store, NULL);
  assert_true(store_mark_add(mark, points, NULL));
  g_autoptr(GHashTable) expected = naive_mark(fixture->worker, points);
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, expected);
  while (g_hash_table_iter_next(&iter, &id, NULL))
    assert_true(store_mark_contains(mark, id));
}

static void
test_a_damaged_page_is_named_and_all_else_is_marked(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GError) error = NULL;
  StorePage root;
  StoreManifest disks[2] = {change_disk(fixture, NULL, CLUSTERS, CLUSTERS, rand),
                            change_disk(fixture, NULL, 300, 300, rand)};
  g_autoptr(GPtrArray) points = points_new();
  g_ptr_array_add(points, point_new(disks, 2));
  g_autoptr(GHashTable) all = naive_mark(fixture->worker, points);
  assert_true(store_page_load(fixture->worker, &disks[0].root, 1, &root, NULL));
  close_fixture(fixture);
  damage(fixture, &root.entries[2]);
  open_fixture(fixture);
  g_autoptr(StoreMark) mark = store_mark_new(fixture->store, NULL);
  assert_false(store_mark_add(mark, points, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT));
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  assert_non_null(strstr(error->message, store_chunk_id_format(&root.entries[2], text)));
  assert_true(store_mark_contains(mark, &root.entries[2]));
  assert_true(store_mark_contains(mark, &root.entries[5]));
  assert_true(store_mark_contains(mark, &disks[1].root));
  /* There are 60 contents: those below the page are below others, too. */
  assert_int_equal(store_mark_count(mark), g_hash_table_size(all));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_a_mark_has_all_that_points_reach_and_no_more),
      TEST(test_what_comes_free_is_what_a_naive_count_says),
      TEST(test_a_count_of_what_comes_free_ends_when_it_is_cancelled),
      TEST(test_a_file_with_the_bytes_of_a_page_does_not_hide_what_is_below_the_page),
      TEST(test_a_damaged_page_is_named_and_all_else_is_marked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
