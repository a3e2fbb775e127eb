/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The builder and the walks look at ids alone, so most clusters here have made-up ids that no chunk stands
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/manifest-private.h>
#include <string.h>
#include <tests/support/store-files.h>

#define CLUSTER CBT_CLUSTER_SIZE
#define TIB     (G_GUINT64_CONSTANT(1) << 40)

typedef struct {
  char *folder;
  Store *store;
  StoreWorker *worker;
} Fixture;

static void
open_store(Fixture *fixture)
{
  g_autofree char *directory = g_build_filename(fixture->folder, "store", NULL);
  fixture->store = store_open(directory, NULL, NULL);
  assert_non_null(fixture->store);
  fixture->worker = store_worker_new(fixture->store);
}

static void
close_store(Fixture *fixture)
{
  g_clear_pointer(&fixture->worker, store_worker_free);
  g_clear_pointer(&fixture->store, store_close);
}

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  open_store(fixture);
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  close_store(fixture);
  store_test_folder_free(fixture->folder);
  g_free(fixture);
  return 0;
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->domain != CBT_ERROR || (*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

/* Content 0 is zeros. */
static StoreChunkId
id_of(guint32 content)
{
  StoreChunkId id = {{0}};
  if (content > 0)
    store_test_fill_random(id.bytes, 15, content);
  return id;
}

static StoreManifestBuilder *
begin(Fixture *fixture, const StoreManifest *base, guint64 size)
{
  g_autoptr(GError) error = NULL;
  StoreManifestBuilder *builder = store_manifest_builder_new(fixture->worker, base, size, NULL, &error);
  if (!builder)
    fail_msg("%s", error->message);
  return builder;
}

static void
set(StoreManifestBuilder *builder, guint64 cluster, guint32 content)
{
  StoreChunkId id = id_of(content);
  assert_true(store_manifest_builder_set(builder, cluster, &id, NULL));
}

static StoreManifest
finish(StoreManifestBuilder *builder)
{
  StoreManifest manifest;
  assert_true(store_manifest_builder_finish(builder, &manifest, NULL));
  store_manifest_builder_free(builder);
  return manifest;
}

static guint64
count_chunks(Fixture *fixture)
{
  StoreStatistics statistics;
  store_statistics(fixture->store, &statistics);
  return statistics.n_chunks;
}

static void
assert_cluster(Fixture *fixture, const StoreManifest *manifest, guint64 cluster, guint32 content)
{
  StoreChunkId id, expected = id_of(content);
  assert_true(store_manifest_get(fixture->worker, manifest, cluster, &id, NULL));
  assert_true(store_chunk_id_equal(&id, &expected));
}

/* ---- pages ---- */

static StorePage
golden_page(void)
{
  StorePage page = {0};
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++) {
    page.entries[0].bytes[i] = (guint8) (0x10 + i);
    page.entries[3].bytes[i] = (guint8) (0x40 + i);
  }
  return page;
}

static void
test_page_is_encoded_as_the_document_shows(void **state)
{
  (void) state;
  StorePage page = golden_page(), decoded;
  guint8 data[STORE_PAGE_SIZE_MAX];
  gsize length = store_page_encode(&page, 1, data);
  store_test_golden("manifest-page-v1", "manifest.md", data, length);
  assert_true(store_page_decode(data, length, 1, &decoded, NULL));
  assert_memory_equal(&decoded, &page, sizeof page);
}

static void
test_page_ends_with_its_last_entry(void **state)
{
  (void) state;
  guint8 data[STORE_PAGE_SIZE_MAX];
  StorePage page = {0}, decoded;
  assert_int_equal(store_page_encode(&page, 0, data), 0);
  for (guint i = 0; i < STORE_PAGE_FANOUT; i++) {
    memset(&page, 0, sizeof page);
    page.entries[i] = id_of(i + 1);
    gsize length = store_page_encode(&page, 0, data);
    assert_int_equal(length, STORE_PAGE_HEADER_SIZE + (i + 1) * STORE_CHUNK_ID_SIZE);
    assert_true(store_page_decode(data, length, 0, &decoded, NULL));
    assert_memory_equal(&decoded, &page, sizeof page);
  }
}

