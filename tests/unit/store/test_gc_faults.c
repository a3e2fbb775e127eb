/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Removals of points, collections and new points on a disk that fails or loses its power, in the order in
 * which the daemon does them. Afterwards each point that has a file restores byte for byte, none that was
 * removed is back, and the next collection leaves just what they reach.
 */
#define DISK_CLUSTERS 160u /* two leaves */
#define N_CONTENTS    28
#include "gc-history.h"

#include <fcntl.h>
#include <store/pack-private.h>
#include <store/store-private.h>

typedef enum {
  BESIDE_NOTHING,
  BESIDE_BEFORE_MARK,  /* a point is made when the collection has begun */
  BESIDE_BEFORE_SWEEP, /* when all is marked */
  BESIDE_IN_SWEEP,     /* while a record is read */
  BESIDE_UNDER_WAY,    /* begun before the collection, done before the sweep */
  N_BESIDE,
} Beside;

/* A table of operations that calls something in the middle of a read. */
typedef struct World World;
typedef struct {
  CbtFileOps table; /* first */
  const CbtFileOps *inner;
  guint reads_left; /* 0: nothing is called any more */
  World *world;
} Hook;

struct World {
  Fixture *fixture;
  GRand *rand;
  GPtrArray *points; /* of KnownPoint: committed */
  GPtrArray *gone;   /* removed, and that was durable */
  GPtrArray *maybe;  /* neither committed nor removed for certain: there, if the file is */
  StoreFaultOps *faults;
  Hook hook;
  Beside beside;
  StorePins *pins; /* of BESIDE_UNDER_WAY */
  GBytes *index;   /* as it was before the faults */
};

/* ---- a world ---- */

static CbtUuid
draw_uuid(GRand *rand)
{
  CbtUuid uuid;
  for (guint i = 0; i < sizeof uuid.bytes; i++)
    uuid.bytes[i] = (guint8) g_rand_int(rand);
  return uuid;
}

/* The same secret each time, so that a seed gives the same run. */
static void
make_format(const Fixture *fixture, GRand *rand)
{
  g_autofree char *path = path_of(fixture, "format");
  StoreFormat format = {.version = 1, .uuid = draw_uuid(rand)}; /* which is raised on the way */
  for (guint i = 0; i < sizeof format.secret; i++)
    format.secret[i] = (guint8) g_rand_int(rand);
  assert_int_equal(g_mkdir_with_parents(fixture->directory, 0700), 0);
  assert_true(store_format_save(cbt_file_ops_default(), path, &format, NULL));
}

static const CbtFileOps *
ops_of(const World *world)
{
  return world->fixture->options.ops ? world->fixture->options.ops : cbt_file_ops_default();
}

static void
forget_maybe(World *world, const KnownPoint *known)
{
  if (!g_ptr_array_find(world->maybe, known, NULL))
    g_ptr_array_add(world->maybe, (gpointer) known);
}

/* As daemon/commit.c does it. */
static void
commit(World *world, KnownPoint *known)
{
  g_autofree char *folder = path_of(world->fixture, "points");
  known->point->uuid = draw_uuid(world->rand);
  if (store_point_save(ops_of(world), folder, known->point, NULL))
    g_ptr_array_add(world->points, known);
  else if (store_point_remove(ops_of(world), folder, &known->point->uuid, NULL))
    g_ptr_array_add(world->gone, known);
  else
    forget_maybe(world, known);
}

/* A point on a drawn base, or on none. */
static void
add_point(World *world, StorePins *pins, guint n_changes)
{
  gint32 n = (gint32) world->points->len;
  gint32 base = g_rand_int_range(world->rand, n > 0 ? -1 : 0, MAX(n, 1));
  KnownPoint *known =
      make_point(world->fixture->store, pins, n > 0 && base >= 0 ? world->points->pdata[base] : NULL,
                 n_changes, world->rand);
  if (known)
    commit(world, known);
}

static void
add_some(World *world, guint n)
{
  for (guint i = 0; i < n; i++) {
    g_autoptr(StorePins) pins = store_pins_new(world->fixture->store);
    add_point(world, pins, (guint) g_rand_int_range(world->rand, 10, DISK_CLUSTERS));
    if (g_rand_boolean(world->rand))
      assert_true(store_pack_seal(world->fixture->store->packs, NULL));
  }
}

