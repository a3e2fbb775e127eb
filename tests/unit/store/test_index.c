/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <pthread.h>
#include <store/index-format.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>

typedef struct {
  char *folder;
  char *path;
  CbtUuid store;
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->path = g_build_filename(fixture->folder, "index", NULL);
  memset(fixture->store.bytes, 0x77, sizeof fixture->store.bytes);
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  store_test_folder_free(fixture->folder);
  g_free(fixture->path);
  g_free(fixture);
  return 0;
}

static StoreIndex *
open_index(const Fixture *fixture, StoreLocation *covered)
{
  StoreLocation unused;
  g_autoptr(GError) error = NULL;
  StoreIndex *index =
      store_index_open(NULL, fixture->path, &fixture->store, covered ? covered : &unused, &error);
  assert_non_null(index);
  return index;
}

static StoreChunkId
id_of(guint32 i)
{
  StoreChunkId id;
  store_test_fill_random(id.bytes, sizeof id.bytes, i + 1);
  return id;
}

static StoreLocation
location_of(guint32 i)
{
  return (StoreLocation){.pack = 1 + i / 1000, .offset = 64 + i % 1000 * 16, .length = 64};
}

static void
insert(StoreIndex *index, guint32 i)
{
  StoreChunkId id = id_of(i);
  StoreLocation location = location_of(i);
  assert_true(store_index_insert(index, &id, &location, NULL));
}

static gboolean
has(StoreIndex *index, guint32 i)
{
  StoreChunkId id = id_of(i);
  StoreLocation expected = location_of(i);
  StoreLocation location;
  if (!store_index_lookup(index, &id, &location))
    return FALSE;
  assert_memory_equal(&location, &expected, sizeof location);
  return TRUE;
}

static void
test_header_and_slot_are_the_golden_ones(void **state)
{
  const Fixture *fixture = *state;
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  guint8 example[STORE_INDEX_CHECKED_SIZE + STORE_INDEX_SLOT_SIZE];
  StoreIndexHeader header = {.store = fixture->store,
                             .n_slots = 16384,
                             .n_spare = 1024,
                             .n_used = 5,
                             .n_removed = 2,
                             .covered = {.pack = 3, .offset = 4096},
                             .flags = STORE_INDEX_VOLATILE};
  StoreLocation location = {.pack = 3, .offset = 64, .length = 100};
  for (guint i = 0; i < sizeof header.boot.bytes; i++)
    header.boot.bytes[i] = (guint8) (0xb0 + i);
  store_index_header_encode(&header, bytes);
  memcpy(example, bytes, STORE_INDEX_CHECKED_SIZE);
  memset(example + STORE_INDEX_CHECKED_SIZE, 0xcc, STORE_CHUNK_ID_SIZE);
  cbt_put_u64(example + STORE_INDEX_CHECKED_SIZE + STORE_CHUNK_ID_SIZE, store_index_pack_location(&location));
  store_test_golden("index-v2", "index.md", example, sizeof example);
  StoreIndexHeader decoded;
  assert_true(store_index_header_decode(bytes, &fixture->store, 1 << 20, &decoded));
  assert_memory_equal(&header, &decoded, sizeof header);
}

static void
test_locations_pack_into_64_bits_at_their_limits(void **state G_GNUC_UNUSED)
{
  static const StoreLocation cases[] = {
      {1, 64, 64}, {1, 64, 65568}, {(1u << 27) - 1, (1u << 28) - 16, 65568}, {77, 12345 * 16, 96}};
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    StoreLocation back = store_index_unpack_location(store_index_pack_location(&cases[i]));
    assert_int_equal(back.pack, cases[i].pack);
    assert_int_equal(back.offset, cases[i].offset);
    assert_in_range(back.length, cases[i].length, cases[i].length + 15);
  }
}

/* A random walk beside a GHashTable, with ids from a small set so that removals and replacements meet them
 * again. */
typedef struct {
  StoreIndex *index;
  GHashTable *model; /* number to pack number */
} Model;

