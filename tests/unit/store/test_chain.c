/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chain-history.h"

#include <sys/file.h>

static void
test_each_link_reads_as_its_point(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 6);
  StoreChainResult result = export_points(history, 0x3f, history->folder);
  assert_int_equal(result.n_written, 6);
  check_points(history, 0x3f, history->folder);
}

static void
test_same_points_give_the_same_files(void **state)
{
  Model *model = *state;
  g_autoptr(History) history = history_new(model);
  g_autofree char *other = model_path(model, "other");
  history_add_random(history, 5);
  export_points(history, 0x1f, history->folder);
  for (guint i = 1; i <= 5; i++)
    export_points(history, (1u << i) - 1, other);
  g_autofree char *at_once = describe_folder(history->folder);
  g_autofree char *one_by_one = describe_folder(other);
  assert_string_equal(at_once, one_by_one);
}

static ino_t
inode_of(const char *path)
{
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  return st.st_ino;
}

static void
test_later_export_adds_only_new_links(void **state)
{
  g_autoptr(History) history = history_new(*state);
  ino_t inodes[3];
  history_add_random(history, 6);
  export_points(history, 0x07, history->folder);
  for (guint i = 0; i < 3; i++) {
    g_autofree char *path = image_path(history, history->folder, i, 0);
    inodes[i] = inode_of(path);
  }
  StoreChainResult result = export_points(history, 0x3f, history->folder);
  assert_int_equal(result.n_kept, 3);
  assert_int_equal(result.n_written, 3);
  for (guint i = 0; i < 3; i++) {
    g_autofree char *path = image_path(history, history->folder, i, 0);
    assert_int_equal(inode_of(path), inodes[i]);
  }
  check_points(history, 0x3f, history->folder);
  result = export_points(history, 0x3f, history->folder);
  assert_int_equal(result.n_written, 0);
  assert_int_equal(result.bytes_written, 0);
}

/* Points that are gone from the store between exports: the chain goes over the gap, and keeps what it had. */
static void
test_pruned_points_leave_no_gap(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 7);
  export_points(history, 0x0b, history->folder);                                /* 0 1 3 */
  assert_int_equal(export_points(history, 0x19, history->folder).n_written, 1); /* 0 3 4 */
  assert_int_equal(export_points(history, 0x21, history->folder).n_written, 1); /* 0 5: 4 is gone */
  assert_int_equal(export_points(history, 0x60, history->folder).n_written, 1); /* 5 6: 0 is gone */
  check_points(history, 0x7b, history->folder);
}

static void
test_points_that_are_all_new_begin_with_a_base(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 5);
  export_points(history, 0x03, history->folder);
  StoreChainResult result = export_points(history, 0x18, history->folder);
  assert_int_equal(result.n_written, 2);
  g_autofree char *path = image_path(history, history->folder, 3, 0);
  assert_true(g_str_has_suffix(path, "-full.qcow2"));
  check_points(history, 0x1b, history->folder);
}

static void
test_files_are_named_by_disk_time_and_kind(void **state)
{
  g_autoptr(History) history = history_new(*state);
  const gint64 sizes[N_DISKS] = {5 * CLUSTER, 5 * CLUSTER};
  for (guint i = 0; i < 4; i++) {
    history_add_config(history, history_add(history, sizes), "web.conf", "cores: 1\n");
    if (i > 0)
      history->time -= G_GINT64_CONSTANT(3600) * G_USEC_PER_SEC - 1; /* the last three within a second */
  }
  export_points(history, 0x0f, history->folder);
  const char *const names[] = {"root.20261121T101530Z-full.qcow2",    "data.1.20261121T101530Z-full.qcow2",
                               "root.20261121T111530Z-incr.qcow2",    "root.20261121T111530Z-incr-2.qcow2",
                               "data.1.20261121T111530Z-incr.qcow2",  "root.20261121T111530Z-incr-3.qcow2",
                               "CONFIGS-20261121T101530Z/web.conf",   "CONFIGS-20261121T111530Z/web.conf",
                               "CONFIGS-20261121T111530Z-2/web.conf", "chain.json"};
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = g_build_filename(history->folder, names[i], NULL);
    if (!g_file_test(path, G_FILE_TEST_IS_REGULAR))
      fail_msg("there is no %s", names[i]);
  }
}

