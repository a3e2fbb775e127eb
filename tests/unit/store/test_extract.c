/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdatomic.h>
#include <store/extract.h>
#include <string.h>
#include <sys/mount.h>
#include <tests/support/loop.h>
#include <tests/support/store-files.h>
#include <unistd.h>

#define CLUSTER CBT_CLUSTER_SIZE
/* More than two segments of the extraction; the last cluster is partial. */
#define N_CLUSTERS 2100u
#define SIZE       (N_CLUSTERS * CLUSTER - 12345)

typedef struct {
  char *folder;
  char *target; /* path */
  char *device; /* (nullable) a loop device over it */
  Store *store;
  StoreWorker *worker;
  guint8 *disk; /* what the manifest says, SIZE bytes rounded up to clusters */
  StoreManifest manifest;
  guint64 data_bytes; /* of clusters that are not zero, up to SIZE */
} Fixture;

static void
open_store(Fixture *fixture)
{
  g_autofree char *directory = g_build_filename(fixture->folder, "store", NULL);
  StoreOptions options = {.dedup_verify = FALSE, .group_clusters = 1};
  fixture->store = store_open(directory, &options, NULL);
  assert_non_null(fixture->store);
  fixture->worker = store_worker_new(fixture->store);
}

static void
close_store(Fixture *fixture)
{
  g_clear_pointer(&fixture->worker, store_worker_free);
  g_clear_pointer(&fixture->store, store_close);
}

/* Stretches of zeros of a cluster up to many windows, between few different contents, of which some do not
 * compress. */
static gboolean
cluster_has_data(guint i)
{
  return i == N_CLUSTERS - 1 || i % 37 < 9 || (i % 37 < 20 && i % 3 == 0) || (i > 300 && i < 340);
}

static void
fill_disk(Fixture *fixture)
{
  fixture->disk = g_malloc0(N_CLUSTERS * CLUSTER);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    if ((i > 1000 && i < 1500) || !cluster_has_data(i))
      continue;
    if (i % 2)
      store_test_fill_text(fixture->disk + i * CLUSTER, CLUSTER, 1 + i % 50);
    else
      store_test_fill_random(fixture->disk + i * CLUSTER, CLUSTER, 1 + i % 50);
    fixture->data_bytes += MIN(CLUSTER, SIZE - i * CLUSTER);
  }
  memset(fixture->disk + SIZE, 0, N_CLUSTERS * CLUSTER - SIZE);
}

