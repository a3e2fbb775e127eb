/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Vms with their disks and configuration files.
 *
 * An insert looks for what is in its way first, inside its transaction, so that the error can name it; the
 * unique keys stand behind that.
 */
#include <store/catalogue-private.h>

#include <common/error.h>
#include <common/name.h>
#include <string.h>

void
catalogue_disk_free(gpointer data)
{
  CatalogueDisk *disk = data;
  if (!disk)
    return;
  g_free(disk->name);
  g_free(disk->path);
  g_free(disk->qmp);
  g_free(disk->node);
  g_free(disk->format);
  g_free(disk);
}

CatalogueDisk *
catalogue_disk_copy(const CatalogueDisk *disk)
{
  CatalogueDisk *copy = g_new0(CatalogueDisk, 1);
  *copy = (CatalogueDisk){.id = disk->id, .granularity = disk->granularity, .size = disk->size};
  copy->name = g_strdup(disk->name);
  copy->path = g_strdup(disk->path);
  copy->qmp = g_strdup(disk->qmp);
  copy->node = g_strdup(disk->node);
  copy->format = g_strdup(disk->format);
  return copy;
}

CatalogueVm *
catalogue_vm_new(const char *name)
{
  CatalogueVm *vm = g_new0(CatalogueVm, 1);
  vm->name = g_strdup(name);
  vm->created = g_get_real_time();
  vm->disks = g_ptr_array_new_with_free_func(catalogue_disk_free);
  vm->configs = g_ptr_array_new_with_free_func(g_free);
  return vm;
}

CatalogueDisk *
catalogue_vm_add_disk(CatalogueVm *vm, const char *name, const char *path, guint64 granularity)
{
  CatalogueDisk *disk = g_new0(CatalogueDisk, 1);
  disk->id = cbt_uuid_generate();
  disk->name = g_strdup(name);
  disk->path = g_strdup(path);
  disk->granularity = granularity;
  g_ptr_array_add(vm->disks, disk);
  return disk;
}

CatalogueDisk *
catalogue_vm_add_live_disk(CatalogueVm *vm, const char *name, const char *path, const char *node,
                           const char *format, guint64 size, guint64 granularity)
{
  CatalogueDisk *disk = catalogue_vm_add_disk(vm, name, path, granularity);
  disk->qmp = g_strdup(vm->qmp);
  disk->node = g_strdup(node);
  disk->format = g_strdup(format);
  disk->size = size;
  return disk;
}

gboolean
catalogue_vm_is_live(const CatalogueVm *vm)
{
  return vm->qmp != NULL;
}

void
catalogue_vm_free(CatalogueVm *vm)
{
  if (!vm)
    return;
  g_free(vm->name);
  g_free(vm->qmp);
  g_free(vm->qga);
  g_ptr_array_unref(vm->disks);
  g_ptr_array_unref(vm->configs);
  g_free(vm);
}

static gboolean
check_path(const char *path, GError **error)
{
  if (g_path_is_absolute(path))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "path '%s' is not absolute", path);
  return FALSE;
}

static gboolean
check_disk(const CatalogueVm *vm, guint position, GError **error)
{
  const CatalogueDisk *disk = vm->disks->pdata[position];
  for (guint i = 0; i < position; i++)
    if (strcmp(((CatalogueDisk *) vm->disks->pdata[i])->name, disk->name) == 0) {
      cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "vm '%s' has two disks '%s'", vm->name, disk->name);
      return FALSE;
    }
  return cbt_name_check("disk", disk->name, error) && (disk->node || check_path(disk->path, error));
}

static gboolean
insert_disk(Catalogue *catalogue, const CatalogueVm *vm, guint position, GError **error)
{
  const CatalogueDisk *disk = vm->disks->pdata[position];
  if (!check_disk(vm, position, error))
    return FALSE;
  g_autofree char *user = catalogue_find_image(catalogue, disk->path);
  if (user) {
    cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "image %s is already disk %s", disk->path, user);
    return FALSE;
  }
  if (catalogue_run(catalogue, error,
                    "INSERT INTO disks (id, vm, position, name, path, granularity, node, format, size)"
                    " VALUES (?,?,?,?,?,?,?,?,?)",
                    "usississi", &disk->id, vm->name, (gint64) position, disk->name, disk->path,
                    (gint64) disk->granularity, disk->node, disk->format, (gint64) disk->size))
    return TRUE;
  g_prefix_error(error, "cannot add disk '%s': ", disk->name);
  return FALSE;
}

static gboolean
insert_config(Catalogue *catalogue, const CatalogueVm *vm, guint position, GError **error)
{
  const char *path = vm->configs->pdata[position];
  if (!check_path(path, error))
    return FALSE;
  if (catalogue_run(catalogue, error, "INSERT INTO vm_configs (vm, position, path) VALUES (?,?,?)", "sis",
                    vm->name, (gint64) position, path))
    return TRUE;
  g_prefix_error(error, "cannot add configuration file %s: ", path);
  return FALSE;
}

static gboolean
vm_exists(Catalogue *catalogue, const char *name, gboolean *exists, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT 1 FROM vms WHERE name = ?", "s", name);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  *exists = step == CATALOGUE_ROW;
  return step != CATALOGUE_FAILED;
}

gboolean
catalogue_insert_vm_rows(Catalogue *catalogue, const CatalogueVm *vm, GError **error)
{
  gboolean exists;
  if (!vm_exists(catalogue, vm->name, &exists, error))
    return FALSE;
  if (exists) {
    cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "vm '%s' exists already", vm->name);
    return FALSE;
  }
  if ((vm->qmp && !check_path(vm->qmp, error)) || (vm->qga && !check_path(vm->qga, error)) ||
      !catalogue_run(catalogue, error,
                     "INSERT INTO vms (name, created, qmp, qga, follows) VALUES (?,?,?,?,?)", "sissi",
                     vm->name, vm->created, vm->qmp, vm->qga, (gint64) vm->follows))
    return FALSE;
  for (guint i = 0; i < vm->disks->len; i++)
    if (!insert_disk(catalogue, vm, i, error))
      return FALSE;
  for (guint i = 0; i < vm->configs->len; i++)
    if (!insert_config(catalogue, vm, i, error))
      return FALSE;
  return TRUE;
}

