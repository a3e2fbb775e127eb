/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk-model.h"

#include <signal.h>
#include <store/qcow2-format.h>
#include <store/qcow2.h>
#include <tests/support/drain.h>
#include <tests/support/fault-ops.h>

#define MIB (G_GUINT64_CONSTANT(1) << 20)

static StoreQcow2 *
plan(Model *model, const Disk *disk, const Disk *base, const char *backing_file, const char *format)
{
  g_autoptr(GError) error = NULL;
  StoreQcow2Backing backing = {base ? &base->manifest : NULL, backing_file, format};
  StoreQcow2 *image = store_qcow2_new(model->store, &disk->manifest, base ? &backing : NULL, NULL, &error);
  assert_no_error_message(error);
  assert_non_null(image);
  return image;
}

static void
write_to_fd(StoreQcow2 *image, int fd, const CbtFileOps *ops, guint n_threads)
{
  g_autoptr(GError) error = NULL;
  StoreOutputOptions options = {.n_threads = n_threads};
  StoreOutput output = {.fd = fd, .ops = ops};
  gboolean ok = store_qcow2_write(image, &output, &options, &error);
  assert_no_error_message(error);
  assert_true(ok);
  assert_int_equal(output.written, store_qcow2_length(image));
}

/* The path of a new image of DISK (transfer full). */
static char *
write_image(Model *model, const char *name, const Disk *disk, const Disk *base, const char *backing_file,
            const char *format)
{
  char *path = model_path(model, name);
  g_autoptr(StoreQcow2) image = plan(model, disk, base, backing_file, format);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  write_to_fd(image, fd, cbt_file_ops_default(), 1 + below(model, 4));
  assert_int_equal(store_test_file_size(path), store_qcow2_length(image));
  return path;
}

static void
check_full(Model *model, const Disk *disk)
{
  g_autofree char *path = write_image(model, "full.qcow2", disk, NULL, NULL, NULL);
  check_image_is(model, path, disk);
}

/* ---- whole images ---- */

static void
test_image_of_any_size_reads_as_the_disk(void **state)
{
  Model *model = *state;
  const guint64 sizes[] = {512,           CLUSTER - 512,   CLUSTER,
                           CLUSTER + 512, 37 * MIB,        511 * MIB + 1024,
                           512 * MIB,     512 * MIB + 512, 2 * 512 * MIB + 3 * CLUSTER};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    g_autoptr(Disk) disk = disk_next(model, NULL, sizes[i], 12);
    check_full(model, disk);
  }
}

static void
test_disk_without_data_reads_as_zeros(void **state)
{
  Model *model = *state;
  const guint64 sizes[] = {0, 512, 10 * CLUSTER + 512, 600 * MIB};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    g_autoptr(Disk) disk = disk_next(model, NULL, sizes[i], 0);
    check_full(model, disk);
  }
}

static void
test_size_between_sectors_is_rounded_up_with_zeros(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) disk = disk_new(5 * CLUSTER + 777);
  for (guint i = 0; i < disk->n; i++)
    disk_set(disk, i, 1 + i);
  disk_store(model, disk, NULL);
  check_full(model, disk);
}

/* ---- large images ---- */

/* Writes tables only; data leaves holes. */
static ssize_t
pwrite_tables(const CbtFileOps *ops G_GNUC_UNUSED, int fd, const void *buffer, size_t length, off_t offset)
{
  return length > 16 * CLUSTER ? (ssize_t) length : pwrite(fd, buffer, length, offset);
}

/* Clusters [0, N) have DISK's content 4. */
static void
store_equal_clusters(Model *model, Disk *disk, guint64 n)
{
  StoreChunkId id;
  guint8 data[CBT_CLUSTER_SIZE];
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(model->worker, NULL, disk->manifest.size, NULL, NULL);
  cell_bytes(&(Cell){4, CLUSTER}, data);
  assert_true(store_put(model->worker, STORE_CHUNK_DATA, data, CLUSTER, &id, NULL, NULL, NULL));
  for (guint64 i = 0; i < n; i++) {
    disk_set(disk, i, 4);
    assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &disk->manifest, NULL));
}