static void
test_disk_that_shrank_or_was_replaced_gets_a_new_base(void **state)
{
  g_autoptr(History) history = history_new(*state);
  const gint64 sizes[][N_DISKS] = {{50 * CLUSTER, 20 * CLUSTER},
                                   {20 * CLUSTER + 512, 20 * CLUSTER},
                                   {60 * CLUSTER, -1},
                                   {60 * CLUSTER, 9 * CLUSTER}};
  const char *const kinds[][N_DISKS] = {{"full", "full"}, {"full", "full"}, {"incr", NULL}, {"incr", "full"}};
  for (guint i = 0; i < 4; i++) {
    history_add(history, sizes[i]);
    history->ids[1] = cbt_uuid_generate();
  }
  export_points(history, 0x0f, history->folder);
  for (guint i = 0; i < 4; i++)
    for (guint k = 0; k < N_DISKS; k++) {
      g_autofree char *path = kinds[i][k] ? image_path(history, history->folder, i, k) : g_strdup("");
      assert_true(!kinds[i][k] || strstr(path, kinds[i][k]));
    }
  check_points(history, 0x0f, history->folder);
}

/* ---- what happened to the folder ---- */

static void
test_lost_image_is_written_again(void **state)
{
  Model *model = *state;
  g_autoptr(History) history = history_new(model);
  history_add_random(history, 5);
  export_points(history, 0x1f, history->folder);
  g_autofree char *before = describe_folder(history->folder);
  for (guint i = 0; i < 5; i++) {
    g_autofree char *path = image_path(history, history->folder, i, 0);
    assert_int_equal(g_unlink(path), 0);
    StoreChainResult result = export_points(history, 0x1f, history->folder);
    assert_int_equal(result.n_written, 1);
    assert_int_equal(result.bytes_written, store_test_file_size(path));
    g_autofree char *after = describe_folder(history->folder);
    assert_string_equal(before, after);
  }
}

/* The base is gone from the folder, and its point from the store: what stood on it is made to stand alone. */
static void
test_overlay_whose_base_is_lost_is_written_again(void **state)
{
  g_autoptr(History) history = history_new(*state);
  const gint64 sizes[N_DISKS] = {30 * CLUSTER, -1};
  for (guint i = 0; i < 4; i++)
    history_add(history, sizes);
  export_points(history, 0x07, history->folder);
  g_autofree char *base = image_path(history, history->folder, 0, 0);
  assert_int_equal(g_unlink(base), 0);
  StoreChainResult result = export_points(history, 0x0e, history->folder);
  assert_int_equal(result.n_kept, 1);
  assert_int_equal(result.n_written, 2);
  g_autoptr(StoreChainIndex) index = load_index(history, history->folder);
  for (guint i = 1; i < 4; i++) {
    g_autofree char *path = image_path(history, history->folder, i, 0);
    check_image_is(history->model, path, history_disk(history, i, 0));
  }
}

static void
expect_refusal(const History *history, guint mask, CbtErrorCode code, const char *part)
{
  g_autoptr(GError) error = NULL;
  StoreChainResult result;
  g_autofree char *before = describe_folder(history->folder);
  assert_false(try_export(history, mask, history->folder, NULL, &result, &error));
  check_error(&error, code, part);
  g_autofree char *after = describe_folder(history->folder);
  assert_string_equal(before, after);
}

static void
test_changed_image_is_refused_by_name(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 3);
  export_points(history, 0x03, history->folder);
  g_autofree char *path = image_path(history, history->folder, 0, 0);
  store_test_truncate(path, store_test_file_size(path) + 512);
  g_autofree char *name = g_path_get_basename(path);
  expect_refusal(history, 0x07, CBT_ERROR_STATE, name);
}

static void
test_chain_of_another_vm_or_store_is_refused_by_name(void **state)
{
  Model *model = *state;
  g_autoptr(History) history = history_new(model);
  history_add_random(history, 2);
  export_points(history, 0x01, history->folder);
  StorePoint *second = history->points->pdata[1];
  g_free(second->vm);
  second->vm = g_strdup("mail");
  expect_refusal(history, 0x02, CBT_ERROR_STATE, "vm 'web', not of 'mail'");
  expect_refusal(history, 0x03, CBT_ERROR_INVALID, "one vm");
  expect_refusal(history, 0x00, CBT_ERROR_INVALID, "no recovery point");
  g_autofree char *path = g_build_filename(history->folder, "chain.json", NULL);
  g_autoptr(StoreChainIndex) index = load_index(history, history->folder);
  index->store = cbt_uuid_generate();
  assert_true(store_chain_index_save(cbt_file_ops_default(), history->folder, index, NULL));
  expect_refusal(history, 0x01, CBT_ERROR_STATE, "another store");
}

