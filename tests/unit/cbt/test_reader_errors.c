/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes wrong while a disk is read: the source, the extents, a cancel. */
#include "reader-fixture.h"

/* --- sources made to fail --- */

typedef struct {
  CbtSource base;
  int fds[2]; /* [direct] */
} FakeSource;

static int
fake_get_fd(CbtSource *source, gboolean direct)
{
  return ((FakeSource *) source)->fds[direct];
}

static const CbtSourceClass fake_class = {.type = "fake", .get_fd = fake_get_fd};

static void
test_refused_direct_reads_go_through_the_cache(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  CBT_AUTO_FD int fd = open(fixture->path, O_RDONLY | O_CLOEXEC);
  /* A read of a namespace's file is EINVAL, as a direct one of a picky file system is. */
  CBT_AUTO_FD int picky = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {fd, picky}};
  g_autoptr(CbtReader) reader = new_reader(&source.base, SMALL);
  const CbtExtent whole = {0, MIB};
  Collector collector = {0};
  assert_true(collect(&collector, reader, &source.base, SMALL, &whole, 1, NULL, NULL));
  assert_int_equal(collector.n_blocks, 16);
  assert_int_equal(collector.n_bad, 0);
  assert_int_equal(cbt_reader_n_reads(reader), 20); /* only the four that were in flight were tried in vain */
}

static void
assert_run_fails(CbtSource *source, const CbtExtent *extent, CbtErrorCode code, const char *what)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {0};
  assert_false(collect(&collector, reader, source, SMALL, extent, 1, NULL, &error));
  assert_non_null(error);
  assert_int_equal(cbt_error_code(error), code);
  assert_non_null(strstr(error->message, what));
  assert_int_equal(collector.n_bad, 0);
}

static void
test_read_error_names_the_offset(void **state G_GNUC_UNUSED)
{
  CBT_AUTO_FD int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC); /* EIO where nothing is mapped: at 0 */
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {fd, -1}};
  const CbtExtent first = {4096, 4096};
  assert_run_fails(&source.base, &first, CBT_ERROR_IO, "at offset 4096: Input/output error");
}

static void
test_source_without_descriptor_is_unsupported(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {-1, -1}};
  CbtReaderOptions options = SMALL;
  assert_null(cbt_reader_new(&source.base, &options, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNSUPPORTED);
}

static void
test_image_cut_before_the_run_fails(void **state)
{
  Fixture *fixture = *state;
  static const guint64 ends[] = {0, MIB, MIB + 512, MIB + 1000, MIB + 4096};
  for (guint i = 0; i < G_N_ELEMENTS(ends); i++) {
    make_image(fixture->path, 2 * MIB);
    g_autoptr(CbtSource) source = open_source(fixture->path);
    assert_int_equal(truncate(fixture->path, (off_t) ends[i]), 0);
    const CbtExtent last = {cbt_round_down(ends[i], 64 * KIB), 64 * KIB};
    g_autofree char *what = g_strdup_printf("ended early at offset %" G_GUINT64_FORMAT, ends[i]);
    assert_run_fails(source, &last, CBT_ERROR_IO, what);
  }
}

static void
cut_image(gpointer user_data)
{
  const Fixture *fixture = user_data;
  assert_int_equal(truncate(fixture->path, (off_t) (4 * MIB)), 0);
}

static void
test_image_cut_in_the_middle_fails(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {.act_at = 8, .act = cut_image, .act_data = fixture};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_IO);
  assert_non_null(strstr(error->message, "ended early at offset 4194304"));
  assert_in_range(collector.n_blocks, 8, 64 + 4);
  assert_int_equal(collector.n_bad, 0);
}

static void
test_device_error_in_the_middle_fails(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  char *device = test_loop_attach(fixture->path);
  if (!device)
    skip();
  {
    /* The device keeps its size, and cannot read what its file has no more. */
    g_autoptr(CbtSource) source = open_source(device);
    cut_image(fixture);
    const CbtExtent whole = {0, 8 * MIB};
    assert_run_fails(source, &whole, CBT_ERROR_IO, "cannot read the disk image at offset 4");
  }
  test_loop_detach(device);
}

/* --- runs that end otherwise --- */

static void
test_error_of_next_ends_the_run(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  g_autofree CbtExtent *extents = scatter(32, 0, 128 * KIB, 64 * KIB);
  Collector collector = {.list = {.fail_at = 20}};
  assert_false(collect(&collector, reader, source, SMALL, extents, 32, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  assert_string_equal(error->message, "the list is broken");
  assert_int_equal(collector.n_bad, 0);

  /* The reader is as good as new. */
  Collector again = {0};
  assert_true(collect(&again, reader, source, SMALL, extents, 32, NULL, NULL));
  assert_int_equal(again.n_blocks, 32);
  assert_int_equal(again.n_bad, 0);
  assert_int_equal(again.sequences, 32 * 33 / 2);
}

static void
test_bad_extents_are_refused(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  static const CbtExtent lists[][2] = {
      {{64 * KIB, 64 * KIB}, {0, 64 * KIB}},        /* goes back */
      {{0, 64 * KIB}, {60 * KIB, 64 * KIB}},        /* overlaps */
      {{0, 64 * KIB}, {MIB - 4096, 8192}},          /* past the end */
      {{0, 64 * KIB}, {128 * KIB, G_MAXUINT64 - 4}} /* overflows */
  };
  for (guint i = 0; i < G_N_ELEMENTS(lists); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(CbtReader) reader = new_reader(source, SMALL);
    Collector collector = {0};
    assert_false(collect(&collector, reader, source, SMALL, lists[i], 2, NULL, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
}

static void
cancel(gpointer cancellable)
{
  g_cancellable_cancel(cancellable);
}

static void
test_cancel_in_the_middle_ends_the_run(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {.act_at = 5, .act = cancel, .act_data = cancellable, .n_threads = 1};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CANCELLED);
  assert_in_range(collector.n_blocks, 5, 5 + 4);
  assert_int_equal(collector.n_bad, 0);
}

static void
test_cancel_ends_the_wait_for_buffers(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  /* All four buffers are held until the run is over. */
  Collector collector = {.act_at = 4, .act = cancel, .act_data = cancellable, .n_threads = 1, .hold = 4};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CANCELLED);
  assert_int_equal(collector.n_blocks, 4);
}

static void
test_cancelled_before_reads_nothing(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_cancellable_cancel(cancellable);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {0};
  const CbtExtent whole = {0, MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, NULL));
  assert_int_equal(cbt_reader_n_reads(reader), 0);
}

static void
test_bad_options_are_refused(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  static const CbtReaderOptions bad[] = {{32 * 1024, 4, TRUE},
                                         {96 * 1024, 4, TRUE},
                                         {8 << 20, 4, TRUE},
                                         {64 * 1024, 0, TRUE},
                                         {4 << 20, 257, TRUE}};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(cbt_reader_new(source, &bad[i], &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_refused_direct_reads_go_through_the_cache),
      TEST(test_read_error_names_the_offset),
      TEST(test_source_without_descriptor_is_unsupported),
      TEST(test_image_cut_before_the_run_fails),
      TEST(test_image_cut_in_the_middle_fails),
      TEST(test_device_error_in_the_middle_fails),
      TEST(test_error_of_next_ends_the_run),
      TEST(test_bad_extents_are_refused),
      TEST(test_cancel_in_the_middle_ends_the_run),
      TEST(test_cancel_ends_the_wait_for_buffers),
      TEST(test_cancelled_before_reads_nothing),
      TEST(test_bad_options_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
