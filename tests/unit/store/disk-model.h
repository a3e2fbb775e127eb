/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks in a store beside what they must hold: an array of cells, one a cluster, each a content by number.
 * Random changes make the next disk out of one. Images are checked and read by the real qemu-img.
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <store/manifest.h>
#include <string.h>
#include <sys/stat.h>
#include <tests/support/store-files.h>
#include <unistd.h>

#define CLUSTER CBT_CLUSTER_SIZE

typedef struct {
  guint32 content; /* 0: zeros */
  guint32 length;  /* bytes of it; zeros behind */
} Cell;

typedef struct {
  StoreManifest manifest;
  guint64 n;
  Cell *cells;
} Disk;

typedef struct {
  char *folder;
  Store *store;
  StoreWorker *worker;
  GRand *random;
} Model;

static G_GNUC_UNUSED int
setup(void **state)
{
  Model *model = g_new0(Model, 1);
  const char *text = g_getenv("CBT_TEST_SEED");
  guint32 seed = text ? (guint32) g_ascii_strtoull(text, NULL, 10) : g_random_int();
  print_message("CBT_TEST_SEED=%u\n", seed);
  model->random = g_rand_new_with_seed(seed);
  model->folder = store_test_folder_new();
  g_autofree char *directory = g_build_filename(model->folder, "store", NULL);
  model->store = store_open(directory, NULL, NULL);
  assert_non_null(model->store);
  model->worker = store_worker_new(model->store);
  *state = model;
  return 0;
}

static G_GNUC_UNUSED int
teardown(void **state)
{
  Model *model = *state;
  store_worker_free(model->worker);
  store_close(model->store);
  store_test_folder_free(model->folder);
  g_rand_free(model->random);
  g_free(model);
  return 0;
}

static G_GNUC_UNUSED char *
model_path(const Model *model, const char *name)
{
  return g_build_filename(model->folder, name, NULL);
}

static G_GNUC_UNUSED guint32
below(Model *model, guint64 n)
{
  return g_rand_int(model->random) % (guint32) n;
}

/* ---- disks ---- */

static G_GNUC_UNUSED void
disk_free(Disk *disk)
{
  g_free(disk->cells);
  g_free(disk);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Disk, disk_free)

static G_GNUC_UNUSED void
cell_bytes(const Cell *cell, guint8 data[CBT_CLUSTER_SIZE])
{
  memset(data, 0, CLUSTER);
  if (cell->content % 2)
    store_test_fill_text(data, cell->length, cell->content);
  else if (cell->content)
    store_test_fill_random(data, cell->length, cell->content);
}

/* As many bytes as a cluster of a disk of SIZE has. */
static G_GNUC_UNUSED guint32
cell_length(guint64 size, guint64 i)
{
  return (guint32) MIN(CLUSTER, size - i * CLUSTER);
}

static G_GNUC_UNUSED void
disk_set(Disk *disk, guint64 i, guint32 content)
{
  disk->cells[i] = (Cell){content, content ? cell_length(disk->manifest.size, i) : 0};
}

static G_GNUC_UNUSED gboolean
cells_differ(const Cell *a, const Cell *b)
{
  return a->content != b->content || a->length != b->length;
}

/* Puts DISK's cells into the store, upon BASE (NULL: anew). */
static G_GNUC_UNUSED void
disk_store(Model *model, Disk *disk, const Disk *base)
{
  g_autoptr(StoreManifestBuilder) builder = store_manifest_builder_new(
      model->worker, base ? &base->manifest : NULL, disk->manifest.size, NULL, NULL);
  assert_non_null(builder);
  for (guint64 i = 0; i < disk->n; i++) {
    static const Cell none;
    StoreChunkId id;
    guint8 data[CBT_CLUSTER_SIZE];
    if (!cells_differ(&disk->cells[i], base && i < base->n ? &base->cells[i] : &none))
      continue;
    cell_bytes(&disk->cells[i], data);
    assert_true(store_put(model->worker, STORE_CHUNK_DATA, data, CLUSTER, &id, NULL, NULL, NULL));
    assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &disk->manifest, NULL));
}

static G_GNUC_UNUSED Disk *
disk_new(guint64 size)
{
  Disk *disk = g_new0(Disk, 1);
  disk->manifest.size = size;
  disk->n = store_manifest_n_clusters(size);
  disk->cells = g_new0(Cell, disk->n);
  return disk;
}