static void
test_folder_in_use_is_refused(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 1);
  assert_int_equal(g_mkdir(history->folder, 0700), 0);
  CBT_AUTO_FD int fd = open(history->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  expect_refusal(history, 0x01, CBT_ERROR_BUSY, "another export");
}

static void
test_links_in_the_folder_are_not_followed(void **state)
{
  Model *model = *state;
  g_autoptr(History) history = history_new(model);
  g_autofree char *outside = model_path(model, "outside"), *elsewhere = model_path(model, "elsewhere");
  g_autofree char *temporary = g_build_filename(history->folder, ".new.tmp", NULL);
  g_autofree char *configs = g_build_filename(history->folder, "CONFIGS-20261121T101530Z", NULL);
  g_autofree char *contents = NULL;
  history_add_random(history, 1);
  assert_int_equal(g_mkdir(history->folder, 0700), 0);
  store_test_write(outside, "mine", 4);
  assert_int_equal(symlink(outside, temporary), 0);
  export_points(history, 0x01, history->folder);
  assert_true(g_file_get_contents(outside, &contents, NULL, NULL));
  assert_string_equal(contents, "mine");
  check_points(history, 0x01, history->folder);

  g_autofree char *index = g_build_filename(history->folder, "chain.json", NULL);
  g_autofree char *config = g_build_filename(configs, "web.conf", NULL);
  assert_int_equal(g_unlink(index), 0);
  assert_int_equal(g_unlink(config), 0);
  assert_int_equal(g_rmdir(configs), 0);
  assert_int_equal(g_mkdir(elsewhere, 0700), 0);
  assert_int_equal(symlink(elsewhere, configs), 0);
  expect_refusal(history, 0x01, CBT_ERROR_EXISTS, "CONFIGS-");
}

/* ---- progress ---- */

typedef struct {
  guint64 total[2]; /* of "root", and of the other disk */
  guint64 done[2];
} Progress;

static void
note_plan(gpointer user_data, const char *disk, guint64 bytes)
{
  Progress *progress = user_data;
  progress->total[strcmp(disk, "root") == 0] += bytes;
}

static void
note_done(gpointer user_data, const char *disk, guint64 bytes)
{
  Progress *progress = user_data;
  progress->done[strcmp(disk, "root") == 0] += bytes;
}

static void
test_progress_adds_up(void **state)
{
  g_autoptr(History) history = history_new(*state);
  history_add_random(history, 4);
  export_points(history, 0x01, history->folder);
  Progress progress = {0};
  StoreChainOptions options = {.plan = note_plan, .progress = note_done, .user_data = &progress};
  StoreChainResult result;
  assert_true(
      store_chain_export(history->model->store, history->points, history->folder, &options, &result, NULL));
  assert_int_equal(progress.total[0] + progress.total[1], result.bytes_written);
  assert_memory_equal(progress.done, progress.total, sizeof progress.done);
}

static void
test_cancelled_export_writes_nothing(void **state)
{
  g_autoptr(History) history = history_new(*state);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(GError) error = NULL;
  StoreChainOptions options = {.cancellable = cancellable};
  StoreChainResult result;
  history_add_random(history, 1);
  g_cancellable_cancel(cancellable);
  assert_false(
      store_chain_export(history->model->store, history->points, history->folder, &options, &result, &error));
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
  g_autofree char *files = describe_folder(history->folder);
  assert_string_equal(files, "");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_each_link_reads_as_its_point),
      TEST(test_same_points_give_the_same_files),
      TEST(test_later_export_adds_only_new_links),
      TEST(test_pruned_points_leave_no_gap),
      TEST(test_points_that_are_all_new_begin_with_a_base),
      TEST(test_files_are_named_by_disk_time_and_kind),
      TEST(test_disk_that_shrank_or_was_replaced_gets_a_new_base),
      TEST(test_lost_image_is_written_again),
      TEST(test_overlay_whose_base_is_lost_is_written_again),
      TEST(test_changed_image_is_refused_by_name),
      TEST(test_chain_of_another_vm_or_store_is_refused_by_name),
      TEST(test_folder_in_use_is_refused),
      TEST(test_links_in_the_folder_are_not_followed),
      TEST(test_progress_adds_up),
      TEST(test_cancelled_export_writes_nothing),
  };
  skip_without_qemu_img();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
