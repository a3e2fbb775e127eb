/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files on disk: opening, closing, identity and damage. Faults and crashes are in test_bitmap_crash.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <common/bytes.h>
#include <common/fd.h>

#include "bitmap-fixture.h"

#define G FIXTURE_GRANULE

static const CbtUuid point_a = {.bytes = {0xa}};
static const CbtUuid point_b = {.bytes = {0xb}};

static CbtBitmapFile *
create(const Fixture *f)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapFile *file = cbt_bitmap_file_create(cbt_file_ops_default(), f->path, "daily", G, &f->disk, &error);
  assert_no_error(error);
  return file;
}

static CbtBitmapFile *
reopen(const Fixture *f)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapFile *file = cbt_bitmap_file_open(cbt_file_ops_default(), f->path, &f->disk, &error);
  assert_no_error(error);
  return file;
}

static void
close_clean(const Fixture *f, CbtBitmapFile *file)
{
  g_autoptr(GError) error = NULL;
  assert_true(cbt_bitmap_file_close(file, &f->disk, &error));
}

static void
apply(CbtBitmapFile *file, CbtBitmapEvent event, const CbtUuid *pending)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_bitmap_file_apply(file, event, pending, NULL, &error))
    fail_msg("%s", error->message);
}

static CbtBitmapInfo
info_of(const CbtBitmapFile *file)
{
  CbtBitmapInfo info;
  cbt_bitmap_file_info(file, &info);
  return info;
}

static gboolean
has_base(const CbtBitmapFile *file, const CbtUuid *point)
{
  CbtBitmapInfo info = info_of(file);
  return cbt_uuid_equal(&info.base, point);
}

static gboolean
has_no_base(const CbtBitmapFile *file)
{
  static const CbtUuid nil = {.bytes = {0}};
  return has_base(file, &nil);
}

static void
refuse_open(const Fixture *f, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  assert_null(cbt_bitmap_file_open(cbt_file_ops_default(), f->path, &f->disk, &error));
  assert_code(&error, code);
}

static void
load_slots(const Fixture *f, guint8 pages[2 * CBT_BITMAP_PAGE])
{
  CBT_AUTO_FD int fd = open(f->path, O_RDONLY | O_CLOEXEC);
  assert_int_equal(cbt_pread_full(fd, pages, 2 * CBT_BITMAP_PAGE, 0), 2 * CBT_BITMAP_PAGE);
}

static void
store_slots(const Fixture *f, const guint8 pages[2 * CBT_BITMAP_PAGE])
{
  CBT_AUTO_FD int fd = open(f->path, O_WRONLY | O_CLOEXEC);
  assert_true(cbt_pwrite_full(fd, pages, 2 * CBT_BITMAP_PAGE, 0));
}

/* As if the host had been restarted since. */
static void
pretend_other_boot(const Fixture *f)
{
  guint8 pages[2 * CBT_BITMAP_PAGE];
  CbtBitmapHeader header;
  guint slot;
  load_slots(f, pages);
  assert_true(cbt_bitmap_header_choose(pages, &header, &slot, NULL));
  header.boot_id = cbt_uuid_generate();
  for (guint i = 0; i < 2; i++)
    cbt_bitmap_header_encode(&header, pages + i * CBT_BITMAP_PAGE);
  store_slots(f, pages);
}

static void
test_new_file_is_active_clean_and_without_base(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  CbtBitmapInfo info = info_of(file);
  assert_string_equal(info.name, "daily");
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  assert_int_equal(info.count, 0);
  assert_int_equal(info.size, FIXTURE_DISK_SIZE);
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_string_equal(info.reason, "no backup yet");
  assert_null(cbt_bitmap_file_successor(file));
  cbt_bitmap_file_abandon(file);
}

