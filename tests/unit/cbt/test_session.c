/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cbt/session.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* 70 whole clusters and a partial one: more than one word of bits. */
#define C           CBT_CLUSTER_SIZE
#define N_CLUSTERS  71u
#define LAST_LENGTH 1536u
#define DISK_SIZE   ((N_CLUSTERS - 1) * C + LAST_LENGTH)

static void
assert_no_error(const GError *error)
{
  if (error != NULL)
    fail_msg("%s", error->message);
}

typedef struct {
  char *directory;
  int image_fd;
  CbtSession *reader;
  CbtSession *export;
} Pair;

static void
fill(const Pair *pair, guint64 offset, guint64 length, int byte)
{
  g_autofree guint8 *data = g_malloc(length);
  memset(data, byte, length);
  assert_true(cbt_pwrite_full(pair->image_fd, data, length, offset));
}

static CbtSession *
attach(const CbtSession *session, guint64 size, GError **error)
{
  return cbt_session_attach(dup(cbt_session_memory_fd(session)), dup(cbt_session_fleece_fd(session)), size,
                            error);
}

static void
pair_init(Pair *pair, guint64 limit)
{
  g_autoptr(GError) error = NULL;
  pair->directory = g_dir_make_tmp("cbt-session-XXXXXX", NULL);
  pair->image_fd = open(pair->directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  assert_true(pair->image_fd >= 0);
  assert_int_equal(ftruncate(pair->image_fd, DISK_SIZE), 0);
  fill(pair, 0, DISK_SIZE, 'o');
  pair->reader = cbt_session_new(DISK_SIZE, pair->directory, limit, &error);
  assert_no_error(error);
  pair->export = attach(pair->reader, DISK_SIZE, &error);
  assert_no_error(error);
}

static void
pair_clear(Pair *pair)
{
  cbt_session_free(pair->export);
  cbt_session_free(pair->reader);
  close(pair->image_fd);
  assert_int_equal(rmdir(pair->directory), 0); /* the fleece file left no name */
  g_free(pair->directory);
}

/* What the export does with a guest's write. */
static void
guest_writes(Pair *pair, guint64 offset, guint64 length)
{
  cbt_session_preserve(pair->export, pair->image_fd, offset, length);
  fill(pair, offset, length, 'n');
}

/* What the reader does; asserts that it got nothing but BYTE. Returns the clusters that were preserved. */
static guint64
read_expecting(Pair *pair, guint64 offset, guint64 length, int byte)
{
  g_autoptr(GError) error = NULL;
  g_autofree guint8 *data = g_malloc(length);
  guint64 n_preserved = 99;
  assert_int_equal(cbt_pread_full(pair->image_fd, data, length, offset), (gssize) length);
  gboolean ok = cbt_session_settle(pair->reader, offset, length, data, &n_preserved, &error);
  assert_no_error(error);
  assert_true(ok);
  for (guint64 i = 0; i < length; i++)
    if (data[i] != byte)
      fail_msg("offset %" G_GUINT64_FORMAT " holds %c", offset + i, data[i]);
  return n_preserved;
}

static guint64
fleece_blocks(const Pair *pair)
{
  struct stat st;
  assert_int_equal(fstat(cbt_session_fleece_fd(pair->reader), &st), 0);
  return (guint64) st.st_blocks;
}

static void
test_overwritten_cluster_is_read_as_it_was(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, C + 100, 1);
  guest_writes(&pair, C + 200, 1); /* the second write preserves nothing again */
  assert_int_equal(cbt_session_fleeced(pair.reader), C);
  assert_int_equal(read_expecting(&pair, 0, 4 * C, 'o'), 1);
  pair_clear(&pair);
}

static void
test_cluster_that_was_read_is_not_preserved(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  assert_int_equal(read_expecting(&pair, 0, DISK_SIZE, 'o'), 0);
  guest_writes(&pair, 0, DISK_SIZE);
  assert_int_equal(cbt_session_fleeced(pair.reader), 0);
  pair_clear(&pair);
}

static void
test_write_across_clusters_preserves_all_it_touches(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, 5 * C - 1, 2 * C + 2);
  assert_int_equal(cbt_session_fleeced(pair.reader), 4 * C);
  assert_int_equal(read_expecting(&pair, 0, DISK_SIZE, 'o'), 4);
  pair_clear(&pair);
}

static void
test_partial_last_cluster_is_preserved(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, DISK_SIZE - 1, 1);
  assert_int_equal(cbt_session_fleeced(pair.reader), LAST_LENGTH);
  assert_int_equal(read_expecting(&pair, (N_CLUSTERS - 2) * C, C + LAST_LENGTH, 'o'), 1);
  pair_clear(&pair);
}

