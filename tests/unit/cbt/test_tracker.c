/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/tracker.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <sys/stat.h>
#include <tests/support/fault-ops.h>

#include "bitmap-fixture.h"

#define G FIXTURE_GRANULE

static const CbtUuid point_a = {.bytes = {0xa}};

typedef struct {
  Fixture *base;
  char *folder; /* of the bitmaps */
  int image_fd;
} Disk;

static int
setup(void **state)
{
  Disk *disk = g_new0(Disk, 1);
  if (fixture_setup((void **) &disk->base) != 0)
    return -1;
  g_autofree char *image = g_build_filename(disk->base->directory, "disk.img", NULL);
  disk->folder = g_build_filename(disk->base->directory, "a", "bitmaps", NULL);
  disk->image_fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  *state = disk;
  return ftruncate(disk->image_fd, (off_t) FIXTURE_DISK_SIZE);
}

static int
teardown(void **state)
{
  Disk *disk = *state;
  close(disk->image_fd);
  g_free(disk->folder);
  void *base = disk->base;
  g_free(disk);
  return fixture_teardown(&base);
}

static CbtTracker *
try_open(const Disk *disk, const CbtFileOps *ops, GError **error)
{
  return cbt_tracker_open(ops, disk->folder, NULL, disk->image_fd, &disk->base->disk.disk_id, error);
}

static CbtTracker *
must_open(const Disk *disk)
{
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = try_open(disk, cbt_file_ops_default(), &error);
  assert_no_error(error);
  return tracker;
}

static void
must_close(CbtTracker *tracker)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_tracker_close(tracker, &error))
    fail_msg("%s", error->message);
}

static void
add(CbtTracker *tracker, const char *name, guint64 granularity)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_tracker_add(tracker, name, granularity, &error))
    fail_msg("%s", error->message);
}

static void
apply(CbtTracker *tracker, const char *name, CbtBitmapEvent event, const CbtUuid *pending)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_tracker_apply(tracker, name, event, pending, NULL, &error))
    fail_msg("%s", error->message);
}

static CbtBitmapInfo
info_of(CbtTracker *tracker, const char *name)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info = {0};
  CbtBitmapFile *file = cbt_tracker_find(tracker, name, &error);
  assert_no_error(error);
  cbt_bitmap_file_info(file, &info);
  return info;
}

static char *
path_of(const Disk *disk, const char *file)
{
  return g_build_filename(disk->folder, file, NULL);
}

static void
damage(const Disk *disk, const char *file, guint64 offset, gsize length)
{
  g_autofree char *path = path_of(disk, file);
  g_autofree char *junk = g_malloc(length);
  memset(junk, 0x5a, length);
  CBT_AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
  assert_true(cbt_pwrite_full(fd, junk, length, offset));
}

/* A write by somebody who is not tracked. */
static void
touch_image(const Disk *disk)
{
  struct stat st;
  assert_int_equal(fstat(disk->image_fd, &st), 0);
  struct timespec times[2] = {st.st_atim, st.st_mtim};
  times[1].tv_sec++;
  assert_int_equal(futimens(disk->image_fd, times), 0);
}

static void
test_bitmaps_come_back_sorted_with_their_bits(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 0);
  add(tracker, "weekly", 4096);
  add(tracker, "daily", G);
  cbt_tracker_record(tracker, 3 * G, 10);
  touch_image(disk);
  must_close(tracker);
  tracker = must_open(disk);
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 2);
  CbtBitmapInfo info;
  cbt_tracker_info(tracker, 0, &info);
  assert_string_equal(info.name, "daily");
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  assert_int_equal(info.count, G);
  assert_int_equal(info_of(tracker, "weekly").count, 4096);
  must_close(tracker);
}

static void
test_folder_belongs_to_one_tracker(void **state)
{
  const Disk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = must_open(disk);
  assert_null(try_open(disk, cbt_file_ops_default(), &error));
  assert_code(&error, CBT_ERROR_BUSY);
  cbt_tracker_abandon(tracker);
  must_close(must_open(disk));
}

static void
test_foreign_write_between_two_opens_is_told(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", 4096);
  must_close(tracker);
  touch_image(disk);
  tracker = must_open(disk);
  CbtBitmapInfo info = info_of(tracker, "daily");
  assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
  assert_int_equal(info.granularity, 4096);
  assert_non_null(strstr(info.reason, "while it was not tracked"));
  must_close(tracker);
}

