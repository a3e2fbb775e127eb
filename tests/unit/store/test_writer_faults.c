/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of points and vms, and repairs, on a disk that fails or loses its power: a file is the old one or the
 * new one, and a repair leaves nothing damaged that was sound.
 */
#define DISK_CLUSTERS 160u /* two leaves */
#define N_CONTENTS    28
#include "gc-history.h"

#include <store/verify.h>
#include <store/vm.h>

static gboolean
is_long(void)
{
  const char *text = g_getenv("CBT_TEST_LONG");
  return text && *text;
}

/* ---- files ---- */

typedef struct {
  char *folder; /* it is fsynced before */
  StorePoint *points[2];
  StoreVm *vms[2];
} Files;

/* Two states of a point, and of a vm. */
static void
files_init(Files *files)
{
  CbtUuid uuid = cbt_uuid_generate(), disk_id = cbt_uuid_generate();
  *files = (Files){.folder = store_test_folder_new()};
  for (guint i = 0; i < 2; i++) {
    files->points[i] = store_point_new();
    files->points[i]->uuid = uuid;
    files->points[i]->vm = g_strdup("web");
    files->points[i]->note = g_strnfill(i ? 9000 : 10, 'n');
    CatalogueVm *vm = catalogue_vm_new("web");
    CatalogueDisk *disk = catalogue_vm_add_disk(vm, "root", i ? "/two" : "/one", 65536);
    disk->id = disk_id;
    files->vms[i] = store_vm_new(vm, NULL);
  }
}

static void
files_clear(Files *files)
{
  for (guint i = 0; i < 2; i++) {
    store_point_free(files->points[i]);
    store_vm_free(files->vms[i]);
  }
  store_test_folder_free(files->folder);
}

static gboolean
save(const Files *files, const CbtFileOps *ops, gboolean is_vm, guint i)
{
  return is_vm ? store_vm_save(ops, files->folder, files->vms[i], NULL)
               : store_point_save(ops, files->folder, files->points[i], NULL);
}

static gboolean
take_away(const Files *files, const CbtFileOps *ops, gboolean is_vm)
{
  return is_vm ? store_vm_remove(ops, files->folder, "web", NULL)
               : store_point_remove(ops, files->folder, &files->points[0]->uuid, NULL);
}

/* Which of the two states there is; -1: none. Anything else fails. */
static int
found(const Files *files, gboolean is_vm)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) vm = is_vm ? store_vm_load(ops, files->folder, "web", &error) : NULL;
  g_autoptr(StorePoint) point =
      is_vm ? NULL : store_point_load(ops, files->folder, &files->points[0]->uuid, &error);
  if (error && !g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    fail_msg("%s", error->message);
  if (point)
    return strlen(point->note) == 9000;
  return vm ? store_vm_equal(vm, files->vms[1]) : -1;
}

typedef enum { SAVE_NEW, REPLACE, REMOVE, N_CHANGES } Change;

/* TRUE if the power went in the middle of it. */
static gboolean
cut_change(const Files *files, gboolean is_vm, Change change, guint n, GRand *rand)
{
  StoreFaultOps *faults = store_fault_ops_new();
  const CbtFileOps *ops = store_fault_ops_table(faults);
  int before = change == SAVE_NEW ? -1 : 0, after = change == REMOVE ? -1 : 1;
  if (found(files, is_vm) >= 0)
    assert_true(take_away(files, cbt_file_ops_default(), is_vm));
  if (change != SAVE_NEW)
    assert_true(save(files, cbt_file_ops_default(), is_vm, 0));
  store_fault_ops_arm(faults, 0, FALSE, EIO);
  store_fault_ops_arm_cut(faults, n);
  gboolean ok = change == REMOVE ? take_away(files, ops, is_vm) : save(files, ops, is_vm, 1);
  gboolean has_failed = store_fault_ops_has_failed(faults);
  assert_true(ok || has_failed);
  store_fault_ops_power_cut(faults, rand);
  int now = found(files, is_vm);
  if (now != after && (ok || now != before))
    fail_msg("%s, change %d, cut at call %u: state %d instead of %d", is_vm ? "vm" : "point", change, n, now,
             after);
  store_fault_ops_free(faults);
  return has_failed;
}

