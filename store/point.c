/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The point as an object and as a file; its text is made and read in point-text.c.
 *
 * A save goes through cbt_file_replace(): the old file or the new one, never a torn one. Before that the text
 * is read back, so that no point is committed which could not be loaded again. A save that fails in the very
 * last step (sync of the folder) may leave the new file in place; it is whole, and all it names is durable.
 */
#include <store/point-private.h>

#include <common/error.h>
#include <common/name.h>
#include <store/manifest-format.h>
#include <string.h>

static void
disk_free(gpointer data)
{
  StorePointDisk *disk = data;
  g_free(disk->name);
  g_free(disk->path);
  g_free(disk->bitmap);
  g_free(disk->reason);
  g_free(disk);
}

static void
config_free(gpointer data)
{
  StorePointConfig *config = data;
  g_free(config->name);
  g_free(config);
}

StorePoint *
store_point_new(void)
{
  StorePoint *point = g_new0(StorePoint, 1);
  point->disks = g_ptr_array_new_with_free_func(disk_free);
  point->configs = g_ptr_array_new_with_free_func(config_free);
  return point;
}

void
store_point_free(StorePoint *point)
{
  if (!point)
    return;
  g_free(point->vm);
  g_free(point->reason);
  g_free(point->note);
  g_free(point->consistency_reason);
  g_ptr_array_unref(point->disks);
  g_ptr_array_unref(point->configs);
  g_free(point);
}

const char *
store_consistency_name(StoreConsistency consistency)
{
  const char *const names[STORE_N_CONSISTENCIES] = {"crash", "fs", "app"};
  return names[consistency];
}

StorePointDisk *
store_point_add_disk(StorePoint *point, const char *name)
{
  StorePointDisk *disk = g_new0(StorePointDisk, 1);
  disk->name = g_strdup(name);
  disk->path = g_strdup("");
  disk->bitmap = g_strdup("");
  g_ptr_array_add(point->disks, disk);
  return disk;
}

StorePointConfig *
store_point_add_config(StorePoint *point, const char *name)
{
  StorePointConfig *config = g_new0(StorePointConfig, 1);
  config->name = g_strdup(name);
  g_ptr_array_add(point->configs, config);
  return config;
}

StorePointDisk *
store_point_find_disk(const StorePoint *point, const char *name)
{
  for (guint i = 0; i < point->disks->len; i++) {
    StorePointDisk *disk = point->disks->pdata[i];
    if (strcmp(disk->name, name) == 0)
      return disk;
  }
  return NULL;
}

gboolean
store_point_config_name_is_valid(const char *name)
{
  gsize length = strlen(name);
  if (length == 0 || length > 255 || name[0] == '.' || name[0] == ' ' || !g_utf8_validate(name, -1, NULL))
    return FALSE;
  for (const char *at = name; *at; at++)
    if (g_ascii_iscntrl(*at) || strchr("/[]", *at))
      return FALSE;
  return TRUE;
}

static gboolean
check_disk(const StorePointDisk *disk, GError **error)
{
  const guint64 max = G_MAXINT64; /* what the catalogue can hold */
  if (!cbt_name_check("disk", disk->name, error))
    return FALSE;
  if (disk->bitmap && *disk->bitmap && !cbt_name_check("bitmap", disk->bitmap, error))
    return FALSE;
  if (disk->manifest.size > STORE_DISK_SIZE_MAX || disk->dirty > max || disk->zero > max ||
      disk->reused > max || disk->stored > max) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a size of disk '%s' is above its limit", disk->name);
    return FALSE;
  }
  return TRUE;
}

static gboolean
check_config(const StorePointConfig *config, GError **error)
{
  if (store_point_config_name_is_valid(config->name) && config->size <= G_MAXINT64)
    return TRUE;
  g_autofree char *shown = g_strescape(config->name, NULL);
  cbt_set_error(error, CBT_ERROR_INVALID, "Use a plain file name without '/', '[', ']' or a leading dot.",
                "configuration file name '%s' is not valid", shown);
  return FALSE;
}