static void
test_foreign_write_beside_an_idle_tracker_is_told(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  must_close(tracker);
  tracker = must_open(disk);
  touch_image(disk); /* nothing was recorded: this write was not ours */
  must_close(tracker);
  tracker = must_open(disk);
  assert_int_equal(info_of(tracker, "daily").state, CBT_BITMAP_INCONSISTENT);
  must_close(tracker);
}

static void
test_damaged_file_is_set_aside_and_replaced(void **state)
{
  const Disk *disk = *state;
  g_autofree char *bad = path_of(disk, "daily.bitmap.bad");
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", 4096);
  add(tracker, "other", G);
  must_close(tracker);
  for (guint round = 0; round < 2; round++) {
    damage(disk, "daily.bitmap", 0, 8192);
    tracker = must_open(disk);
    CbtBitmapInfo info = info_of(tracker, "daily");
    assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
    assert_int_equal(info.granularity, CBT_GRANULARITY_DEFAULT);
    assert_string_not_equal(info.reason, "");
    assert_int_equal(info_of(tracker, "other").state, CBT_BITMAP_ACTIVE);
    assert_int_equal(access(bad, F_OK), 0);
    cbt_tracker_record(tracker, 0, 1);
    assert_int_equal(info_of(tracker, "daily").count, G);
    must_close(tracker);
  }
}

static void
test_truncated_and_empty_files_are_replaced(void **state)
{
  const Disk *disk = *state;
  static const off_t lengths[] = {0, 100, 8192, 12288};
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  must_close(tracker);
  g_autofree char *path = path_of(disk, "daily.bitmap");
  for (guint i = 0; i < G_N_ELEMENTS(lengths); i++) {
    assert_int_equal(truncate(path, lengths[i]), 0);
    tracker = must_open(disk);
    assert_int_equal(info_of(tracker, "daily").state, CBT_BITMAP_INCONSISTENT);
    must_close(tracker);
  }
}

static void
test_file_under_another_name_is_not_believed(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  must_close(tracker);
  g_autofree char *from = path_of(disk, "daily.bitmap");
  g_autofree char *to = path_of(disk, "weekly.bitmap");
  assert_int_equal(rename(from, to), 0);
  tracker = must_open(disk);
  assert_int_equal(info_of(tracker, "weekly").state, CBT_BITMAP_INCONSISTENT);
  must_close(tracker);
}

static void
test_foreign_files_are_left_alone_and_unfinished_ones_removed(void **state)
{
  const Disk *disk = *state;
  static const char *const names[] = {"notes.txt", "-x.bitmap", "a.bitmap.bad", "a.bitmap.tmp"};
  must_close(must_open(disk));
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = path_of(disk, names[i]);
    assert_true(g_file_set_contents(path, "x", 1, NULL));
  }
  CbtTracker *tracker = must_open(disk);
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 0);
  must_close(tracker);
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = path_of(disk, names[i]);
    assert_int_equal(access(path, F_OK), i == 3 ? -1 : 0);
  }
}

static void
test_add_and_remove_refuse_what_cannot_be(void **state)
{
  const Disk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  assert_false(cbt_tracker_add(tracker, "daily", G, &error));
  assert_code(&error, CBT_ERROR_EXISTS);
  assert_false(cbt_tracker_add(tracker, "../x", G, &error));
  assert_code(&error, CBT_ERROR_INVALID);
  assert_false(cbt_tracker_add(tracker, "x", 5000, &error));
  assert_code(&error, CBT_ERROR_INVALID);
  assert_false(cbt_tracker_remove(tracker, "nosuch", &error));
  assert_non_null(strstr(error->message, "nosuch"));
  assert_code(&error, CBT_ERROR_NOT_FOUND);
  apply(tracker, "daily", CBT_BITMAP_CREATE_SUCCESSOR, NULL);
  assert_false(cbt_tracker_remove(tracker, "daily", &error));
  assert_code(&error, CBT_ERROR_STATE);
  apply(tracker, "daily", CBT_BITMAP_RECLAIM, NULL);
  assert_true(cbt_tracker_remove(tracker, "daily", &error));
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 0);
  must_close(tracker);
  tracker = must_open(disk);
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 0);
  must_close(tracker);
}

static void
test_number_of_bitmaps_is_bounded(void **state)
{
  const Disk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = must_open(disk);
  for (guint i = 0; i < CBT_TRACKER_MAX_BITMAPS; i++) {
    g_autofree char *name = g_strdup_printf("b%u", i);
    add(tracker, name, G);
  }
  assert_false(cbt_tracker_add(tracker, "more", G, &error));
  assert_code(&error, CBT_ERROR_TOO_LARGE);
  assert_true(cbt_tracker_remove(tracker, "b0", &error));
  add(tracker, "more", G);
  must_close(tracker);
  tracker = must_open(disk);
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), CBT_TRACKER_MAX_BITMAPS);
  must_close(tracker);
}