static World *
world_new(guint32 seed)
{
  World *world = g_new0(World, 1);
  Fixture *fixture = g_new0(Fixture, 1);
  world->rand = g_rand_new_with_seed(seed);
  world->fixture = fixture;
  fixture->folder = store_test_folder_new();
  fixture->directory = g_build_filename(fixture->folder, "store", NULL);
  fixture->options = (StoreOptions){.dedup_verify = TRUE, .pack_size = 300000, .group_clusters = 6};
  make_format(fixture, world->rand);
  open_fixture(fixture);
  world->points = g_ptr_array_new_with_free_func(known_point_free);
  world->gone = g_ptr_array_new_with_free_func(known_point_free);
  world->maybe = g_ptr_array_new_with_free_func(known_point_free);
  add_some(world, 5);
  close_fixture(fixture);
  return world;
}

static void
world_free(World *world)
{
  void *fixture = world->fixture;
  g_ptr_array_unref(world->points);
  g_ptr_array_unref(world->gone);
  g_ptr_array_unref(world->maybe);
  g_rand_free(world->rand);
  g_free(world);
  teardown(&fixture);
}

/* ---- what happens ---- */

static void
make_point_beside(World *world)
{
  g_autoptr(StorePins) pins =
      world->pins ? g_steal_pointer(&world->pins) : store_pins_new(world->fixture->store);
  add_point(world, pins, 40);
}

static gboolean
is_free(pthread_mutex_t *lock)
{
  if (pthread_mutex_trylock(lock) != 0)
    return FALSE;
  pthread_mutex_unlock(lock);
  return TRUE;
}

static ssize_t
pread_and_call(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  Hook *hook = (Hook *) ops;
  Store *store = hook->world->fixture->store;
  if (hook->reads_left > 0 && is_free(&store->rebuild_lock) && is_free(&store->append_lock) &&
      is_free(&store->checkpoint_lock) && is_free(&store->packs->flush_lock) &&
      is_free(&store->packs->append_lock) && --hook->reads_left == 0)
    make_point_beside(hook->world);
  return hook->inner->pread(hook->inner, fd, buffer, length, offset);
}

/* As daemon/gc.c does it. */
static gboolean
collect_beside(World *world)
{
  StoreGcResult result;
  g_autoptr(StoreGc) gc = store_gc_begin(world->fixture->store, NULL, NULL);
  assert_non_null(gc);
  if (world->beside == BESIDE_BEFORE_MARK)
    make_point_beside(world);
  g_autoptr(GPtrArray) snapshot = plain_points(world->points);
  if (!store_gc_mark(gc, snapshot, NULL))
    return FALSE;
  if (world->beside == BESIDE_BEFORE_SWEEP || world->beside == BESIDE_UNDER_WAY)
    make_point_beside(world);
  world->hook.reads_left =
      world->beside == BESIDE_IN_SWEEP ? (guint) g_rand_int_range(world->rand, 1, 60) : 0;
  gboolean ok = store_gc_sweep(gc, &result, NULL);
  world->hook.reads_left = 0;
  return ok;
}

/* As daemon/prune.c does it: what cannot be removed stays. */
static void
remove_points(World *world, guint n)
{
  g_autofree char *folder = path_of(world->fixture, "points");
  for (; n > 0 && world->points->len > 2; n--) {
    guint i = (guint) g_rand_int_range(world->rand, 0, (gint32) world->points->len);
    KnownPoint *known = world->points->pdata[i];
    if (store_point_remove(ops_of(world), folder, &known->point->uuid, NULL))
      g_ptr_array_add(world->gone, g_ptr_array_steal_index(world->points, i));
  }
}

static void
put_some(World *world)
{
  g_autoptr(StoreWorker) worker = store_worker_new(world->fixture->store);
  StoreChunkId id;
  world->pins = store_pins_new(world->fixture->store);
  store_worker_set_pins(worker, world->pins);
  for (guint i = 0; i < 8; i++) {
    guint content = (guint) g_rand_int_range(world->rand, 1, N_CONTENTS);
    if (!put_cluster(worker, content, &id, NULL, NULL))
      return;
  }
}