static void
test_create_refuses_what_cannot_be(void **state)
{
  Fixture *f = *state;
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  assert_null(cbt_bitmap_file_create(ops, f->path, "../daily", G, &f->disk, &error));
  assert_code(&error, CBT_ERROR_INVALID);
  assert_null(cbt_bitmap_file_create(ops, f->path, "daily", G + 1, &f->disk, &error));
  assert_code(&error, CBT_ERROR_INVALID);
  CbtDiskIdentity huge = f->disk;
  huge.size = CBT_DISK_SIZE_MAX + 1;
  assert_null(cbt_bitmap_file_create(ops, f->path, "daily", G, &huge, &error));
  assert_code(&error, CBT_ERROR_INVALID);
  refuse_open(f, CBT_ERROR_NOT_FOUND);
  close_clean(f, create(f));
  assert_null(cbt_bitmap_file_create(ops, f->path, "daily", G, &f->disk, &error));
  assert_code(&error, CBT_ERROR_EXISTS);
}

static void
test_blocks_are_allocated_at_creation(void **state)
{
  const Fixture *f = *state;
  struct stat st;
  close_clean(f, create(f));
  assert_int_equal(stat(f->path, &st), 0);
  assert_true(st.st_blocks * 512 >= st.st_size);
}

static void
test_bits_survive_close_and_crash_in_one_boot(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  cbt_bitmap_file_record(file, 5 * G, 1);
  close_clean(f, file);
  file = reopen(f);
  assert_true(cbt_bitmap_get(cbt_bitmap_file_parent(file), 5 * G));
  cbt_bitmap_file_record(file, 7 * G, 1);
  cbt_bitmap_file_abandon(file);
  file = reopen(f);
  assert_int_equal(info_of(file).count, 2 * G);
  assert_int_equal(info_of(file).state, CBT_BITMAP_ACTIVE);
  cbt_bitmap_file_abandon(file);
}

static void
test_word_without_summary_is_found_again(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  guint64 at = file->layout.words[0];
  cbt_bitmap_file_abandon(file);
  guint8 byte = 8;
  CBT_AUTO_FD int fd = open(f->path, O_WRONLY | O_CLOEXEC);
  assert_true(cbt_pwrite_full(fd, &byte, 1, at));
  file = reopen(f);
  assert_int_equal(info_of(file).count, G);
  cbt_bitmap_file_abandon(file);
}

static void
test_unclean_after_another_boot_is_inconsistent(void **state)
{
  const Fixture *f = *state;
  for (guint frozen = 0; frozen < 2; frozen++) {
    unlink(f->path);
    CbtBitmapFile *file = create(f);
    if (frozen)
      apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
    cbt_bitmap_file_abandon(file);
    pretend_other_boot(f);
    file = reopen(f);
    CbtBitmapInfo info = info_of(file);
    assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
    assert_string_equal(info.reason, "the host went down while the disk was in use");
    assert_true(cbt_uuid_is_nil(&info.base) && cbt_uuid_is_nil(&info.pending));
    cbt_bitmap_file_record(file, 0, 1);
    assert_int_equal(info_of(file).count, G);
    cbt_bitmap_file_abandon(file);
  }
}

static void
test_clean_after_another_boot_is_good(void **state)
{
  Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  cbt_bitmap_file_record(file, 0, 1);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  close_clean(f, file);
  pretend_other_boot(f);
  f->disk.device++; /* numbers of devices may move at a reboot */
  file = reopen(f);
  assert_int_equal(info_of(file).state, CBT_BITMAP_FROZEN);
  assert_int_equal(info_of(file).count, G);
  cbt_bitmap_file_abandon(file);
}

static void
test_disabled_bitmap_outlives_a_power_cut(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  apply(file, CBT_BITMAP_DISABLE, NULL);
  cbt_bitmap_file_record(file, 0, 1);
  cbt_bitmap_file_abandon(file);
  pretend_other_boot(f);
  file = reopen(f);
  assert_int_equal(info_of(file).state, CBT_BITMAP_DISABLED);
  assert_int_equal(info_of(file).count, 0);
  cbt_bitmap_file_abandon(file);
}