static void
test_merge_takes_the_bits_of_another(void **state)
{
  const Disk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "one", G);
  cbt_tracker_record(tracker, 0, 1);
  add(tracker, "two", 4096);
  assert_true(cbt_tracker_merge(tracker, "two", "one", &error));
  assert_int_equal(info_of(tracker, "two").count, G);
  assert_true(cbt_tracker_merge(tracker, "two", "two", &error));
  assert_false(cbt_tracker_merge(tracker, "two", "three", &error));
  assert_code(&error, CBT_ERROR_NOT_FOUND);
  must_close(tracker);
}

static void
resize(const Disk *disk, CbtTracker *tracker, guint64 size)
{
  g_autoptr(GError) error = NULL;
  assert_int_equal(ftruncate(disk->image_fd, (off_t) size), 0);
  if (!cbt_tracker_resize(tracker, size, &error))
    fail_msg("%s", error->message);
}

static void
test_grown_disk_is_dirty_where_it_is_new(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  apply(tracker, "daily", CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  apply(tracker, "daily", CBT_BITMAP_ABDICATE, NULL);
  cbt_tracker_record(tracker, 2 * G, 1);
  resize(disk, tracker, FIXTURE_DISK_SIZE + 3 * G);
  for (guint round = 0; round < 2; round++) {
    CbtBitmapInfo info = info_of(tracker, "daily");
    assert_int_equal(info.size, FIXTURE_DISK_SIZE + 3 * G);
    assert_int_equal(info.count, 4 * G);
    assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
    assert_true(cbt_uuid_equal(&info.base, &point_a));
    must_close(tracker);
    tracker = must_open(disk);
  }
  must_close(tracker);
}

static void
test_shrunk_and_grown_disk_is_dirty_behind_the_cut(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  resize(disk, tracker, 3 * G + 512);
  assert_int_equal(info_of(tracker, "daily").count, 0);
  resize(disk, tracker, 6 * G);
  CbtExtent extent;
  const CbtBitmap *bits = cbt_bitmap_file_parent(cbt_tracker_find(tracker, "daily", NULL));
  assert_true(cbt_bitmap_next_dirty(bits, 0, G_MAXUINT64, &extent));
  assert_int_equal(extent.offset, 3 * G);
  assert_int_equal(extent.length, 3 * G);
  cbt_tracker_record(tracker, 0, 1);
  assert_int_equal(info_of(tracker, "daily").count, 4 * G);
  must_close(tracker);
  must_close(must_open(disk));
}

static void
test_resize_alone_is_no_foreign_write(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  resize(disk, tracker, 300 * G);
  touch_image(disk);
  must_close(tracker);
  tracker = must_open(disk);
  assert_int_equal(info_of(tracker, "daily").state, CBT_BITMAP_ACTIVE);
  must_close(tracker);
}

static void
test_frozen_disk_is_not_resized(void **state)
{
  const Disk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "a", G);
  add(tracker, "b", G);
  apply(tracker, "b", CBT_BITMAP_CREATE_SUCCESSOR, NULL);
  assert_false(cbt_tracker_resize(tracker, 20 * G, &error));
  assert_code(&error, CBT_ERROR_STATE);
  assert_int_equal(info_of(tracker, "a").size, FIXTURE_DISK_SIZE);
  must_close(tracker);
}

static void
test_resize_behind_the_tracker_is_told(void **state)
{
  const Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  must_close(tracker);
  assert_int_equal(ftruncate(disk->image_fd, 20 * G), 0);
  tracker = must_open(disk);
  CbtBitmapInfo info = info_of(tracker, "daily");
  assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
  assert_int_equal(info.size, 20 * G);
  assert_non_null(strstr(info.reason, "size"));
  must_close(tracker);
}