static void
test_page_of_wrong_form_is_corrupt(void **state)
{
  (void) state;
  StorePage page = golden_page(), decoded;
  guint8 good[STORE_PAGE_SIZE_MAX + STORE_CHUNK_ID_SIZE] = {0};
  gsize length = store_page_encode(&page, 1, good);
  static const struct {
    guint offset;
    guint8 value;
    const char *part;
  } changes[] = {
      {0, 'X', "no manifest page"},
      {4, 2, "version"},
      {5, 0, "level"},
      {5, 2, "level"},
      {6, 0, "length"},
      {6, 3, "length"},
      {6, 5, "length"},
      {7, 1, "length"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
    g_autoptr(GError) error = NULL;
    guint8 old = good[changes[i].offset];
    good[changes[i].offset] = changes[i].value;
    assert_false(store_page_decode(good, length, 1, &decoded, &error));
    check_error(&error, CBT_ERROR_CORRUPT, changes[i].part);
    good[changes[i].offset] = old;
  }
  for (gsize n = 0; n < sizeof good; n++) {
    g_autofree guint8 *copy = g_memdup2(good, n);
    assert_int_equal(store_page_decode(n ? copy : good, n, 1, &decoded, NULL), n == length);
  }
}

static void
test_page_with_trailing_zero_entry_is_corrupt(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  StorePage page = golden_page(), decoded;
  guint8 data[STORE_PAGE_SIZE_MAX] = {0};
  gsize length = store_page_encode(&page, 0, data);
  cbt_put_u16(data + STORE_PAGE_N_OFFSET, 5);
  assert_false(store_page_decode(data, length + STORE_CHUNK_ID_SIZE, 0, &decoded, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "zero");
}

static void
test_page_with_more_than_fanout_entries_is_corrupt(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  StorePage decoded;
  gsize length = STORE_PAGE_HEADER_SIZE + (STORE_PAGE_FANOUT + 1) * STORE_CHUNK_ID_SIZE;
  g_autofree guint8 *data = g_malloc(length);
  memset(data, 7, length);
  cbt_put_u32(data, STORE_PAGE_MAGIC);
  data[STORE_PAGE_VERSION_OFFSET] = STORE_PAGE_VERSION;
  data[STORE_PAGE_LEVEL_OFFSET] = 0;
  cbt_put_u16(data + STORE_PAGE_N_OFFSET, STORE_PAGE_FANOUT + 1);
  assert_false(store_page_decode(data, length, 0, &decoded, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "length");
}

/* ---- sizes ---- */

static void
test_height_follows_from_the_size(void **state)
{
  (void) state;
  static const struct {
    guint64 size, n_clusters;
    guint n_levels;
  } sizes[] = {
      {0, 0, 1},
      {1, 1, 1},
      {CLUSTER, 1, 1},
      {CLUSTER + 1, 2, 1},
      {128 * CLUSTER, 128, 1},
      {128 * CLUSTER + 1, 129, 2},
      {16384 * CLUSTER, 16384, 2},
      {16384 * CLUSTER + 1, 16385, 3},
      {(CLUSTER << 21), 1 << 21, 3},
      {(CLUSTER << 21) + 1, (1 << 21) + 1, 4},
      {16 * TIB, 1 << 28, 4},
      {16 * TIB + 1, (1 << 28) + 1, 5},
      {STORE_DISK_SIZE_MAX, G_GUINT64_CONSTANT(1) << 34, 5},
  };
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    assert_int_equal(store_manifest_n_clusters(sizes[i].size), sizes[i].n_clusters);
    assert_int_equal(store_manifest_n_levels(sizes[i].size), sizes[i].n_levels);
  }
}

static void
test_sizes_that_cannot_be_are_invalid(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreManifest base = {.size = 10 * CLUSTER};
  assert_null(store_manifest_builder_new(fixture->worker, NULL, STORE_DISK_SIZE_MAX + 1, NULL, &error));
  check_error(&error, CBT_ERROR_INVALID, "bytes");
  assert_null(store_manifest_builder_new(fixture->worker, &base, 9 * CLUSTER, NULL, &error));
  check_error(&error, CBT_ERROR_INVALID, "larger disk");
}

static void
test_first_and_last_cluster_of_any_size_are_kept(void **state)
{
  Fixture *fixture = *state;
  const guint64 sizes[] = {1,   CLUSTER,  128 * CLUSTER,      129 * CLUSTER, 16384 * CLUSTER, 16385 * CLUSTER,
                           TIB, 16 * TIB, STORE_DISK_SIZE_MAX};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    guint64 last = store_manifest_n_clusters(sizes[i]) - 1;
    StoreManifestBuilder *builder = begin(fixture, NULL, sizes[i]);
    if (last > 0)
      set(builder, 0, 1);
    set(builder, last, 2);
    StoreManifest manifest = finish(builder);
    assert_int_equal(manifest.size, sizes[i]);
    assert_cluster(fixture, &manifest, 0, last > 0 ? 1 : 2);
    assert_cluster(fixture, &manifest, last, 2);
    assert_cluster(fixture, &manifest, last / 2, last > 1 ? 0 : last > 0 ? 1 : 2);
    assert_cluster(fixture, &manifest, last + 1, 0);
  }
}

/* ---- zeros ---- */

static void
test_disk_of_zeros_has_no_page(void **state)
{
  Fixture *fixture = *state;
  StoreManifestBuilder *builder = begin(fixture, NULL, 16 * TIB);
  StoreManifest empty = finish(builder);
  builder = begin(fixture, NULL, 16385 * CLUSTER);
  for (guint64 i = 0; i < 16385; i += 100)
    set(builder, i, 0);
  StoreManifest zeros = finish(builder);
  assert_true(store_chunk_id_is_zero(&empty.root));
  assert_true(store_chunk_id_is_zero(&zeros.root));
  assert_int_equal(count_chunks(fixture), 0);
}

static void
test_subtree_that_becomes_zero_goes_away(void **state)
{
  Fixture *fixture = *state;
  StoreManifestBuilder *builder = begin(fixture, NULL, 20000 * CLUSTER);
  set(builder, 5, 1);
  StoreManifest only_first = finish(builder);
  builder = begin(fixture, &only_first, 20000 * CLUSTER);
  for (guint64 i = 300; i < 900; i++)
    set(builder, i, 7);
  set(builder, 19999, 8);
  StoreManifest more = finish(builder);
  builder = begin(fixture, &more, 20000 * CLUSTER);
  for (guint64 i = 300; i < 900; i++)
    set(builder, i, 0);
  set(builder, 19999, 0);
  StoreManifest back = finish(builder);
  assert_true(store_chunk_id_equal(&back.root, &only_first.root));
}

/* ---- sharing ---- */

static StoreManifest
build_dense(Fixture *fixture, guint64 n)
{
  StoreManifestBuilder *builder = begin(fixture, NULL, n * CLUSTER);
  for (guint64 i = 0; i < n; i++)
    set(builder, i, (guint32) i + 1);
  return finish(builder);
}

static void
test_full_tree_has_each_page_once(void **state)
{
  Fixture *fixture = *state;
  build_dense(fixture, 16385);
  assert_int_equal(count_chunks(fixture), 129 + 2 + 1);
}

static void
test_changes_put_at_most_their_paths(void **state)
{
  Fixture *fixture = *state;
  StoreManifest manifest = build_dense(fixture, 40000);
  guint n_levels = store_manifest_n_levels(manifest.size);
  for (guint k = 1; k <= 64; k *= 2) {
    guint64 before = count_chunks(fixture);
    StoreTally tally = {0};
    StoreManifestBuilder *builder =
        store_manifest_builder_new(fixture->worker, &manifest, manifest.size, &tally, NULL);
    assert_non_null(builder);
    for (guint i = 0; i < k; i++)
      set(builder, (guint64) i * 600 + k, 100000 + k * 100 + i);
    manifest = finish(builder);
    assert_in_range(count_chunks(fixture) - before, n_levels, k * n_levels);
    assert_in_range(tally.stored_bytes, 1, k * n_levels * (STORE_PAGE_SIZE_MAX + 64));
    assert_int_equal(tally.new_bytes + tally.reused_bytes + tally.zero_bytes, 0);
  }
}

static void
test_setting_what_is_there_puts_nothing(void **state)
{
  Fixture *fixture = *state;
  StoreManifest manifest = build_dense(fixture, 1000);
  StoreTally tally = {0};
  StoreManifestBuilder *builder =
      store_manifest_builder_new(fixture->worker, &manifest, manifest.size, &tally, NULL);
  for (guint64 i = 0; i < 1000; i += 3)
    set(builder, i, (guint32) i + 1);
  StoreManifest again = finish(builder);
  assert_true(store_chunk_id_equal(&again.root, &manifest.root));
  assert_int_equal(tally.stored_bytes, 0);
}

/* A page of LEVEL with ID as entry AT. */
static StoreChunkId
put_page(Fixture *fixture, guint level, guint at, const StoreChunkId *id)
{
  guint8 data[STORE_PAGE_SIZE_MAX];
  StorePage page = {0};
  StoreChunkId out;
  page.entries[at] = *id;
  page.entries[100] = id_of(5);
  gsize length = store_page_encode(&page, level, data);
  assert_true(store_put(fixture->worker, STORE_CHUNK_PAGE, data, length, &out, NULL, NULL, NULL));
  return out;
}

static gboolean
count_extents(const CbtExtent *extent, gboolean zero, gpointer user_data)
{
  (void) zero;
  g_array_append_vals(user_data, extent, 1);
  return TRUE;
}

/* The subtree in question does not exist: whoever looks into it fails. */
static void
test_equal_and_untouched_subtrees_are_not_read(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  StoreChunkId missing = id_of(4711), leaf_id = id_of(1);
  StoreChunkId leaf = put_page(fixture, 0, 7, &leaf_id);
  StorePage page = {0};
  guint8 data[STORE_PAGE_SIZE_MAX];
  StoreManifest from = {.size = 16384 * CLUSTER};
  page.entries[3] = missing;
  page.entries[5] = leaf;
  gsize length = store_page_encode(&page, 1, data);
  assert_true(store_put(fixture->worker, STORE_CHUNK_PAGE, data, length, &from.root, NULL, NULL, NULL));
  StoreManifestBuilder *builder = begin(fixture, &from, from.size);
  set(builder, 5 * 128 + 9, 2);
  StoreManifest to = finish(builder);
  assert_true(store_manifest_difference(fixture->worker, &from, &to, 0, count_extents, extents, NULL));
  assert_int_equal(extents->len, 1);
  assert_int_equal(g_array_index(extents, CbtExtent, 0).offset, (5 * 128 + 9) * CLUSTER);
  assert_int_equal(g_array_index(extents, CbtExtent, 0).length, CLUSTER);
  assert_cluster(fixture, &to, 5 * 128 + 7, 1);
  StoreChunkId id;
  assert_false(store_manifest_get(fixture->worker, &to, 3 * 128, &id, NULL));
}

/* ---- growth ---- */

static void
test_grown_disk_keeps_its_pages_at_any_height(void **state)
{
  Fixture *fixture = *state;
  const guint64 sizes[] = {100 * CLUSTER,   128 * CLUSTER, 200 * CLUSTER,
                           20000 * CLUSTER, TIB,           STORE_DISK_SIZE_MAX};
  StoreManifest base = build_dense(fixture, 100);
  for (guint i = 1; i < G_N_ELEMENTS(sizes); i++) {
    guint64 before = count_chunks(fixture);
    guint lifted = store_manifest_n_levels(sizes[i]) - store_manifest_n_levels(base.size);
    StoreManifest grown = finish(begin(fixture, &base, sizes[i]));
    assert_int_equal(count_chunks(fixture) - before, lifted);
    assert_cluster(fixture, &grown, 0, 1);
    assert_cluster(fixture, &grown, 99, 100);
    assert_cluster(fixture, &grown, 100, 0);
    assert_cluster(fixture, &grown, store_manifest_n_clusters(sizes[i]) - 1, 0);
    base = grown;
  }
}

static void
test_growth_with_changes_puts_no_page_in_vain(void **state)
{
  Fixture *fixture = *state;
  StoreManifest base = build_dense(fixture, 100);
  guint64 before = count_chunks(fixture);
  StoreManifestBuilder *builder = begin(fixture, &base, 20000 * CLUSTER);
  set(builder, 50, 7777);
  set(builder, 19000, 8888);
  StoreManifest grown = finish(builder);
  assert_int_equal(count_chunks(fixture) - before, 2 + 2 + 1);
  assert_cluster(fixture, &grown, 49, 50);
  assert_cluster(fixture, &grown, 50, 7777);
  assert_cluster(fixture, &grown, 19000, 8888);
}

static void
test_growth_far_behind_leaves_the_old_part_alone(void **state)
{
  Fixture *fixture = *state;
  StoreManifest base = build_dense(fixture, 100);
  StoreManifestBuilder *builder = begin(fixture, &base, TIB);
  set(builder, TIB / CLUSTER - 1, 9);
  StoreManifest grown = finish(builder);
  assert_cluster(fixture, &grown, 0, 1);
  assert_cluster(fixture, &grown, 99, 100);
  assert_cluster(fixture, &grown, TIB / CLUSTER - 1, 9);
}

/* ---- damage ---- */

static gboolean
accept_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  (void) cluster;
  (void) id;
  (void) user_data;
  return TRUE;
}

