/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A directory of its own for each test of bitmap files, and what several of them need. Included after
 * cmocka.h. */
#pragma once

#include <cbt/bitmap-file-private.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FIXTURE_DISK_SIZE G_GUINT64_CONSTANT(10485760)
#define FIXTURE_GRANULE   G_GUINT64_CONSTANT(65536)

typedef struct {
  char *directory;
  char *path; /* of a bitmap file */
  CbtDiskIdentity disk;
} Fixture;

static inline int
fixture_remove_entry(const char *path, const struct stat *st G_GNUC_UNUSED, int type G_GNUC_UNUSED,
                     struct FTW *ftw G_GNUC_UNUSED)
{
  return remove(path);
}

static inline int
fixture_setup(void **state)
{
  Fixture *f = g_new0(Fixture, 1);
  f->directory = g_dir_make_tmp("cbt-bitmap-XXXXXX", NULL);
  f->path = g_build_filename(f->directory, "daily.bitmap", NULL);
  f->disk = (CbtDiskIdentity){
      .disk_id = cbt_uuid_generate(), .size = FIXTURE_DISK_SIZE, .device = 5, .inode = 77, .mtime_ns = 1000};
  *state = f;
  return f->directory != NULL ? 0 : -1;
}

static inline int
fixture_teardown(void **state)
{
  Fixture *f = *state;
  nftw(f->directory, fixture_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  g_free(f->directory);
  g_free(f->path);
  g_free(f);
  return 0;
}

static inline void
assert_code(GError **error, CbtErrorCode code)
{
  assert_non_null(*error);
  if (cbt_error_code(*error) != code)
    fail_msg("%s instead of %s: %s", cbt_error_code_name(cbt_error_code(*error)), cbt_error_code_name(code),
             (*error)->message);
  g_clear_error(error);
}

static inline void
assert_no_error(const GError *error)
{
  if (error != NULL)
    fail_msg("%s", error->message);
}

/* The seed of this run: CBT_TEST_SEED, or another one each time. */
static inline GRand *
fixture_rand(const char *test)
{
  const char *fixed = g_getenv("CBT_TEST_SEED");
  guint32 seed = fixed != NULL ? (guint32) g_ascii_strtoull(fixed, NULL, 10) : g_random_int();
  print_message("%s: CBT_TEST_SEED=%u\n", test, seed);
  return g_rand_new_with_seed(seed);
}