/* What is put under faults, the last collection's outcome given. */
static gboolean
work(World *world)
{
  remove_points(world, 2);
  if (world->beside == BESIDE_UNDER_WAY)
    put_some(world);
  gboolean ok = collect_beside(world);
  g_clear_pointer(&world->pins, store_pins_free);
  if (ok)
    return TRUE;
  /* Who is told that it failed tries again. */
  world->beside = BESIDE_NOTHING;
  return collect_beside(world);
}

static void
begin_faults(World *world)
{
  g_autofree char *path = path_of(world->fixture, "index");
  char *data = NULL;
  gsize length = 0;
  assert_true(g_file_get_contents(path, &data, &length, NULL));
  world->index = g_bytes_new_take(data, length);
  world->faults = store_fault_ops_new();
  world->hook = (Hook){.table = *store_fault_ops_table(world->faults), .world = world};
  world->hook.inner = store_fault_ops_table(world->faults);
  world->hook.table.pread = pread_and_call;
  world->fixture->options.ops = &world->hook.table;
  open_fixture(world->fixture);
}

static void
end_faults(World *world)
{
  close_fixture(world->fixture);
  world->fixture->options.ops = NULL;
  g_clear_pointer(&world->faults, store_fault_ops_free);
  g_clear_pointer(&world->index, g_bytes_unref);
}

/* ---- the index after a power cut ---- */

/* Its pages were written back, or not, in any order; the header only after the slots. */
static void
mix_index(const World *world, const char *path)
{
  g_autofree char *data = NULL;
  gsize length = 0, old_length;
  const char *old = g_bytes_get_data(world->index, &old_length);
  if (!g_file_get_contents(path, &data, &length, NULL) || length != old_length)
    return;
  for (gsize at = 0; at < length; at += 4096)
    if (at == 0 || g_rand_boolean(world->rand))
      memcpy(data + at, old + at, MIN(4096, length - at));
  store_test_write(path, data, length);
}

static void
boot_anew(const Fixture *fixture, const char *path)
{
  g_autofree char *format_path = path_of(fixture, "format");
  g_autofree char *data = NULL;
  gsize length = 0;
  StoreFormat format;
  StoreIndexHeader header;
  assert_true(store_format_load(cbt_file_ops_default(), format_path, &format, NULL));
  if (!g_file_get_contents(path, &data, &length, NULL) || length < STORE_INDEX_HEADER_SIZE ||
      !store_index_header_decode((const guint8 *) data, &format.uuid, length, &header))
    return;
  memset(&header.boot, 7, sizeof header.boot);
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  store_index_header_encode(&header, bytes);
  memcpy(data, bytes, STORE_INDEX_CHECKED_SIZE);
  store_test_write(path, data, length);
}

static void
cut_index(const World *world)
{
  g_autofree char *path = path_of(world->fixture, "index");
  gsize length;
  const char *old = g_bytes_get_data(world->index, &length);
  switch (g_rand_int_range(world->rand, 0, 4)) {
  case 0:
    unlink(path);
    break;
  case 1:
    store_test_write(path, old, length);
    break;
  case 2:
    mix_index(world, path);
    break;
  default: /* all of it was written back */
    break;
  }
  if (g_rand_boolean(world->rand))
    boot_anew(world->fixture, path);
}

/* ---- what must hold afterwards ---- */

