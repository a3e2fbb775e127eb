/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gc-history.h"

#include <store/store-private.h>

static GRand *
rand_new(void)
{
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  return g_rand_new_with_seed(seed);
}

static GPtrArray *
points_new(void)
{
  return g_ptr_array_new_with_free_func(known_point_free);
}

static KnownPoint *
add_point(Store *store, GPtrArray *points, guint n_changes, GRand *rand)
{
  g_autoptr(StorePins) pins = store_pins_new(store);
  const KnownPoint *base = points->len > 0 ? points->pdata[points->len - 1] : NULL;
  KnownPoint *known = make_point(store, pins, base, base ? n_changes : DISK_CLUSTERS, rand);
  assert_non_null(known);
  g_ptr_array_add(points, known);
  return known;
}

static StoreGcResult
collect_well(Store *store, const GPtrArray *points)
{
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  if (!collect(store, points, &result, &error))
    fail_msg("%s", error->message);
  assert_int_equal(result.n_missing, 0);
  assert_int_equal(result.n_kept, 0);
  return result;
}

typedef struct {
  guint64 bytes, n;
} Sum;

static gboolean
add_up(const StoreRecordInfo *info G_GNUC_UNUSED, const StoreLocation *location, gpointer user_data)
{
  Sum *sum = user_data;
  sum->bytes += (location->length + 15) / 16 * 16;
  sum->n++;
  return TRUE;
}

/* Records in the packs of the closed store. */
static Sum
sum_records(Fixture *fixture)
{
  Sum sum = {0};
  CbtUuid uuid = *store_uuid(fixture->store);
  close_fixture(fixture);
  g_autofree char *packs = path_of(fixture, "packs");
  StorePackSet *set = store_pack_set_open(NULL, packs, &uuid, 0, NULL);
  assert_non_null(set);
  assert_true(store_pack_scan(set, NULL, add_up, &sum, NULL, NULL));
  store_pack_set_close(set);
  open_fixture(fixture);
  return sum;
}

static void
test_just_what_points_reach_is_left_and_they_read_as_before(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  for (guint round = 0; round < 12; round++) {
    for (guint i = 0; i < 3; i++)
      add_point(fixture->store, points, 30, rand);
    for (guint i = (guint) g_rand_int_range(rand, 0, 3); i > 0; i--)
      g_ptr_array_remove_index(points, (guint) g_rand_int_range(rand, 0, (gint32) points->len));
    StoreGcResult result = collect_well(fixture->store, points);
    check_points(fixture->store, points);
    Sum sum = sum_records(fixture);
    assert_int_equal(sum.bytes, result.live_bytes);
    assert_int_equal(sum.n, result.n_chunks);
    check_points(fixture->store, points);
  }
  g_ptr_array_set_size(points, 0);
  collect_well(fixture->store, points);
  StoreStatistics statistics;
  store_statistics(fixture->store, &statistics);
  assert_int_equal(statistics.pack_bytes, 0);
  assert_int_equal(statistics.n_packs, 0);
  assert_int_equal(statistics.n_chunks, 0);
  add_point(fixture->store, points, 30, rand);
  reopen(fixture);
  check_points(fixture->store, points);
}

/* What a pack has beside its records weighs much in a small one. */
static void
test_a_small_pack_without_anything_dead_does_not_hide_larger_ones_with(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  for (guint i = 0; i < 3; i++) {
    add_point(fixture->store, points, i == 1 ? 1 : 40, rand);
    assert_true(store_pack_seal(fixture->store->packs, NULL));
  }
  g_ptr_array_remove_index(points, 0);
  StoreGcResult result = collect_well(fixture->store, points);
  assert_int_equal(sum_records(fixture).bytes, result.live_bytes);
}