/* Old size or new size; what was recorded later is there, or the bitmap says that it cannot tell. */
static gboolean
fail_resize(const Disk *disk, guint n, CbtFaultFlags flags)
{
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  assert_int_equal(ftruncate(disk->image_fd, (off_t) FIXTURE_DISK_SIZE), 0);
  CbtTracker *tracker = try_open(disk, &faults.ops, NULL);
  assert_non_null(tracker);
  while (cbt_tracker_n_bitmaps(tracker) > 0) {
    CbtBitmapInfo info;
    cbt_tracker_info(tracker, 0, &info);
    assert_true(cbt_tracker_remove(tracker, info.name, NULL));
  }
  add(tracker, "a", G);
  add(tracker, "b", G);
  assert_int_equal(ftruncate(disk->image_fd, 200 * G), 0);
  cbt_fault_ops_arm(&faults, n, ENOSPC, flags);
  gboolean ok = cbt_tracker_resize(tracker, 200 * G, NULL);
  gboolean failed = cbt_fault_ops_disarm(&faults);
  cbt_tracker_record(tracker, 5 * G, 1);
  cbt_tracker_record(tracker, 199 * G, 1);
  if (n % 2)
    cbt_tracker_abandon(tracker);
  else
    assert_true(cbt_tracker_close(tracker, NULL) || !ok);
  tracker = must_open(disk);
  for (guint i = 0; i < cbt_tracker_n_bitmaps(tracker); i++) {
    CbtBitmapInfo info;
    cbt_tracker_info(tracker, i, &info);
    const CbtBitmap *bits = cbt_bitmap_file_parent(cbt_tracker_find(tracker, info.name, NULL));
    assert_int_equal(info.size, 200 * G);
    if (info.state != CBT_BITMAP_INCONSISTENT)
      assert_true(cbt_bitmap_get(bits, 5 * G) && cbt_bitmap_get(bits, 199 * G));
    else
      assert_false(ok);
  }
  assert_int_equal(cbt_tracker_n_bitmaps(tracker), 2);
  must_close(tracker);
  return failed;
}

static void
test_failed_resize_misses_no_change(void **state)
{
  const Disk *disk = *state;
  for (guint flags = 0; flags < 4; flags++) {
    guint n = 1;
    while (fail_resize(disk, n, (CbtFaultFlags) flags))
      n++;
    assert_true(n > 10);
  }
}

static void
test_identity_is_that_of_the_image(void **state)
{
  const Disk *disk = *state;
  CbtDiskIdentity identity;
  struct stat st;
  g_autoptr(GError) error = NULL;
  assert_true(cbt_disk_identity_from_fd(disk->image_fd, &disk->base->disk.disk_id, &identity, &error));
  assert_int_equal(fstat(disk->image_fd, &st), 0);
  assert_int_equal(identity.size, FIXTURE_DISK_SIZE);
  assert_int_equal(identity.inode, st.st_ino);
  assert_int_equal(identity.device, st.st_dev);
  CBT_AUTO_FD int directory = open(disk->base->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  assert_false(cbt_disk_identity_from_fd(directory, &disk->base->disk.disk_id, &identity, &error));
  assert_code(&error, CBT_ERROR_INVALID);
}

static void
test_image_of_another_disk_is_told(void **state)
{
  Disk *disk = *state;
  CbtTracker *tracker = must_open(disk);
  add(tracker, "daily", G);
  must_close(tracker);
  disk->base->disk.disk_id = cbt_uuid_generate();
  tracker = must_open(disk);
  assert_non_null(strstr(info_of(tracker, "daily").reason, "another disk"));
  must_close(tracker);
}

/* Files set aside are logged as messages, hundreds of times here. */
static GLogWriterOutput
write_warnings(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
  return level < G_LOG_LEVEL_MESSAGE ? g_log_writer_default(level, fields, n_fields, data)
                                     : G_LOG_WRITER_HANDLED;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
  g_log_set_writer_func(write_warnings, NULL, NULL);
  if (access("/dev/shm", W_OK) == 0)
    g_setenv("TMPDIR", "/dev/shm", FALSE); /* many syncs */
  const struct CMUnitTest tests[] = {
      TEST(test_bitmaps_come_back_sorted_with_their_bits),
      TEST(test_folder_belongs_to_one_tracker),
      TEST(test_foreign_write_between_two_opens_is_told),
      TEST(test_foreign_write_beside_an_idle_tracker_is_told),
      TEST(test_damaged_file_is_set_aside_and_replaced),
      TEST(test_truncated_and_empty_files_are_replaced),
      TEST(test_file_under_another_name_is_not_believed),
      TEST(test_foreign_files_are_left_alone_and_unfinished_ones_removed),
      TEST(test_add_and_remove_refuse_what_cannot_be),
      TEST(test_number_of_bitmaps_is_bounded),
      TEST(test_merge_takes_the_bits_of_another),
      TEST(test_grown_disk_is_dirty_where_it_is_new),
      TEST(test_shrunk_and_grown_disk_is_dirty_behind_the_cut),
      TEST(test_resize_alone_is_no_foreign_write),
      TEST(test_frozen_disk_is_not_resized),
      TEST(test_resize_behind_the_tracker_is_told),
      TEST(test_failed_resize_misses_no_change),
      TEST(test_identity_is_that_of_the_image),
      TEST(test_image_of_another_disk_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