/* A disk's or config's name is its first field. */
static gboolean
check_unique(const GPtrArray *named, const char *what, GError **error)
{
  g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
  for (guint i = 0; i < named->len; i++) {
    char *name = *(char **) named->pdata[i];
    if (g_hash_table_add(seen, name))
      continue;
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%s '%s' is there twice", what, name);
    return FALSE;
  }
  return TRUE;
}

_Static_assert(offsetof(StorePointDisk, name) == 0 && offsetof(StorePointConfig, name) == 0, "check_unique");

gboolean
store_point_check(const StorePoint *point, GError **error)
{
  if (cbt_uuid_is_nil(&point->uuid) || !point->vm || point->time < 0 || point->verified < 0 || point->damaged < 0) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a recovery point needs a uuid, a vm and a time");
    return FALSE;
  }
  if (!cbt_name_check("vm", point->vm, error))
    return FALSE;
  if (point->consistency >= STORE_N_CONSISTENCIES || point->frozen_ms > G_MAXINT64) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the consistency of a recovery point is not known");
    return FALSE;
  }
  for (guint i = 0; i < point->disks->len; i++)
    if (!check_disk(point->disks->pdata[i], error))
      return FALSE;
  for (guint i = 0; i < point->configs->len; i++)
    if (!check_config(point->configs->pdata[i], error))
      return FALSE;
  return check_unique(point->disks, "disk", error) &&
         check_unique(point->configs, "configuration file", error);
}

static char *
point_path(const char *folder, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  return store_keyfile_path(&store_point_kind, folder, cbt_uuid_format(uuid, text));
}

gboolean
store_point_save(const CbtFileOps *ops, const char *folder, const StorePoint *point, GError **error)
{
  if (!store_point_check(point, error))
    return FALSE;
  gsize length;
  g_autofree char *text = store_point_encode(point, &length);
  g_autoptr(StorePoint) again =
      length <= STORE_POINT_LENGTH_MAX ? store_point_decode(text, length, error) : NULL;
  if (!again && length <= STORE_POINT_LENGTH_MAX)
    return FALSE;
  g_autofree char *path = point_path(folder, &point->uuid);
  return store_keyfile_save(&store_point_kind, ops, path, text, length, "Shorten the note.", error);
}

StorePoint *
store_point_load(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, GError **error)
{
  g_autofree char *path = point_path(folder, uuid);
  gsize length;
  g_autofree char *text = cbt_file_read(ops, path, STORE_POINT_LENGTH_MAX, &length, error);
  if (!text)
    return NULL;
  g_autoptr(StorePoint) point = store_point_decode(text, length, error);
  if (!point) {
    g_prefix_error(error, "recovery point file %s: ", path);
    return NULL;
  }
  if (!cbt_uuid_equal(&point->uuid, uuid)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "recovery point file %s holds another point", path);
    return NULL;
  }
  return g_steal_pointer(&point);
}

gboolean
store_point_remove(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, GError **error)
{
  g_autofree char *path = point_path(folder, uuid);
  return store_keyfile_remove(ops, folder, path, error);
}

gboolean
store_point_set_aside(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, char **to,
                      GError **error)
{
  g_autofree char *path = point_path(folder, uuid);
  return store_keyfile_set_aside(ops, folder, path, to, error);
}

gboolean
store_point_equal(const StorePoint *a, const StorePoint *b)
{
  gsize length;
  g_autofree char *x = store_point_encode(a, &length);
  g_autofree char *y = store_point_encode(b, &length);
  return strcmp(x, y) == 0;
}

/* NAME is a uuid as save writes it; other files (a temporary one) are not points. */
static gboolean
parse_name(const char *name, CbtUuid *uuid)
{
  char again[CBT_UUID_TEXT_SIZE];
  return cbt_uuid_parse(name, uuid) && strcmp(cbt_uuid_format(uuid, again), name) == 0;
}

GArray *
store_point_list(const char *folder, GError **error)
{
  g_autoptr(GPtrArray) names = store_keyfile_list(&store_point_kind, folder, error);
  if (!names)
    return NULL;
  GArray *uuids = g_array_new(FALSE, FALSE, sizeof(CbtUuid));
  CbtUuid uuid;
  for (guint i = 0; i < names->len; i++)
    if (parse_name(names->pdata[i], &uuid))
      g_array_append_val(uuids, uuid);
  return uuids;
}
