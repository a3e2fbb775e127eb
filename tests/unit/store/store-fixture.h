/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store in a folder of its own, and contents to put. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <store/format.h>
#include <store/index-format.h>
#include <store/pack-format.h>
#include <store/store.h>
#include <sys/wait.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>
#include <unistd.h>

#define N_CLUSTERS 24

typedef struct {
  char *folder; /* the store is a folder in it */
  char *directory;
  Store *store;
  StoreWorker *worker;
  StoreOptions options;
  StoreChunkId ids[N_CLUSTERS];
} Fixture;

static G_GNUC_UNUSED void
open_fixture(Fixture *fixture)
{
  g_autoptr(GError) error = NULL;
  fixture->store = store_open(fixture->directory, &fixture->options, &error);
  if (error)
    print_message("%s\n", error->message);
  assert_non_null(fixture->store);
  fixture->worker = store_worker_new(fixture->store);
}

static G_GNUC_UNUSED void
close_fixture(Fixture *fixture)
{
  g_clear_pointer(&fixture->worker, store_worker_free);
  g_clear_pointer(&fixture->store, store_close);
}

static G_GNUC_UNUSED void
reopen(Fixture *fixture)
{
  close_fixture(fixture);
  open_fixture(fixture);
}

static G_GNUC_UNUSED int
setup_with(void **state, guint group_clusters)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->directory = g_build_filename(fixture->folder, "store", NULL);
  fixture->options = (StoreOptions){.dedup_verify = TRUE, .pack_size = 300000};
  fixture->options.group_clusters = group_clusters;
  open_fixture(fixture);
  *state = fixture;
  return 0;
}

/* Each cluster in a record of its own. */
static G_GNUC_UNUSED int
setup(void **state)
{
  return setup_with(state, 1);
}

/* Groups that are soon full. */
static G_GNUC_UNUSED int
setup_grouped(void **state)
{
  return setup_with(state, 5);
}

static G_GNUC_UNUSED int
teardown(void **state)
{
  Fixture *fixture = *state;
  close_fixture(fixture);
  store_test_folder_free(fixture->folder);
  g_free(fixture->directory);
  g_free(fixture);
  return 0;
}

static G_GNUC_UNUSED char *
path_of(const Fixture *fixture, const char *name)
{
  return g_build_filename(fixture->directory, name, NULL);
}

/* Cluster I: every other one does not compress. */
static G_GNUC_UNUSED void
cluster_of(guint i, guint8 data[CBT_CLUSTER_SIZE])
{
  if (i % 2)
    store_test_fill_random(data, CBT_CLUSTER_SIZE, i);
  else
    store_test_fill_text(data, CBT_CLUSTER_SIZE, i);
}

static G_GNUC_UNUSED gboolean
put_cluster(StoreWorker *worker, guint i, StoreChunkId *id, StorePutOutcome *outcome, StoreTally *tally)
{
  guint8 data[CBT_CLUSTER_SIZE];
  cluster_of(i, data);
  return store_put(worker, STORE_CHUNK_DATA, data, sizeof data, id, outcome, tally, NULL);
}

static G_GNUC_UNUSED gboolean
cluster_is_readable(StoreWorker *worker, guint i, const StoreChunkId *id, GError **error)
{
  guint8 expected[CBT_CLUSTER_SIZE];
  guint8 data[STORE_CHUNK_LENGTH_MAX];
  gsize length = 0;
  cluster_of(i, expected);
  if (!store_get(worker, id, data, &length, error))
    return FALSE;
  assert_int_equal(length, sizeof expected);
  assert_memory_equal(data, expected, sizeof expected);
  return TRUE;
}

static G_GNUC_UNUSED void
put_all(Fixture *fixture, StorePutOutcome expected)
{
  for (guint i = 0; i < N_CLUSTERS; i++) {
    StorePutOutcome outcome;
    assert_true(put_cluster(fixture->worker, i, &fixture->ids[i], &outcome, NULL));
    assert_int_equal(outcome, expected);
  }
}

static G_GNUC_UNUSED void
check_all(Fixture *fixture)
{
  for (guint i = 0; i < N_CLUSTERS; i++)
    assert_true(cluster_is_readable(fixture->worker, i, &fixture->ids[i], NULL));
}

/* Where the record of ID stands, found by reading the packs. */
typedef struct {
  StoreChunkId id;
  StoreLocation at;
  guint n;
} Wanted;

static G_GNUC_UNUSED gboolean
note_wanted(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Wanted *wanted = user_data;
  if (store_chunk_id_equal(&info->id, &wanted->id)) {
    wanted->at = *location;
    wanted->n++;
  }
  return TRUE;
}

static G_GNUC_UNUSED Wanted
locate(const Fixture *fixture, const StoreChunkId *id)
{
  g_autofree char *packs = path_of(fixture, "packs");
  g_autofree char *format_path = path_of(fixture, "format");
  StoreFormat format;
  Wanted wanted = {.id = *id};
  assert_true(store_format_load(cbt_file_ops_default(), format_path, &format, NULL));
  StorePackSet *set = store_pack_set_open(NULL, packs, &format.uuid, 0, NULL);
  assert_true(store_pack_scan(set, NULL, note_wanted, &wanted, NULL, NULL));
  store_pack_set_close(set);
  return wanted;
}

/* Damages the stored copy of ID; the store is closed. */
static G_GNUC_UNUSED StoreLocation
damage(const Fixture *fixture, const StoreChunkId *id)
{
  Wanted wanted = locate(fixture, id);
  g_autofree char *path = g_strdup_printf("%s/packs/%08x.pack", fixture->directory, wanted.at.pack);
  assert_true(wanted.n > 0);
  store_test_flip(path, wanted.at.offset + STORE_RECORD_HEADER_SIZE + 30, 2);
  return wanted.at;
}

/* --- round trips --- */

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_GROUPED(name) {#name " (groups)", name, setup_grouped, teardown, NULL}
