/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A witness tells what a killed process left from an older copy, whenever the copy was taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitmap-fixture.h"
#include <cbt/tracker-private.h>
#include <common/fd.h>
#include <sys/wait.h>

static const CbtUuid point_a = {.bytes = {0xa}};
static const CbtUuid file_a = {.bytes = {1}};
static const CbtUuid file_b = {.bytes = {2}};

#define DIED 99 /* exit status of a process that was cut short */

static char *
witness_folder(const Fixture *f)
{
  return g_build_filename(f->directory, "run", "witness", NULL);
}

static CbtWitness *
open_witness(const Fixture *f)
{
  g_autofree char *folder = witness_folder(f);
  CbtWitness *witness = cbt_witness_open(folder, &f->disk.disk_id, f->path);
  assert_non_null(witness);
  return witness;
}

static void
test_new_witness_vouches_for_nothing(void **state)
{
  CbtWitness *witness = open_witness(*state);
  assert_non_null(cbt_witness_doubt(witness, &file_a, 0, 0));
  assert_non_null(cbt_witness_doubt(NULL, &file_a, 0, 0));
  cbt_witness_free(witness);
}

static void
test_witness_outlives_its_process_and_wants_all_that_was_added(void **state)
{
  CbtWitness *witness = open_witness(*state);
  cbt_witness_begin(witness, &file_a, 7, 10);
  cbt_witness_add(witness, 3);
  cbt_witness_free(witness);
  witness = open_witness(*state);
  assert_null(cbt_witness_doubt(witness, &file_a, 7, 13));
  assert_null(cbt_witness_doubt(witness, &file_a, 7, 14)); /* killed between the bit and the count */
  cbt_witness_expect(witness, FALSE);
  assert_null(cbt_witness_doubt(witness, &file_a, 8, 0)); /* killed between the header and the note */
  assert_non_null(strstr(cbt_witness_doubt(witness, &file_a, 7, 12), "older copy"));
  assert_non_null(strstr(cbt_witness_doubt(witness, &file_a, 6, 100), "older copy"));
  assert_non_null(strstr(cbt_witness_doubt(witness, &file_b, 8, 100), "nothing tells"));
  cbt_witness_expect(witness, TRUE);
  assert_null(cbt_witness_doubt(witness, &file_a, 8, 13));
  assert_non_null(cbt_witness_doubt(witness, &file_a, 8, 12));
  cbt_witness_add(witness, 1);
  cbt_witness_advance(witness, 8);
  assert_null(cbt_witness_doubt(witness, &file_a, 8, 14));
  assert_non_null(cbt_witness_doubt(witness, &file_a, 8, 13));
  cbt_witness_expect(witness, FALSE);
  assert_null(cbt_witness_doubt(witness, &file_a, 9, 0)); /* nobody records in between */
  cbt_witness_note(witness, 9, 0);
  assert_null(cbt_witness_doubt(witness, &file_a, 9, 0));
  assert_non_null(cbt_witness_doubt(witness, &file_a, 7, 13));
  cbt_witness_remove(witness);
  witness = open_witness(*state);
  assert_non_null(cbt_witness_doubt(witness, &file_a, 9, 0));
  cbt_witness_free(witness);
}

static void
test_damaged_witness_vouches_for_nothing(void **state)
{
  const Fixture *f = *state;
  g_autofree char *folder = witness_folder(f);
  char id[CBT_UUID_TEXT_SIZE];
  g_autofree char *path =
      g_strdup_printf("%s/%s.daily.bitmap", folder, cbt_uuid_format(&f->disk.disk_id, id));
  for (off_t length = 0; length <= 8192; length += 2048) {
    CbtWitness *witness = open_witness(f);
    cbt_witness_begin(witness, &file_a, 7, 10);
    cbt_witness_free(witness);
    assert_int_equal(truncate(path, length), 0);
    witness = open_witness(f);
    assert_int_equal(cbt_witness_doubt(witness, &file_a, 7, 10) == NULL, length == 4096);
    cbt_witness_free(witness);
  }
}

static void
test_without_a_place_there_is_no_witness(void **state)
{
  const Fixture *f = *state;
  g_autofree char *file = g_build_filename(f->directory, "a-file", NULL);
  assert_true(g_file_set_contents(file, "", 0, NULL));
  assert_null(cbt_witness_open(file, &f->disk.disk_id, f->path));
  cbt_witness_remove(NULL);
  cbt_witness_note(NULL, 1, 1);
}

/* --- with bitmap files --- */

static CbtTracker *
open_tracker(const Fixture *f, int image_fd)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *folder = witness_folder(f);
  CbtTracker *tracker =
      cbt_tracker_open(cbt_file_ops_default(), f->directory, folder, image_fd, &f->disk.disk_id, &error);
  assert_no_error(error);
  return tracker;
}