static void
model_step(Model *model, GRand *rand, guint32 n_ids)
{
  guint32 i = (guint32) g_rand_int_range(rand, 0, (gint32) n_ids);
  StoreChunkId id = id_of(i);
  gpointer key = GUINT_TO_POINTER(i + 1);
  if (g_rand_int_range(rand, 0, 4) == 0) {
    assert_int_equal(store_index_remove(model->index, &id), g_hash_table_remove(model->model, key));
    return;
  }
  StoreLocation location = {.pack = 1 + (g_rand_int(rand) & 0xfffff), .offset = 64, .length = 64};
  assert_true(store_index_insert(model->index, &id, &location, NULL));
  g_hash_table_insert(model->model, key, GUINT_TO_POINTER(location.pack));
}

static void
model_check(const Model *model, guint32 n_ids)
{
  assert_int_equal(store_index_count(model->index), g_hash_table_size(model->model));
  for (guint32 i = 0; i < n_ids; i++) {
    StoreChunkId id = id_of(i);
    StoreLocation location = {0};
    gboolean found = store_index_lookup(model->index, &id, &location);
    guint pack = GPOINTER_TO_UINT(g_hash_table_lookup(model->model, GUINT_TO_POINTER(i + 1)));
    assert_int_equal(found, pack != 0);
    assert_int_equal(location.pack, pack);
  }
}