static void
test_a_power_cut_leaves_the_old_file_or_the_new_one(void **state G_GNUC_UNUSED)
{
  g_autoptr(GRand) rand = g_rand_new_with_seed(5);
  guint n_rounds = is_long() ? 100 : 10, n_cuts = 0;
  Files files;
  files_init(&files);
  for (guint round = 0; round < n_rounds; round++)
    for (guint is_vm = 0; is_vm < 2; is_vm++)
      for (Change change = SAVE_NEW; change < N_CHANGES; change++)
        for (guint n = 1; cut_change(&files, is_vm, change, n, round == 0 ? NULL : rand); n++)
          n_cuts++;
  print_message("%u power cuts\n", n_cuts);
  files_clear(&files);
}

/* ---- repairs ---- */

#define N_DAMAGED 4u

typedef struct {
  Fixture *fixture;
  GPtrArray *points; /* of KnownPoint */
  StoreChunkId damaged[N_DAMAGED];
} World;

/* What the disk of a point holds. */
static gboolean
read_image(const char *disk G_GNUC_UNUSED, guint64 offset, guint8 *cluster, gpointer user_data)
{
  const KnownPoint *known = user_data;
  guint content = known->contents[offset / CBT_CLUSTER_SIZE];
  memset(cluster, 0, CBT_CLUSTER_SIZE);
  if (content > 0)
    cluster_of(content, cluster);
  return TRUE;
}

static StoreChunkId
draw_chunk(World *world, GRand *rand)
{
  const KnownPoint *known = world->points->pdata[g_rand_int_range(rand, 0, (gint32) world->points->len)];
  const StoreManifest *manifest = &((StorePointDisk *) known->point->disks->pdata[0])->manifest;
  StoreChunkId id = {{0}};
  if (g_rand_int_range(rand, 0, 4) == 0)
    return manifest->root;
  while (store_chunk_id_is_zero(&id)) {
    guint64 cluster = (guint64) g_rand_int_range(rand, 0, DISK_CLUSTERS);
    assert_true(store_manifest_get(world->fixture->worker, manifest, cluster, &id, NULL));
  }
  return id;
}

static World *
world_new(guint32 seed)
{
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  World *world = g_new0(World, 1);
  void *fixture;
  setup(&fixture);
  world->fixture = fixture;
  world->points = g_ptr_array_new_with_free_func(known_point_free);
  for (guint i = 0; i < 3; i++) {
    g_autoptr(StorePins) pins = store_pins_new(world->fixture->store);
    KnownPoint *base = i > 0 ? world->points->pdata[i - 1] : NULL;
    g_ptr_array_add(world->points,
                    make_point(world->fixture->store, pins, base, base ? 40 : DISK_CLUSTERS, rand));
  }
  for (guint i = 0; i < N_DAMAGED; i++)
    world->damaged[i] = draw_chunk(world, rand);
  close_fixture(world->fixture);
  for (guint i = 0; i < N_DAMAGED; i++) {
    gboolean is_again = FALSE; /* a bit that flips twice is as it was */
    for (guint j = 0; j < i; j++)
      is_again |= store_chunk_id_equal(&world->damaged[i], &world->damaged[j]);
    if (!is_again)
      damage(world->fixture, &world->damaged[i]);
  }
  return world;
}

static void
world_free(World *world)
{
  void *fixture = world->fixture;
  g_ptr_array_unref(world->points);
  g_free(world);
  teardown(&fixture);
}

static guint64
count_damage(StoreVerify *verify, const World *world)
{
  guint64 n_uses = 0;
  for (guint i = 0; i < world->points->len; i++) {
    StoreVerifyVerdict verdict;
    const KnownPoint *known = world->points->pdata[i];
    assert_true(store_verify_point(verify, known->point, NULL, &verdict, NULL));
    n_uses += verdict.n_uses;
  }
  return n_uses;
}

