/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A catalogue in a folder of its own, vms and points to put into it, and the claims that its tests make. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <store/catalogue-private.h>
#include <string.h>
#include <tests/support/store-files.h>

typedef struct {
  char *folder;
  char *path;
  Catalogue *catalogue;
} Fixture;

static inline int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  fixture->path = g_build_filename(fixture->folder, "catalogue.sqlite", NULL);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  *state = fixture;
  return fixture->catalogue ? 0 : -1;
}

static inline int
teardown(void **state)
{
  Fixture *fixture = *state;
  catalogue_close(fixture->catalogue);
  store_test_folder_free(fixture->folder);
  g_free(fixture->path);
  g_free(fixture);
  return 0;
}

static inline void
reopen(Fixture *fixture)
{
  catalogue_close(fixture->catalogue);
  fixture->catalogue = catalogue_open(fixture->path, NULL);
  assert_non_null(fixture->catalogue);
}

static inline void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  assert_int_equal((*error)->domain, CBT_ERROR);
  g_clear_error(error);
}

static inline void
execute(Fixture *fixture, const char *sql)
{
  assert_int_equal(sqlite3_exec(fixture->catalogue->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

static inline gint64
number(Fixture *fixture, const char *sql)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(fixture->catalogue, NULL, sql, "");
  assert_non_null(stmt);
  assert_int_equal(catalogue_step(fixture->catalogue, stmt, NULL), CATALOGUE_ROW);
  return sqlite3_column_int64(stmt, 0);
}

static inline CatalogueVm *
make_vm(const char *name)
{
  CatalogueVm *vm = catalogue_vm_new(name);
  g_autofree char *root = g_strdup_printf("/images/%s-root.raw", name);
  g_autofree char *data = g_strdup_printf("/images/%s-data.raw", name);
  catalogue_vm_add_disk(vm, "root", root, 65536);
  catalogue_vm_add_disk(vm, "data", data, 4096);
  g_ptr_array_add(vm->configs, g_strdup_printf("/etc/%s.conf", name));
  g_ptr_array_add(vm->configs, g_strdup("/etc/common.conf"));
  return vm;
}

static inline CatalogueVm *
add_vm(Fixture *fixture, const char *name)
{
  CatalogueVm *vm = make_vm(name);
  assert_true(catalogue_insert_vm(fixture->catalogue, vm, NULL));
  return vm;
}

static inline StorePoint *
make_point(const char *vm, gint64 time)
{
  StorePoint *point = store_point_new();
  point->uuid = cbt_uuid_generate();
  point->vm = g_strdup(vm);
  point->time = time;
  point->incremental = TRUE;
  point->parent = cbt_uuid_generate();
  point->reason = g_strdup("disk data: the bitmap was lost");
  point->note = g_strdup("before the 'upgrade'; DROP TABLE points");
  for (guint i = 0; i < 2; i++) {
    StorePointDisk *disk = store_point_add_disk(point, i ? "data" : "root");
    disk->disk_id = cbt_uuid_generate();
    g_free(disk->path);
    disk->path = g_strdup("/images/a.raw");
    g_free(disk->bitmap);
    disk->bitmap = g_strdup(i ? "" : "default");
    disk->manifest.size = 1000000 + i;
    memset(&disk->manifest.root, (int) (i + 1), sizeof disk->manifest.root);
    disk->parent = i ? (CbtUuid){0} : cbt_uuid_generate();
    disk->reason = i ? g_strdup("the bitmap was lost") : NULL;
    disk->dirty = 11 + i;
    disk->zero = 12 + i;
    disk->reused = 13 + i;
    disk->stored = G_MAXINT64 - i;
  }
  StorePointConfig *config = store_point_add_config(point, "my vm.conf");
  memset(&config->id, 9, sizeof config->id);
  config->size = 77;
  return point;
}

static inline StorePoint *
add_point(Fixture *fixture, const char *vm, gint64 time)
{
  StorePoint *point = make_point(vm, time);
  assert_true(catalogue_insert_point(fixture->catalogue, point, NULL));
  return point;
}

static inline void
assert_same_vm(const CatalogueVm *a, const CatalogueVm *b)
{
  assert_string_equal(a->name, b->name);
  assert_int_equal(a->created, b->created);
  assert_int_equal(a->disks->len, b->disks->len);
  assert_int_equal(a->configs->len, b->configs->len);
  for (guint i = 0; i < a->disks->len; i++) {
    const CatalogueDisk *x = a->disks->pdata[i], *y = b->disks->pdata[i];
    assert_true(cbt_uuid_equal(&x->id, &y->id));
    assert_string_equal(x->name, y->name);
    assert_string_equal(x->path, y->path);
    assert_int_equal(x->granularity, y->granularity);
  }
  for (guint i = 0; i < a->configs->len; i++)
    assert_string_equal(a->configs->pdata[i], b->configs->pdata[i]);
}

/* Two points are the same if their texts are. */
static inline void
assert_same_point(const StorePoint *a, const StorePoint *b)
{
  gsize length;
  g_autofree char *x = store_point_encode(a, &length);
  g_autofree char *y = store_point_encode(b, &length);
  assert_string_equal(x, y);
}

#define CATALOGUE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