static StoreManifest
build_manifest(Fixture *fixture, guint64 size)
{
  StoreManifest manifest;
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(fixture->worker, NULL, size, NULL, NULL);
  assert_non_null(builder);
  for (guint64 i = 0; i < store_manifest_n_clusters(size); i++) {
    StoreChunkId id;
    guint8 data[CLUSTER] = {0};
    memcpy(data, fixture->disk + i * CLUSTER, MIN(CLUSTER, size - i * CLUSTER));
    assert_true(store_put(fixture->worker, STORE_CHUNK_DATA, data, CLUSTER, &id, NULL, NULL, NULL));
    assert_true(store_manifest_builder_set(builder, i, &id, NULL));
  }
  assert_true(store_manifest_builder_finish(builder, &manifest, NULL));
  return manifest;
}

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->target = g_build_filename(fixture->folder, "disk.raw", NULL);
  open_store(fixture);
  fill_disk(fixture);
  fixture->manifest = build_manifest(fixture, SIZE);
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  close_store(fixture);
  if (fixture->device)
    test_loop_detach(fixture->device);
  store_test_folder_free(fixture->folder);
  g_free(fixture->target);
  g_free(fixture->disk);
  g_free(fixture);
  return 0;
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->domain != CBT_ERROR || (*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

static int
open_target(const char *path)
{
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  return fd;
}

static StoreExtractResult
extract(Fixture *fixture, const char *path, gboolean in_place, guint n_threads)
{
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {.in_place = in_place, .n_threads = n_threads};
  StoreExtractResult result = {0};
  CBT_AUTO_FD int fd = open_target(path);
  if (!store_extract_raw(fixture->store, &fixture->manifest, fd, &options, &result, &error))
    fail_msg("%s", error->message);
  return result;
}

static gboolean
extract_fails(Fixture *fixture, const StoreExtractOptions *options, GError **error)
{
  StoreExtractResult result = {0};
  CBT_AUTO_FD int fd = open_target(fixture->target);
  return !store_extract_raw(fixture->store, &fixture->manifest, fd, options, &result, error);
}

/* The first LENGTH bytes of PATH are those of the disk. */
static void
assert_contents(Fixture *fixture, const char *path, guint64 length)
{
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  g_autofree guint8 *buffer = g_malloc(CLUSTER);
  for (guint64 at = 0; at < length; at += CLUSTER) {
    gsize n = MIN(CLUSTER, length - at);
    assert_int_equal(cbt_pread_full(fd, buffer, n, at), n);
    if (memcmp(buffer, fixture->disk + at, n) != 0)
      fail_msg("%s differs in the cluster at %" G_GUINT64_FORMAT, path, at);
  }
}

static void
assert_is_disk(Fixture *fixture)
{
  assert_int_equal(store_test_file_size(fixture->target), fixture->manifest.size);
  assert_contents(fixture, fixture->target, fixture->manifest.size);
}

static guint64
allocated_bytes(const char *path)
{
  GStatBuf st;
  assert_int_equal(g_stat(path, &st), 0);
  return (guint64) st.st_blocks * 512;
}

static void
write_at(const char *path, const void *data, gsize length, guint64 offset)
{
  CBT_AUTO_FD int fd = open_target(path);
  assert_true(cbt_pwrite_full(fd, data, length, offset));
}

/* ---- new files ---- */

static void
test_new_file_is_the_disk(void **state)
{
  Fixture *fixture = *state;
  const guint n_threads[] = {1, 2, 7, 0};
  for (guint i = 0; i < G_N_ELEMENTS(n_threads); i++) {
    StoreExtractResult result = extract(fixture, fixture->target, FALSE, n_threads[i]);
    assert_is_disk(fixture);
    assert_int_equal(result.written, fixture->data_bytes);
    assert_int_equal(result.zero, SIZE - fixture->data_bytes);
    assert_int_equal(g_unlink(fixture->target), 0);
  }
}

static void
test_zeros_of_a_new_file_are_holes(void **state)
{
  Fixture *fixture = *state;
  extract(fixture, fixture->target, FALSE, 2);
  assert_in_range(allocated_bytes(fixture->target), fixture->data_bytes / 2, fixture->data_bytes + 64 * 4096);
}

static void
test_any_size_is_given_back(void **state)
{
  Fixture *fixture = *state;
  const guint64 sizes[] = {0,
                           1,
                           4096,
                           CLUSTER - 1,
                           CLUSTER,
                           CLUSTER + 1,
                           17 * CLUSTER + 513,
                           128 * CLUSTER,
                           1024 * CLUSTER,
                           1024 * CLUSTER + 1};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    fixture->manifest = build_manifest(fixture, sizes[i]);
    StoreExtractResult result = extract(fixture, fixture->target, FALSE, 2);
    assert_is_disk(fixture);
    assert_int_equal(result.written + result.zero, sizes[i]);
    StoreExtractResult again = extract(fixture, fixture->target, TRUE, 2);
    assert_is_disk(fixture);
    assert_int_equal(again.written, 0);
  }
}

static void
test_old_contents_of_a_file_not_in_place_are_gone(void **state)
{
  Fixture *fixture = *state;
  g_autofree guint8 *old = g_malloc(SIZE + CLUSTER);
  memset(old, 0xee, SIZE + CLUSTER);
  store_test_write(fixture->target, old, SIZE + CLUSTER);
  extract(fixture, fixture->target, FALSE, 2);
  assert_is_disk(fixture);
  assert_true(allocated_bytes(fixture->target) < fixture->data_bytes + 64 * 4096);
}

