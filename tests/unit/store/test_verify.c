/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Points that share much, with real damage in their packs; what a verify names is compared with a search that
 * reads each tree on its own. */
#include "store-fixture.h"

#include <store/manifest-private.h>
#include <store/store-private.h>
#include <store/verify.h>

#define CLUSTERS 300u /* three leaves and a root */
#define N_POINTS 3u

typedef struct {
  Fixture *store;
  GPtrArray *points;
  StoreChunkId config;
} World;

static void
set_clusters(World *world, StorePointDisk *disk, const StoreManifest *base, guint first, guint n,
             guint content)
{
  Fixture *fixture = world->store;
  StoreManifestBuilder *builder =
      store_manifest_builder_new(fixture->worker, base, CLUSTERS * CBT_CLUSTER_SIZE - 100, NULL, NULL);
  for (guint i = 0; i < n; i++) {
    StoreChunkId id;
    assert_true(put_cluster(fixture->worker, content + i, &id, NULL, NULL));
    assert_true(store_manifest_builder_set(builder, first + i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &disk->manifest, NULL));
  store_manifest_builder_free(builder);
}

static StorePoint *
add_point(World *world, const char *vm)
{
  StorePoint *point = store_point_new();
  point->uuid = cbt_uuid_generate();
  point->vm = g_strdup(vm);
  StorePointConfig *config = store_point_add_config(point, "vm.conf");
  config->id = world->config;
  config->size = 100;
  g_ptr_array_add(world->points, point);
  return point;
}

/* Point 0: clusters 0 to 199 have contents 0 to 199. Point 1: as that, but 150 to 159 have contents 500 and
 * on. Point 2: a disk as in point 0, and one that has contents 10 to 19 at 250. */
static void
make_points(World *world)
{
  guint8 text[100];
  store_test_fill_text(text, sizeof text, 7);
  assert_true(
      store_put(world->store->worker, STORE_CHUNK_BLOB, text, sizeof text, &world->config, NULL, NULL, NULL));
  StorePointDisk *first = store_point_add_disk(add_point(world, "vm1"), "root");
  set_clusters(world, first, NULL, 0, 200, 0);
  StorePointDisk *second = store_point_add_disk(add_point(world, "vm1"), "root");
  set_clusters(world, second, &first->manifest, 150, 10, 500);
  StorePoint *third = add_point(world, "vm2");
  store_point_add_disk(third, "root")->manifest = first->manifest;
  set_clusters(world, store_point_add_disk(third, "data"), NULL, 250, 10, 10);
  assert_true(store_flush(world->store->store, NULL));
}

static int
setup_world(void **state)
{
  World *world = g_new0(World, 1);
  void *fixture;
  setup(&fixture);
  world->store = fixture;
  world->points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  make_points(world);
  *state = world;
  return 0;
}

static int
teardown_world(void **state)
{
  World *world = *state;
  void *fixture = world->store;
  g_ptr_array_unref(world->points);
  g_free(world);
  return teardown(&fixture);
}

static StoreManifest *
manifest_of(const World *world, guint point, guint disk)
{
  const StorePoint *of = world->points->pdata[point];
  return &((StorePointDisk *) of->disks->pdata[disk])->manifest;
}

static StoreChunkId
cluster_id(const World *world, guint point, guint disk, guint64 cluster)
{
  StoreChunkId id;
  assert_true(store_manifest_get(world->store->worker, manifest_of(world, point, disk), cluster, &id, NULL));
  return id;
}

/* The leaf of CLUSTER. */
static StoreChunkId
leaf_id(const World *world, guint point, guint64 cluster)
{
  StorePage page;
  assert_true(store_page_load(world->store->worker, &manifest_of(world, point, 0)->root, 1, &page, NULL));
  return page.entries[cluster / STORE_PAGE_FANOUT];
}

/* ---- a run ---- */

typedef struct {
  StoreVerify *verify;
  StoreVerifyVerdict verdicts[N_POINTS];
  StoreVerifyCounts counts;
} Run;

static Run
run_all(const World *world, const StoreVerifyOptions *options)
{
  Run run = {.verify = store_verify_new(world->store->store, options)};
  for (guint i = 0; i < world->points->len; i++)
    assert_true(store_verify_point(run.verify, world->points->pdata[i], NULL, &run.verdicts[i], NULL));
  store_verify_counts(run.verify, &run.counts);
  return run;
}

static const StoreVerifyDamage *
damage_of(const Run *run, const StoreChunkId *id)
{
  const GPtrArray *damages = store_verify_damages(run->verify);
  for (guint i = 0; i < damages->len; i++) {
    const StoreVerifyDamage *damage = damages->pdata[i];
    if (store_chunk_id_equal(&damage->id, id))
      return damage;
  }
  return NULL;
}

/* "0/root@OFFSET+LENGTH" of all uses, in clusters where they are whole ones. */
static char *
uses_of(const World *world, const StoreVerifyDamage *damage)
{
  GString *text = g_string_new(NULL);
  assert_non_null(damage);
  for (guint i = 0; i < damage->uses->len; i++) {
    const StoreVerifyUse *use = &g_array_index(damage->uses, StoreVerifyUse, i);
    guint point = 0;
    while (!cbt_uuid_equal(&((StorePoint *) world->points->pdata[point])->uuid, &use->point))
      point++;
    assert_string_equal(use->vm, ((StorePoint *) world->points->pdata[point])->vm);
    if (use->config)
      g_string_append_printf(text, "%u:%s ", point, use->config);
    else
      g_string_append_printf(text, "%u/%s@%u+%u ", point, use->disk, (guint) (use->offset / CBT_CLUSTER_SIZE),
                             (guint) cbt_div_up(use->length, CBT_CLUSTER_SIZE));
  }
  return g_string_free(text, FALSE);
}

static void
assert_uses(const World *world, const Run *run, const StoreChunkId *id, const char *expected)
{
  g_autofree char *uses = uses_of(world, damage_of(run, id));
  assert_string_equal(uses, expected);
}

static StoreLocation
damage_stored(World *world, const StoreChunkId *id)
{
  close_fixture(world->store);
  StoreLocation at = damage(world->store, id);
  open_fixture(world->store);
  return at;
}

/* ---- tests ---- */

static void
test_sound_points_are_read_once(void **state)
{
  World *world = *state;
  StoreStatistics statistics;
  store_statistics(world->store->store, &statistics);
  for (guint n_threads = 1; n_threads <= 4; n_threads++) {
    for (guint batch = 1; batch <= 1000; batch *= 10) {
      StoreVerifyOptions options = {.n_threads = n_threads, .batch = batch};
      Run run = run_all(world, &options);
      assert_int_equal(run.counts.n_chunks, statistics.n_chunks);
      assert_int_equal(run.counts.n_damaged, 0);
      assert_true(run.counts.bytes > 0 && run.counts.bytes <= statistics.pack_bytes);
      for (guint i = 0; i < N_POINTS; i++)
        assert_int_equal(run.verdicts[i].n_uses, 0);
      store_verify_free(run.verify);
    }
  }
}

static void
test_damage_is_named_with_every_place_that_uses_it(void **state)
{
  World *world = *state;
  StoreChunkId shared = cluster_id(world, 0, 0, 12), replaced = cluster_id(world, 0, 0, 155),
               newer = cluster_id(world, 1, 0, 151);
  StoreLocation at = damage_stored(world, &shared);
  damage_stored(world, &replaced);
  damage_stored(world, &newer);
  Run run = run_all(world, NULL);
  assert_int_equal(run.counts.n_damaged, 3);
  assert_uses(world, &run, &shared, "0/root@12+1 1/root@12+1 2/root@12+1 2/data@252+1 ");
  assert_uses(world, &run, &replaced, "0/root@155+1 2/root@155+1 ");
  assert_uses(world, &run, &newer, "1/root@151+1 ");
  assert_int_equal(damage_of(&run, &shared)->pack, at.pack);
  assert_int_equal(damage_of(&run, &shared)->offset, at.offset);
  assert_non_null(strstr(damage_of(&run, &shared)->error, "damaged"));
  assert_int_equal(run.verdicts[0].bytes, 2 * CBT_CLUSTER_SIZE);
  assert_int_equal(run.verdicts[1].n_uses, 2);
  assert_int_equal(run.verdicts[2].n_uses, 3);
  store_verify_free(run.verify);
}

static void
test_points_without_the_damage_are_sound(void **state)
{
  World *world = *state;
  StoreChunkId newer = cluster_id(world, 1, 0, 151);
  damage_stored(world, &newer);
  Run run = run_all(world, NULL);
  assert_int_equal(run.verdicts[0].n_uses, 0);
  assert_int_equal(run.verdicts[1].n_uses, 1);
  assert_int_equal(run.verdicts[2].n_uses, 0);
  store_verify_free(run.verify);
}

static void
test_all_below_a_damaged_page_is_lost(void **state)
{
  World *world = *state;
  StoreChunkId leaf = leaf_id(world, 0, 0), other = leaf_id(world, 1, 128);
  damage_stored(world, &leaf);
  damage_stored(world, &other);
  Run run = run_all(world, NULL);
  assert_int_equal(damage_of(&run, &leaf)->type, STORE_CHUNK_PAGE);
  assert_uses(world, &run, &leaf, "0/root@0+128 1/root@0+128 2/root@0+128 ");
  assert_uses(world, &run, &other, "1/root@128+128 ");
  assert_int_equal(run.verdicts[0].bytes, 128 * CBT_CLUSTER_SIZE);
  store_verify_free(run.verify);
}

static void
test_a_damaged_root_loses_the_disk(void **state)
{
  World *world = *state;
  StoreChunkId root = manifest_of(world, 2, 1)->root;
  damage_stored(world, &root);
  Run run = run_all(world, NULL);
  assert_uses(world, &run, &root, "2/data@0+300 ");
  assert_int_equal(run.verdicts[2].bytes, manifest_of(world, 2, 1)->size);
  store_verify_free(run.verify);
}

static void
test_a_damaged_configuration_file_is_named(void **state)
{
  World *world = *state;
  damage_stored(world, &world->config);
  Run run = run_all(world, NULL);
  assert_int_equal(run.counts.n_damaged, 1);
  assert_uses(world, &run, &world->config, "0:vm.conf 1:vm.conf 2:vm.conf ");
  store_verify_free(run.verify);
}

typedef struct {
  guint32 pack;
  guint64 from;    /* records at and behind it are lost */
  GHashTable *ids; /* of these records */
} Lost;

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

static gboolean
note_lost(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Lost *lost = user_data;
  if (location->pack == lost->pack && location->offset + location->length > lost->from)
    g_hash_table_add(lost->ids, g_memdup2(&info->id, sizeof info->id));
  return TRUE;
}

/* Ids with a record of PACK that ends behind FROM; the store is closed. */
static GHashTable *
ids_behind(const Fixture *fixture, guint32 pack, guint64 from)
{
  g_autofree char *packs = path_of(fixture, "packs");
  g_autofree char *format_path = path_of(fixture, "format");
  StoreFormat format;
  Lost lost = {pack, from, g_hash_table_new_full(hash_id, equal_ids, g_free, NULL)};
  assert_true(store_format_load(cbt_file_ops_default(), format_path, &format, NULL));
  StorePackSet *set = store_pack_set_open(NULL, packs, &format.uuid, 0, NULL);
  assert_true(store_pack_scan(set, NULL, note_lost, &lost, NULL, NULL));
  store_pack_set_close(set);
  return lost.ids;
}

/* Every record that was lost is damage, unless a page above it is lost as well. */
static void
assert_lost(World *world, guint32 pack, guint64 from, GHashTable *lost)
{
  Run run = run_all(world, NULL);
  const GPtrArray *damages = store_verify_damages(run.verify);
  gboolean lost_a_page = FALSE;
  assert_true(damages->len > 0 && damages->len <= g_hash_table_size(lost));
  for (guint i = 0; i < damages->len; i++) {
    const StoreVerifyDamage *damage = damages->pdata[i];
    assert_true(g_hash_table_contains(lost, &damage->id));
    assert_true(damage->n_uses > 0);
    assert_int_equal(damage->pack, pack);
    assert_true(damage->offset + STORE_RECORD_SIZE_MAX > from);
    lost_a_page |= damage->type == STORE_CHUNK_PAGE;
  }
  if (!lost_a_page)
    assert_int_equal(damages->len, g_hash_table_size(lost));
  store_verify_free(run.verify);
}

static void
test_a_truncated_pack_is_damage(void **state)
{
  World *world = *state;
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", world->store->directory, 2);
  close_fixture(world->store);
  guint64 keep = store_test_file_size(path) / 2;
  g_autoptr(GHashTable) lost = ids_behind(world->store, 2, keep);
  store_test_truncate(path, keep);
  open_fixture(world->store);
  assert_lost(world, 2, keep, lost);
}

static void
test_a_missing_pack_is_damage(void **state)
{
  World *world = *state;
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", world->store->directory, 3);
  close_fixture(world->store);
  g_autoptr(GHashTable) lost = ids_behind(world->store, 3, 0);
  assert_int_equal(unlink(path), 0);
  open_fixture(world->store);
  assert_lost(world, 3, 0, lost);
}

static void
test_the_next_put_of_the_same_bytes_heals(void **state)
{
  World *world = *state;
  StorePutOutcome outcome;
  StoreChunkId id, shared = cluster_id(world, 0, 0, 12);
  damage_stored(world, &shared);
  assert_true(put_cluster(world->store->worker, 12, &id, &outcome, NULL));
  assert_int_equal(outcome, STORE_PUT_HEALED);
  assert_true(store_chunk_id_equal(&id, &shared));
  Run run = run_all(world, NULL);
  assert_int_equal(run.counts.n_damaged, 0);
  store_verify_free(run.verify);
}

/* ---- going on where a run was cut off ---- */

static void
test_what_was_verified_before_is_not_read_again(void **state)
{
  World *world = *state;
  StoreVerifyCounts counts;
  StoreVerifyVerdict verdict;
  g_autoptr(StoreVerify) verify = store_verify_new(world->store->store, NULL);
  assert_true(store_verify_skip(verify, world->points->pdata[0], NULL));
  assert_true(store_verify_point(verify, world->points->pdata[1], NULL, &verdict, NULL));
  store_verify_counts(verify, &counts);
  assert_int_equal(counts.n_skipped, 200);
  assert_int_equal(counts.n_chunks, 10 + 2); /* the clusters that differ, their leaf and the root */
}

static void
test_a_point_goes_on_behind_a_place(void **state)
{
  World *world = *state;
  StoreVerifyCounts counts;
  StoreVerifyVerdict verdict;
  StoreVerifyPlace place = {0, 140};
  StoreChunkId behind = cluster_id(world, 0, 0, 141);
  damage_stored(world, &behind);
  g_autoptr(StoreVerify) verify = store_verify_new(world->store->store, NULL);
  assert_true(store_verify_skip(verify, world->points->pdata[0], &place));
  assert_true(store_verify_point(verify, world->points->pdata[0], &place, &verdict, NULL));
  store_verify_counts(verify, &counts);
  assert_int_equal(counts.n_skipped, 140);
  assert_int_equal(counts.n_chunks, 60 + 1 + 2); /* clusters, the file, a leaf and the root */
  assert_int_equal(verdict.n_uses, 1);
}

static void
test_a_point_with_an_unreadable_page_is_not_skipped(void **state)
{
  World *world = *state;
  StoreChunkId leaf = leaf_id(world, 0, 0);
  damage_stored(world, &leaf);
  g_autoptr(StoreVerify) verify = store_verify_new(world->store->store, NULL);
  assert_false(store_verify_skip(verify, world->points->pdata[0], NULL));
}

typedef struct {
  gint n_records;     /* atomic, as all here */
  gint stop_at;       /* 0: never */
  guint64 disk_bytes; /* under lock */
  pthread_mutex_t lock;
  guint n_places;
  StoreVerifyPlace last;
} Watch;

static gboolean
note_progress(guint64 record_bytes, guint64 disk_bytes, gpointer user_data)
{
  Watch *watch = user_data;
  pthread_mutex_lock(&watch->lock);
  watch->disk_bytes += disk_bytes;
  pthread_mutex_unlock(&watch->lock);
  gint n = g_atomic_int_add(&watch->n_records, record_bytes > 0) + 1;
  return watch->stop_at == 0 || n < watch->stop_at;
}

static void
note_place(const StorePoint *point G_GNUC_UNUSED, const StoreVerifyPlace *place, gpointer user_data)
{
  Watch *watch = user_data;
  watch->n_places++;
  watch->last = *place;
}

static void
test_progress_adds_up_to_the_disks(void **state)
{
  World *world = *state;
  Watch watch = {.lock = PTHREAD_MUTEX_INITIALIZER};
  StoreVerifyOptions options = {
      .batch = 50, .progress = note_progress, .reached = note_place, .user_data = &watch};
  Run run = run_all(world, &options);
  guint64 expected = 4 * manifest_of(world, 0, 0)->size;
  assert_int_equal(watch.disk_bytes, expected);
  assert_true(watch.n_places > 4);
  assert_int_equal(watch.last.disk, 1);
  assert_int_equal(watch.last.cluster, CLUSTERS);
  store_verify_free(run.verify);
}

static void
test_a_run_stops_when_it_is_told_to(void **state)
{
  World *world = *state;
  g_autoptr(GError) error = NULL;
  StoreVerifyVerdict verdict;
  Watch watch = {.lock = PTHREAD_MUTEX_INITIALIZER, .stop_at = 20};
  StoreVerifyOptions options = {.batch = 10, .progress = note_progress, .user_data = &watch};
  g_autoptr(StoreVerify) verify = store_verify_new(world->store->store, &options);
  assert_false(store_verify_point(verify, world->points->pdata[0], NULL, &verdict, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CANCELLED));
  assert_true(watch.n_records < 100);
}

/* ---- repair ---- */

static guint64
repair(Run *run, const StoreVerifySource *source)
{
  guint64 n = 0;
  assert_true(store_verify_repair(run->verify, source, &n, NULL));
  return n;
}

/* The points as a run finds them after a repair. */
static void
verify_again(const World *world, Run *run)
{
  for (guint i = 0; i < world->points->len; i++)
    assert_true(store_verify_point(run->verify, world->points->pdata[i], NULL, &run->verdicts[i], NULL));
  store_verify_counts(run->verify, &run->counts);
}

static void
test_an_older_record_of_the_chunk_repairs(void **state)
{
  World *world = *state;
  StoreChunkId id, shared = cluster_id(world, 0, 0, 12);
  StorePutOutcome outcome;
  /* The first record is damaged, replaced, and comes right again; then the second one is damaged. */
  StoreLocation first = damage_stored(world, &shared);
  assert_true(put_cluster(world->store->worker, 12, &id, &outcome, NULL));
  assert_int_equal(outcome, STORE_PUT_HEALED);
  for (guint i = 0; i < 10; i++) /* its pack is sealed then, and has it in its table */
    assert_true(put_cluster(world->store->worker, 901 + 2 * i, &id, NULL, NULL));
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", world->store->directory, first.pack);
  store_test_flip(path, first.offset + STORE_RECORD_HEADER_SIZE + 30, 2);
  damage_stored(world, &shared);
  /* The packs were read again already: else the first look would find the first record by itself. */
  g_atomic_int_set(&world->store->store->was_rebuilt, 1);
  Run run = run_all(world, NULL);
  assert_int_equal(run.counts.n_damaged, 1);
  assert_int_equal(repair(&run, NULL), 1);
  verify_again(world, &run);
  for (guint i = 0; i < N_POINTS; i++)
    assert_int_equal(run.verdicts[i].n_uses, 0);
  assert_true(damage_of(&run, &shared)->is_repaired);
  store_verify_free(run.verify);
  assert_true(cluster_is_readable(world->store->worker, 12, &shared, NULL));
}

/* An image as point 0 has it, but for what does not fit. */
static gboolean
read_image(const char *disk, guint64 offset, guint8 *cluster, gpointer user_data)
{
  const guint *wrong = user_data;
  guint64 number = offset / CBT_CLUSTER_SIZE;
  if (strcmp(disk, "root") != 0 || number >= CLUSTERS)
    return FALSE;
  memset(cluster, 0, CBT_CLUSTER_SIZE);
  if (number < 200)
    cluster_of((guint) number, cluster);
  if (wrong && number == *wrong)
    cluster[5] ^= 1;
  return TRUE;
}

static void
test_an_image_repairs_clusters_and_pages(void **state)
{
  World *world = *state;
  StoreVerifySource source = {read_image, NULL};
  StoreChunkId cluster = cluster_id(world, 0, 0, 12), below = cluster_id(world, 0, 0, 130);
  StoreChunkId leaf = leaf_id(world, 0, 128), root = manifest_of(world, 0, 0)->root;
  damage_stored(world, &cluster);
  damage_stored(world, &below);
  damage_stored(world, &leaf);
  damage_stored(world, &root);
  Run run = run_all(world, NULL);
  assert_int_equal(repair(&run, NULL), 0);
  verify_again(world, &run);
  assert_true(run.verdicts[0].n_uses > 0);
  /* Below the root that comes first, the rest is only found in turns. */
  guint64 n = 1, n_turns = 0;
  for (; n > 0; n_turns++) {
    n = repair(&run, &source);
    verify_again(world, &run);
  }
  assert_in_range(n_turns, 2, 4);
  assert_int_equal(run.counts.n_repaired, 4);
  for (guint i = 0; i < N_POINTS; i++)
    assert_int_equal(run.verdicts[i].n_uses, 0);
  store_verify_free(run.verify);
  Run fresh = run_all(world, NULL);
  assert_int_equal(fresh.counts.n_damaged, 0);
  store_verify_free(fresh.verify);
}

static void
test_bytes_that_differ_do_not_repair(void **state)
{
  World *world = *state;
  guint wrong = 12;
  StoreVerifySource source = {read_image, &wrong};
  StoreChunkId cluster = cluster_id(world, 0, 0, 12), newer = cluster_id(world, 1, 0, 151),
               leaf = leaf_id(world, 0, 0);
  damage_stored(world, &cluster);
  damage_stored(world, &newer);
  Run run = run_all(world, NULL);
  assert_int_equal(repair(&run, &source), 0);
  store_verify_free(run.verify);
  damage_stored(world, &leaf);
  run = run_all(world, NULL);
  assert_int_equal(repair(&run, &source), 0);
  verify_again(world, &run);
  assert_int_equal(run.verdicts[0].bytes, 128 * CBT_CLUSTER_SIZE);
  store_verify_free(run.verify);
}

static void
test_a_repair_compares_even_where_puts_do_not(void **state)
{
  World *world = *state;
  StoreVerifySource source = {read_image, NULL};
  StorePutOutcome outcome;
  StoreChunkId id, cluster = cluster_id(world, 0, 0, 12);
  world->store->options.dedup_verify = FALSE;
  damage_stored(world, &cluster);
  assert_true(put_cluster(world->store->worker, 12, &id, &outcome, NULL));
  assert_int_equal(outcome, STORE_PUT_REUSED);
  Run run = run_all(world, NULL);
  assert_int_equal(repair(&run, &source), 1);
  store_verify_free(run.verify);
  assert_true(cluster_is_readable(world->store->worker, 12, &cluster, NULL));
}

/* ---- random damage against a naive search ---- */

static guint64
naive_uses(const World *world, const StorePoint *point, const StoreChunkId *id)
{
  guint64 n = 0;
  for (guint d = 0; d < point->disks->len; d++)
    for (guint c = 0; c < CLUSTERS; c++) {
      StoreChunkId here;
      const StoreManifest *manifest = &((StorePointDisk *) point->disks->pdata[d])->manifest;
      assert_true(store_manifest_get(world->store->worker, manifest, c, &here, NULL));
      n += store_chunk_id_equal(&here, id);
    }
  return n;
}

static void
test_random_damage_is_found_wherever_it_is_used(void **state)
{
  World *world = *state;
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  guint64 expected[N_POINTS] = {0};
  for (guint round = 0; round < 8; round++) {
    guint64 cluster = (guint64) g_rand_int_range(rand, 0, 200);
    StoreChunkId id = cluster_id(world, (guint) g_rand_int_range(rand, 0, 2), 0, cluster);
    guint8 data[STORE_CHUNK_LENGTH_MAX];
    gsize length;
    if (!store_get(world->store->worker, &id, data, &length, NULL))
      continue; /* damaged already */
    damage_stored(world, &id);
    for (guint i = 0; i < N_POINTS; i++)
      expected[i] += naive_uses(world, world->points->pdata[i], &id);
  }
  Run run = run_all(world, NULL);
  for (guint i = 0; i < N_POINTS; i++)
    assert_int_equal(run.verdicts[i].n_uses, expected[i]);
  store_verify_free(run.verify);
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, setup_world, teardown_world)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      WORLD_TEST(test_sound_points_are_read_once),
      WORLD_TEST(test_damage_is_named_with_every_place_that_uses_it),
      WORLD_TEST(test_points_without_the_damage_are_sound),
      WORLD_TEST(test_all_below_a_damaged_page_is_lost),
      WORLD_TEST(test_a_damaged_root_loses_the_disk),
      WORLD_TEST(test_a_damaged_configuration_file_is_named),
      WORLD_TEST(test_a_truncated_pack_is_damage),
      WORLD_TEST(test_a_missing_pack_is_damage),
      WORLD_TEST(test_the_next_put_of_the_same_bytes_heals),
      WORLD_TEST(test_what_was_verified_before_is_not_read_again),
      WORLD_TEST(test_a_point_goes_on_behind_a_place),
      WORLD_TEST(test_a_point_with_an_unreadable_page_is_not_skipped),
      WORLD_TEST(test_progress_adds_up_to_the_disks),
      WORLD_TEST(test_a_run_stops_when_it_is_told_to),
      WORLD_TEST(test_an_older_record_of_the_chunk_repairs),
      WORLD_TEST(test_an_image_repairs_clusters_and_pages),
      WORLD_TEST(test_bytes_that_differ_do_not_repair),
      WORLD_TEST(test_a_repair_compares_even_where_puts_do_not),
      WORLD_TEST(test_random_damage_is_found_wherever_it_is_used),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
