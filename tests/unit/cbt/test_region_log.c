/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/region-log-format.h>
#include <cbt/tracker-private.h>
#include <common/bytes.h>
#include <common/fd.h>
#include <pthread.h>
#include <tests/support/fault-ops.h>

#include "bitmap-fixture.h"

#define REGION CBT_REGION_LOG_REGION_SIZE
#define SIZE   (5000 * REGION - 512) /* two sectors, a partial last region */

static CbtRegionLog *
create(const Fixture *f, const CbtFileOps *ops, gboolean flag_all)
{
  g_autoptr(GError) error = NULL;
  CbtRegionLog *log = cbt_region_log_create(ops, f->directory, &f->disk.disk_id, SIZE, flag_all, &error);
  assert_no_error(error);
  return log;
}

static CbtRegionLog *
load(const Fixture *f)
{
  g_autoptr(GError) error = NULL;
  CbtRegionLog *log =
      cbt_region_log_load(cbt_file_ops_default(), f->directory, &f->disk.disk_id, SIZE, &error);
  assert_no_error(error);
  return log;
}

static void
expect_load_error(const Fixture *f, guint64 size, const CbtUuid *disk_id, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  assert_null(cbt_region_log_load(cbt_file_ops_default(), f->directory, disk_id, size, &error));
  assert_code(&error, code);
}

/* Changes one byte of the file. */
static void
flip(const Fixture *f, guint64 offset)
{
  g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME, NULL);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC);
  guint8 byte;
  assert_int_equal(cbt_pread_full(fd, &byte, 1, offset), 1);
  byte ^= 1;
  assert_true(cbt_pwrite_full(fd, &byte, 1, offset));
}

static void
test_opened_regions_are_flagged_after_a_crash(void **state)
{
  const Fixture *f = *state;
  CbtRegionLog *log = create(f, cbt_file_ops_default(), FALSE);
  CbtUuid id = *cbt_region_log_id(log);
  assert_false(cbt_region_log_is_open(log, 0, 1));
  cbt_region_log_open_range(log, 2 * REGION - 1, 2);       /* 1 and 2 */
  cbt_region_log_open_range(log, 4032 * REGION - 1, 2);    /* the border of sectors */
  cbt_region_log_open_range(log, SIZE - 512, G_MAXUINT64); /* clipped */
  cbt_region_log_open_range(log, SIZE, 1);
  cbt_region_log_open_range(log, 0, 0);
  assert_true(cbt_region_log_is_open(log, REGION, 2 * REGION));
  assert_false(cbt_region_log_is_open(log, REGION, 2 * REGION + 1));
  assert_true(cbt_region_log_is_open(log, 0, 0) && cbt_region_log_is_open(log, SIZE, 9));
  cbt_region_log_free(log);

  log = load(f);
  assert_true(cbt_uuid_equal(&id, cbt_region_log_id(log)));
  assert_int_equal(cbt_region_log_count(log), 5);
  CbtBitmap *bitmap = cbt_bitmap_new(SIZE, CBT_GRANULARITY_DEFAULT);
  cbt_region_log_mark(log, bitmap);
  assert_int_equal(cbt_bitmap_count(bitmap), 5 * REGION - 512);
  assert_true(cbt_bitmap_get(bitmap, 4031 * REGION) && cbt_bitmap_get(bitmap, 4032 * REGION));
  cbt_bitmap_free(bitmap);
  cbt_region_log_remove(log);
  expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_NOT_FOUND);
}

static void
test_open_region_costs_no_call(void **state)
{
  const Fixture *f = *state;
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  CbtRegionLog *log = create(f, &faults.ops, FALSE);
  cbt_fault_ops_arm(&faults, 0, 0, CBT_FAULT_ONCE);
  cbt_region_log_open_range(log, 7, 9);
  assert_int_equal(faults.n_calls, 2); /* one sector, one sync */
  for (guint i = 0; i < 1000; i++)
    cbt_region_log_open_range(log, i * 4096, 4096);
  assert_int_equal(faults.n_calls, 2);
  cbt_region_log_free(log);
}

enum { N_THREADS = 16 };

/* A disk whose first sync takes until all threads have asked. */
typedef struct {
  CbtFileOps ops;
  CbtRegionLog *log;
  guint n_syncs; /* atomic */
} SlowDisk;

static int
slow_fdatasync(const CbtFileOps *ops, int fd)
{
  SlowDisk *disk = ops->user;
  if (__atomic_fetch_add(&disk->n_syncs, 1, __ATOMIC_SEQ_CST) == 0)
    while (cbt_region_log_count(disk->log) < N_THREADS)
      g_thread_yield();
  return fdatasync(fd);
}