static int
make_image(const Fixture *f)
{
  g_autofree char *image = g_build_filename(f->directory, "image", NULL);
  int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal(ftruncate(fd, (off_t) FIXTURE_DISK_SIZE), 0);
  return fd;
}

static void
apply(CbtTracker *tracker, CbtBitmapEvent event)
{
  g_autoptr(GError) error = NULL;
  const CbtUuid *pending = event == CBT_BITMAP_CREATE_SUCCESSOR ? &point_a : NULL;
  if (!cbt_tracker_apply(tracker, "daily", event, pending, NULL, &error))
    fail_msg("%s", error->message);
}

/* Some steps of a life; each either sets bits or moves the state on. */
static void
take_step(CbtTracker *tracker, GRand *rand)
{
  CbtBitmapInfo info;
  g_autoptr(GError) error = NULL;
  guint64 offset = (guint64) g_rand_int_range(rand, 0, (gint) FIXTURE_DISK_SIZE);
  cbt_tracker_info(tracker, 0, &info);
  switch (g_rand_int_range(rand, 0, 10)) {
  case 0:
    apply(tracker, info.state == CBT_BITMAP_FROZEN ? CBT_BITMAP_ABDICATE : CBT_BITMAP_CREATE_SUCCESSOR);
    break;
  case 1:
    apply(tracker, info.state == CBT_BITMAP_FROZEN ? CBT_BITMAP_RECLAIM : CBT_BITMAP_CREATE_SUCCESSOR);
    break;
  case 2:
    if (info.state == CBT_BITMAP_ACTIVE)
      apply(tracker, CBT_BITMAP_CLEAR);
    break;
  case 3:
    assert_true(cbt_tracker_merge(tracker, "daily", "other", &error));
    break;
  default:
    cbt_tracker_record(tracker, offset, (guint64) g_rand_int_range(rand, 1, 400000));
    break;
  }
  cbt_tracker_wait_for_trim(tracker);
}

/* Of each moment a copy is kept. After the kill one of them is put back: it is believed only if it has every
 * bit and the state of what the process left. */
static void
test_older_copy_is_never_believed_whenever_it_was_taken(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  g_autoptr(GRand) rand = fixture_rand(__func__);
  guint n_believed = 0, n_refused = 0;
  for (guint round = 0; round < 300; round++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) copies = g_ptr_array_new_with_free_func((GDestroyNotify) g_bytes_unref);
    CbtTracker *tracker = open_tracker(f, image_fd);
    if (round == 0) {
      assert_true(cbt_tracker_add(tracker, "daily", FIXTURE_GRANULE, &error));
      assert_true(cbt_tracker_add(tracker, "other", FIXTURE_GRANULE, &error));
    }
    CbtBitmapInfo info;
    cbt_tracker_info(tracker, 0, &info);
    if (info.state == CBT_BITMAP_INCONSISTENT) {
      apply(tracker, CBT_BITMAP_CREATE_SUCCESSOR);
      apply(tracker, CBT_BITMAP_ABDICATE);
    }
    for (gint n = g_rand_int_range(rand, 1, 12); n > 0; n--) {
      char *data;
      gsize length;
      take_step(tracker, rand);
      assert_true(g_file_get_contents(f->path, &data, &length, NULL));
      g_ptr_array_add(copies, g_bytes_new_take(data, length));
    }
    cbt_tracker_abandon(tracker);
    GBytes *left = copies->pdata[copies->len - 1];
    GBytes *copy = copies->pdata[g_rand_int_range(rand, 0, (gint) copies->len)];
    gsize length;
    const char *data = g_bytes_get_data(copy, &length);
    assert_true(
        g_file_set_contents_full(f->path, data, (gssize) length, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    tracker = open_tracker(f, image_fd);
    cbt_tracker_info(tracker, 0, &info);
    if (info.state != CBT_BITMAP_INCONSISTENT)
      assert_true(g_bytes_equal(copy, left));
    else
      assert_non_null(strstr(info.reason, "older copy"));
    n_believed += info.state != CBT_BITMAP_INCONSISTENT;
    n_refused += info.state == CBT_BITMAP_INCONSISTENT;
    cbt_tracker_abandon(tracker);
  }
  print_message("believed %u, refused %u\n", n_believed, n_refused);
  assert_true(n_believed > 10 && n_refused > 10);
}

static void
test_clean_close_needs_no_witness(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  g_autoptr(GError) error = NULL;
  g_autofree char *folder = witness_folder(f);
  CbtBitmapInfo info;
  CbtTracker *tracker = open_tracker(f, image_fd);
  assert_true(cbt_tracker_add(tracker, "daily", FIXTURE_GRANULE, &error));
  cbt_tracker_record(tracker, 0, 1);
  assert_true(cbt_tracker_close(tracker, &error));
  assert_int_equal(rmdir(folder), 0); /* it is empty */
  tracker = open_tracker(f, image_fd);
  cbt_tracker_info(tracker, 0, &info);
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  assert_int_equal(info.count, FIXTURE_GRANULE);
  assert_true(cbt_tracker_remove(tracker, "daily", &error));
  assert_int_equal(rmdir(folder), 0);
  cbt_tracker_abandon(tracker);
}

/* --- killed while a file is taken into use, or made --- */

static guint calls_left; /* of the child's durable operations; it dies behind the last */

static void
count_down(void)
{
  if (--calls_left == 0)
    _exit(DIED);
}

static ssize_t
last_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  ssize_t result = cbt_file_ops_default()->pwrite(ops, fd, buffer, length, offset);
  count_down();
  return result;
}