static void
test_another_disk_is_refused_and_the_difference_named(void **state)
{
  const Fixture *f = *state;
  close_clean(f, create(f));
  CbtDiskIdentity others[] = {f->disk, f->disk, f->disk, f->disk, f->disk, f->disk};
  static const char *const words[] = {"another disk",      "size",       "inode", "device",
                                      "modification time", "change time"};
  others[0].disk_id = cbt_uuid_generate();
  others[1].size += 512;
  others[2].inode++;
  others[3].device++;
  others[4].mtime_ns--;
  others[5].ctime_ns++;
  for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(cbt_bitmap_file_open(cbt_file_ops_default(), f->path, &others[i], &error));
    assert_non_null(strstr(error->message, words[i]));
    assert_code(&error, CBT_ERROR_INCONSISTENT);
  }
  cbt_bitmap_file_abandon(reopen(f));
}

static void
test_block_device_may_change_its_number(void **state)
{
  Fixture *f = *state;
  f->disk.inode = 0;
  f->disk.mtime_ns = 0;
  close_clean(f, create(f));
  f->disk.device++;
  cbt_bitmap_file_abandon(reopen(f));
}

static void
test_block_device_that_was_written_is_refused(void **state)
{
  Fixture *f = *state;
  f->disk.inode = 0;
  close_clean(f, create(f));
  f->disk.mtime_ns++;
  refuse_open(f, CBT_ERROR_INCONSISTENT);
}

static void
test_bitmap_of_a_device_is_refused_if_it_was_put_there_in_this_boot(void **state)
{
  Fixture *f = *state;
  f->disk.inode = 0;
  f->disk.mtime_ns = 0;
  close_clean(f, create(f));
  for (guint i = 0; i < 2; i++) {
    g_autoptr(GError) error = NULL;
    CbtBitmapUse use = {.boot = {.id = cbt_uuid_generate(), .started_ns = i == 0 ? 0 : G_MAXINT64}};
    CbtBitmapFile *file = cbt_bitmap_file_open_for(cbt_file_ops_default(), f->path, &f->disk, &use, &error);
    assert_int_equal(file == NULL, i == 0);
    if (i == 0)
      assert_code(&error, CBT_ERROR_INCONSISTENT);
    cbt_bitmap_file_abandon(file);
  }
}

static void
test_changed_time_of_an_unclean_file_is_expected(void **state)
{
  Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  cbt_bitmap_file_abandon(file);
  f->disk.mtime_ns++;
  f->disk.ctime_ns++;
  file = reopen(f);
  assert_int_equal(info_of(file).state, CBT_BITMAP_ACTIVE);
  cbt_bitmap_file_abandon(file);
}

static void
test_close_with_another_size_does_not_mark_clean(void **state)
{
  Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  CbtDiskIdentity grown = f->disk;
  grown.size *= 2;
  g_autoptr(GError) error = NULL;
  assert_false(cbt_bitmap_file_close(file, &grown, &error));
  assert_code(&error, CBT_ERROR_STATE);
  f->disk = grown;
  refuse_open(f, CBT_ERROR_INCONSISTENT);
}

static void
test_backup_that_succeeds_keeps_only_what_came_later(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  for (guint round = 0; round < 4; round++) {
    guint64 before = info_of(file).count;
    cbt_bitmap_file_record(file, (10 + round) * G, 1);
    apply(file, CBT_BITMAP_CREATE_SUCCESSOR, round % 2 ? &point_a : &point_b);
    CbtBitmapInfo info = info_of(file);
    assert_true(info.has_successor);
    assert_int_equal(info.count, before + G);
    assert_int_equal(info.successor_count, 0);
    cbt_bitmap_file_record(file, (20 + round) * G, 1);
    assert_int_equal(info_of(file).count, before + G);
    apply(file, CBT_BITMAP_ABDICATE, NULL);
    info = info_of(file);
    assert_int_equal(info.count, G);
    assert_true(cbt_bitmap_get(cbt_bitmap_file_parent(file), (20 + round) * G));
    assert_true(cbt_uuid_equal(&info.base, round % 2 ? &point_a : &point_b));
    assert_string_equal(info.reason, "");
    if (round == 2) {
      close_clean(f, file);
      file = reopen(f);
    }
  }
  cbt_bitmap_file_abandon(file);
}

