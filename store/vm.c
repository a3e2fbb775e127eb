/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vm's record as text and as a file.
 *
 * Paths may hold any bytes and must come back as they were: one that is no UTF-8 is written once more in
 * hexadecimal, which is what is read then.
 */
#include <store/vm.h>

#include <common/error.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <store/keyfile.h>
#include <string.h>

#define FORMAT_VERSION  1
#define DISK_PREFIX     "disk "
#define CONFIG_PREFIX   "config "
#define GRANULARITY_MIN 4096
#define GRANULARITY_MAX (G_GUINT64_CONSTANT(16) << 20)

static const StoreKeyfileKind vm_kind = {
    .what = "vm's record",
    .heading = "# cbt-backup vm\n",
    .group = "vm",
    .suffix = ".vm",
    .version = FORMAT_VERSION,
    .length_max = STORE_KEYFILE_LENGTH_MAX,
};

StoreVm *
store_vm_new(CatalogueVm *vm, const char *policy)
{
  StoreVm *record = g_new0(StoreVm, 1);
  record->vm = vm;
  record->policy = g_strdup(policy);
  return record;
}

void
store_vm_free(StoreVm *record)
{
  if (!record)
    return;
  catalogue_vm_free(record->vm);
  g_free(record->policy);
  g_free(record);
}

gboolean
store_vm_equal(const StoreVm *a, const StoreVm *b)
{
  gsize length;
  g_autofree char *x = store_vm_encode(a, &length);
  g_autofree char *y = store_vm_encode(b, &length);
  return strcmp(x, y) == 0;
}

/* ---- encode ---- */

static void
put_path(GKeyFile *file, const char *group, const char *path)
{
  store_keyfile_put_text(file, group, "path", path);
  if (g_utf8_validate(path, -1, NULL))
    return;
  g_autoptr(GString) hex = g_string_new(NULL);
  for (const char *at = path; *at; at++)
    g_string_append_printf(hex, "%02x", (guint8) *at);
  g_key_file_set_value(file, group, "path-hex", hex->str);
}

static void
put_live(GKeyFile *file, const char *group, const CatalogueDisk *disk)
{
  if (!disk->node)
    return;
  store_keyfile_put_text(file, group, "node", disk->node);
  store_keyfile_put_text(file, group, "format", disk->format);
  g_key_file_set_uint64(file, group, "size", disk->size);
}

char *
store_vm_encode(const StoreVm *record, gsize *length)
{
  const CatalogueVm *vm = record->vm;
  g_autoptr(GKeyFile) file = g_key_file_new();
  g_key_file_set_integer(file, "vm", "format", FORMAT_VERSION);
  store_keyfile_put_text(file, "vm", "name", vm->name);
  g_key_file_set_int64(file, "vm", "created", vm->created);
  store_keyfile_put_text(file, "vm", "qmp", vm->qmp);
  store_keyfile_put_text(file, "vm", "qga", vm->qga);
  if (vm->qmp)
    store_keyfile_put_text(file, "vm", "disks", vm->follows ? "all" : "named");
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = vm->disks->pdata[i];
    g_autofree char *group = g_strconcat(DISK_PREFIX, disk->name, NULL);
    store_keyfile_put_uuid(file, group, "id", &disk->id);
    put_path(file, group, disk->path);
    g_key_file_set_uint64(file, group, "granularity", disk->granularity);
    put_live(file, group, disk);
  }
  for (guint i = 0; i < vm->configs->len; i++) {
    g_autofree char *group = g_strdup_printf(CONFIG_PREFIX "%u", i + 1);
    put_path(file, group, vm->configs->pdata[i]);
  }
  store_keyfile_put_text(file, "policy", "text", record->policy);
  return store_keyfile_seal(&vm_kind, file, length);
}

/* ---- decode ---- */