/* Around the number of clusters from which on two refcount blocks are needed, and far behind it. */
static void
test_refcounts_cover_their_own_blocks(void **state)
{
  Model *model = *state;
  CbtFileOps ops = *cbt_file_ops_default();
  const guint64 n_tables = 1 + 1 + 1 + 1 + 4; /* header, refcount table and block, L1, L2 */
  const guint64 edge = STORE_QCOW2_N_REFCOUNTS - n_tables;
  const guint64 n_data[] = {edge - 1, edge, edge + 1, 45000};
  ops.pwrite = pwrite_tables;
  for (guint i = 0; i < G_N_ELEMENTS(n_data); i++) {
    g_autoptr(Disk) disk = disk_new(3000 * MIB);
    store_equal_clusters(model, disk, n_data[i]);
    g_autoptr(StoreQcow2) image = plan(model, disk, NULL, NULL, NULL);
    g_autofree char *path = model_path(model, "tables.qcow2");
    CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    write_to_fd(image, fd, &ops, 2);
    assert_int_equal(ftruncate(fd, (off_t) store_qcow2_length(image)), 0);
    guint64 n_more = n_data[i] <= edge ? 0 : n_data[i] == 45000 ? 3 : 1;
    assert_int_equal(store_qcow2_length(image), (n_data[i] + n_tables + n_more) * CLUSTER);
    check_image(path);
  }
}

static void
test_large_image_reads_as_the_disk(void **state)
{
  Model *model = *state;
  if (!g_getenv("CBT_TEST_LONG"))
    skip();
  g_autoptr(Disk) disk = disk_new((STORE_QCOW2_N_REFCOUNTS + 100) * CLUSTER);
  for (guint i = 0; i < disk->n; i++)
    disk_set(disk, i, i % 1000 == 999 ? 0 : 1 + i % 50);
  disk_store(model, disk, NULL);
  check_full(model, disk);
}

static void
test_sparse_1_tib_is_quick(void **state)
{
  Model *model = *state;
  const guint64 size = MIB * MIB, n = size / CLUSTER;
  g_autoptr(Disk) disk = disk_new(size);
  for (guint i = 0; i < 200; i++)
    disk_set(disk, n / 200 * i + below(model, n / 200), 1 + i);
  disk_set(disk, n - 1, 77);
  disk_store(model, disk, NULL);
  gint64 start = g_get_monotonic_time();
  g_autofree char *path = write_image(model, "sparse.qcow2", disk, NULL, NULL, NULL);
  assert_true(g_get_monotonic_time() - start < 20 * G_USEC_PER_SEC);
  assert_true(store_test_file_size(path) < 410 * CLUSTER);
  check_image(path);
  g_autofree char *raw = model_path(model, "raw");
  const char *argv[] = {"qemu-img", "convert", "-O", "raw", path, raw, NULL};
  run_qemu_img(argv);
  CBT_AUTO_FD int fd = open(raw, O_RDONLY | O_CLOEXEC);
  guint64 at = 0;
  for (off_t data; (data = lseek(fd, (off_t) at, SEEK_DATA)) >= 0;
       at = (guint64) data / CLUSTER * CLUSTER + CLUSTER)
    for (guint64 i = at / CLUSTER; i <= (guint64) data / CLUSTER; i++)
      check_cell(fd, disk, i);
  assert_int_equal(at, size);
}

/* ---- overlays ---- */