static gboolean
has_file(const Fixture *fixture, const KnownPoint *known)
{
  g_autofree char *folder = path_of(fixture, "points");
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = store_point_load(cbt_file_ops_default(), folder, &known->point->uuid, &error);
  if (!point && !g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    fail_msg("%s", error->message);
  if (point) {
    const StorePointDisk *expected = known->point->disks->pdata[0], *found = point->disks->pdata[0];
    assert_memory_equal(&found->manifest.root, &expected->manifest.root, sizeof found->manifest.root);
  }
  return point != NULL;
}

/* As daemon/recover.c does it: complete files are adopted, and those that the catalogue misses are written
 * again. */
static void
recover_points(World *world)
{
  g_autofree char *folder = path_of(world->fixture, "points");
  for (guint i = 0; i < world->gone->len; i++)
    assert_false(has_file(world->fixture, world->gone->pdata[i]));
  for (guint i = 0; i < world->points->len; i++) {
    const KnownPoint *known = world->points->pdata[i];
    if (!has_file(world->fixture, known))
      assert_true(store_point_save(cbt_file_ops_default(), folder, known->point, NULL));
  }
  while (world->maybe->len > 0) {
    KnownPoint *known = g_ptr_array_steal_index(world->maybe, 0);
    g_ptr_array_add(has_file(world->fixture, known) ? world->points : world->gone, known);
  }
}

typedef struct {
  guint64 bytes, n;
} Sum;

static gboolean
add_up(const StoreRecordInfo *info G_GNUC_UNUSED, const StoreLocation *location, gpointer user_data)
{
  Sum *sum = user_data;
  sum->bytes += cbt_round_up(location->length, 16);
  sum->n++;
  return TRUE;
}

static void
expect_just_live(World *world)
{
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  Sum sum = {0};
  Store *store = world->fixture->store;
  if (!collect(store, world->points, &result, &error))
    fail_msg("%s", error->message);
  assert_int_equal(result.n_missing, 0);
  assert_int_equal(result.n_kept, 0);
  assert_true(store_pack_write(store->packs, NULL));
  assert_true(store_pack_scan(store->packs, NULL, add_up, &sum, NULL, NULL));
  assert_int_equal(sum.n, result.n_chunks);
  assert_int_equal(sum.bytes, result.live_bytes);
  check_points(store, world->points);
}

/* Before anything is read, so that the index is as the disk left it. */
static void
collect_at_once(World *world)
{
  g_autoptr(GError) error = NULL;
  StoreGcResult result;
  if (!collect(world->fixture->store, world->points, &result, &error))
    fail_msg("%s", error->message);
  assert_int_equal(result.n_missing, 0);
}

static void
check_world(World *world, gboolean collects)
{
  open_fixture(world->fixture);
  recover_points(world);
  if (collects && g_rand_boolean(world->rand))
    collect_at_once(world);
  check_points(world->fixture->store, world->points);
  if (collects) {
    expect_just_live(world);
    reopen(world->fixture);
    check_points(world->fixture->store, world->points);
  }
  close_fixture(world->fixture);
}

/* ---- each call fails ---- */

static gboolean
is_long(void)
{
  const char *text = g_getenv("CBT_TEST_LONG");
  return text && *text;
}

/* TRUE if a call failed. */
static gboolean
fail_call(guint n, int errsv, gboolean for_ever, Beside beside, guint *n_calls)
{
  World *world = world_new(7);
  world->beside = beside;
  begin_faults(world);
  store_fault_ops_arm(world->faults, n, for_ever, errsv);
  gboolean ok = work(world);
  gboolean has_failed = store_fault_ops_has_failed(world->faults);
  *n_calls = (guint) store_fault_ops_n_calls(world->faults);
  if (!has_failed || errsv == 0)
    assert_true(ok);
  end_faults(world);
  check_world(world, TRUE);
  world_free(world);
  return has_failed;
}

static void
fail_each_call(int errsv, gboolean for_ever)
{
  guint step = is_long() ? 1 : 13, n_trials = 0, n_calls = 0;
  for (Beside beside = BESIDE_NOTHING; beside < N_BESIDE; beside++)
    for (guint n = 1 + beside % step; fail_call(n, errsv, for_ever, beside, &n_calls); n += step)
      n_trials++;
  print_message("%u calls failed, of %u or so in each collection\n", n_trials, n_calls);
}

static void
test_an_io_error_at_any_call_costs_no_point(void **state G_GNUC_UNUSED)
{
  fail_each_call(EIO, FALSE);
}

static void
test_a_disk_that_fails_for_ever_costs_no_point(void **state G_GNUC_UNUSED)
{
  fail_each_call(EIO, TRUE);
}

static void
test_a_full_disk_at_any_call_costs_no_point(void **state G_GNUC_UNUSED)
{
  fail_each_call(ENOSPC, FALSE);
}

static void
test_a_disk_that_is_full_for_ever_costs_no_point(void **state G_GNUC_UNUSED)
{
  fail_each_call(ENOSPC, TRUE);
}

static void
test_short_reads_and_writes_are_gone_on_with(void **state G_GNUC_UNUSED)
{
  fail_each_call(0, FALSE);
  fail_each_call(0, TRUE);
}

/* ---- power cuts ---- */

typedef struct {
  guint n_cuts, n_made, n_adopted, n_failed;
} Cuts;

/* A call may fail before the power does. */
static void
cut_power(World *world, Cuts *cuts)
{
  GRand *rand = world->rand;
  guint n_before = world->points->len + world->gone->len;
  world->beside = (Beside) g_rand_int_range(rand, 0, N_BESIDE);
  begin_faults(world);
  guint32 cut_at = (guint32) g_rand_int_range(rand, 1, 150);
  gboolean fails_before = g_rand_boolean(rand);
  store_fault_ops_arm(world->faults,
                      fails_before ? (guint64) g_rand_int_range(rand, 1, (gint32) cut_at + 1) : 0, FALSE,
                      g_rand_boolean(rand) ? EIO : ENOSPC);
  store_fault_ops_arm_cut(world->faults, cut_at);
  if (!work(world))
    cuts->n_failed++;
  if (store_fault_ops_n_calls(world->faults) < cut_at) /* later than that: while it was at rest */
    store_fault_ops_arm_cut(world->faults, 1);
  close_fixture(world->fixture);
  store_fault_ops_power_cut(world->faults, g_rand_int_range(rand, 0, 3) == 0 ? NULL : rand);
  cut_index(world);
  guint n_maybe = world->maybe->len, n_points = world->points->len;
  end_faults(world);
  /* Not always, so that what is left adds up. */
  check_world(world, g_rand_boolean(rand));
  cuts->n_cuts++;
  cuts->n_made += world->points->len + world->gone->len - n_before;
  cuts->n_adopted += n_maybe > 0 ? world->points->len - n_points : 0;
}

static void
test_power_cuts_cost_no_point_and_bring_none_back(void **state G_GNUC_UNUSED)
{
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 first = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : 1;
  guint32 n_worlds = given ? 1 : is_long() ? 500 : 15;
  Cuts cuts = {0};
  for (guint32 seed = first; seed < first + n_worlds; seed++) {
    World *world = world_new(seed);
    for (guint i = 0; i < 4; i++) {
      if (is_long() || given)
        print_message("CBT_TEST_SEED=%u, cut %u\n", seed, i);
      open_fixture(world->fixture);
      add_some(world, 2);
      close_fixture(world->fixture);
      cut_power(world, &cuts);
    }
    check_world(world, TRUE);
    world_free(world);
  }
  print_message("%u power cuts: %u collections were cut, %u points made beside, %u of them adopted\n",
                cuts.n_cuts, cuts.n_failed, cuts.n_made, cuts.n_adopted);
}

/* The plainest case: nothing that was not synced comes to the disk, and no call fails before. */
static void
test_a_power_cut_at_each_call_costs_no_point(void **state G_GNUC_UNUSED)
{
  guint step = is_long() ? 1 : 5, n_trials = 0;
  gboolean is_over = FALSE;
  for (guint n = 1; !is_over; n += step) {
    World *world = world_new(11);
    begin_faults(world);
    store_fault_ops_arm_cut(world->faults, n);
    work(world);
    is_over = !store_fault_ops_has_failed(world->faults);
    close_fixture(world->fixture);
    store_fault_ops_power_cut(world->faults, NULL);
    cut_index(world);
    end_faults(world);
    check_world(world, TRUE);
    world_free(world);
    n_trials++;
  }
  print_message("%u power cuts\n", n_trials);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_power_cuts_cost_no_point_and_bring_none_back),
      cmocka_unit_test(test_an_io_error_at_any_call_costs_no_point),
      cmocka_unit_test(test_a_disk_that_fails_for_ever_costs_no_point),
      cmocka_unit_test(test_a_full_disk_at_any_call_costs_no_point),
      cmocka_unit_test(test_a_disk_that_is_full_for_ever_costs_no_point),
      cmocka_unit_test(test_short_reads_and_writes_are_gone_on_with),
      cmocka_unit_test(test_a_power_cut_at_each_call_costs_no_point),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
