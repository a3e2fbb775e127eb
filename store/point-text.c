/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of a point file (docs/formats/point.md), a checked key file (store/keyfile.h).
 *
 * Encode writes groups and keys in one fixed order, and leaves out what is nil, NULL or has its default, so
 * equal points have equal texts. Decode checks the text as a checked key file, then values, and at last what
 * store_point_check() demands.
 */
#include <store/point-private.h>

#include <common/error.h>
#include <string.h>

#define FORMAT_VERSION 1
#define DISK_PREFIX    "disk "
#define CONFIG_PREFIX  "config "

const StoreKeyfileKind store_point_kind = {
    .what = "recovery point",
    .heading = "# cbt-backup recovery point\n",
    .group = "point",
    .suffix = ".point",
    .version = FORMAT_VERSION,
    .length_max = STORE_POINT_LENGTH_MAX,
};

/* ---- encode ---- */

static void
put_point(GKeyFile *file, const StorePoint *point)
{
  const char *group = "point";
  g_key_file_set_integer(file, group, "format", FORMAT_VERSION);
  store_keyfile_put_uuid(file, group, "uuid", &point->uuid);
  store_keyfile_put_text(file, group, "vm", point->vm);
  store_keyfile_put_text(file, group, "kind", point->incremental ? "incremental" : "full");
  store_keyfile_put_uuid(file, group, "parent", &point->parent);
  g_key_file_set_int64(file, group, "time", point->time);
  store_keyfile_put_text(file, group, "reason", point->reason);
  store_keyfile_put_text(file, group, "note", point->note);
  store_keyfile_put_text(file, group, "protected", point->is_protected ? "true" : "false");
  if (point->verified)
    g_key_file_set_int64(file, group, "verified", point->verified);
  if (point->damaged)
    g_key_file_set_int64(file, group, "damaged", point->damaged);
  if (point->consistency != STORE_CONSISTENCY_CRASH)
    store_keyfile_put_text(file, group, "consistency", store_consistency_name(point->consistency));
  store_keyfile_put_text(file, group, "consistency-reason", point->consistency_reason);
  if (point->frozen_ms)
    g_key_file_set_uint64(file, group, "frozen-ms", point->frozen_ms);
}

static void
put_disk(GKeyFile *file, const StorePointDisk *disk)
{
  g_autofree char *group = g_strconcat(DISK_PREFIX, disk->name, NULL);
  store_keyfile_put_uuid(file, group, "id", &disk->disk_id);
  store_keyfile_put_text(file, group, "path", disk->path ? disk->path : "");
  store_keyfile_put_text(file, group, "bitmap", disk->bitmap ? disk->bitmap : "");
  g_key_file_set_uint64(file, group, "size", disk->manifest.size);
  store_keyfile_put_chunk(file, group, "root", &disk->manifest.root);
  store_keyfile_put_uuid(file, group, "parent", &disk->parent);
  store_keyfile_put_text(file, group, "reason", disk->reason);
  g_key_file_set_uint64(file, group, "dirty", disk->dirty);
  g_key_file_set_uint64(file, group, "zero", disk->zero);
  g_key_file_set_uint64(file, group, "reused", disk->reused);
  g_key_file_set_uint64(file, group, "stored", disk->stored);
}

static void
put_config(GKeyFile *file, const StorePointConfig *config)
{
  g_autofree char *group = g_strconcat(CONFIG_PREFIX, config->name, NULL);
  store_keyfile_put_chunk(file, group, "chunk", &config->id);
  g_key_file_set_uint64(file, group, "size", config->size);
}

char *
store_point_encode(const StorePoint *point, gsize *length)
{
  g_autoptr(GKeyFile) file = g_key_file_new();
  put_point(file, point);
  for (guint i = 0; i < point->disks->len; i++)
    put_disk(file, point->disks->pdata[i]);
  for (guint i = 0; i < point->configs->len; i++)
    put_config(file, point->configs->pdata[i]);
  return store_keyfile_seal(&store_point_kind, file, length);
}

/* ---- decode ---- */

