/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery points of a vm whose disks change, grow, shrink, are replaced, come and go; and their export as a
 * chain. */
#pragma once
#include "disk-model.h"

#include <store/chain-index.h>
#include <store/chain.h>

#define N_DISKS 2u
static const char *const disk_names[N_DISKS] = {"root", "data.1"};

typedef struct {
  Model *model;
  GPtrArray *points; /* of StorePoint, all there were */
  GPtrArray *disks;  /* of Disk or NULL: those of point p from N_DISKS * p on */
  gint64 time;       /* microseconds, of the next point */
  CbtUuid ids[N_DISKS];
  char *folder;
} History;

static G_GNUC_UNUSED void
disk_free_pointer(gpointer disk)
{
  if (disk)
    disk_free(disk);
}

static G_GNUC_UNUSED History *
history_new(Model *model)
{
  History *history = g_new0(History, 1);
  history->model = model;
  history->points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  history->disks = g_ptr_array_new_with_free_func(disk_free_pointer);
  history->time = G_GINT64_CONSTANT(1795256130) * G_USEC_PER_SEC; /* 2026-11-21 10:15:30 */
  history->folder = model_path(model, "chain");
  for (guint k = 0; k < N_DISKS; k++)
    history->ids[k] = cbt_uuid_generate();
  return history;
}

static G_GNUC_UNUSED void
history_free(History *history)
{
  g_ptr_array_unref(history->points);
  g_ptr_array_unref(history->disks);
  g_free(history->folder);
  g_free(history);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(History, history_free)

static G_GNUC_UNUSED Disk *
history_disk(const History *history, guint point, guint k)
{
  return history->disks->pdata[point * N_DISKS + k];
}

/* Adds a point; SIZES: of its disks, -1: it has none of that name. */
static G_GNUC_UNUSED StorePoint *
history_add(History *history, const gint64 sizes[N_DISKS])
{
  Model *model = history->model;
  guint n = history->points->len;
  StorePoint *point = store_point_new();
  point->uuid = cbt_uuid_generate();
  point->vm = g_strdup("web");
  point->time = history->time;
  point->incremental = n > 0;
  if (n > 0)
    point->parent = ((StorePoint *) history->points->pdata[n - 1])->uuid;
  for (guint k = 0; k < N_DISKS; k++) {
    const Disk *before = n > 0 ? history_disk(history, n - 1, k) : NULL;
    Disk *disk = sizes[k] < 0 ? NULL : disk_next(model, before, (guint64) sizes[k], 4);
    g_ptr_array_add(history->disks, disk);
    if (!disk)
      continue;
    StorePointDisk *out = store_point_add_disk(point, disk_names[k]);
    out->disk_id = history->ids[k];
    out->manifest = disk->manifest;
  }
  g_ptr_array_add(history->points, point);
  history->time += G_GINT64_CONSTANT(3600) * G_USEC_PER_SEC;
  return point;
}

static G_GNUC_UNUSED void
history_add_config(History *history, StorePoint *point, const char *name, const char *text)
{
  StorePointConfig *config = store_point_add_config(point, name);
  config->size = strlen(text);
  if (config->size > 0)
    assert_true(store_put(history->model->worker, STORE_CHUNK_BLOB, text, config->size, &config->id, NULL,
                          NULL, NULL));
}

/* N points with anything that may happen to disks. */
static G_GNUC_UNUSED void
history_add_random(History *history, guint n)
{
  Model *model = history->model;
  gint64 sizes[N_DISKS] = {40 * CLUSTER + 512, 9 * CLUSTER};
  for (guint i = 0; i < n; i++) {
    for (guint k = 0; k < N_DISKS; k++) {
      guint what = below(model, 12);
      if (sizes[k] < 0 || what == 0)
        sizes[k] = (gint64) (512 * (1 + below(model, 50 * 128)));
      else if (what == 1 && k > 0)
        sizes[k] = -1;
      else if (what < 5)
        sizes[k] += (gint64) (512 * below(model, 20 * 128));
      else if (what == 5)
        history->ids[k] = cbt_uuid_generate();
    }
    StorePoint *point = history_add(history, sizes);
    g_autofree char *text = g_strdup_printf("cores: %u\n", i);
    history_add_config(history, point, "web.conf", text);
    if (i % 2)
      history_add_config(history, point, "leer", "");
  }
}

/* ---- exports ---- */

/* The points of HISTORY whose numbers are set in MASK. */
static G_GNUC_UNUSED GPtrArray *
choose_points(const History *history, guint mask)
{
  GPtrArray *points = g_ptr_array_new();
  for (guint i = 0; i < history->points->len; i++)
    if ((mask >> i) & 1)
      g_ptr_array_add(points, history->points->pdata[i]);
  return points;
}

static G_GNUC_UNUSED gboolean
try_export(const History *history, guint mask, const char *folder, const CbtFileOps *ops,
           StoreChainResult *result, GError **error)
{
  g_autoptr(GPtrArray) points = choose_points(history, mask);
  StoreChainOptions options = {.n_threads = 2, .ops = ops};
  return store_chain_export(history->model->store, points, folder, &options, result, error);
}

static G_GNUC_UNUSED StoreChainResult
export_points(const History *history, guint mask, const char *folder)
{
  g_autoptr(GError) error = NULL;
  StoreChainResult result;
  gboolean ok = try_export(history, mask, folder, NULL, &result, &error);
  assert_no_error_message(error);
  assert_true(ok);
  return result;
}

static G_GNUC_UNUSED StoreChainIndex *
load_index(const History *history, const char *folder)
{
  g_autoptr(GError) error = NULL;
  StoreChainIndex *index = store_chain_index_load(cbt_file_ops_default(), folder,
                                                  store_uuid(history->model->store), "web", &error);
  assert_no_error_message(error);
  assert_non_null(index);
  return index;
}

static G_GNUC_UNUSED void
check_configs(const StorePoint *point, const StoreChainPoint *entry, const char *folder, guint number)
{
  assert_int_equal(entry->configs->len, point->configs->len);
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = point->configs->pdata[i];
    g_autofree char *path = g_build_filename(folder, entry->config_folder, config->name, NULL);
    g_autofree char *expected =
        strcmp(config->name, "leer") == 0 ? g_strdup("") : g_strdup_printf("cores: %u\n", number);
    g_autofree char *text = NULL;
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_string_equal(text, expected);
  }
}