static void
test_what_comes_free_is_what_pruning_says(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  g_autoptr(GPtrArray) kept = g_ptr_array_new();
  g_autoptr(GPtrArray) removed = g_ptr_array_new();
  for (guint i = 0; i < 10; i++)
    g_ptr_array_add(i % 3 == 1 ? removed : kept, add_point(fixture->store, points, 30, rand)->point);
  collect_well(fixture->store, points);
  StoreMarkFreed freed;
  assert_true(store_mark_freed(fixture->store, kept, removed, NULL, &freed, NULL));
  Sum before = sum_records(fixture);
  for (guint i = 10; i-- > 0;)
    if (i % 3 == 1)
      g_ptr_array_remove_index(points, i);
  StoreGcResult result = collect_well(fixture->store, points);
  assert_int_equal(before.bytes - result.live_bytes, freed.bytes);
  /* What is left of groups is compressed anew, and takes what it then takes. */
  if (fixture->options.group_clusters == 1)
    assert_int_equal(sum_records(fixture).bytes, result.live_bytes);
}

static void
test_pinned_chunks_stay_until_their_point_is_given_up(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) none = g_ptr_array_new();
  g_autoptr(GPtrArray) points = points_new();
  add_point(fixture->store, points, 0, rand);
  g_autoptr(StorePins) pins = store_pins_new(fixture->store);
  /* Half of it is in packs that only the first point has. */
  KnownPoint *under_way = make_point(fixture->store, pins, points->pdata[0], DISK_CLUSTERS / 2, rand);
  g_ptr_array_add(points, under_way);
  StoreGcResult result;
  for (guint i = 0; i < 3; i++) {
    g_autoptr(GPtrArray) first = g_ptr_array_new();
    g_ptr_array_add(first, points->pdata[0]);
    assert_true(collect(fixture->store, first, &result, NULL));
    check_points(fixture->store, points);
  }
  g_clear_pointer(&pins, store_pins_free);
  assert_true(collect(fixture->store, none, &result, NULL));
  assert_int_equal(sum_records(fixture).n, 0);
}

static void
test_pins_that_end_while_it_runs_go_on_to_count(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  KnownPoint *gone = add_point(fixture->store, points, 0, rand);
  g_autoptr(StoreGc) gc = store_gc_begin(fixture->store, NULL, NULL);
  assert_null(store_gc_begin(fixture->store, NULL, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_BUSY));
  /* Nothing is marked: all is dead but for what this one puts, which the first had put already. */
  KnownPoint *made = add_point(fixture->store, points, DISK_CLUSTERS, rand);
  assert_true(store_gc_sweep(gc, &result, NULL));
  g_clear_pointer(&gc, store_gc_end);
  g_ptr_array_remove(points, gone);
  assert_int_equal(points->len, 1);
  check_point(fixture->store, made);
  assert_true(collect(fixture->store, points, &result, NULL));
}

/* Files of the store that are gone, but held open by this process, so that their space is not free. */
static guint
count_deleted(const Fixture *fixture)
{
  guint n = 0;
  g_autofree char *packs = path_of(fixture, "packs/");
  g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
  assert_non_null(dir);
  for (const char *name = g_dir_read_name(dir); name; name = g_dir_read_name(dir)) {
    g_autofree char *link = g_build_filename("/proc/self/fd", name, NULL);
    g_autofree char *target = g_file_read_link(link, NULL);
    n += target && strstr(target, packs) && g_str_has_suffix(target, " (deleted)");
  }
  return n;
}

static void
test_no_descriptor_holds_the_space_of_a_pack_that_was_removed(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  for (guint i = 0; i < 4; i++)
    add_point(fixture->store, points, DISK_CLUSTERS / 2, rand);
  while (points->len > 0) {
    g_ptr_array_remove_index(points, 0);
    collect_well(fixture->store, points);
    assert_int_equal(count_deleted(fixture), 0);
    check_points(fixture->store, points);
  }
  /* Appending goes on in a pack of its own. */
  add_point(fixture->store, points, 30, rand);
  check_points(fixture->store, points);
}