static void
check_line_of_overlays(Model *model, guint64 size, guint n_runs, const char *first_format)
{
  g_autoptr(Disk) disk = disk_next(model, NULL, size, n_runs);
  g_autofree char *below_name = g_strdup("base");
  g_autofree char *base = model_path(model, below_name);
  if (strcmp(first_format, "raw") == 0) {
    CBT_AUTO_FD int fd = open(base, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    guint8 data[CBT_CLUSTER_SIZE];
    for (guint64 i = 0; i < disk->n; i++) {
      cell_bytes(&disk->cells[i], data);
      assert_true(cbt_pwrite_full(fd, data, cell_length(size, i), i * CLUSTER));
    }
  } else {
    g_free(write_image(model, below_name, disk, NULL, NULL, NULL));
  }
  for (guint i = 0; i < 6; i++) {
    if (below(model, 3) == 0)
      size += 512 * below(model, disk->n * 128);
    Disk *next = disk_next(model, disk, size, i == 3 ? 0 : 1 + n_runs / 2);
    g_autofree char *name = g_strdup_printf("overlay-%u", i);
    g_autofree char *path = write_image(model, name, next, disk, below_name, i == 0 ? first_format : "qcow2");
    check_image_is(model, path, next);
    disk_free(disk);
    disk = next;
    g_free(below_name);
    below_name = g_steal_pointer(&name);
  }
}

static void
test_overlay_upon_qcow2_reads_as_the_later_disk(void **state)
{
  check_line_of_overlays(*state, 40 * CLUSTER + 512 * 3, 8, "qcow2");
}

static void
test_overlay_upon_raw_reads_as_the_later_disk(void **state)
{
  check_line_of_overlays(*state, 40 * CLUSTER, 8, "raw");
}

static void
test_overlay_of_several_tables_reads_as_the_later_disk(void **state)
{
  check_line_of_overlays(*state, 1100 * MIB + 512, 30, "qcow2");
}

/* All that was is zeros, but for one cluster: zero clusters need tables, and no data. */
static void
test_overlay_hides_what_became_zeros(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) full = disk_new(100 * CLUSTER), empty = disk_new(100 * CLUSTER);
  for (guint i = 0; i < full->n; i++)
    disk_set(full, i, i % 7 ? 1 + i : 0);
  disk_set(empty, 50, 5);
  disk_store(model, full, NULL);
  disk_store(model, empty, full);
  g_autofree char *base = write_image(model, "base", full, NULL, NULL, NULL);
  g_autofree char *overlay = write_image(model, "overlay", empty, full, "base", "qcow2");
  check_image_is(model, overlay, empty);
  assert_int_equal(store_test_file_size(overlay), 6 * CLUSTER);
}

static void
test_overlay_of_a_smaller_disk_reads_as_that(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) first = disk_next(model, NULL, 60 * CLUSTER, 20);
  g_autoptr(Disk) second = disk_next(model, first, 20 * CLUSTER + 1024, 3);
  g_autofree char *base = write_image(model, "base", first, NULL, NULL, NULL);
  g_autofree char *overlay = write_image(model, "overlay", second, first, "base", "qcow2");
  check_image_is(model, overlay, second);
}

static void
test_backing_name_of_a_wrong_length_is_refused(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) disk = disk_next(model, NULL, CLUSTER, 1);
  g_autoptr(GError) error = NULL;
  g_autofree char *longest = g_strnfill(STORE_QCOW2_BACKING_NAME_MAX, 'x');
  g_autofree char *too_long = g_strnfill(STORE_QCOW2_BACKING_NAME_MAX + 1, 'x');
  StoreQcow2Backing backing = {&disk->manifest, too_long, "qcow2"};
  assert_null(store_qcow2_new(model->store, &disk->manifest, &backing, NULL, &error));
  check_error(&error, CBT_ERROR_INVALID, "backing file");
  backing.file = "";
  assert_null(store_qcow2_new(model->store, &disk->manifest, &backing, NULL, &error));
  check_error(&error, CBT_ERROR_INVALID, "backing file");
  backing.file = longest;
  g_autoptr(StoreQcow2) image = store_qcow2_new(model->store, &disk->manifest, &backing, NULL, &error);
  assert_non_null(image);
}

/* ---- streams, faults ---- */

static GByteArray *
write_to_pipe(StoreQcow2 *image, guint n_threads)
{
  int fd;
  TestDrain *drain = test_drain_new(&fd, G_MAXUINT64);
  write_to_fd(image, fd, NULL, n_threads);
  close(fd);
  return test_drain_end(drain);
}

static void
test_same_disk_gives_the_same_bytes_through_a_pipe_by_any_number_of_threads(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) first = disk_next(model, NULL, 600 * MIB + 512, 20);
  g_autoptr(Disk) second = disk_next(model, first, 700 * MIB, 15);
  g_autofree char *path = write_image(model, "file", second, first, "base", "qcow2");
  g_autofree char *expected = NULL;
  gsize length;
  assert_true(g_file_get_contents(path, &expected, &length, NULL));
  for (guint n = 0; n < 6; n++) {
    g_autoptr(StoreQcow2) image = plan(model, second, first, "base", "qcow2");
    g_autoptr(GByteArray) bytes = write_to_pipe(image, n);
    assert_int_equal(bytes->len, length);
    assert_memory_equal(bytes->data, expected, length);
  }
}