/* The cells of BASE that SIZE leaves. */
static G_GNUC_UNUSED Disk *
disk_copy(const Disk *base, guint64 size)
{
  Disk *disk = disk_new(size);
  for (guint64 i = 0; i < MIN(disk->n, base->n); i++) {
    disk->cells[i] = base->cells[i];
    disk->cells[i].length = MIN(disk->cells[i].length, cell_length(size, i));
  }
  return disk;
}

/* Overwrites runs with few contents, so that some changes change nothing and some go back; and zeros. */
static G_GNUC_UNUSED void
disk_scribble(Model *model, Disk *disk, guint n_runs)
{
  for (guint r = 0; disk->n > 0 && r < n_runs; r++) {
    guint64 start = below(model, disk->n), length = 1 + below(model, below(model, 3) ? 5 : 90);
    guint kind = below(model, 4);
    for (guint64 i = start; i < MIN(start + length, disk->n); i++)
      disk_set(disk, i, kind == 0 ? 0 : 1 + below(model, kind * 20));
  }
  if (disk->n > 0 && below(model, 2))
    disk_set(disk, disk->n - 1, 7);
}

/* The next disk after BASE (NULL: the first one), of SIZE, with random changes, in the store. */
static G_GNUC_UNUSED Disk *
disk_next(Model *model, const Disk *base, guint64 size, guint n_runs)
{
  Disk *disk = base ? disk_copy(base, size) : disk_new(size);
  disk_scribble(model, disk, n_runs);
  disk_store(model, disk, base && base->manifest.size <= size ? base : NULL);
  return disk;
}

static G_GNUC_UNUSED void
check_cell(int fd, const Disk *disk, guint64 i)
{
  guint8 expected[CBT_CLUSTER_SIZE], found[CBT_CLUSTER_SIZE];
  guint32 length = cell_length(disk->manifest.size, i);
  off_t data = lseek(fd, (off_t) (i * CLUSTER), SEEK_DATA);
  if (disk->cells[i].content == 0 && (data < 0 || (guint64) data >= i * CLUSTER + length))
    return;
  cell_bytes(&disk->cells[i], expected);
  assert_int_equal(cbt_pread_full(fd, found, length, i * CLUSTER), length);
  if (memcmp(found, expected, length) != 0)
    fail_msg("cluster %" G_GUINT64_FORMAT " is not what it was", i);
}

/* The file PATH holds DISK's bytes; zeros up to LENGTH. */
static G_GNUC_UNUSED void
check_raw(const char *path, const Disk *disk, guint64 length)
{
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  guint8 rest[512];
  assert_true(fd >= 0);
  assert_int_equal(store_test_file_size(path), length);
  for (guint64 i = 0; i < disk->n; i++)
    check_cell(fd, disk, i);
  gssize n = cbt_pread_full(fd, rest, sizeof rest, disk->manifest.size);
  assert_int_equal(n, length - disk->manifest.size);
  assert_true(cbt_is_zero(rest, (gsize) n));
}

/* ---- the real reader ---- */

static G_GNUC_UNUSED void
run_qemu_img(const char *const *argv)
{
  g_autofree char *output = NULL, *errors = NULL;
  g_autoptr(GError) error = NULL;
  int status = 0;
  assert_true(g_spawn_sync(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output, &errors,
                           &status, &error));
  if (!g_spawn_check_wait_status(status, NULL))
    fail_msg("qemu-img %s %s: %s%s", argv[1], argv[2], output, errors);
}

/* Clean, without a leak. */
static G_GNUC_UNUSED void
check_image(const char *path)
{
  const char *argv[] = {"qemu-img", "check", "-q", "-f", "qcow2", path, NULL};
  run_qemu_img(argv);
}

/* The image PATH, with all that it stands on, reads as DISK. */
static G_GNUC_UNUSED void
check_image_is(Model *model, const char *path, const Disk *disk)
{
  g_autofree char *raw = model_path(model, "converted.raw");
  const char *argv[] = {"qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw, NULL};
  check_image(path);
  run_qemu_img(argv);
  check_raw(raw, disk, cbt_round_up(disk->manifest.size, 512));
  g_unlink(raw);
}

static G_GNUC_UNUSED void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->domain != CBT_ERROR || (*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

static G_GNUC_UNUSED void
assert_no_error_message(const GError *error)
{
  if (error)
    fail_msg("%s", error->message);
}

static G_GNUC_UNUSED void
skip_without_qemu_img(void)
{
  g_autofree char *program = g_find_program_in_path("qemu-img");
  if (program)
    return;
  print_message("skipped: there is no qemu-img\n");
  exit(77);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