static void
test_large_sparse_disk_is_quick(void **state)
{
  Fixture *fixture = *state;
  const guint64 size = G_GUINT64_CONSTANT(1) << 40;
  StoreChunkId id;
  guint8 last[CLUSTER], found[CLUSTER];
  store_test_fill_random(last, CLUSTER, 4);
  assert_true(store_put(fixture->worker, STORE_CHUNK_DATA, last, CLUSTER, &id, NULL, NULL, NULL));
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(fixture->worker, NULL, size, NULL, NULL);
  assert_true(store_manifest_builder_set(builder, size / CLUSTER - 1, &id, NULL));
  assert_true(store_manifest_builder_finish(builder, &fixture->manifest, NULL));
  for (guint in_place = 0; in_place < 2; in_place++) {
    StoreExtractResult result = extract(fixture, fixture->target, in_place != 0, 2);
    assert_int_equal(result.written, in_place ? 0 : CLUSTER);
    assert_int_equal(result.zero, size - CLUSTER);
  }
  CBT_AUTO_FD int fd = open_target(fixture->target);
  assert_int_equal(cbt_pread_full(fd, found, CLUSTER, size - CLUSTER), CLUSTER);
  assert_memory_equal(found, last, CLUSTER);
}

/* ---- in place ---- */

static void
test_in_place_writes_only_what_differs(void **state)
{
  Fixture *fixture = *state;
  guint8 junk[3 * CLUSTER];
  memset(junk, 0x77, sizeof junk);
  extract(fixture, fixture->target, FALSE, 2);
  write_at(fixture->target, junk, 1, 2 * CLUSTER + 5);               /* data cluster 2 */
  write_at(fixture->target, junk, 2 * CLUSTER, 310 * CLUSTER + 100); /* data clusters 310 to 312 */
  write_at(fixture->target, junk, 1, SIZE - 1);                      /* the last, partial one */
  StoreExtractResult result = extract(fixture, fixture->target, TRUE, 3);
  assert_is_disk(fixture);
  assert_int_equal(result.written, 4 * CLUSTER + (SIZE - (N_CLUSTERS - 1) * CLUSTER));
  assert_int_equal(result.zero, SIZE - fixture->data_bytes);
}

static void
test_in_place_makes_zeros_holes_again(void **state)
{
  Fixture *fixture = *state;
  guint8 junk[3 * CLUSTER];
  memset(junk, 0x77, sizeof junk);
  extract(fixture, fixture->target, FALSE, 2);
  guint64 before = allocated_bytes(fixture->target);
  write_at(fixture->target, junk, sizeof junk, 1200 * CLUSTER); /* amid zeros */
  write_at(fixture->target, junk, CLUSTER, 35 * CLUSTER);       /* a zero cluster of a mixed window */
  assert_true(allocated_bytes(fixture->target) > before);
  StoreExtractResult result = extract(fixture, fixture->target, TRUE, 2);
  assert_is_disk(fixture);
  assert_int_equal(result.written, 0);
  assert_in_range(allocated_bytes(fixture->target), before - 4096, before + 64 * 1024);
}

static void
test_in_place_cuts_and_extends_a_file(void **state)
{
  Fixture *fixture = *state;
  g_autofree guint8 *junk = g_malloc(SIZE + 3 * CLUSTER);
  store_test_fill_random(junk, SIZE + 3 * CLUSTER, 99);
  store_test_write(fixture->target, junk, SIZE + 3 * CLUSTER);
  extract(fixture, fixture->target, TRUE, 2);
  assert_is_disk(fixture);
  store_test_write(fixture->target, junk, 100 * CLUSTER + 7);
  extract(fixture, fixture->target, TRUE, 2);
  assert_is_disk(fixture);
}

/* ---- block devices ---- */

/* A writable loop device over a new file of SIZE bytes 0xee; skips the test where there is none. */
static const char *
attach_device(Fixture *fixture, guint64 size)
{
  g_autofree guint8 *old = g_malloc(size);
  const char *argv[] = {"losetup", "--show", "-f", fixture->target, NULL};
  char *device = NULL;
  int status = -1;
  memset(old, 0xee, size);
  store_test_write(fixture->target, old, size);
  if (geteuid() != 0 ||
      !g_spawn_sync(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                    &device, NULL, &status, NULL) ||
      status != 0) {
    g_free(device);
    print_message("skipped: no loop device to be had\n");
    skip();
  }
  fixture->device = g_strstrip(device);
  return fixture->device;
}