typedef struct {
  CbtRegionLog *log;
  guint64 region;
} Writer;

static void *
write_first(void *user_data)
{
  const Writer *writer = user_data;
  cbt_region_log_open_range(writer->log, writer->region * REGION, 4096);
  return GINT_TO_POINTER(cbt_region_log_is_open(writer->log, writer->region * REGION, 4096));
}

static void
test_first_writers_share_a_flush(void **state)
{
  const Fixture *f = *state;
  SlowDisk disk = {.ops = *cbt_file_ops_default()};
  pthread_t threads[N_THREADS];
  Writer writers[N_THREADS];
  disk.ops.user = &disk;
  disk.log = create(f, &disk.ops, FALSE);
  disk.ops.fdatasync = slow_fdatasync;
  for (guint i = 0; i < N_THREADS; i++) {
    writers[i] = (Writer){disk.log, i * 300};
    assert_int_equal(pthread_create(&threads[i], NULL, write_first, &writers[i]), 0);
  }
  for (guint i = 0; i < N_THREADS; i++) {
    void *is_open;
    assert_int_equal(pthread_join(threads[i], &is_open), 0);
    assert_non_null(is_open);
  }
  assert_int_equal(disk.n_syncs, 2); /* one by who came first, one for all the others */
  cbt_region_log_free(disk.log);
  disk.log = load(f);
  assert_int_equal(cbt_region_log_count(disk.log), N_THREADS);
  cbt_region_log_free(disk.log);
}

typedef struct {
  CbtRegionLog *log;
  gint stop; /* atomic */
} Trimmer;

static void *
write_many(void *user_data)
{
  const Writer *writer = user_data;
  for (guint i = 0; i < 300; i++) {
    guint64 offset = (writer->region * 7 + i % 50) * REGION;
    cbt_region_log_open_range(writer->log, offset, 4096);
    cbt_region_log_is_open(writer->log, offset, 4096);
  }
  return NULL;
}

static void *
trim_many(void *user_data)
{
  Trimmer *trimmer = user_data;
  while (!__atomic_load_n(&trimmer->stop, __ATOMIC_ACQUIRE)) {
    cbt_region_log_begin_trim(trimmer->log);
    if (!cbt_region_log_finish_trim(trimmer->log, NULL))
      break;
  }
  return NULL;
}