/* NULL for what is no path in hexadecimal. */
static char *
path_from_hex(const char *hex)
{
  g_autoptr(GString) path = g_string_new(NULL);
  for (; hex[0] && hex[1]; hex += 2) {
    int high = g_ascii_xdigit_value(hex[0]), low = g_ascii_xdigit_value(hex[1]);
    if (high < 0 || low < 0 || (high == 0 && low == 0))
      return NULL;
    g_string_append_c(path, (char) (high << 4 | low));
  }
  return *hex ? NULL : g_string_free(g_steal_pointer(&path), FALSE);
}

static char *
get_path(GKeyFile *file, const char *group, GError **error)
{
  char *path = NULL;
  g_autofree char *hex = g_key_file_get_value(file, group, "path-hex", NULL);
  if (hex)
    path = path_from_hex(hex);
  else if (!store_keyfile_get_text(file, group, "path", TRUE, &path, error)) {
    g_free(path);
    return NULL;
  }
  if (path && (g_path_is_absolute(path) || (*path && g_key_file_has_key(file, group, "node", NULL))))
    return path;
  g_free(path);
  store_keyfile_wrong_value(group, hex ? "path-hex" : "path", error);
  return NULL;
}

static gboolean
check_new_disk(const CatalogueVm *vm, const CatalogueDisk *disk, GError **error)
{
  if (!cbt_name_check("disk", disk->name, error))
    return FALSE;
  if (cbt_uuid_is_nil(&disk->id) || disk->granularity < GRANULARITY_MIN ||
      disk->granularity > GRANULARITY_MAX || (disk->granularity & (disk->granularity - 1)) != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "key '%s' of disk '%s' is wrong",
                  cbt_uuid_is_nil(&disk->id) ? "id" : "granularity", disk->name);
    return FALSE;
  }
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *other = vm->disks->pdata[i];
    if (other != disk && (strcmp(other->name, disk->name) == 0 || strcmp(other->path, disk->path) == 0 ||
                          cbt_uuid_equal(&other->id, &disk->id))) {
      cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "disk '%s' is there twice", disk->name);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
get_disk(GKeyFile *file, const char *group, CatalogueVm *vm, GError **error)
{
  guint64 granularity = 0;
  g_autofree char *path = get_path(file, group, error);
  if (!path || !store_keyfile_get_u64(file, group, "granularity", TRUE, &granularity, error))
    return FALSE;
  CatalogueDisk *disk = catalogue_vm_add_disk(vm, group + strlen(DISK_PREFIX), path, granularity);
  disk->qmp = g_strdup(vm->qmp);
  return store_keyfile_get_uuid(file, group, "id", TRUE, &disk->id, error) &&
         store_keyfile_get_text(file, group, "node", FALSE, &disk->node, error) &&
         store_keyfile_get_text(file, group, "format", FALSE, &disk->format, error) &&
         store_keyfile_get_u64(file, group, "size", FALSE, &disk->size, error) &&
         check_new_disk(vm, disk, error);
}

/* How QEMU and the guest's agent are reached, of a live vm. */
static gboolean
get_live(GKeyFile *file, CatalogueVm *vm, GError **error)
{
  if (!store_keyfile_get_text(file, "vm", "qmp", FALSE, &vm->qmp, error) ||
      !store_keyfile_get_text(file, "vm", "qga", FALSE, &vm->qga, error))
    return FALSE;
  if ((vm->qmp && !g_path_is_absolute(vm->qmp)) || (vm->qga && !g_path_is_absolute(vm->qga)))
    return store_keyfile_wrong_value("vm", vm->qmp && !g_path_is_absolute(vm->qmp) ? "qmp" : "qga", error);
  return !vm->qmp || store_keyfile_get_choice(file, "vm", "disks", "all", "named", &vm->follows, error);
}

static gboolean
get_groups(GKeyFile *file, CatalogueVm *vm, GError **error)
{
  g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
  for (char **group = groups; *group; group++) {
    if (g_str_has_prefix(*group, DISK_PREFIX) && !get_disk(file, *group, vm, error))
      return FALSE;
    if (!g_str_has_prefix(*group, CONFIG_PREFIX))
      continue;
    char *path = get_path(file, *group, error);
    if (!path)
      return FALSE;
    g_ptr_array_add(vm->configs, path);
  }
  return TRUE;
}