static void
test_the_table_is_a_map_through_growth_removal_and_reopening(void **state)
{
  const Fixture *fixture = *state;
  guint32 seed = g_random_int();
  print_message("seed %u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  Model model = {open_index(fixture, NULL), g_hash_table_new(NULL, NULL)};
  for (guint32 n_ids = 4000; n_ids <= 256000; n_ids *= 4) {
    for (guint32 i = 0; i < 2 * n_ids; i++)
      model_step(&model, rand, n_ids);
    model_check(&model, n_ids);
    store_index_close(model.index);
    model.index = open_index(fixture, NULL);
    model_check(&model, n_ids);
  }
  store_index_close(model.index);
  g_hash_table_unref(model.model);
}

static void
test_removed_entries_do_not_fill_the_table(void **state)
{
  const Fixture *fixture = *state;
  StoreIndex *index = open_index(fixture, NULL);
  guint64 size = store_test_file_size(fixture->path);
  for (guint32 i = 0; i < 200000; i++) {
    StoreChunkId id = id_of(i);
    insert(index, i);
    if (i >= 100)
      id = id_of(i - 100);
    assert_int_equal(store_index_remove(index, &id), TRUE);
    if (i < 100)
      insert(index, i);
  }
  assert_int_equal(store_index_count(index), 100);
  assert_int_equal(store_test_file_size(fixture->path), size);
  store_index_close(index);
}

static void
test_ids_that_share_their_leading_bits_all_fit(void **state)
{
  const Fixture *fixture = *state;
  StoreIndex *index = open_index(fixture, NULL);
  StoreLocation location = {.pack = 1, .offset = 64, .length = 64};
  StoreChunkId id;
  memset(id.bytes, 0xff, sizeof id.bytes);
  /* All have their home in the very last slot, and the spare ones run out again and again. */
  for (guint i = 0; i < 5000; i++) {
    id.bytes[14] = (guint8) i;
    id.bytes[13] = (guint8) (i >> 8);
    assert_true(store_index_insert(index, &id, &location, NULL));
  }
  for (guint i = 0; i < 5000; i++) {
    id.bytes[14] = (guint8) i;
    id.bytes[13] = (guint8) (i >> 8);
    assert_true(store_index_lookup(index, &id, &location));
  }
  assert_int_equal(store_index_count(index), 5000);
  store_index_close(index);
}

static void
test_a_checkpoint_is_what_the_next_opening_is_told(void **state)
{
  const Fixture *fixture = *state;
  StoreLocation covered;
  StoreIndex *index = open_index(fixture, &covered);
  assert_int_equal(covered.pack, 0);
  insert(index, 1);
  StoreLocation end = {.pack = 5, .offset = 640};
  assert_true(store_index_checkpoint(index, &end, NULL));
  for (guint32 i = 2; i < 30000; i++)
    insert(index, i);
  store_index_close(index);
  index = open_index(fixture, &covered);
  assert_int_equal(covered.pack, 5);
  assert_int_equal(covered.offset, 640);
  for (guint32 i = 1; i < 30000; i++)
    assert_true(has(index, i));
  store_index_close(index);
}

/* Gives the header another boot id, as after a power loss. */
static void
change_boot(const Fixture *fixture)
{
  g_autofree char *data = NULL;
  gsize length;
  StoreIndexHeader header;
  assert_true(g_file_get_contents(fixture->path, &data, &length, NULL));
  assert_true(store_index_header_decode((guint8 *) data, &fixture->store, length, &header));
  header.boot = cbt_uuid_generate();
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  store_index_header_encode(&header, bytes);
  memcpy(data, bytes, STORE_INDEX_CHECKED_SIZE);
  store_test_write(fixture->path, data, length);
}

static void
test_after_another_boot_a_grown_table_counts_once_it_had_a_checkpoint(void **state)
{
  const Fixture *fixture = *state;
  StoreLocation covered;
  StoreLocation end = {.pack = 5, .offset = 640};
  StoreIndex *index = open_index(fixture, NULL);
  assert_true(store_index_checkpoint(index, &end, NULL));
  for (guint32 i = 0; i < 30000; i++)
    insert(index, i);
  store_index_close(index);
  change_boot(fixture);
  index = open_index(fixture, &covered);
  assert_int_equal(covered.pack, 0);
  assert_int_equal(store_index_count(index), 0);
  for (guint32 i = 0; i < 30000; i++)
    insert(index, i);
  assert_true(store_index_checkpoint(index, &end, NULL));
  store_index_close(index);
  change_boot(fixture);
  index = open_index(fixture, &covered);
  assert_int_equal(covered.pack, 5);
  assert_int_equal(store_index_count(index), 30000);
  store_index_close(index);
}

static void
make_checked_index(const Fixture *fixture)
{
  StoreLocation end = {.pack = 2, .offset = 64};
  StoreIndex *index = open_index(fixture, NULL);
  for (guint32 i = 0; i < 100; i++)
    insert(index, i);
  assert_true(store_index_checkpoint(index, &end, NULL));
  store_index_close(index);
}

static void
assert_made_anew(const Fixture *fixture)
{
  StoreLocation covered;
  StoreIndex *index = open_index(fixture, &covered);
  assert_int_equal(covered.pack, 0);
  assert_int_equal(store_index_count(index), 0);
  store_index_close(index);
}

static void
test_a_damaged_header_or_a_short_file_is_made_anew(void **state)
{
  Fixture *fixture = *state;
  for (guint64 at = 0; at < STORE_INDEX_CHECKED_SIZE; at++) {
    make_checked_index(fixture);
    store_test_flip(fixture->path, at, 0x20);
    assert_made_anew(fixture);
  }
  static const guint64 lengths[] = {0, 1, 100, 4096, 5000, 300000};
  for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
    make_checked_index(fixture);
    store_test_truncate(fixture->path, lengths[i]);
    assert_made_anew(fixture);
  }
  make_checked_index(fixture);
  fixture->store.bytes[0] ^= 1;
  assert_made_anew(fixture);
}

static void
test_flipped_bits_in_slots_and_counts_do_no_harm(void **state)
{
  const Fixture *fixture = *state;
  make_checked_index(fixture);
  guint64 size = store_test_file_size(fixture->path);
  g_autoptr(GRand) rand = g_rand_new_with_seed(99);
  for (guint i = 0; i < 3000; i++)
    store_test_flip(fixture->path, (guint64) g_rand_double_range(rand, 4096, (double) size), 0x40);
  for (guint64 at = 256; at < 272; at++)
    store_test_flip(fixture->path, at, 0xff);
  StoreIndex *index = open_index(fixture, NULL);
  for (guint32 i = 100000; i < 100500; i++)
    insert(index, i);
  for (guint32 i = 100000; i < 100500; i++)
    assert_true(has(index, i));
  store_index_close(index);
}