static void
assert_names_page(Fixture *fixture, const StoreManifest *manifest, const StoreChunkId *page)
{
  g_autoptr(GError) error = NULL;
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  store_chunk_id_format(page, text);
  assert_false(store_manifest_walk(fixture->worker, manifest, 0, G_MAXUINT64, accept_cluster, NULL, &error));
  check_error(&error, CBT_ERROR_CORRUPT, text);
  assert_false(store_manifest_difference(fixture->worker, NULL, manifest, 0, count_extents, extents, &error));
  check_error(&error, CBT_ERROR_CORRUPT, text);
  assert_false(store_manifest_difference(fixture->worker, manifest, &(StoreManifest){.size = manifest->size},
                                         0, count_extents, extents, &error));
  check_error(&error, CBT_ERROR_CORRUPT, text);
  g_autoptr(StoreManifestBuilder) builder = begin(fixture, manifest, manifest->size);
  StoreChunkId id = id_of(1);
  assert_false(store_manifest_builder_set(builder, 0, &id, &error));
  check_error(&error, CBT_ERROR_CORRUPT, text);
}

static void
test_chunk_that_is_no_page_is_named(void **state)
{
  Fixture *fixture = *state;
  StoreManifest manifest = {.size = 1000 * CLUSTER};
  assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, "text", 4, &manifest.root, NULL, NULL, NULL));
  assert_names_page(fixture, &manifest, &manifest.root);
}