static int
last_fdatasync(const CbtFileOps *ops, int fd)
{
  int result = cbt_file_ops_default()->fdatasync(ops, fd);
  count_down();
  return result;
}

static int
last_rename(const CbtFileOps *ops, const char *from, const char *to)
{
  int result = cbt_file_ops_default()->rename(ops, from, to);
  count_down();
  return result;
}

static int
last_fsync_dir(const CbtFileOps *ops, const char *path)
{
  int result = cbt_file_ops_default()->fsync_dir(ops, path);
  count_down();
  return result;
}

/* Opens the tracker, adds the bitmap "new", and closes, in a process that dies after N_CALLS durable
 * operations. Returns whether it died. */
static gboolean
use_and_die(const Fixture *f, int image_fd, guint n_calls)
{
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    CbtFileOps ops = *cbt_file_ops_default();
    ops.pwrite = last_pwrite;
    ops.fdatasync = last_fdatasync;
    ops.rename = last_rename;
    ops.fsync_dir = last_fsync_dir;
    calls_left = n_calls;
    g_autofree char *folder = witness_folder(f);
    CbtTracker *tracker = cbt_tracker_open(&ops, f->directory, folder, image_fd, &f->disk.disk_id, NULL);
    _exit(tracker != NULL && cbt_tracker_add(tracker, "new", FIXTURE_GRANULE, NULL) &&
                  cbt_tracker_close(tracker, NULL)
              ? 0
              : 2);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DIED);
  return WEXITSTATUS(status) == DIED;
}

static void
test_process_killed_while_it_takes_files_into_use_costs_nothing(void **state)
{
  const Fixture *f = *state;
  CBT_AUTO_FD int image_fd = make_image(f);
  g_autoptr(GError) error = NULL;
  gboolean died = TRUE;
  CbtTracker *tracker = open_tracker(f, image_fd);
  assert_true(cbt_tracker_add(tracker, "daily", FIXTURE_GRANULE, &error));
  apply(tracker, CBT_BITMAP_CREATE_SUCCESSOR);
  cbt_tracker_record(tracker, 0, 1);
  apply(tracker, CBT_BITMAP_ABDICATE);
  assert_true(cbt_tracker_close(tracker, &error));
  guint n_calls = 0;
  while (died) {
    CbtBitmapInfo info;
    died = use_and_die(f, image_fd, ++n_calls);
    tracker = open_tracker(f, image_fd);
    for (guint i = 0; i < cbt_tracker_n_bitmaps(tracker); i++) {
      cbt_tracker_info(tracker, i, &info);
      if (info.state != CBT_BITMAP_ACTIVE)
        fail_msg("killed after operation %u: bitmap '%s': %s", n_calls, info.name, info.reason);
    }
    cbt_tracker_info(tracker, 0, &info);
    assert_string_equal(info.name, "daily");
    assert_true(cbt_uuid_equal(&info.base, &point_a));
    assert_int_equal(info.count, FIXTURE_GRANULE);
    if (cbt_tracker_n_bitmaps(tracker) > 1)
      assert_true(cbt_tracker_remove(tracker, "new", &error));
    assert_true(cbt_tracker_close(tracker, &error));
  }
  print_message("killed after each of %u operations\n", n_calls - 1);
  assert_true(n_calls > 5);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_new_witness_vouches_for_nothing),
      TEST(test_witness_outlives_its_process_and_wants_all_that_was_added),
      TEST(test_damaged_witness_vouches_for_nothing),
      TEST(test_without_a_place_there_is_no_witness),
      TEST(test_older_copy_is_never_believed_whenever_it_was_taken),
      TEST(test_clean_close_needs_no_witness),
      TEST(test_process_killed_while_it_takes_files_into_use_costs_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