static void
test_incremental_preserves_only_what_is_wanted(void **state G_GNUC_UNUSED)
{
  Pair pair;
  g_autoptr(CbtBitmap) wanted = cbt_bitmap_new(DISK_SIZE, C);
  pair_init(&pair, 0);
  cbt_bitmap_set(wanted, 3 * C, 1);
  cbt_bitmap_set(wanted, 64 * C, 1);
  cbt_session_start(pair.export, wanted);
  guest_writes(&pair, 0, DISK_SIZE);
  assert_int_equal(cbt_session_fleeced(pair.reader), 2 * C);
  assert_int_equal(read_expecting(&pair, 3 * C, C, 'o'), 1);
  assert_int_equal(read_expecting(&pair, 64 * C, C, 'o'), 1);
  /* Not part of the backup: settle takes it as it is. */
  assert_int_equal(read_expecting(&pair, 4 * C, C, 'n'), 0);
  pair_clear(&pair);
}

static void
test_other_granularities_want_every_cluster_they_overlap(void **state G_GNUC_UNUSED)
{
  Pair pair;
  g_autoptr(CbtBitmap) fine = cbt_bitmap_new(DISK_SIZE, 4096);
  g_autoptr(CbtBitmap) coarse = cbt_bitmap_new(DISK_SIZE, 4 * C);
  pair_init(&pair, 0);
  cbt_bitmap_set(fine, 2 * C + 60000, 1);
  cbt_session_start(pair.export, fine);
  guest_writes(&pair, 0, DISK_SIZE);
  assert_int_equal(cbt_session_fleeced(pair.reader), C);
  fill(&pair, 0, DISK_SIZE, 'o');
  cbt_bitmap_set(coarse, DISK_SIZE - 1, 1); /* clusters 68 to 70 */
  cbt_session_start(pair.export, coarse);
  guest_writes(&pair, 0, DISK_SIZE);
  assert_int_equal(cbt_session_fleeced(pair.reader), 2 * C + LAST_LENGTH);
  pair_clear(&pair);
}

static void
test_fleece_gives_back_what_was_read(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 2 * C); /* room for two clusters at a time */
  cbt_session_start(pair.export, NULL);
  for (guint64 cluster = 0; cluster < 20; cluster += 2) {
    guest_writes(&pair, cluster * C, 2 * C);
    assert_int_equal(read_expecting(&pair, cluster * C, 2 * C, 'o'), 2);
  }
  assert_int_equal(cbt_session_fleeced(pair.reader), 20 * C);
  assert_true(fleece_blocks(&pair) * 512 <= 2 * C);
  pair_clear(&pair);
}

static void
test_zeros_take_no_room_in_the_fleece(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 1);
  fill(&pair, 0, 2 * C, 0);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, 0, 2 * C);
  assert_int_equal(read_expecting(&pair, 0, 2 * C, 0), 2);
  assert_int_equal(cbt_session_fleeced(pair.reader), 0);
  pair_clear(&pair);
}

static void
test_limit_breaks_the_session_and_not_the_write(void **state G_GNUC_UNUSED)
{
  Pair pair;
  g_autoptr(GError) error = NULL;
  g_autofree guint8 *data = g_malloc0(C);
  pair_init(&pair, 2 * C);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, 0, 2 * C);
  assert_true(cbt_session_check(pair.reader, NULL));
  guest_writes(&pair, 2 * C, 1);
  assert_false(cbt_session_settle(pair.reader, 9 * C, C, data, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_NO_SPACE);
  assert_false(cbt_session_check(pair.reader, NULL));
  guest_writes(&pair, 3 * C, C); /* copies no more */
  assert_int_equal(cbt_session_fleeced(pair.reader), 2 * C);
  pair_clear(&pair);
}