static void
test_trims_and_writers_do_not_lock_up(void **state)
{
  const Fixture *f = *state;
  Trimmer trimmer = {.log = create(f, cbt_file_ops_default(), FALSE)};
  pthread_t trimming, threads[4];
  Writer writers[4];
  assert_int_equal(pthread_create(&trimming, NULL, trim_many, &trimmer), 0);
  for (guint i = 0; i < 4; i++) {
    writers[i] = (Writer){trimmer.log, i};
    assert_int_equal(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
  }
  for (guint i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  __atomic_store_n(&trimmer.stop, TRUE, __ATOMIC_RELEASE);
  pthread_join(trimming, NULL);
  assert_false(cbt_region_log_is_broken(trimmer.log, NULL));
  cbt_region_log_free(trimmer.log);
}

static void
test_trim_keeps_what_is_written_meanwhile(void **state)
{
  const Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  CbtRegionLog *log = create(f, &faults.ops, FALSE);
  cbt_region_log_open_range(log, 0, 3 * REGION);
  cbt_region_log_begin_trim(log);
  assert_false(cbt_region_log_is_open(log, 0, 1));
  cbt_fault_ops_arm(&faults, 0, 0, CBT_FAULT_ONCE);
  cbt_region_log_open_range(log, REGION, 1); /* its flag is durable already */
  assert_int_equal(faults.n_calls, 0);
  cbt_region_log_open_range(log, 9 * REGION, 1);
  assert_int_equal(cbt_region_log_count(log), 4);
  assert_true(cbt_region_log_finish_trim(log, &error));
  assert_int_equal(cbt_region_log_count(log), 2);
  assert_true(cbt_region_log_is_open(log, REGION, 1) && cbt_region_log_is_open(log, 9 * REGION, 1));
  assert_false(cbt_region_log_is_open(log, 0, 1));
  cbt_region_log_begin_trim(log); /* and never finished */
  cbt_region_log_free(log);
  log = load(f);
  assert_int_equal(cbt_region_log_count(log), 2);
  cbt_region_log_free(log);
}

static void
test_failed_flush_lets_the_writer_go_and_takes_the_log_away(void **state)
{
  const Fixture *f = *state;
  const CbtFaultFlags kinds[] = {CBT_FAULT_ONCE, CBT_FAULT_TORN, CBT_FAULT_FOR_EVER};
  for (guint kind = 0; kind < G_N_ELEMENTS(kinds); kind++)
    for (guint n = 1; n <= 2; n++) {
      gboolean is_invalid;
      CbtFaultOps faults;
      cbt_fault_ops_init(&faults);
      CbtRegionLog *log = create(f, &faults.ops, FALSE);
      cbt_fault_ops_arm(&faults, n, EIO, kinds[kind]);
      cbt_region_log_open_range(log, 0, 1);
      assert_true(cbt_region_log_is_open(log, 0, SIZE));
      assert_true(cbt_region_log_is_broken(log, &is_invalid));
      assert_int_equal(is_invalid, kinds[kind] != CBT_FAULT_FOR_EVER);
      assert_false(cbt_region_log_finish_trim(log, NULL));
      assert_true(cbt_fault_ops_disarm(&faults));
      cbt_region_log_free(log);
      if (is_invalid)
        expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_CORRUPT);
    }
}

static void
test_failed_create_or_load_says_so(void **state)
{
  const Fixture *f = *state;
  gboolean failed = TRUE;
  for (guint n = 1; failed; n++) {
    CbtFaultOps faults;
    g_autoptr(GError) error = NULL;
    cbt_fault_ops_init(&faults);
    cbt_fault_ops_arm(&faults, n, ENOSPC, CBT_FAULT_TORN);
    CbtRegionLog *log =
        cbt_region_log_create(&faults.ops, f->directory, &f->disk.disk_id, SIZE, TRUE, &error);
    failed = cbt_fault_ops_disarm(&faults);
    if (log == NULL)
      assert_code(&error, CBT_ERROR_NO_SPACE);
    g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME ".tmp", NULL);
    assert_int_equal(access(path, F_OK), -1);
    cbt_region_log_free(log);
  }
  failed = TRUE;
  for (guint n = 1; failed; n++) {
    CbtFaultOps faults;
    cbt_region_log_free(create(f, cbt_file_ops_default(), TRUE));
    cbt_fault_ops_init(&faults);
    cbt_fault_ops_arm(&faults, n, EIO, CBT_FAULT_ONCE);
    CbtRegionLog *log = cbt_region_log_load(&faults.ops, f->directory, &f->disk.disk_id, SIZE, NULL);
    failed = cbt_fault_ops_disarm(&faults);
    assert_true(log != NULL || failed);
    if (log != NULL)
      assert_int_equal(cbt_region_log_count(log), 5000);
    cbt_region_log_free(log);
  }
}

static void
test_damaged_header_is_refused_and_damaged_sector_is_all_flagged(void **state)
{
  const Fixture *f = *state;
  g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME, NULL);
  const guint64 spots[] = {0, 8, 16, 70, CBT_REGION_LOG_AT_CHECKSUM};
  for (guint i = 0; i < G_N_ELEMENTS(spots); i++) {
    cbt_region_log_free(create(f, cbt_file_ops_default(), FALSE));
    flip(f, spots[i]);
    expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_CORRUPT);
  }
  cbt_region_log_free(create(f, cbt_file_ops_default(), FALSE));
  flip(f, CBT_REGION_LOG_PAGE + CBT_REGION_LOG_SECTOR + 3);
  CbtRegionLog *log = load(f);
  assert_int_equal(cbt_region_log_count(log), 5000 - 4032);
  cbt_region_log_free(log);
  assert_int_equal(truncate(path, CBT_REGION_LOG_PAGE + CBT_REGION_LOG_SECTOR), 0);
  expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_CORRUPT);
  assert_int_equal(truncate(path, 100), 0);
  expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_CORRUPT);
}

static void
test_log_of_another_disk_size_or_version_is_refused(void **state)
{
  const Fixture *f = *state;
  const CbtUuid other = {.bytes = {1}};
  guint8 page[CBT_REGION_LOG_PAGE];
  g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME, NULL);
  cbt_region_log_free(create(f, cbt_file_ops_default(), FALSE));
  expect_load_error(f, SIZE, &other, CBT_ERROR_INCONSISTENT);
  expect_load_error(f, SIZE - 512, &f->disk.disk_id, CBT_ERROR_INCONSISTENT);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC);
  assert_int_equal(cbt_pread_full(fd, page, sizeof page, 0), sizeof page);
  cbt_put_u32(page + CBT_REGION_LOG_AT_VERSION, 2);
  cbt_put_u64(page + CBT_REGION_LOG_AT_CHECKSUM, cbt_checksum64(page, CBT_REGION_LOG_AT_CHECKSUM));
  assert_true(cbt_pwrite_full(fd, page, sizeof page, 0));
  expect_load_error(f, SIZE, &f->disk.disk_id, CBT_ERROR_UNSUPPORTED);
}