/* DISK as an image; the error it fails with. */
static GError *
fail_to_write(Model *model, const Disk *disk, const CbtFileOps *ops, int fd, GCancellable *cancellable)
{
  GError *error = NULL;
  g_autoptr(StoreQcow2) image = plan(model, disk, NULL, NULL, NULL);
  StoreOutputOptions options = {.n_threads = 3, .cancellable = cancellable};
  StoreOutput output = {.fd = fd, .ops = ops, .name = "the image"};
  assert_false(store_qcow2_write(image, &output, &options, &error));
  return error;
}

static void
test_failing_write_is_the_exports_error(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) disk = disk_next(model, NULL, 100 * MIB, 40);
  g_autofree char *path = model_path(model, "image");
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  for (guint n = 1; n <= 3; n++) {
    cbt_fault_ops_arm(&faults, n, ENOSPC, CBT_FAULT_TORN);
    g_autoptr(GError) error = fail_to_write(model, disk, &faults.ops, fd, NULL);
    check_error(&error, CBT_ERROR_NO_SPACE, "cannot write the image");
  }
}

static void
test_broken_pipe_is_the_exports_error(void **state)
{
  Model *model = *state;
  int fd;
  g_autoptr(Disk) disk = disk_new(200 * CLUSTER);
  for (guint i = 0; i < disk->n; i++)
    disk_set(disk, i, 1 + i);
  disk_store(model, disk, NULL);
  TestDrain *drain = test_drain_new(&fd, 20 * CLUSTER);
  g_autoptr(GError) error = fail_to_write(model, disk, NULL, fd, NULL);
  check_error(&error, CBT_ERROR_UNREACHABLE, "cannot write the image");
  close(fd);
  g_byte_array_unref(test_drain_end(drain));
}

static void
test_cancelled_export_stops(void **state)
{
  Model *model = *state;
  g_autoptr(Disk) disk = disk_next(model, NULL, MIB, 3);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_cancellable_cancel(cancellable);
  g_autoptr(GError) error = fail_to_write(model, disk, NULL, -1, cancellable);
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
  assert_null(store_qcow2_new(model->store, &disk->manifest, NULL, cancellable, &error));
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
}

static void
test_missing_chunk_is_named_with_its_extent(void **state)
{
  Model *model = *state;
  StoreChunkId id = {{1, 2, 3}};
  Disk disk = {.manifest.size = 10 * CLUSTER};
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(model->worker, NULL, disk.manifest.size, NULL, NULL);
  assert_true(store_manifest_builder_set(builder, 5, &id, NULL));
  assert_true(store_manifest_builder_finish(builder, &disk.manifest, NULL));
  g_autofree char *path = model_path(model, "image");
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  g_autoptr(GError) error = fail_to_write(model, &disk, cbt_file_ops_default(), fd, NULL);
  check_error(&error, CBT_ERROR_CORRUPT, "offset 327680");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_image_of_any_size_reads_as_the_disk),
      TEST(test_disk_without_data_reads_as_zeros),
      TEST(test_size_between_sectors_is_rounded_up_with_zeros),
      TEST(test_refcounts_cover_their_own_blocks),
      TEST(test_large_image_reads_as_the_disk),
      TEST(test_sparse_1_tib_is_quick),
      TEST(test_overlay_upon_qcow2_reads_as_the_later_disk),
      TEST(test_overlay_upon_raw_reads_as_the_later_disk),
      TEST(test_overlay_of_several_tables_reads_as_the_later_disk),
      TEST(test_overlay_hides_what_became_zeros),
      TEST(test_overlay_of_a_smaller_disk_reads_as_that),
      TEST(test_backing_name_of_a_wrong_length_is_refused),
      TEST(test_same_disk_gives_the_same_bytes_through_a_pipe_by_any_number_of_threads),
      TEST(test_failing_write_is_the_exports_error),
      TEST(test_broken_pipe_is_the_exports_error),
      TEST(test_cancelled_export_stops),
      TEST(test_missing_chunk_is_named_with_its_extent),
  };
  signal(SIGPIPE, SIG_IGN);
  skip_without_qemu_img();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