StoreVm *
store_vm_decode(const char *text, gsize length, GError **error)
{
  g_autoptr(GKeyFile) file = store_keyfile_unseal(&vm_kind, text, length, error);
  g_autoptr(StoreVm) record = store_vm_new(catalogue_vm_new(NULL), NULL);
  g_autoptr(GError) reason = NULL;
  if (!file || !store_keyfile_get_text(file, "vm", "name", TRUE, &record->vm->name, error) ||
      !store_keyfile_get_time(file, "vm", "created", TRUE, &record->vm->created, error) ||
      !get_live(file, record->vm, error) ||
      !store_keyfile_get_text(file, "policy", "text", FALSE, &record->policy, error))
    return NULL;
  if (cbt_name_check("vm", record->vm->name, &reason) && get_groups(file, record->vm, &reason))
    return g_steal_pointer(&record);
  g_autofree char *message = cbt_error_message(reason);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", message);
  return NULL;
}

/* ---- files ---- */

static gboolean
make_folder(const CbtFileOps *ops, const char *folder, GError **error)
{
  g_autofree char *parent = g_path_get_dirname(folder);
  if (g_mkdir(folder, 0700) == 0 ? ops->fsync_dir(ops, parent) == 0 : errno == EEXIST)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make the folder %s", folder);
  return FALSE;
}

gboolean
store_vm_save(const CbtFileOps *ops, const char *folder, const StoreVm *record, GError **error)
{
  gsize length;
  g_autoptr(GError) reason = NULL;
  g_autofree char *text = store_vm_encode(record, &length);
  g_autoptr(StoreVm) again = length <= vm_kind.length_max ? store_vm_decode(text, length, &reason) : NULL;
  if (reason) {
    g_autofree char *message = cbt_error_message(reason);
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "vm '%s' cannot be recorded: %s", record->vm->name,
                  message);
    return FALSE;
  }
  g_autofree char *path = store_keyfile_path(&vm_kind, folder, record->vm->name);
  return make_folder(ops, folder, error) &&
         store_keyfile_save(&vm_kind, ops, path, text, length, "Give it fewer configuration files.", error);
}

StoreVm *
store_vm_load(const CbtFileOps *ops, const char *folder, const char *name, GError **error)
{
  g_autofree char *path = store_keyfile_path(&vm_kind, folder, name);
  gsize length;
  g_autofree char *text = cbt_file_read(ops, path, vm_kind.length_max, &length, error);
  if (!text)
    return NULL;
  g_autoptr(StoreVm) record = store_vm_decode(text, length, error);
  if (!record) {
    g_prefix_error(error, "vm file %s: ", path);
    return NULL;
  }
  if (strcmp(record->vm->name, name) != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "vm file %s holds another vm", path);
    return NULL;
  }
  return g_steal_pointer(&record);
}

gboolean
store_vm_remove(const CbtFileOps *ops, const char *folder, const char *name, GError **error)
{
  g_autofree char *path = store_keyfile_path(&vm_kind, folder, name);
  return store_keyfile_remove(ops, folder, path, error);
}

gboolean
store_vm_set_aside(const CbtFileOps *ops, const char *folder, const char *name, char **to, GError **error)
{
  g_autofree char *path = store_keyfile_path(&vm_kind, folder, name);
  return store_keyfile_set_aside(ops, folder, path, to, error);
}

GPtrArray *
store_vm_list(const char *folder, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(GPtrArray) names = store_keyfile_list(&vm_kind, folder, &local);
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return g_ptr_array_new_with_free_func(g_free);
  if (local)
    g_propagate_error(error, g_steal_pointer(&local));
  for (guint i = names ? names->len : 0; i-- > 0;)
    if (!cbt_name_is_valid(names->pdata[i]))
      g_ptr_array_remove_index_fast(names, i);
  return g_steal_pointer(&names);
}