static void
test_unreadable_image_breaks_the_session(void **state G_GNUC_UNUSED)
{
  Pair pair;
  g_autoptr(GError) error = NULL;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  cbt_session_preserve(pair.export, -1, 0, 1);
  assert_false(cbt_session_check(pair.reader, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_IO);
  pair_clear(&pair);
}

static void
assert_next(Pair *pair, guint64 offset, guint64 length, guint64 expected_offset, guint64 expected_length)
{
  CbtExtent extent;
  gboolean found = cbt_session_next_preserved(pair->reader, offset, length, &extent);
  assert_int_equal(found, expected_length != 0);
  assert_int_equal(extent.length, expected_length);
  if (found)
    assert_int_equal(extent.offset, expected_offset);
}

static void
test_hole_walk_finds_preserved_runs_and_settles_the_rest(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  guest_writes(&pair, 10 * C, 2 * C);
  guest_writes(&pair, 62 * C, 4 * C);
  guest_writes(&pair, 70 * C, 1);
  assert_next(&pair, 0, DISK_SIZE, 10 * C, 2 * C);
  assert_int_equal(read_expecting(&pair, 10 * C, 2 * C, 'o'), 2);
  assert_next(&pair, 12 * C, DISK_SIZE - 12 * C, 62 * C, 4 * C);
  assert_int_equal(read_expecting(&pair, 62 * C, 4 * C, 'o'), 4);
  assert_next(&pair, 66 * C, DISK_SIZE - 66 * C, 70 * C, LAST_LENGTH);
  assert_int_equal(read_expecting(&pair, 70 * C, LAST_LENGTH, 'o'), 1);
  assert_next(&pair, 0, DISK_SIZE, 0, 0);
  guint64 before = cbt_session_fleeced(pair.reader);
  guest_writes(&pair, 0, DISK_SIZE); /* all is done */
  assert_int_equal(cbt_session_fleeced(pair.reader), before);
  pair_clear(&pair);
}

static void
test_hole_walk_leaves_what_lies_outside_alone(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  cbt_session_start(pair.export, NULL);
  assert_next(&pair, 3 * C, 2 * C, 0, 0);
  guest_writes(&pair, 0, 8 * C);
  assert_int_equal(cbt_session_fleeced(pair.reader), 6 * C);
  pair_clear(&pair);
}

static void
assert_refused(int memory_fd, int fleece_fd, guint64 size, CbtErrorCode code)
{
  g_autoptr(GError) error = NULL;
  assert_null(cbt_session_attach(memory_fd, fleece_fd, size, &error));
  assert_int_equal(cbt_error_code(error), code);
}

static int
make_memfd(gsize length, unsigned int seals)
{
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_int_equal(ftruncate(fd, (off_t) length), 0);
  assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

static void
test_attach_refuses_what_is_no_session(void **state G_GNUC_UNUSED)
{
  Pair pair;
  int pipe_fds[2];
  gsize length = cbt_session_memory_size(DISK_SIZE);
  pair_init(&pair, 0);
  int fleece = cbt_session_fleece_fd(pair.reader), memory = cbt_session_memory_fd(pair.reader);
  assert_int_equal(pipe(pipe_fds), 0);
  assert_refused(make_memfd(length, 0), dup(fleece), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(make_memfd(length, F_SEAL_SHRINK), dup(fleece), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(make_memfd(length - 8, F_SEAL_SHRINK), dup(fleece), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(make_memfd(0, F_SEAL_SHRINK), dup(fleece), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(dup(fleece), dup(fleece), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(-1, -1, DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(dup(memory), pipe_fds[1], DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(dup(memory), open("/dev/null", O_RDWR), DISK_SIZE, CBT_ERROR_INVALID);
  assert_refused(dup(memory), dup(fleece), DISK_SIZE + 512, CBT_ERROR_INVALID);
  assert_refused(dup(memory), dup(fleece), 0, CBT_ERROR_INVALID);
  close(pipe_fds[0]);
  pair_clear(&pair);
}

static void
test_memory_cannot_be_taken_away(void **state G_GNUC_UNUSED)
{
  Pair pair;
  pair_init(&pair, 0);
  assert_int_equal(ftruncate(cbt_session_memory_fd(pair.reader), 0), -1);
  assert_int_equal(ftruncate(cbt_session_memory_fd(pair.reader), 1 << 30), -1);
  pair_clear(&pair);
}

static void
test_new_names_the_folder_it_cannot_use(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  assert_null(cbt_session_new(DISK_SIZE, "/nonexistent/fleece", 0, &error));
  assert_non_null(strstr(error->message, "/nonexistent/fleece"));
  g_clear_error(&error);
  assert_null(cbt_session_new(CBT_DISK_SIZE_MAX + 512, "/tmp", 0, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_overwritten_cluster_is_read_as_it_was),
      cmocka_unit_test(test_cluster_that_was_read_is_not_preserved),
      cmocka_unit_test(test_write_across_clusters_preserves_all_it_touches),
      cmocka_unit_test(test_partial_last_cluster_is_preserved),
      cmocka_unit_test(test_incremental_preserves_only_what_is_wanted),
      cmocka_unit_test(test_other_granularities_want_every_cluster_they_overlap),
      cmocka_unit_test(test_fleece_gives_back_what_was_read),
      cmocka_unit_test(test_zeros_take_no_room_in_the_fleece),
      cmocka_unit_test(test_limit_breaks_the_session_and_not_the_write),
      cmocka_unit_test(test_unreadable_image_breaks_the_session),
      cmocka_unit_test(test_hole_walk_finds_preserved_runs_and_settles_the_rest),
      cmocka_unit_test(test_hole_walk_leaves_what_lies_outside_alone),
      cmocka_unit_test(test_attach_refuses_what_is_no_session),
      cmocka_unit_test(test_memory_cannot_be_taken_away),
      cmocka_unit_test(test_new_names_the_folder_it_cannot_use),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
