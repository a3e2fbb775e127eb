/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is to be written, decided before anything is: a name for each file, what it stands on, and its length.
 * Names come from the index and the points alone, never from what else the folder has, so an export that was
 * interrupted is repeated under the same names.
 */
#include <store/chain-private.h>

#include <common/error.h>
#include <string.h>

/* ---- names ---- */

static void
note_names(GHashTable *names, const StoreChainPoint *point)
{
  for (guint i = 0; i < point->disks->len; i++)
    g_hash_table_add(names, g_strdup(((StoreChainDisk *) point->disks->pdata[i])->file));
  if (point->config_folder)
    g_hash_table_add(names, g_strdup(point->config_folder));
}

/* STEM and SUFFIX, with a number between them if that is taken; (transfer full). */
static char *
take_name(GHashTable *names, const char *stem, const char *suffix)
{
  char *name = g_strconcat(stem, suffix, NULL);
  for (guint n = 2; g_hash_table_contains(names, name); n++) {
    g_free(name);
    name = g_strdup_printf("%s-%u%s", stem, n, suffix);
  }
  g_hash_table_add(names, g_strdup(name));
  return name;
}

/* 20261121T101530Z; (transfer full). */
static char *
format_time(gint64 seconds)
{
  g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(seconds);
  return time ? g_date_time_format(time, "%Y%m%dT%H%M%SZ") : g_strdup_printf("%" G_GINT64_FORMAT, seconds);
}

static char *
name_image(StoreChainExport *export, const StoreChainPoint *entry, const StoreChainDisk *disk)
{
  g_autofree char *time = format_time(entry->time);
  g_autofree char *stem = g_strdup_printf("%s.%s-%s", disk->name, time, disk->backing_file ? "incr" : "full");
  return take_name(export->names, stem, ".qcow2");
}

static char *
name_config_folder(StoreChainExport *export, const StoreChainPoint *entry)
{
  g_autofree char *time = format_time(entry->time);
  g_autofree char *stem = g_strconcat("CONFIGS-", time, NULL);
  return take_name(export->names, stem, "");
}

/* ---- images ---- */

/* The disk of the point before that an image of DISK can stand on; NULL: it needs a base. */
static const StorePointDisk *
find_disk_before(const StoreChainExport *export, guint i, const StorePointDisk *disk)
{
  const StorePointDisk *before =
      i > 0 ? store_point_find_disk(store_chain_link(export, i - 1)->point, disk->name) : NULL;
  if (!before || !cbt_uuid_equal(&before->disk_id, &disk->disk_id) ||
      before->manifest.size > disk->manifest.size)
    return NULL;
  return before;
}

StoreQcow2 *
store_chain_plan_image(const StoreChainExport *export, guint i, guint k, GError **error)
{
  const StoreChainLink *link = store_chain_link(export, i);
  const StorePointDisk *disk = link->point->disks->pdata[k];
  const StorePointDisk *before = find_disk_before(export, i, disk);
  const StoreChainDisk *out = link->entry->disks->pdata[k];
  StoreQcow2Backing backing = {before ? &before->manifest : NULL, out->backing_file, "qcow2"};
  StoreQcow2 *image = store_qcow2_new(export->store, &disk->manifest, before ? &backing : NULL,
                                      export->options->cancellable, error);
  if (!image)
    g_prefix_error(error, "disk '%s': ", disk->name);
  return image;
}

/* A new image. OLD (nullable): the index's; its name stays, because others may stand on it. */
static gboolean
plan_new_image(StoreChainExport *export, guint i, guint k, const StoreChainDisk *old, GError **error)
{
  const StoreChainLink *link = store_chain_link(export, i);
  const StorePointDisk *disk = link->point->disks->pdata[k];
  StoreChainDisk *out = link->entry->disks->pdata[k];
  if (find_disk_before(export, i, disk)) {
    const StoreChainPoint *before = store_chain_link(export, i - 1)->entry;
    out->backing_file = g_strdup(store_chain_point_find_disk(before, disk->name)->file);
  }
  out->file = old ? g_strdup(old->file) : name_image(export, link->entry, out);
  g_autoptr(StoreQcow2) image = store_chain_plan_image(export, i, k, error);
  if (!image)
    return FALSE;
  out->bytes = store_qcow2_length(image);
  if (export->options->plan)
    export->options->plan(export->options->user_data, disk->name, out->bytes);
  g_hash_table_add(export->planned, g_strdup(out->file));
  return TRUE;
}