static void
test_a_growth_that_fails_at_any_call_keeps_the_old_table(void **state)
{
  const Fixture *fixture = *state;
  StoreFaultOps *faults = store_fault_ops_new();
  StoreLocation covered;
  StoreIndex *index =
      store_index_open(store_fault_ops_table(faults), fixture->path, &fixture->store, &covered, NULL);
  assert_non_null(index);
  guint32 n = 0;
  while (store_index_count(index) < STORE_INDEX_SLOTS_MIN / 4 * 3)
    insert(index, n++);
  StoreChunkId id = id_of(n);
  StoreLocation location = location_of(n);
  gboolean inserted = FALSE;
  for (guint call = 1; !inserted; call++) {
    g_autoptr(GError) error = NULL;
    store_fault_ops_arm(faults, call, TRUE, ENOSPC);
    inserted = store_index_insert(index, &id, &location, &error);
    if (!inserted)
      assert_int_equal(cbt_error_code(error), CBT_ERROR_NO_SPACE);
    for (guint32 i = 0; i < n; i++)
      assert_true(has(index, i));
  }
  assert_true(has(index, n));
  store_fault_ops_arm(faults, 0, FALSE, 0);
  store_index_close(index);
  store_fault_ops_free(faults);
}

typedef struct {
  StoreIndex *index;
  gint done;        /* atomic */
  gint n_published; /* atomic: ids below are in the index */
} Race;

static void *
look_up_while_it_grows(void *data)
{
  Race *race = data;
  while (!g_atomic_int_get(&race->done)) {
    guint32 n = (guint32) g_atomic_int_get(&race->n_published);
    for (guint32 i = n > 100 ? n - 100 : 0; i < n; i++)
      assert_true(has(race->index, i));
    has(race->index, n + 5);
  }
  return NULL;
}

static void
test_lookups_beside_changes_find_what_was_published(void **state)
{
  const Fixture *fixture = *state;
  Race race = {.index = open_index(fixture, NULL)};
  pthread_t threads[3];
  for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
    assert_int_equal(pthread_create(&threads[i], NULL, look_up_while_it_grows, &race), 0);
  for (guint32 i = 0; i < 60000; i++) {
    StoreLocation end = {.pack = 1, .offset = 64};
    insert(race.index, i);
    g_atomic_int_set(&race.n_published, (gint) i + 1);
    if (i % 20000 == 0)
      assert_true(store_index_checkpoint(race.index, &end, NULL));
  }
  g_atomic_int_set(&race.done, 1);
  for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
    pthread_join(threads[i], NULL);
  store_index_close(race.index);
}

/* --- marks --- */

typedef struct {
  StoreIndexMarks *marks;
  guint step[STORE_INDEX_MARK_KINDS]; /* each of so many entries is marked */
} Marking;

static void
mark_some(const Marking *marking, guint32 n)
{
  for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
    for (guint32 i = 0; i < n; i += marking->step[kind]) {
      StoreChunkId id = id_of(i);
      StoreLocation location, expected = location_of(i);
      gboolean is_new;
      assert_true(store_index_mark(marking->marks, &id, kind, &is_new, &location));
      assert_true(is_new);
      assert_memory_equal(&location, &expected, sizeof location);
    }
}

/* Of the first N_ALL entries those of the first N_MARKED are marked that were, and no others. */
static void
check_marks(const Marking *marking, guint32 n_marked, guint32 n_all)
{
  for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
    for (guint32 i = 0; i < n_all; i++) {
      StoreChunkId id = id_of(i);
      assert_int_equal(store_index_is_marked(marking->marks, &id, kind),
                       i < n_marked && i % marking->step[kind] == 0);
    }
}