/* --- with a tracker --- */

static const CbtUuid point_a = {.bytes = {0xa}};

static CbtTracker *
open_in_boot(const Fixture *f, int image_fd, guint8 number, gint64 started_ns)
{
  g_autoptr(GError) error = NULL;
  CbtBoot boot = {.id = {.bytes = {number}}, .started_ns = started_ns};
  CbtTracker *tracker = cbt_tracker_open_in_boot(cbt_file_ops_default(), f->directory, NULL, image_fd,
                                                 &f->disk.disk_id, &boot, &error);
  assert_no_error(error);
  return tracker;
}

/* A bitmap based on point A; then one cluster written; then as after a crash. */
static void
write_and_crash(const Fixture *f, int image_fd, gboolean frozen)
{
  CbtTracker *tracker = open_in_boot(f, image_fd, 1, 0);
  g_autoptr(GError) error = NULL;
  assert_true(cbt_tracker_add(tracker, "daily", CBT_GRANULARITY_DEFAULT, &error));
  assert_true(cbt_tracker_apply(tracker, "daily", CBT_BITMAP_CREATE_SUCCESSOR, &point_a, NULL, &error));
  assert_true(cbt_tracker_apply(tracker, "daily", CBT_BITMAP_ABDICATE, NULL, NULL, &error));
  cbt_tracker_wait_for_trim(tracker);
  if (frozen)
    assert_true(cbt_tracker_apply(tracker, "daily", CBT_BITMAP_CREATE_SUCCESSOR, &point_a, NULL, &error));
  cbt_tracker_open_range(tracker, 3 * REGION, 1);
  assert_int_equal(cbt_region_log_count(cbt_tracker_region_log(tracker)), 1);
  cbt_tracker_record(tracker, 3 * REGION, 1);
  cbt_tracker_abandon(tracker);
}

static int
make_image(const Fixture *f)
{
  g_autofree char *image = g_build_filename(f->directory, "image", NULL);
  int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal(ftruncate(fd, (off_t) (100 * REGION)), 0);
  return fd;
}

static void
test_only_open_regions_are_dirty_after_another_boot(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  for (guint frozen = 0; frozen < 2; frozen++) {
    CbtBitmapInfo info;
    write_and_crash(f, image_fd, frozen);
    CbtTracker *tracker = open_in_boot(f, image_fd, 2, G_MAXINT64);
    cbt_tracker_info(tracker, 0, &info);
    assert_int_equal(info.state, frozen ? CBT_BITMAP_FROZEN : CBT_BITMAP_ACTIVE);
    assert_true(cbt_uuid_equal(&info.base, &point_a));
    assert_int_equal(info.count, REGION);
    assert_int_equal(info.successor_count, frozen ? REGION : 0);
    assert_int_equal(cbt_region_log_count(cbt_tracker_region_log(tracker)), 0);
    cbt_tracker_abandon(tracker);
    unlink(f->path);
  }
}

static void
test_dead_process_leaves_exact_bits_and_the_flags(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  CbtBitmapInfo info;
  write_and_crash(f, image_fd, FALSE);
  CbtTracker *tracker = open_in_boot(f, image_fd, 1, 0);
  cbt_tracker_info(tracker, 0, &info);
  assert_int_equal(info.count, CBT_GRANULARITY_DEFAULT);
  assert_int_equal(cbt_region_log_count(cbt_tracker_region_log(tracker)), 1);
  cbt_tracker_abandon(tracker);
}

static void
test_without_its_log_a_bitmap_is_inconsistent_after_another_boot(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME, NULL);
  for (guint how = 0; how < 4; how++) {
    CbtBitmapInfo info;
    write_and_crash(f, image_fd, FALSE);
    if (how == 0)
      unlink(path);
    else if (how == 1)
      flip(f, 20);
    else if (how == 2) /* a good one, but not the one */
      cbt_region_log_free(cbt_region_log_create(cbt_file_ops_default(), f->directory, &f->disk.disk_id,
                                                100 * REGION, FALSE, NULL));
    /* the fourth time the image was written after the boot began */
    CbtTracker *tracker = open_in_boot(f, image_fd, 2, how == 3 ? 0 : G_MAXINT64);
    cbt_tracker_info(tracker, 0, &info);
    assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
    assert_non_null(strstr(info.reason, "the host went down"));
    cbt_tracker_abandon(tracker);
    unlink(f->path);
  }
}