static void
test_backup_that_fails_keeps_everything(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  apply(file, CBT_BITMAP_ABDICATE, NULL);
  cbt_bitmap_file_record(file, 1 * G, 1);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_b);
  cbt_bitmap_file_record(file, 2 * G, 1);
  apply(file, CBT_BITMAP_RECLAIM, NULL);
  CbtBitmapInfo info = info_of(file);
  assert_int_equal(info.count, 2 * G);
  assert_true(cbt_uuid_equal(&info.base, &point_a));
  assert_true(cbt_uuid_is_nil(&info.pending));
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_b);
  assert_int_equal(info_of(file).successor_count, 0);
  cbt_bitmap_file_abandon(file);
}

static void
test_inconsistent_freezes_with_all_and_without_base(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  g_autoptr(GError) error = NULL;
  assert_true(cbt_bitmap_file_apply(file, CBT_BITMAP_MARK_INCONSISTENT, NULL, "somebody wrote", &error));
  for (guint round = 0; round < 2; round++) {
    assert_int_equal(info_of(file).state, CBT_BITMAP_INCONSISTENT);
    assert_string_equal(info_of(file).reason, "somebody wrote");
    apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
    assert_int_equal(info_of(file).count, FIXTURE_DISK_SIZE);
    assert_true(has_no_base(file));
    cbt_bitmap_file_record(file, 3 * G, 1);
    cbt_bitmap_file_abandon(file);
    file = reopen(f);
    apply(file, round == 0 ? CBT_BITMAP_RECLAIM : CBT_BITMAP_ABDICATE, NULL);
  }
  assert_int_equal(info_of(file).state, CBT_BITMAP_ACTIVE);
  assert_int_equal(info_of(file).count, G);
  assert_true(has_base(file, &point_a));
  cbt_bitmap_file_abandon(file);
}

static void
test_freeze_starts_with_a_clean_successor_whatever_was_left(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  cbt_bitmap_file_record(file, 3 * G, 1);
  apply(file, CBT_BITMAP_MARK_INCONSISTENT, NULL);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_b);
  assert_int_equal(info_of(file).successor_count, 0);
  cbt_bitmap_file_abandon(file);
}

static void
test_losing_the_base_has_a_reason(void **state)
{
  const Fixture *f = *state;
  static const CbtBitmapEvent ways[][2] = {
      {CBT_BITMAP_DISABLE, CBT_BITMAP_ENABLE},
      {CBT_BITMAP_CLEAR, CBT_BITMAP_CLEAR},
      {CBT_BITMAP_CREATE_SUCCESSOR, CBT_BITMAP_ABDICATE}, /* with no point */
      {CBT_BITMAP_MARK_INCONSISTENT, CBT_BITMAP_MARK_INCONSISTENT},
      {CBT_BITMAP_CREATE_SUCCESSOR, CBT_BITMAP_MARK_INCONSISTENT},
  };
  for (guint i = 0; i < G_N_ELEMENTS(ways); i++) {
    unlink(f->path);
    CbtBitmapFile *file = create(f);
    apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
    apply(file, CBT_BITMAP_ABDICATE, NULL);
    cbt_bitmap_file_record(file, 0, 1);
    apply(file, ways[i][0], NULL);
    apply(file, ways[i][1], NULL);
    assert_true(has_no_base(file));
    assert_string_not_equal(info_of(file).reason, "");
    assert_false(info_of(file).has_successor);
    cbt_bitmap_file_abandon(file);
    cbt_bitmap_file_abandon(reopen(f));
  }
}