/* TRUE if it says that all is sound now. */
static gboolean
repair(World *world)
{
  StoreVerifyOptions options = {.n_threads = 1};
  g_autoptr(StoreVerify) verify = store_verify_new(world->fixture->store, &options);
  guint64 n_uses = count_damage(verify, world), n = 1;
  for (guint i = 0; n_uses > 0 && i < world->points->len; i++) {
    StoreVerifySource source = {read_image, world->points->pdata[i]};
    for (n = 1; n_uses > 0 && n > 0; n_uses = count_damage(verify, world))
      if (!store_verify_repair(verify, &source, &n, NULL))
        return FALSE;
  }
  return n_uses == 0;
}

static gboolean
was_damaged(const World *world, const StoreChunkId *id)
{
  for (guint i = 0; i < N_DAMAGED; i++)
    if (store_chunk_id_equal(&world->damaged[i], id))
      return TRUE;
  return FALSE;
}

static void
expect_no_other_damage(World *world, gboolean none)
{
  g_autoptr(StoreVerify) verify = store_verify_new(world->fixture->store, NULL);
  count_damage(verify, world);
  const GPtrArray *damages = store_verify_damages(verify);
  if (none)
    assert_int_equal(damages->len, 0);
  for (guint i = 0; i < damages->len; i++)
    assert_true(was_damaged(world, &((const StoreVerifyDamage *) damages->pdata[i])->id));
}

typedef struct {
  guint64 fail_at;
  gboolean for_ever;
  int errsv;
  GRand *cut; /* (nullable) the power goes, too */
} Trouble;

static void
repair_in_trouble(World *world, const Trouble *trouble, gboolean *has_failed)
{
  Fixture *fixture = world->fixture;
  g_autofree char *index = path_of(fixture, "index");
  StoreFaultOps *faults = store_fault_ops_new();
  fixture->options.ops = store_fault_ops_table(faults);
  open_fixture(fixture);
  store_fault_ops_arm(faults, trouble->fail_at, trouble->for_ever, trouble->errsv);
  gboolean is_sound = repair(world);
  *has_failed = store_fault_ops_has_failed(faults);
  if (trouble->cut)
    store_fault_ops_arm_cut(faults, 1);
  close_fixture(fixture);
  fixture->options.ops = NULL;
  if (trouble->cut) {
    store_fault_ops_power_cut(faults, trouble->cut);
    if (g_rand_boolean(trouble->cut))
      unlink(index);
  }
  store_fault_ops_free(faults);
  open_fixture(fixture);
  expect_no_other_damage(world, is_sound);
  assert_true(repair(world));
  check_points(fixture->store, world->points);
  StoreGcResult result;
  assert_true(collect(fixture->store, world->points, &result, NULL));
  assert_int_equal(result.n_missing + result.n_kept, 0);
  check_points(fixture->store, world->points);
}

static void
fail_repairs(int errsv, gboolean for_ever, GRand *cut)
{
  guint step = is_long() ? 2 : 17, n_trials = 0;
  gboolean has_failed = TRUE;
  for (guint n = 1; has_failed; n += step, n_trials++) {
    World *world = world_new(n % 5);
    Trouble trouble = {n, for_ever, errsv, cut};
    repair_in_trouble(world, &trouble, &has_failed);
    world_free(world);
  }
  print_message("%u repairs failed\n", n_trials);
}

static void
test_a_repair_that_fails_damages_nothing_else(void **state G_GNUC_UNUSED)
{
  fail_repairs(EIO, FALSE, NULL);
  fail_repairs(ENOSPC, TRUE, NULL);
  fail_repairs(0, TRUE, NULL);
}

static void
test_a_repair_that_ended_outlives_a_power_cut_and_one_that_did_not_damages_nothing(void **state G_GNUC_UNUSED)
{
  g_autoptr(GRand) rand = g_rand_new_with_seed(9);
  fail_repairs(EIO, TRUE, rand);
  fail_repairs(EIO, FALSE, rand);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_power_cut_leaves_the_old_file_or_the_new_one),
      cmocka_unit_test(test_a_repair_that_fails_damages_nothing_else),
      cmocka_unit_test(test_a_repair_that_ended_outlives_a_power_cut_and_one_that_did_not_damages_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