/* ---- damage ---- */

static void
test_a_wrong_or_missing_index_costs_no_live_chunk(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  g_autofree char *index = path_of(fixture, "index");
  for (guint round = 0; round < 5; round++) {
    for (guint i = 0; i < 3; i++)
      add_point(fixture->store, points, 30, rand);
    g_ptr_array_remove_index(points, 0);
    close_fixture(fixture);
    guint64 size = store_test_file_size(index);
    static const guint fields[] = {17, 21, 0, 18};
    if (round == 4)
      unlink(index);
    for (guint64 at = STORE_INDEX_HEADER_SIZE; round < 4 && at < size; at += 24 * 2)
      store_test_flip(index, at + fields[round], round == 3 ? 0xff : 1);
    open_fixture(fixture);
    StoreGcResult result;
    g_autoptr(GError) error = NULL;
    if (!collect(fixture->store, points, &result, &error))
      fail_msg("round %u: %s", round, error->message);
    check_points(fixture->store, points);
    reopen(fixture);
    check_points(fixture->store, points);
  }
}

static gboolean
lose_cluster(guint64 cluster, const StoreChunkId *id, gpointer store)
{
  /* As after a power cut: the index knows of a copy that never came to the disk. */
  StoreLocation nowhere = {.pack = 999, .offset = 64 + 16 * (guint32) cluster, .length = 5000};
  if (!store_chunk_id_is_zero(id))
    assert_true(store_index_insert(((Store *) store)->index, id, &nowhere, NULL));
  return TRUE;
}

static void
test_a_record_stays_when_the_copy_that_the_index_names_is_not_there(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  for (guint i = 0; i < 4; i++)
    add_point(fixture->store, points, DISK_CLUSTERS / 2, rand);
  g_ptr_array_remove_range(points, 0, 3);
  const StorePointDisk *disk = ((KnownPoint *) points->pdata[0])->point->disks->pdata[0];
  assert_true(store_manifest_changes(fixture->worker, NULL, &disk->manifest, 0, G_MAXUINT64, lose_cluster,
                                     fixture->store, NULL));
  collect_well(fixture->store, points);
  check_points(fixture->store, points);
}

static int
fail_fdatasync(const CbtFileOps *ops G_GNUC_UNUSED, int fd G_GNUC_UNUSED)
{
  errno = EIO;
  return -1;
}

static GArray *
list_packs(const Fixture *fixture)
{
  GArray *numbers = store_pack_list(fixture->store->packs, NULL);
  assert_non_null(numbers);
  return numbers;
}

static void
test_a_copy_that_is_not_durable_takes_no_pack_away(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  CbtFileOps ops = *cbt_file_ops_default();
  StoreGcResult result;
  for (guint i = 0; i < 3; i++)
    add_point(fixture->store, points, 60, rand);
  g_ptr_array_remove_range(points, 0, 2);
  ops.fdatasync = fail_fdatasync;
  fixture->options.ops = &ops;
  reopen(fixture);
  g_autoptr(GArray) before = list_packs(fixture);
  guint32 last = g_array_index(before, guint32, before->len - 1);
  /* The second one finds all that is live where the first one copied it. */
  for (guint i = 0; i < 2; i++)
    assert_false(collect(fixture->store, points, &result, NULL));
  g_autoptr(GArray) after = list_packs(fixture);
  assert_true(g_array_index(after, guint32, after->len - 1) > last);
  close_fixture(fixture);
  for (guint i = 0; i < after->len; i++) {
    guint32 number = g_array_index(after, guint32, i);
    g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", fixture->directory, number);
    if (number > last)
      unlink(path);
  }
  fixture->options.ops = NULL;
  open_fixture(fixture);
  check_points(fixture->store, points);
  assert_true(collect(fixture->store, points, &result, NULL));
  check_points(fixture->store, points);
}

/* ---- readers ---- */