static void
test_device_gets_zeros_where_old_data_was(void **state)
{
  Fixture *fixture = *state;
  const char *device = attach_device(fixture, SIZE + 12345 + 2 * CLUSTER);
  guint8 behind[2 * CLUSTER], expected[2 * CLUSTER];
  StoreExtractResult result = extract(fixture, device, FALSE, 2);
  assert_contents(fixture, device, SIZE);
  assert_in_range(result.written, fixture->data_bytes, SIZE);
  assert_int_equal(result.zero, SIZE - fixture->data_bytes);
  CBT_AUTO_FD int fd = open_target(device);
  memset(expected, 0xee, sizeof expected);
  assert_int_equal(cbt_pread_full(fd, behind, sizeof behind, SIZE + 12345), sizeof behind);
  assert_memory_equal(behind, expected, sizeof behind);
  cbt_clear_fd(&fd);
  StoreExtractResult again = extract(fixture, device, TRUE, 2);
  assert_int_equal(again.written, 0);
}

static void
test_device_that_is_too_small_is_refused_untouched(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {0};
  StoreExtractResult result;
  const char *device = attach_device(fixture, 100 * CLUSTER);
  CBT_AUTO_FD int fd = open_target(device);
  guint8 first = 0;
  assert_false(store_extract_raw(fixture->store, &fixture->manifest, fd, &options, &result, &error));
  assert_int_equal(cbt_pread_full(fd, &first, 1, 0), 1);
  check_error(&error, CBT_ERROR_INVALID, "device");
  assert_int_equal(first, 0xee);
}

static void
test_pipe_is_refused(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {0};
  StoreExtractResult result;
  int fds[2];
  assert_int_equal(pipe(fds), 0);
  assert_false(store_extract_raw(fixture->store, &fixture->manifest, fds[1], &options, &result, &error));
  check_error(&error, CBT_ERROR_INVALID, "neither");
  close(fds[0]);
  close(fds[1]);
}

/* ---- failures ---- */

static void
test_damaged_chunk_is_named_with_its_extent(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autofree char *path = g_build_filename(fixture->folder, "store", "packs", "00000001.pack", NULL);
  g_autofree char *offset = g_strdup_printf("%" G_GUINT64_FORMAT, 2099 * CLUSTER);
  g_autofree char *packs = NULL;
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  StoreExtractOptions options = {.n_threads = 2};
  StoreChunkId id;
  gsize length;
  assert_true(store_manifest_get(fixture->worker, &fixture->manifest, 2099, &id, NULL));
  close_store(fixture);
  assert_true(g_file_get_contents(path, &packs, &length, NULL));
  const char *record = memmem(packs, length, &id, sizeof id);
  assert_non_null(record);
  store_test_flip(path, (guint64) (record - packs) + 200, 1);
  open_store(fixture);
  assert_true(extract_fails(fixture, &options, &error));
  assert_non_null(strstr(error->message, offset));
  check_error(&error, CBT_ERROR_CORRUPT, store_chunk_id_format(&id, text));
}

static void
test_missing_chunk_is_damage(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  StoreExtractOptions options = {.n_threads = 2};
  StoreChunkId missing;
  memset(&missing, 0x5a, sizeof missing);
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(fixture->worker, &fixture->manifest, SIZE, NULL, NULL);
  assert_true(store_manifest_builder_set(builder, 3, &missing, NULL));
  assert_true(store_manifest_builder_finish(builder, &fixture->manifest, NULL));
  assert_true(extract_fails(fixture, &options, &error));
  check_error(&error, CBT_ERROR_CORRUPT, store_chunk_id_format(&missing, text));
}

