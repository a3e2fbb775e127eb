/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An export that is interrupted at any call leaves a folder whose index names only complete files, and that
 * the next export completes: byte for byte as if nothing had happened.
 */
#include "chain-history.h"

#include <tests/support/store-fault-ops.h>

/* Every file that the index names is as in the folder WHOLE. */
static void
check_index_names_complete_files(const History *history, const char *folder, const char *whole)
{
  g_autoptr(StoreChainIndex) index = load_index(history, folder);
  for (guint i = 0; i < index->points->len; i++) {
    const StoreChainPoint *point = index->points->pdata[i];
    for (guint k = 0; k < point->disks->len; k++) {
      const StoreChainDisk *disk = point->disks->pdata[k];
      g_autofree char *path = g_build_filename(folder, disk->file, NULL);
      g_autofree char *whole_path = g_build_filename(whole, disk->file, NULL);
      g_autofree char *data = NULL, *expected = NULL;
      gsize length, expected_length;
      assert_true(g_file_get_contents(path, &data, &length, NULL));
      assert_true(g_file_get_contents(whole_path, &expected, &expected_length, NULL));
      assert_int_equal(length, expected_length);
      assert_memory_equal(data, expected, length);
    }
  }
}

typedef enum { FAIL_ONCE, FAIL_FOR_EVER, POWER_CUT } Kind;

/* FALSE: the export took fewer than N calls. */
static gboolean
interrupt(History *history, guint n, Kind kind, const char *whole, const char *expected)
{
  Model *model = history->model;
  g_autofree char *name = g_strdup_printf("chain-%d-%u", kind, n);
  g_autofree char *folder = model_path(model, name);
  g_autoptr(GError) error = NULL;
  StoreChainResult result;
  export_points(history, 0x01, folder);
  StoreFaultOps *faults = store_fault_ops_new();
  store_fault_ops_arm(faults, n, kind != FAIL_ONCE, EIO);
  gboolean ok = try_export(history, 0x07, folder, store_fault_ops_table(faults), &result, &error);
  gboolean failed = store_fault_ops_has_failed(faults);
  if (kind == POWER_CUT)
    store_fault_ops_power_cut(faults, NULL);
  store_fault_ops_free(faults);
  assert_true(ok || failed);
  check_index_names_complete_files(history, folder, whole);
  export_points(history, 0x07, folder);
  g_autofree char *found = describe_folder(folder);
  assert_string_equal(found, expected);
  return failed;
}

static void
check_kind(Model *model, Kind kind)
{
  g_autoptr(History) history = history_new(model);
  const gint64 sizes[][N_DISKS] = {{5 * CLUSTER, 2 * CLUSTER}, {7 * CLUSTER, -1}, {7 * CLUSTER, 3 * CLUSTER}};
  g_autofree char *whole = model_path(model, "whole");
  for (guint i = 0; i < 3; i++)
    history_add_config(history, history_add(history, sizes[i]), "web.conf", "cores: 1\n");
  export_points(history, 0x07, whole);
  g_autofree char *expected = describe_folder(whole);
  guint n = 1;
  while (interrupt(history, n, kind, whole, expected))
    n++;
  assert_true(n > 30);
}

static void
test_call_that_fails_once_leaves_what_the_next_export_completes(void **state)
{
  check_kind(*state, FAIL_ONCE);
}

static void
test_calls_that_fail_for_ever_leave_what_the_next_export_completes(void **state)
{
  check_kind(*state, FAIL_FOR_EVER);
}

static void
test_power_cut_leaves_what_the_next_export_completes(void **state)
{
  check_kind(*state, POWER_CUT);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_call_that_fails_once_leaves_what_the_next_export_completes),
      TEST(test_calls_that_fail_for_ever_leave_what_the_next_export_completes),
      TEST(test_power_cut_leaves_what_the_next_export_completes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