/* Point NUMBER is in the index, and each of its images reads as its disk. */
static G_GNUC_UNUSED void
check_point(const History *history, const StoreChainIndex *index, const char *folder, guint number)
{
  const StorePoint *point = history->points->pdata[number];
  const StoreChainPoint *entry = store_chain_index_find(index, &point->uuid);
  assert_non_null(entry);
  assert_int_equal(entry->disks->len, point->disks->len);
  for (guint k = 0; k < N_DISKS; k++) {
    const Disk *disk = history_disk(history, number, k);
    if (!disk)
      continue;
    const StoreChainDisk *out = store_chain_point_find_disk(entry, disk_names[k]);
    g_autofree char *path = g_build_filename(folder, out->file, NULL);
    assert_int_equal(out->size, disk->manifest.size);
    assert_int_equal(store_test_file_size(path), out->bytes);
    check_image_is(history->model, path, disk);
  }
  check_configs(point, entry, folder, number);
}

static G_GNUC_UNUSED void
check_points(const History *history, guint mask, const char *folder)
{
  g_autoptr(StoreChainIndex) index = load_index(history, folder);
  for (guint i = 0; i < history->points->len; i++)
    if ((mask >> i) & 1)
      check_point(history, index, folder, i);
}

/* The path of disk K's image of point NUMBER (transfer full). */
static G_GNUC_UNUSED char *
image_path(const History *history, const char *folder, guint number, guint k)
{
  g_autoptr(StoreChainIndex) index = load_index(history, folder);
  const StorePoint *point = history->points->pdata[number];
  const StoreChainPoint *entry = store_chain_index_find(index, &point->uuid);
  return g_build_filename(folder, store_chain_point_find_disk(entry, disk_names[k])->file, NULL);
}

/* All files of FOLDER and its folders, but temporary ones: "NAME LENGTH CHECKSUM", by name; (transfer full).
 */
static G_GNUC_UNUSED void
list_folder(const char *folder, const char *prefix, GPtrArray *lines)
{
  GDir *dir = g_dir_open(folder, 0, NULL);
  assert_non_null(dir);
  for (const char *name; (name = g_dir_read_name(dir));) {
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *shown = g_strconcat(prefix, name, NULL);
    g_autofree char *data = NULL;
    gsize length;
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
      g_autofree char *below_it = g_strconcat(shown, "/", NULL);
      list_folder(path, below_it, lines);
    } else if (!g_str_has_suffix(name, ".tmp")) {
      assert_true(g_file_get_contents(path, &data, &length, NULL));
      g_ptr_array_add(lines, g_strdup_printf("%s %zu %" G_GINT64_MODIFIER "x", shown, length,
                                             cbt_checksum64(data, length)));
    }
  }
  g_dir_close(dir);
}

static G_GNUC_UNUSED gint
compare_lines(gconstpointer a, gconstpointer b)
{
  return strcmp(*(char *const *) a, *(char *const *) b);
}

static G_GNUC_UNUSED char *
describe_folder(const char *folder)
{
  g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
  list_folder(folder, "", lines);
  g_ptr_array_sort(lines, compare_lines);
  g_ptr_array_add(lines, NULL);
  return g_strjoinv("\n", (char **) lines->pdata);
}