static void
test_marks_stay_with_their_entries_when_the_table_grows(void **state)
{
  const Fixture *fixture = *state;
  StoreIndex *index = open_index(fixture, NULL);
  guint64 size = store_test_file_size(fixture->path);
  guint32 n_marked = 10000, n = 0;
  while (n < n_marked)
    insert(index, n++);
  assert_int_equal(store_test_file_size(fixture->path), size);
  Marking markings[] = {{store_index_marks_new(index), {2, 3}},
                        {store_index_marks_new(index), {7, 1}},
                        {store_index_marks_new(index), {100000, 5}}};
  for (guint i = 0; i < G_N_ELEMENTS(markings); i++)
    mark_some(&markings[i], n_marked);
  for (guint i = 0; i < G_N_ELEMENTS(markings); i++)
    check_marks(&markings[i], n_marked, n);
  while (store_test_file_size(fixture->path) < 3 * size)
    insert(index, n++);
  for (guint i = 0; i < G_N_ELEMENTS(markings); i++)
    check_marks(&markings[i], n_marked, n);
  /* One of them goes; the others and the table's growth take no notice. */
  store_index_marks_free(markings[1].marks);
  while (store_test_file_size(fixture->path) < 7 * size)
    insert(index, n++);
  check_marks(&markings[0], n_marked, n);
  check_marks(&markings[2], n_marked, n);
  store_index_marks_free(markings[0].marks);
  store_index_marks_free(markings[2].marks);
  store_index_close(index);
}

static void
test_an_entry_that_is_put_back_has_the_mark_that_it_had(void **state)
{
  const Fixture *fixture = *state;
  StoreIndex *index = open_index(fixture, NULL);
  for (guint32 i = 0; i < 5000; i++)
    insert(index, i);
  Marking marking = {store_index_marks_new(index), {2, 3}};
  mark_some(&marking, 5000);
  for (guint32 i = 0; i < 5000; i++) {
    StoreChunkId id = id_of(i);
    gboolean is_new;
    assert_true(store_index_remove(index, &id));
    for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++) {
      assert_false(store_index_is_marked(marking.marks, &id, kind));
      assert_false(store_index_mark(marking.marks, &id, kind, &is_new, NULL));
    }
    insert(index, i);
  }
  check_marks(&marking, 5000, 6000);
  store_index_marks_free(marking.marks);
  store_index_close(index);
}

static void
test_what_is_marked_is_not_new_a_second_time(void **state)
{
  const Fixture *fixture = *state;
  StoreIndex *index = open_index(fixture, NULL);
  StoreChunkId ids[2] = {id_of(1), id_of(2)};
  gboolean is_new;
  insert(index, 1);
  StoreIndexMarks *marks = store_index_marks_new(index);
  store_index_marks_prefetch(marks, ids, 2);
  assert_true(store_index_mark(marks, &ids[0], STORE_INDEX_MARK_REACHED, &is_new, NULL));
  assert_true(is_new);
  assert_true(store_index_mark(marks, &ids[0], STORE_INDEX_MARK_REACHED, &is_new, NULL));
  assert_false(is_new);
  assert_true(store_index_mark(marks, &ids[0], STORE_INDEX_MARK_VISITED, &is_new, NULL));
  assert_true(is_new);
  assert_false(store_index_mark(marks, &ids[1], STORE_INDEX_MARK_REACHED, &is_new, NULL));
  assert_false(is_new);
  store_index_marks_free(marks);
  store_index_close(index);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_header_and_slot_are_the_golden_ones, setup, teardown),
      cmocka_unit_test_setup_teardown(test_locations_pack_into_64_bits_at_their_limits, setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_table_is_a_map_through_growth_removal_and_reopening, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_removed_entries_do_not_fill_the_table, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ids_that_share_their_leading_bits_all_fit, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_checkpoint_is_what_the_next_opening_is_told, setup, teardown),
      cmocka_unit_test_setup_teardown(test_after_another_boot_a_grown_table_counts_once_it_had_a_checkpoint,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_damaged_header_or_a_short_file_is_made_anew, setup, teardown),
      cmocka_unit_test_setup_teardown(test_flipped_bits_in_slots_and_counts_do_no_harm, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_growth_that_fails_at_any_call_keeps_the_old_table, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_marks_stay_with_their_entries_when_the_table_grows, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_an_entry_that_is_put_back_has_the_mark_that_it_had, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_what_is_marked_is_not_new_a_second_time, setup, teardown),
      cmocka_unit_test_setup_teardown(test_lookups_beside_changes_find_what_was_published, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
