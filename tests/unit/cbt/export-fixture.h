/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An image, a folder of bitmaps and a control socket for each test of exports. Included after cmocka.h. */
#pragma once

#include <cbt/disk.h>
#include <cbt/export.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define C           CBT_CLUSTER_SIZE
#define LAST_LENGTH 1536u /* of the last cluster, which is a partial one */
#define N_CLUSTERS  97u
#define IMAGE_SIZE  ((N_CLUSTERS - 1) * C + LAST_LENGTH)
#define LONG_MS     10000u

typedef struct {
  char *directory;
  char *image;
  char *bitmaps;
  char *control;
  CbtUuid disk_id;
  CbtExport *export;
} Fixture;

static inline void
expect_ok(gboolean ok, GError **error)
{
  if (*error != NULL)
    fail_msg("%s", (*error)->message);
  assert_true(ok);
}

static inline void
expect_code(gboolean failed, GError **error, CbtErrorCode code)
{
  assert_true(failed);
  assert_non_null(*error);
  if (cbt_error_code(*error) != code)
    fail_msg("%s instead of %s: %s", cbt_error_code_name(cbt_error_code(*error)), cbt_error_code_name(code),
             (*error)->message);
  g_clear_error(error);
}

static inline void
fixture_make_image(const Fixture *f, guint64 size)
{
  int fd = open(f->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t) size), 0);
  close(fd);
}

static inline void
fixture_serve(Fixture *f)
{
  g_autoptr(GError) error = NULL;
  f->export = cbt_export_open(f->image, f->bitmaps, NULL, &f->disk_id, &error);
  expect_ok(f->export != NULL, &error);
  expect_ok(cbt_export_serve_control(f->export, f->control, &error), &error);
}

static inline CbtDisk *
fixture_connect(const Fixture *f)
{
  g_autoptr(GError) error = NULL;
  CbtDisk *disk = cbt_disk_connect(f->control, LONG_MS, &error);
  expect_ok(disk != NULL, &error);
  return disk;
}

static inline CbtSession *
fixture_session(const Fixture *f, guint64 limit)
{
  g_autoptr(GError) error = NULL;
  CbtSession *session = cbt_session_new(IMAGE_SIZE, f->directory, limit, &error);
  expect_ok(session != NULL, &error);
  return session;
}

static inline int
fixture_setup(void **state)
{
  Fixture *f = g_new0(Fixture, 1);
  f->directory = g_dir_make_tmp("cbt-export-XXXXXX", NULL);
  f->image = g_build_filename(f->directory, "image", NULL);
  f->bitmaps = g_build_filename(f->directory, "bitmaps", NULL);
  f->control = g_build_filename(f->directory, "control", NULL);
  f->disk_id = cbt_uuid_generate();
  fixture_make_image(f, IMAGE_SIZE);
  *state = f;
  return 0;
}

static inline int
fixture_remove_entry(const char *path, const struct stat *st G_GNUC_UNUSED, int type G_GNUC_UNUSED,
                     struct FTW *ftw G_GNUC_UNUSED)
{
  return remove(path);
}

static inline int
fixture_teardown(void **state)
{
  Fixture *f = *state;
  cbt_export_close(f->export);
  nftw(f->directory, fixture_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  g_free(f->directory);
  g_free(f->image);
  g_free(f->bitmaps);
  g_free(f->control);
  g_free(f);
  return 0;
}

/* --- requests in one line; FALSE with ERROR as the owner says --- */

static inline gboolean
add_bitmap(CbtDisk *disk, const char *name, guint64 granularity, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_ADD, name);
  request.granularity = granularity;
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

static inline gboolean
hold(CbtDisk *disk, guint timeout_ms, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_HOLD, NULL);
  request.timeout_ms = timeout_ms;
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

static inline gboolean
begin(CbtDisk *disk, const char *name, gboolean whole, CbtSession *session, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_BEGIN, name);
  request.pending = cbt_uuid_generate();
  request.whole = whole;
  return cbt_disk_call(disk, &request, session, NULL, error);
}

static inline gboolean
simple(CbtDisk *disk, CbtControlOp op, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, op, NULL);
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

static inline guint64
dirty_bytes(CbtDisk *disk, const char *name)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  gboolean ok = cbt_disk_info(disk, name, &info, &error);
  expect_ok(ok, &error);
  return info.count;
}