static gboolean
get_consistency(GKeyFile *file, StorePoint *point, GError **error)
{
  g_autofree char *name = NULL;
  if (!store_keyfile_get_text(file, "point", "consistency", FALSE, &name, error) ||
      !store_keyfile_get_text(file, "point", "consistency-reason", FALSE, &point->consistency_reason, error) ||
      !store_keyfile_get_u64(file, "point", "frozen-ms", FALSE, &point->frozen_ms, error))
    return FALSE;
  for (guint i = 0; name && i < STORE_N_CONSISTENCIES; i++)
    if (strcmp(name, store_consistency_name(i)) == 0) {
      point->consistency = i;
      return TRUE;
    }
  return !name || store_keyfile_wrong_value("point", "consistency", error);
}

static gboolean
get_point(GKeyFile *file, StorePoint *point, GError **error)
{
  const char *group = "point";
  return store_keyfile_get_uuid(file, group, "uuid", TRUE, &point->uuid, error) &&
         store_keyfile_get_text(file, group, "vm", TRUE, &point->vm, error) &&
         store_keyfile_get_choice(file, group, "kind", "incremental", "full", &point->incremental, error) &&
         store_keyfile_get_uuid(file, group, "parent", FALSE, &point->parent, error) &&
         store_keyfile_get_time(file, group, "time", TRUE, &point->time, error) &&
         store_keyfile_get_text(file, group, "reason", FALSE, &point->reason, error) &&
         store_keyfile_get_text(file, group, "note", FALSE, &point->note, error) &&
         store_keyfile_get_choice(file, group, "protected", "true", "false", &point->is_protected, error) &&
         store_keyfile_get_time(file, group, "verified", FALSE, &point->verified, error) &&
         store_keyfile_get_time(file, group, "damaged", FALSE, &point->damaged, error) &&
         get_consistency(file, point, error);
}

static gboolean
get_disk(GKeyFile *file, const char *group, StorePoint *point, GError **error)
{
  StorePointDisk *disk = store_point_add_disk(point, group + strlen(DISK_PREFIX));
  return store_keyfile_get_uuid(file, group, "id", FALSE, &disk->disk_id, error) &&
         store_keyfile_get_text(file, group, "path", TRUE, &disk->path, error) &&
         store_keyfile_get_text(file, group, "bitmap", TRUE, &disk->bitmap, error) &&
         store_keyfile_get_u64(file, group, "size", TRUE, &disk->manifest.size, error) &&
         store_keyfile_get_chunk(file, group, "root", &disk->manifest.root, error) &&
         store_keyfile_get_uuid(file, group, "parent", FALSE, &disk->parent, error) &&
         store_keyfile_get_text(file, group, "reason", FALSE, &disk->reason, error) &&
         store_keyfile_get_u64(file, group, "dirty", TRUE, &disk->dirty, error) &&
         store_keyfile_get_u64(file, group, "zero", TRUE, &disk->zero, error) &&
         store_keyfile_get_u64(file, group, "reused", TRUE, &disk->reused, error) &&
         store_keyfile_get_u64(file, group, "stored", TRUE, &disk->stored, error);
}

static gboolean
get_config(GKeyFile *file, const char *group, StorePoint *point, GError **error)
{
  StorePointConfig *config = store_point_add_config(point, group + strlen(CONFIG_PREFIX));
  return store_keyfile_get_chunk(file, group, "chunk", &config->id, error) &&
         store_keyfile_get_u64(file, group, "size", TRUE, &config->size, error);
}

static gboolean
get_groups(GKeyFile *file, StorePoint *point, GError **error)
{
  g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
  for (char **group = groups; *group; group++) {
    if (g_str_has_prefix(*group, DISK_PREFIX) && !get_disk(file, *group, point, error))
      return FALSE;
    if (g_str_has_prefix(*group, CONFIG_PREFIX) && !get_config(file, *group, point, error))
      return FALSE;
  }
  return TRUE;
}

StorePoint *
store_point_decode(const char *text, gsize length, GError **error)
{
  g_autoptr(GKeyFile) file = store_keyfile_unseal(&store_point_kind, text, length, error);
  if (!file)
    return NULL;
  g_autoptr(StorePoint) point = store_point_new();
  g_autoptr(GError) reason = NULL;
  if (!get_point(file, point, error) || !get_groups(file, point, error))
    return NULL;
  if (!store_point_check(point, &reason)) {
    g_autofree char *message = cbt_error_message(reason);
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", message);
    return NULL;
  }
  return g_steal_pointer(&point);
}