static void
test_refused_event_names_state_and_event(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  g_autoptr(GError) error = NULL;
  assert_false(cbt_bitmap_file_apply(file, CBT_BITMAP_RECLAIM, NULL, NULL, &error));
  assert_non_null(strstr(error->message, "active"));
  assert_non_null(strstr(error->message, "reclaim"));
  assert_code(&error, CBT_ERROR_STATE);
  cbt_bitmap_file_abandon(file);
}

static void
test_merge_goes_where_writes_go(void **state)
{
  const Fixture *f = *state;
  g_autofree char *other_path = g_build_filename(f->directory, "other.bitmap", NULL);
  g_autoptr(GError) error = NULL;
  CbtBitmapFile *file = create(f);
  CbtBitmapFile *other =
      cbt_bitmap_file_create(cbt_file_ops_default(), other_path, "other", 4096, &f->disk, &error);
  cbt_bitmap_file_record(other, 1 * G, 1);
  apply(other, CBT_BITMAP_CREATE_SUCCESSOR, NULL);
  cbt_bitmap_file_record(other, 2 * G, 1);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, NULL);
  assert_true(cbt_bitmap_file_merge(file, other, &error));
  assert_int_equal(info_of(file).count, 0);
  assert_int_equal(info_of(file).successor_count, 2 * G);
  apply(other, CBT_BITMAP_MARK_INCONSISTENT, NULL);
  assert_false(cbt_bitmap_file_merge(file, other, &error));
  assert_code(&error, CBT_ERROR_STATE);
  assert_false(cbt_bitmap_file_merge(other, file, &error));
  assert_code(&error, CBT_ERROR_STATE);
  cbt_bitmap_file_abandon(file);
  cbt_bitmap_file_abandon(other);
}

static void
test_readonly_sees_live_frozen_bits_and_changes_nothing(void **state)
{
  const Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  CbtBitmapFile *file = create(f);
  cbt_bitmap_file_record(file, 4 * G, 1);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  CbtBitmapFile *reader = cbt_bitmap_file_open_readonly(f->path, &error);
  assert_no_error(error);
  assert_int_equal(info_of(reader).state, CBT_BITMAP_FROZEN);
  CbtExtent extent;
  assert_true(cbt_bitmap_next_dirty(cbt_bitmap_file_parent(reader), 0, G_MAXUINT64, &extent));
  assert_int_equal(extent.offset, 4 * G);
  cbt_bitmap_file_record(file, 6 * G, 1);
  assert_int_equal(cbt_bitmap_count(cbt_bitmap_file_successor(reader)), G);
  cbt_bitmap_file_record(reader, 0, 1);
  assert_false(cbt_bitmap_file_apply(reader, CBT_BITMAP_ABDICATE, NULL, NULL, &error));
  assert_code(&error, CBT_ERROR_STATE);
  assert_false(cbt_bitmap_file_merge(reader, file, &error));
  assert_code(&error, CBT_ERROR_STATE);
  assert_true(cbt_bitmap_file_close(reader, NULL, &error));
  close_clean(f, file);
}

/* What damage does to one slot must not change what the file says. */
static void
test_damage_of_one_slot_leaves_the_current_state(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  cbt_bitmap_file_record(file, 4 * G, 1);
  apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  apply(file, CBT_BITMAP_ABDICATE, NULL);
  guint64 generation = info_of(file).generation;
  cbt_bitmap_file_abandon(file);
  guint8 pages[2 * CBT_BITMAP_PAGE];
  load_slots(f, pages);
  for (guint i = 0; i < sizeof pages; i++)
    for (guint flip = 1; flip < 256; flip = flip * 16 - 1) {
      CbtBitmapHeader header;
      guint slot;
      pages[i] ^= (guint8) flip;
      assert_true(cbt_bitmap_header_choose(pages, &header, &slot, NULL));
      assert_int_equal(slot, 1 - i / CBT_BITMAP_PAGE);
      assert_int_equal(header.generation, generation);
      pages[i] ^= (guint8) flip;
    }
  for (guint i = 0; i < sizeof pages; i += 293) {
    pages[i] ^= 0xff;
    store_slots(f, pages);
    file = reopen(f);
    assert_int_equal(info_of(file).generation, generation);
    cbt_bitmap_file_abandon(file);
    pages[i] ^= 0xff;
  }
}