typedef struct {
  CbtFileOps ops;
  Store *store;
  const GPtrArray *points;
  gboolean is_armed;
} Moving;

/* The chunk that is about to be read moves, and where it was nothing can be read any more. */
static ssize_t
pread_too_late(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  Moving *moving = ops->user;
  if (!moving->is_armed)
    return cbt_file_ops_default()->pread(cbt_file_ops_default(), fd, buffer, length, offset);
  moving->is_armed = FALSE;
  collect_well(moving->store, moving->points);
  errno = EIO;
  return -1;
}

static void
test_a_reader_finds_a_chunk_that_was_moved_under_it(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  Moving moving = {.ops = *cbt_file_ops_default(), .points = points};
  StoreChunkId id;
  moving.ops.pread = pread_too_late;
  moving.ops.user = &moving;
  fixture->options.ops = &moving.ops;
  reopen(fixture);
  moving.store = fixture->store;
  add_point(fixture->store, points, 0, rand);
  KnownPoint *live = add_point(fixture->store, points, DISK_CLUSTERS / 2, rand);
  guint content = live->contents[0] ? live->contents[0] : live->contents[1];
  assert_true(put_cluster(fixture->worker, content, &id, NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  g_ptr_array_remove_index(points, 0);
  moving.is_armed = TRUE;
  assert_true(cluster_is_readable(fixture->worker, content, &id, NULL));
  assert_false(moving.is_armed);
  fixture->options.ops = NULL;
  reopen(fixture);
}

typedef struct {
  CbtFileOps ops;
  Store *store;
  StoreWorker *worker;
  const KnownPoint *known;
  guint n_left;   /* preads of the sweep before the one that is interrupted */
  guint n_looked; /* clusters read in the middle of it */
} Astray;

/* The index said of each chunk of the point that it is where nothing is; the reader is not misled. */
static gboolean
read_astray(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  Astray *astray = user_data;
  g_autoptr(GError) error = NULL;
  guint content = astray->known->contents[cluster];
  if (content == 0 || cluster % 8 != 0)
    return TRUE;
  if (!cluster_is_readable(astray->worker, content, id, &error))
    fail_msg("cluster %u: %s", (guint) cluster, error->message);
  astray->n_looked++;
  return TRUE;
}

static ssize_t
pread_in_a_sweep(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  Astray *astray = ops->user;
  if (astray->n_left > 0 && astray->store && astray->store->is_sweeping && --astray->n_left == 0) {
    const StorePointDisk *disk = astray->known->point->disks->pdata[0];
    assert_true(store_manifest_changes(astray->worker, NULL, &disk->manifest, 0, G_MAXUINT64, read_astray,
                                       astray, NULL));
  }
  return cbt_file_ops_default()->pread(cbt_file_ops_default(), fd, buffer, length, offset);
}

static void
test_a_reader_finds_a_chunk_that_the_index_misplaces_while_packs_are_taken_out(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  for (guint n = 1; n <= 64; n *= 4) {
    g_autoptr(GPtrArray) points = points_new();
    Astray astray = {.ops = *cbt_file_ops_default()};
    astray.ops.pread = pread_in_a_sweep;
    astray.ops.user = &astray;
    fixture->options.ops = &astray.ops;
    reopen(fixture);
    astray.store = fixture->store;
    astray.worker = fixture->worker;
    add_point(fixture->store, points, 0, rand);
    astray.known = add_point(fixture->store, points, DISK_CLUSTERS / 2, rand);
    g_ptr_array_remove_index(points, 0);
    const StorePointDisk *disk = astray.known->point->disks->pdata[0];
    assert_true(store_manifest_changes(fixture->worker, NULL, &disk->manifest, 0, G_MAXUINT64, lose_cluster,
                                       fixture->store, NULL));
    astray.n_left = n;
    StoreGcResult result;
    assert_true(collect(fixture->store, points, &result, NULL));
    assert_int_equal(result.n_missing, 0);
    assert_true(astray.n_looked > 10);
    check_points(fixture->store, points);
    collect_well(fixture->store, points);
    fixture->options.ops = NULL;
    reopen(fixture);
    check_points(fixture->store, points);
  }
}

static void
test_a_pack_stays_while_a_live_chunk_in_it_cannot_be_read(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  KnownPoint *first = add_point(fixture->store, points, 0, rand);
  add_point(fixture->store, points, DISK_CLUSTERS / 3, rand);
  StoreChunkId id;
  guint content = first->contents[7] ? first->contents[7] : 1;
  assert_true(put_cluster(fixture->worker, content, &id, NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  StoreLocation at = locate(fixture, &id).at;
  g_autofree char *name = g_strdup_printf("packs/%08x.pack", at.pack);
  g_autofree char *path = path_of(fixture, name);
  close_fixture(fixture);
  store_test_flip(path, at.offset + 60, 1);
  open_fixture(fixture);
  g_autoptr(GPtrArray) live = g_ptr_array_new();
  g_ptr_array_add(live, first);
  StoreGcResult result;
  assert_true(collect(fixture->store, live, &result, NULL));
  assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
  /* The next put of the same bytes heals it, and then all of it can go. */
  assert_true(put_cluster(fixture->worker, content, &id, NULL, NULL));
  assert_true(store_flush(fixture->store, NULL));
  check_point(fixture->store, first);
  assert_true(collect(fixture->store, live, &result, NULL));
  check_point(fixture->store, first);
  assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void
test_nothing_is_swept_when_a_page_cannot_be_read(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GRand) rand = rand_new();
  g_autoptr(GPtrArray) points = points_new();
  KnownPoint *first = add_point(fixture->store, points, 0, rand);
  const StorePointDisk *disk = first->point->disks->pdata[0];
  StoreLocation at = locate(fixture, &disk->manifest.root).at;
  g_autofree char *name = g_strdup_printf("packs/%08x.pack", at.pack);
  g_autofree char *path = path_of(fixture, name);
  close_fixture(fixture);
  store_test_flip(path, at.offset + 60, 1);
  open_fixture(fixture);
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  assert_false(collect(fixture->store, points, &result, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_just_what_points_reach_is_left_and_they_read_as_before),
      TEST(test_a_small_pack_without_anything_dead_does_not_hide_larger_ones_with),
      TEST(test_what_comes_free_is_what_pruning_says),
      TEST_GROUPED(test_what_comes_free_is_what_pruning_says),
      TEST(test_pinned_chunks_stay_until_their_point_is_given_up),
      TEST_GROUPED(test_pinned_chunks_stay_until_their_point_is_given_up),
      TEST(test_pins_that_end_while_it_runs_go_on_to_count),
      TEST_GROUPED(test_pins_that_end_while_it_runs_go_on_to_count),
      TEST(test_no_descriptor_holds_the_space_of_a_pack_that_was_removed),
      TEST_GROUPED(test_no_descriptor_holds_the_space_of_a_pack_that_was_removed),
      TEST(test_a_wrong_or_missing_index_costs_no_live_chunk),
      TEST_GROUPED(test_a_wrong_or_missing_index_costs_no_live_chunk),
      TEST(test_a_record_stays_when_the_copy_that_the_index_names_is_not_there),
      TEST(test_a_copy_that_is_not_durable_takes_no_pack_away),
      TEST_GROUPED(test_a_copy_that_is_not_durable_takes_no_pack_away),
      TEST(test_a_reader_finds_a_chunk_that_was_moved_under_it),
      TEST(test_a_reader_finds_a_chunk_that_the_index_misplaces_while_packs_are_taken_out),
      TEST(test_a_pack_stays_while_a_live_chunk_in_it_cannot_be_read),
      TEST(test_nothing_is_swept_when_a_page_cannot_be_read),
      TEST_GROUPED(test_nothing_is_swept_when_a_page_cannot_be_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