static void
test_chunk_of_another_length_is_damage(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {.n_threads = 2};
  StoreChunkId blob;
  assert_true(store_put(fixture->worker, STORE_CHUNK_BLOB, "short", 5, &blob, NULL, NULL, NULL));
  g_autoptr(StoreManifestBuilder) builder =
      store_manifest_builder_new(fixture->worker, &fixture->manifest, SIZE, NULL, NULL);
  assert_true(store_manifest_builder_set(builder, 3, &blob, NULL));
  assert_true(store_manifest_builder_finish(builder, &fixture->manifest, NULL));
  assert_true(extract_fails(fixture, &options, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "196608");
}

static void
test_damaged_page_fails(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {.n_threads = 2};
  memset(&fixture->manifest.root, 0x5a, sizeof fixture->manifest.root);
  assert_true(extract_fails(fixture, &options, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "manifest page 5a5a");
}

static void
test_cancelled_before_it_begins(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  StoreExtractOptions options = {.cancellable = cancellable};
  g_cancellable_cancel(cancellable);
  assert_true(extract_fails(fixture, &options, &error));
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
}

typedef struct {
  GCancellable *cancellable;
  atomic_uint n_calls;
  atomic_ullong most;
} Progress;

static void
on_progress(guint64 bytes_done, gpointer user_data)
{
  Progress *progress = user_data;
  unsigned long long most = atomic_load(&progress->most);
  while (bytes_done > most && !atomic_compare_exchange_weak(&progress->most, &most, bytes_done))
    continue;
  if (atomic_fetch_add(&progress->n_calls, 1) == 5 && progress->cancellable)
    g_cancellable_cancel(progress->cancellable);
}

static void
test_cancelled_on_the_way_stops_soon(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  Progress progress = {.cancellable = cancellable};
  StoreExtractOptions options = {
      .n_threads = 2, .cancellable = cancellable, .progress = on_progress, .user_data = &progress};
  assert_true(extract_fails(fixture, &options, &error));
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
  assert_in_range(progress.n_calls, 6, 12);
}

static void
test_progress_reaches_the_size(void **state)
{
  Fixture *fixture = *state;
  Progress progress = {0};
  StoreExtractOptions options = {.n_threads = 3, .progress = on_progress, .user_data = &progress};
  StoreExtractResult result;
  CBT_AUTO_FD int fd = open_target(fixture->target);
  assert_true(store_extract_raw(fixture->store, &fixture->manifest, fd, &options, &result, NULL));
  assert_int_equal(progress.most, SIZE);
}

static void
test_full_file_system_is_no_space(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autofree char *folder = g_build_filename(fixture->folder, "small", NULL);
  g_autofree char *path = g_build_filename(folder, "disk.raw", NULL);
  StoreExtractOptions options = {.n_threads = 2};
  StoreExtractResult result;
  assert_int_equal(g_mkdir(folder, 0700), 0);
  if (mount("tmpfs", folder, "tmpfs", 0, "size=1m") != 0) {
    print_message("skipped: no file system can be mounted\n");
    skip();
  }
  int fd = open_target(path);
  gboolean ok = store_extract_raw(fixture->store, &fixture->manifest, fd, &options, &result, &error);
  close(fd);
  assert_int_equal(umount(folder), 0);
  assert_false(ok);
  check_error(&error, CBT_ERROR_NO_SPACE, "cannot write");
}

static void
test_target_that_cannot_be_written_is_an_error(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  StoreExtractOptions options = {.in_place = TRUE, .n_threads = 2};
  StoreExtractResult result;
  store_test_write(fixture->target, "x", 1);
  CBT_AUTO_FD int fd = open(fixture->target, O_RDONLY | O_CLOEXEC);
  assert_false(store_extract_raw(fixture->store, &fixture->manifest, fd, &options, &result, &error));
  check_error(&error, CBT_ERROR_INVALID, "target file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_new_file_is_the_disk),
      TEST(test_zeros_of_a_new_file_are_holes),
      TEST(test_any_size_is_given_back),
      TEST(test_old_contents_of_a_file_not_in_place_are_gone),
      TEST(test_large_sparse_disk_is_quick),
      TEST(test_in_place_writes_only_what_differs),
      TEST(test_in_place_makes_zeros_holes_again),
      TEST(test_in_place_cuts_and_extends_a_file),
      TEST(test_device_gets_zeros_where_old_data_was),
      TEST(test_device_that_is_too_small_is_refused_untouched),
      TEST(test_pipe_is_refused),
      TEST(test_damaged_chunk_is_named_with_its_extent),
      TEST(test_missing_chunk_is_damage),
      TEST(test_chunk_of_another_length_is_damage),
      TEST(test_damaged_page_fails),
      TEST(test_cancelled_before_it_begins),
      TEST(test_cancelled_on_the_way_stops_soon),
      TEST(test_progress_reaches_the_size),
      TEST(test_full_file_system_is_no_space),
      TEST(test_target_that_cannot_be_written_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