static void
test_page_of_another_level_is_named(void **state)
{
  Fixture *fixture = *state;
  StoreChunkId id = id_of(1);
  StoreManifest manifest = {.size = 1000 * CLUSTER, .root = put_page(fixture, 0, 0, &id)};
  assert_names_page(fixture, &manifest, &manifest.root);
}

static void
test_missing_page_is_damage_and_named(void **state)
{
  Fixture *fixture = *state;
  StoreChunkId missing = id_of(99);
  StoreManifest manifest = {.size = 1000 * CLUSTER, .root = put_page(fixture, 1, 0, &missing)};
  assert_names_page(fixture, &manifest, &missing);
}

/* Flips a bit of the payload of the record of ID. */
static void
damage_record(Fixture *fixture, const StoreChunkId *id)
{
  g_autofree char *path = g_build_filename(fixture->folder, "store", "packs", "00000001.pack", NULL);
  g_autofree char *data = NULL;
  gsize length;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  const char *at = memmem(data, length, id, sizeof *id);
  assert_non_null(at);
  store_test_flip(path, (guint64) (at - data) + 48, 1);
}

static void
test_damaged_page_is_named(void **state)
{
  Fixture *fixture = *state;
  StoreChunkId id = id_of(1);
  StoreChunkId leaf = put_page(fixture, 0, 0, &id);
  StoreManifest manifest = {.size = 1000 * CLUSTER, .root = put_page(fixture, 1, 0, &leaf)};
  close_store(fixture);
  damage_record(fixture, &leaf);
  open_store(fixture);
  assert_names_page(fixture, &manifest, &leaf);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_page_is_encoded_as_the_document_shows),
      TEST(test_page_ends_with_its_last_entry),
      TEST(test_page_of_wrong_form_is_corrupt),
      TEST(test_page_with_trailing_zero_entry_is_corrupt),
      TEST(test_page_with_more_than_fanout_entries_is_corrupt),
      TEST(test_height_follows_from_the_size),
      TEST(test_sizes_that_cannot_be_are_invalid),
      TEST(test_first_and_last_cluster_of_any_size_are_kept),
      TEST(test_disk_of_zeros_has_no_page),
      TEST(test_subtree_that_becomes_zero_goes_away),
      TEST(test_full_tree_has_each_page_once),
      TEST(test_changes_put_at_most_their_paths),
      TEST(test_setting_what_is_there_puts_nothing),
      TEST(test_equal_and_untouched_subtrees_are_not_read),
      TEST(test_grown_disk_keeps_its_pages_at_any_height),
      TEST(test_growth_with_changes_puts_no_page_in_vain),
      TEST(test_growth_far_behind_leaves_the_old_part_alone),
      TEST(test_chunk_that_is_no_page_is_named),
      TEST(test_page_of_another_level_is_named),
      TEST(test_missing_page_is_damage_and_named),
      TEST(test_damaged_page_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