static void
test_damage_of_both_slots_is_refused(void **state)
{
  const Fixture *f = *state;
  close_clean(f, create(f));
  guint8 pages[2 * CBT_BITMAP_PAGE];
  load_slots(f, pages);
  pages[100] ^= 1;
  pages[CBT_BITMAP_PAGE + 4000] ^= 1;
  store_slots(f, pages);
  refuse_open(f, CBT_ERROR_CORRUPT);
  memset(pages, 0, sizeof pages);
  store_slots(f, pages);
  refuse_open(f, CBT_ERROR_CORRUPT);
}

static void
test_truncated_file_is_refused(void **state)
{
  const Fixture *f = *state;
  CbtBitmapFile *file = create(f);
  guint64 size = file->layout.file_size;
  close_clean(f, file);
  for (guint64 length = size - 1; length > 0; length = length > 2048 ? length - 2047 : length / 2) {
    g_autoptr(GError) error = NULL;
    assert_int_equal(truncate(f->path, (off_t) length), 0);
    assert_null(cbt_bitmap_file_open_readonly(f->path, &error));
    assert_non_null(strstr(error->message, "too short"));
    refuse_open(f, CBT_ERROR_CORRUPT);
  }
  assert_int_equal(truncate(f->path, 0), 0);
  refuse_open(f, CBT_ERROR_CORRUPT);
}

static void
checksum(guint8 *page)
{
  cbt_put_u64(page + CBT_BITMAP_AT_CHECKSUM, cbt_checksum64(page, CBT_BITMAP_AT_CHECKSUM));
}

static void
test_newer_version_is_unsupported(void **state)
{
  const Fixture *f = *state;
  close_clean(f, create(f));
  guint8 pages[2 * CBT_BITMAP_PAGE];
  load_slots(f, pages);
  cbt_put_u32(pages + CBT_BITMAP_PAGE + CBT_BITMAP_AT_VERSION, CBT_BITMAP_VERSION + 1);
  checksum(pages + CBT_BITMAP_PAGE);
  store_slots(f, pages);
  refuse_open(f, CBT_ERROR_UNSUPPORTED);
}

/* With a good checksum: fields of any value must be refused or make sense, never be believed. */
static void
test_absurd_fields_are_refused(void **state)
{
  const Fixture *f = *state;
  GRand *rand = fixture_rand(__func__);
  close_clean(f, create(f));
  guint8 pages[2 * CBT_BITMAP_PAGE];
  load_slots(f, pages);
  for (guint n = 0; n < 20000; n++) {
    guint8 page[CBT_BITMAP_PAGE];
    memcpy(page, pages, sizeof page);
    for (gint i = g_rand_int_range(rand, 1, 4); i > 0; i--) {
      guint at = (guint) g_rand_int_range(rand, 0, n % 2 ? 528 : 4096);
      page[at] = g_rand_boolean(rand) ? 0xff : (guint8) g_rand_int(rand);
    }
    checksum(page);
    CbtBitmapHeader header;
    guint8 again[CBT_BITMAP_PAGE];
    if (!cbt_bitmap_header_decode(page, &header, NULL))
      continue;
    cbt_bitmap_header_encode(&header, again);
    assert_memory_equal(page, again, sizeof page);
  }
  g_rand_free(rand);
}