/* An older copy of bitmaps and log, say, put back before the disk was opened again. */
static void
test_bitmap_that_was_altered_since_the_host_went_down_is_inconsistent(void **state)
{
  const Fixture *f = *state;
  struct stat image, bitmap;
  CbtBitmapInfo info;
  CBT_AUTO_FD int image_fd = make_image(f);
  write_and_crash(f, image_fd, FALSE);
  assert_int_equal(fstat(image_fd, &image), 0);
  do {
    assert_int_equal(chmod(f->path, 0600), 0);
    assert_int_equal(stat(f->path, &bitmap), 0);
  } while (cbt_timespec_ns(&bitmap.st_ctim) <= cbt_timespec_ns(&image.st_ctim));
  CbtTracker *tracker = open_in_boot(f, image_fd, 2, cbt_timespec_ns(&bitmap.st_ctim));
  cbt_tracker_info(tracker, 0, &info);
  assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
  assert_non_null(strstr(info.reason, "put there"));
  cbt_tracker_abandon(tracker);
}

static void
test_broken_log_does_not_disturb_and_is_not_believed(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  for (guint for_ever = 0; for_ever < 2; for_ever++) {
    CbtBitmapInfo info;
    CbtFaultOps faults;
    g_autoptr(GError) error = NULL;
    write_and_crash(f, image_fd, FALSE);
    cbt_fault_ops_init(&faults);
    CbtBoot boot = {.id = {.bytes = {1}}};
    CbtTracker *tracker =
        cbt_tracker_open_in_boot(&faults.ops, f->directory, NULL, image_fd, &f->disk.disk_id, &boot, &error);
    assert_no_error(error);
    cbt_fault_ops_arm(&faults, 1, EIO, for_ever ? CBT_FAULT_FOR_EVER : CBT_FAULT_ONCE);
    cbt_tracker_open_range(tracker, 50 * REGION, 1);
    assert_true(cbt_tracker_is_range_open(tracker, 50 * REGION, 1));
    cbt_tracker_record(tracker, 50 * REGION, 1);
    assert_true(cbt_fault_ops_disarm(&faults));
    /* If the log could not be made invalid, the headers let go of it at the next call. */
    assert_true(cbt_tracker_apply(tracker, "daily", CBT_BITMAP_CREATE_SUCCESSOR, &point_a, NULL, &error));
    cbt_tracker_abandon(tracker);
    tracker = open_in_boot(f, image_fd, 2, G_MAXINT64);
    cbt_tracker_info(tracker, 0, &info);
    assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
    cbt_tracker_abandon(tracker);
    unlink(f->path);
  }
}

static void
test_clean_close_leaves_no_log(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  g_autofree char *path = g_build_filename(f->directory, CBT_REGION_LOG_NAME, NULL);
  g_autoptr(GError) error = NULL;
  write_and_crash(f, image_fd, FALSE);
  CbtTracker *tracker = open_in_boot(f, image_fd, 1, 0);
  assert_int_equal(access(path, F_OK), 0);
  assert_true(cbt_tracker_close(tracker, &error));
  assert_int_equal(access(path, F_OK), -1);
  tracker = open_in_boot(f, image_fd, 2, 0);
  assert_int_equal(cbt_region_log_count(cbt_tracker_region_log(tracker)), 0);
  assert_true(cbt_tracker_close(tracker, &error));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int
main(void)
{
  if (access("/dev/shm", W_OK) == 0)
    g_setenv("TMPDIR", "/dev/shm", FALSE);
  const struct CMUnitTest tests[] = {
      TEST(test_opened_regions_are_flagged_after_a_crash),
      TEST(test_open_region_costs_no_call),
      TEST(test_first_writers_share_a_flush),
      TEST(test_trims_and_writers_do_not_lock_up),
      TEST(test_trim_keeps_what_is_written_meanwhile),
      TEST(test_failed_flush_lets_the_writer_go_and_takes_the_log_away),
      TEST(test_failed_create_or_load_says_so),
      TEST(test_damaged_header_is_refused_and_damaged_sector_is_all_flagged),
      TEST(test_log_of_another_disk_size_or_version_is_refused),
      TEST(test_only_open_regions_are_dirty_after_another_boot),
      TEST(test_dead_process_leaves_exact_bits_and_the_flags),
      TEST(test_without_its_log_a_bitmap_is_inconsistent_after_another_boot),
      TEST(test_bitmap_that_was_altered_since_the_host_went_down_is_inconsistent),
      TEST(test_broken_log_does_not_disturb_and_is_not_believed),
      TEST(test_clean_close_leaves_no_log),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
