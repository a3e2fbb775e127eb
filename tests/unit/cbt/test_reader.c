/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader against real files, and against sources made to fail.
 *
 * Each image holds words that are made of their own offset, so that data from a wrong place is told from data
 * that is wrong. A collector takes the blocks and checks each one against pread of the image, on the spot or
 * from threads of its own that hold them back for a while.
 */
#include "reader-fixture.h"

static void
test_no_extents_read_nothing(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, NULL, 0, 0), 0);
  const CbtExtent empty = {MIB, 0};
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, &empty, 1, 0), 0);
}

static void
test_whole_image_arrives(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  const CbtExtent whole = {0, 8 * MIB};
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, &whole, 1, 128), 128);
  assert_int_equal(read_all(fixture->path, SMALL_BUFFERED, 0, 0, &whole, 1, 128), 128);
  assert_int_equal(read_all(fixture->path, CBT_READER_OPTIONS_DEFAULT, 0, 0, &whole, 1,
                            (guint) (8 * MIB / CBT_READER_OPTIONS_DEFAULT.block_size)),
                   8 * MIB / CBT_READER_OPTIONS_DEFAULT.block_size);
}

static void
test_odd_ends_are_read_and_zeroed_behind(void **state)
{
  Fixture *fixture = *state;
  static const guint64 sizes[] = {512,        4096,           4096 + 512,   64 * KIB - 512,
                                  64 * KIB,   64 * KIB + 512, 65 * KIB,     MIB + 4096 + 1024,
                                  MIB - 4096, MIB + 60 * KIB, 3 * MIB + 512};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    make_image(fixture->path, sizes[i]);
    const CbtExtent whole = {0, sizes[i]};
    guint n_blocks = (guint) cbt_div_up(sizes[i], 64 * KIB);
    read_all(fixture->path, SMALL, 0, 0, &whole, 1, n_blocks);
    read_all(fixture->path, SMALL_BUFFERED, 0, 0, &whole, 1, n_blocks);
    read_all(fixture->path, (CbtReaderOptions){1024 * 1024, 2, TRUE}, 0, 0, &whole, 1,
             (guint) cbt_div_up(sizes[i], MIB));
  }
}

static void
test_scattered_clusters_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 64 * MIB);
  g_autofree CbtExtent *extents = scatter(512, 64 * KIB, 128 * KIB, 64 * KIB);
  read_all(fixture->path, SMALL, 0, 0, extents, 512, 512);
  read_all(fixture->path, (CbtReaderOptions){1024 * 1024, 16, TRUE}, 2, 8, extents, 512, 512);
}

static void
test_small_granules_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 4 * MIB);
  g_autofree CbtExtent *extents = scatter(512, 4096, 8192, 4096);
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, extents, 512, 512), 512);
  /* What no direct read can be made of is read all the same. */
  const CbtExtent odd[] = {{512, 1024}, {8192 + 512, 512}, {64 * KIB - 512, 1024}, {4 * MIB - 512, 512}};
  read_all(fixture->path, SMALL, 0, 0, odd, 4, 5);
}

static void
test_neighbours_are_joined(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 4 * MIB);
  g_autofree CbtExtent *clusters = scatter(64, 0, 64 * KIB, 64 * KIB);
  const CbtReaderOptions options = {512 * 1024, 4, TRUE};
  assert_int_equal(read_all(fixture->path, options, 0, 0, clusters, 64, 8), 8);
  /* Neighbours that begin in the middle of a block: 32 + 512 - 32 KiB, and the rest. */
  g_autofree CbtExtent *granules = scatter(128, 480 * KIB, 4 * KIB, 4 * KIB);
  assert_int_equal(read_all(fixture->path, options, 0, 0, granules, 128, 2), 2);
  /* A hole of 4 KiB parts them; an empty extent does not. */
  const CbtExtent parted[] = {{0, 4096}, {8192, 4096}, {12288, 0}, {12288, 4096}};
  assert_int_equal(read_all(fixture->path, options, 0, 0, parted, 4, 2), 2);
}

static void
test_random_extents_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 16 * MIB + 512);
  guint32 seed = g_random_int();
  print_message("seed %u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  for (guint round = 0; round < 8; round++) {
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
    guint n_blocks = 0;
    guint64 block_size = (64 * KIB) << g_rand_int_range(rand, 0, 4), end = G_MAXUINT64;
    for (guint64 at = 0; at < 16 * MIB + 512;) {
      CbtExtent extent = {at + 4096 * (guint64) g_rand_int_range(rand, 0, 20),
                          4096 * (guint64) g_rand_int_range(rand, 1, 200)};
      if (extent.offset >= 16 * MIB + 512)
        break;
      extent.length = MIN(extent.length, 16 * MIB + 512 - extent.offset);
      g_array_append_val(extents, extent);
      at = extent.offset + extent.length;
      n_blocks += (guint) ((at - 1) / block_size - extent.offset / block_size + 1);
      n_blocks -= extent.offset == end && extent.offset % block_size != 0; /* goes on in the same block */
      end = at;
    }
    read_all(fixture->path, (CbtReaderOptions){(guint32) block_size, 1 + round, TRUE}, round % 4, round / 2,
             (const CbtExtent *) (gpointer) extents->data, extents->len, n_blocks);
  }
}

static void
test_buffers_given_back_late_are_waited_for(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  const CbtExtent whole = {0, 8 * MIB};
  /* Three of four buffers are always held; in the second run the threads fight over one. */
  read_all(fixture->path, SMALL, 1, 3, &whole, 1, 128);
  read_all(fixture->path, (CbtReaderOptions){64 * 1024, 1, TRUE}, 3, 0, &whole, 1, 128);
}

static void
test_shared_memory_image_arrives(void **state)
{
  Fixture *fixture = *state; /* on tmpfs, which in older kernels has no O_DIRECT */
  make_image(fixture->path, 2 * MIB + 512);
  const CbtExtent whole = {0, 2 * MIB + 512};
  read_all(fixture->path, SMALL, 2, 1, &whole, 1, 33);
}

static void
test_block_device_with_an_odd_end_arrives(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB + 512);
  char *device = test_loop_attach(fixture->path);
  if (!device)
    skip();
  const CbtExtent whole = {0, 2 * MIB + 512};
  read_all(device, SMALL, 0, 0, &whole, 1, 33);
  test_loop_detach(device);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_no_extents_read_nothing),
      TEST(test_whole_image_arrives),
      TEST(test_odd_ends_are_read_and_zeroed_behind),
      TEST(test_scattered_clusters_arrive),
      TEST(test_small_granules_arrive),
      TEST(test_neighbours_are_joined),
      TEST(test_random_extents_arrive),
      TEST(test_buffers_given_back_late_are_waited_for),
      cmocka_unit_test_setup_teardown(test_shared_memory_image_arrives, setup_shm, teardown),
      TEST(test_block_device_with_an_odd_end_arrives),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