/* ---- what the folder has ---- */

/* *usable: DISK's file is there, and so is, or will be, all that it stands on. */
static gboolean
check_image(StoreChainExport *export, const StoreChainDisk *disk, gboolean *usable, GError **error)
{
  guint left = g_hash_table_size(export->files);
  const StoreChainDisk *at = disk;
  *usable = TRUE;
  while (!g_hash_table_contains(export->usable, at->file) &&
         !g_hash_table_contains(export->planned, at->file)) {
    if (!store_chain_check_file(export, at->file, at->bytes, usable, error))
      return FALSE;
    if (!*usable || !at->backing_file)
      break;
    at = g_hash_table_lookup(export->files, at->backing_file);
    *usable = at && left-- > 0;
    if (!*usable)
      break;
  }
  if (*usable)
    g_hash_table_add(export->usable, g_strdup(disk->file));
  return TRUE;
}

static gboolean
plan_disk(StoreChainExport *export, guint i, guint k, const StoreChainPoint *old, GError **error)
{
  StoreChainLink *link = store_chain_link(export, i);
  const StorePointDisk *disk = link->point->disks->pdata[k];
  const StoreChainDisk *old_disk = old ? store_chain_point_find_disk(old, disk->name) : NULL;
  StoreChainDisk *out = store_chain_point_add_disk(link->entry, disk->name);
  gboolean usable = FALSE;
  out->size = disk->manifest.size;
  if (old_disk && !check_image(export, old_disk, &usable, error))
    return FALSE;
  if (usable) {
    out->file = g_strdup(old_disk->file);
    out->backing_file = g_strdup(old_disk->backing_file);
    out->bytes = old_disk->bytes;
    return TRUE;
  }
  link->is_new = TRUE;
  return plan_new_image(export, i, k, old_disk, error);
}

static gboolean
plan_configs(StoreChainExport *export, guint i, const StoreChainPoint *old, GError **error)
{
  StoreChainLink *link = store_chain_link(export, i);
  const GPtrArray *configs = link->point->configs;
  if (configs->len == 0)
    return TRUE;
  link->entry->config_folder =
      old && old->config_folder ? g_strdup(old->config_folder) : name_config_folder(export, link->entry);
  for (guint k = 0; k < configs->len; k++) {
    const StorePointConfig *config = configs->pdata[k];
    g_autofree char *file = g_build_filename(link->entry->config_folder, config->name, NULL);
    gboolean there = FALSE;
    store_chain_point_add_config(link->entry, config->name)->size = config->size;
    if (old && !store_chain_check_file(export, file, config->size, &there, error))
      return FALSE;
    link->is_new = link->is_new || !there;
  }
  return TRUE;
}

static gboolean
plan_link(StoreChainExport *export, guint i, GError **error)
{
  StoreChainLink *link = store_chain_link(export, i);
  const StorePoint *point = link->point;
  StoreChainPoint *old = store_chain_index_find(export->index, &point->uuid);
  link->is_new = old == NULL;
  link->entry->time = point->time / G_USEC_PER_SEC;
  link->entry->incremental = point->incremental;
  link->entry->parent = point->parent;
  for (guint k = 0; k < point->disks->len; k++)
    if (!plan_disk(export, i, k, old, error))
      return FALSE;
  return plan_configs(export, i, old, error);
}

static void
note_index(StoreChainExport *export)
{
  for (guint i = 0; i < export->index->points->len; i++) {
    StoreChainPoint *point = export->index->points->pdata[i];
    note_names(export->names, point);
    for (guint k = 0; k < point->disks->len; k++) {
      StoreChainDisk *disk = point->disks->pdata[k];
      g_hash_table_insert(export->files, disk->file, disk);
    }
  }
}

gboolean
store_chain_plan(StoreChainExport *export, GError **error)
{
  note_index(export);
  for (guint i = 0; i < export->points->len; i++) {
    const StorePoint *point = export->points->pdata[i];
    StoreChainLink link = {.point = point, .entry = store_chain_point_new(&point->uuid)};
    g_array_append_val(export->links, link);
    if (!plan_link(export, i, error))
      return FALSE;
  }
  g_hash_table_remove_all(export->files); /* it points into the index, which is going to change */
  return TRUE;
}