static void
test_golden_header_decodes_and_encodes(void **state G_GNUC_UNUSED)
{
  g_autofree char *page = NULL;
  gsize length;
  assert_true(g_file_get_contents(CBT_GOLDEN_DIR "/bitmap-header-v1.bin", &page, &length, NULL));
  assert_int_equal(length, CBT_BITMAP_PAGE);
  CbtBitmapHeader header;
  g_autoptr(GError) error = NULL;
  gboolean ok = cbt_bitmap_header_decode((const guint8 *) page, &header, &error);
  assert_no_error(error);
  assert_true(ok);
  assert_int_equal(header.sequence, 42);
  assert_int_equal(header.generation, 17);
  assert_int_equal(header.state, CBT_BITMAP_FROZEN);
  assert_int_equal(header.parent, 1);
  assert_int_equal(header.disk.size, G_GUINT64_CONSTANT(10) << 30);
  assert_int_equal(header.disk.mtime_ns, G_GINT64_CONSTANT(1760000000123456789));
  assert_int_equal(header.disk.ctime_ns, G_GINT64_CONSTANT(1760000000123456790));
  assert_int_equal(header.file_id.bytes[0], 0xf1);
  assert_string_equal(header.name, "daily");
  guint8 again[CBT_BITMAP_PAGE];
  cbt_bitmap_header_encode(&header, again);
  assert_memory_equal(page, again, sizeof again);
}

static void
test_text_is_cut_at_a_character(void **state G_GNUC_UNUSED)
{
  char field[8];
  cbt_bitmap_copy_text(field, sizeof field, "abcdef\xc3\xa4");
  assert_string_equal(field, "abcdef");
  cbt_bitmap_copy_text(field, sizeof field, "abcde\xc3\xa4");
  assert_string_equal(field, "abcde\xc3\xa4");
  cbt_bitmap_copy_text(field, sizeof field, "abcdefg");
  assert_string_equal(field, "abcdefg");
  cbt_bitmap_copy_text(field, sizeof field, "a\xff");
  assert_true(g_utf8_validate(field, -1, NULL));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_new_file_is_active_clean_and_without_base),
      TEST(test_create_refuses_what_cannot_be),
      TEST(test_blocks_are_allocated_at_creation),
      TEST(test_bits_survive_close_and_crash_in_one_boot),
      TEST(test_word_without_summary_is_found_again),
      TEST(test_unclean_after_another_boot_is_inconsistent),
      TEST(test_clean_after_another_boot_is_good),
      TEST(test_disabled_bitmap_outlives_a_power_cut),
      TEST(test_another_disk_is_refused_and_the_difference_named),
      TEST(test_block_device_may_change_its_number),
      TEST(test_block_device_that_was_written_is_refused),
      TEST(test_bitmap_of_a_device_is_refused_if_it_was_put_there_in_this_boot),
      TEST(test_changed_time_of_an_unclean_file_is_expected),
      TEST(test_close_with_another_size_does_not_mark_clean),
      TEST(test_backup_that_succeeds_keeps_only_what_came_later),
      TEST(test_backup_that_fails_keeps_everything),
      TEST(test_inconsistent_freezes_with_all_and_without_base),
      TEST(test_freeze_starts_with_a_clean_successor_whatever_was_left),
      TEST(test_losing_the_base_has_a_reason),
      TEST(test_refused_event_names_state_and_event),
      TEST(test_merge_goes_where_writes_go),
      TEST(test_readonly_sees_live_frozen_bits_and_changes_nothing),
      TEST(test_damage_of_one_slot_leaves_the_current_state),
      TEST(test_damage_of_both_slots_is_refused),
      TEST(test_truncated_file_is_refused),
      TEST(test_newer_version_is_unsupported),
      TEST(test_absurd_fields_are_refused),
      TEST(test_golden_header_decodes_and_encodes),
      TEST(test_text_is_cut_at_a_character),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