gboolean
catalogue_insert_vm(Catalogue *catalogue, const CatalogueVm *vm, GError **error)
{
  if (!cbt_name_check("vm", vm->name, error) || !catalogue_begin(catalogue, error))
    return FALSE;
  return catalogue_end(catalogue, catalogue_insert_vm_rows(catalogue, vm, error), error);
}

static gboolean
read_disks(Catalogue *catalogue, CatalogueVm *vm, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error,
      "SELECT id, name, path, granularity, node, format, size FROM disks WHERE vm = ? ORDER BY position", "s",
      vm->name);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    CatalogueDisk *disk = g_new0(CatalogueDisk, 1);
    g_ptr_array_add(vm->disks, disk);
    disk->name = catalogue_column_text(stmt, 1);
    disk->path = catalogue_column_text(stmt, 2);
    disk->granularity = (guint64) sqlite3_column_int64(stmt, 3);
    disk->qmp = g_strdup(vm->qmp);
    disk->node = catalogue_column_text(stmt, 4);
    disk->format = catalogue_column_text(stmt, 5);
    disk->size = (guint64) sqlite3_column_int64(stmt, 6);
    if (!catalogue_column_uuid(stmt, 0, &disk->id, error))
      return FALSE;
  }
  return step == CATALOGUE_DONE;
}

static gboolean
read_configs(Catalogue *catalogue, CatalogueVm *vm, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT path FROM vm_configs WHERE vm = ? ORDER BY position", "s", vm->name);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW)
    g_ptr_array_add(vm->configs, catalogue_column_text(stmt, 0));
  return step == CATALOGUE_DONE;
}

#define VM_COLUMNS "name, created, qmp, qga, follows"

/* The vm of STMT's current row (VM_COLUMNS). */
static CatalogueVm *
read_vm(Catalogue *catalogue, sqlite3_stmt *stmt, GError **error)
{
  g_autofree char *name = catalogue_column_text(stmt, 0);
  g_autoptr(CatalogueVm) vm = catalogue_vm_new(name);
  vm->created = sqlite3_column_int64(stmt, 1);
  vm->qmp = catalogue_column_text(stmt, 2);
  vm->qga = catalogue_column_text(stmt, 3);
  vm->follows = sqlite3_column_int64(stmt, 4) != 0;
  if (!read_disks(catalogue, vm, error) || !read_configs(catalogue, vm, error))
    return NULL;
  return g_steal_pointer(&vm);
}

static void
set_no_vm(const char *name, GError **error)
{
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "'cbt-backup vm list' shows those there are.",
                "there is no vm '%s'", name);
}

CatalogueVm *
catalogue_get_vm(Catalogue *catalogue, const char *name, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT " VM_COLUMNS " FROM vms WHERE name = ?", "s", name);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step == CATALOGUE_DONE)
    set_no_vm(name, error);
  return step == CATALOGUE_ROW ? read_vm(catalogue, stmt, error) : NULL;
}

GPtrArray *
catalogue_list_vms(Catalogue *catalogue, GError **error)
{
  g_autoptr(GPtrArray) vms = g_ptr_array_new_with_free_func((GDestroyNotify) catalogue_vm_free);
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT " VM_COLUMNS " FROM vms ORDER BY name", "");
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    CatalogueVm *vm = read_vm(catalogue, stmt, error);
    if (!vm)
      return NULL;
    g_ptr_array_add(vms, vm);
  }
  return step == CATALOGUE_DONE ? g_steal_pointer(&vms) : NULL;
}

gboolean
catalogue_remove_vm(Catalogue *catalogue, const char *name, GError **error)
{
  if (!catalogue_run(catalogue, error, "DELETE FROM vms WHERE name = ?", "s", name))
    return FALSE;
  if (sqlite3_changes(catalogue->db) > 0)
    return TRUE;
  set_no_vm(name, error);
  return FALSE;
}

gboolean
catalogue_insert_disk(Catalogue *catalogue, const CatalogueVm *vm, const CatalogueDisk *disk, GError **error)
{
  g_autoptr(CatalogueVm) now = catalogue_get_vm(catalogue, vm->name, error);
  if (!now)
    return FALSE;
  CatalogueDisk *added = catalogue_vm_add_live_disk(now, disk->name, disk->path, disk->node, disk->format,
                                                    disk->size, disk->granularity);
  added->id = disk->id;
  return insert_disk(catalogue, now, now->disks->len - 1, error);
}

gboolean
catalogue_update_disk(Catalogue *catalogue, const CatalogueDisk *disk, GError **error)
{
  if (!catalogue_run(catalogue, error, "UPDATE disks SET path = ?, format = ?, size = ? WHERE id = ?", "ssiu",
                     disk->path, disk->format, (gint64) disk->size, &disk->id))
    return FALSE;
  if (sqlite3_changes(catalogue->db) > 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "disk '%s' is not registered any more", disk->name);
  return FALSE;
}

char *
catalogue_find_image(Catalogue *catalogue, const char *path)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, NULL, "SELECT vm || '/' || name FROM disks WHERE path = ?", "s", path);
  if (!stmt || catalogue_step(catalogue, stmt, NULL) != CATALOGUE_ROW)
    return NULL;
  return catalogue_column_text(stmt, 0);
}
