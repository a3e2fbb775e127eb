/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The index as an object, and as a file; its text is made and read in chain-text.c. */
#include <store/chain-index.h>

#include <common/error.h>
#include <string.h>

static void
disk_free(gpointer data)
{
  StoreChainDisk *disk = data;
  g_free(disk->name);
  g_free(disk->file);
  g_free(disk->backing_file);
  g_free(disk);
}

static void
config_free(gpointer data)
{
  StoreChainConfig *config = data;
  g_free(config->name);
  g_free(config);
}

StoreChainPoint *
store_chain_point_new(const CbtUuid *uuid)
{
  StoreChainPoint *point = g_new0(StoreChainPoint, 1);
  point->uuid = *uuid;
  point->disks = g_ptr_array_new_with_free_func(disk_free);
  point->configs = g_ptr_array_new_with_free_func(config_free);
  return point;
}

void
store_chain_point_free(StoreChainPoint *point)
{
  g_ptr_array_unref(point->disks);
  g_ptr_array_unref(point->configs);
  g_free(point->config_folder);
  g_free(point);
}

StoreChainDisk *
store_chain_point_add_disk(StoreChainPoint *point, const char *name)
{
  StoreChainDisk *disk = g_new0(StoreChainDisk, 1);
  disk->name = g_strdup(name);
  g_ptr_array_add(point->disks, disk);
  return disk;
}

StoreChainConfig *
store_chain_point_add_config(StoreChainPoint *point, const char *name)
{
  StoreChainConfig *config = g_new0(StoreChainConfig, 1);
  config->name = g_strdup(name);
  g_ptr_array_add(point->configs, config);
  return config;
}

StoreChainIndex *
store_chain_index_new(const CbtUuid *store, const char *vm)
{
  StoreChainIndex *index = g_new0(StoreChainIndex, 1);
  index->store = *store;
  index->vm = g_strdup(vm);
  index->points = g_ptr_array_new_with_free_func((GDestroyNotify) store_chain_point_free);
  return index;
}

void
store_chain_index_free(StoreChainIndex *index)
{
  g_free(index->vm);
  g_ptr_array_unref(index->points);
  g_free(index);
}

StoreChainPoint *
store_chain_index_find(const StoreChainIndex *index, const CbtUuid *uuid)
{
  for (guint i = 0; i < index->points->len; i++) {
    StoreChainPoint *point = index->points->pdata[i];
    if (cbt_uuid_equal(&point->uuid, uuid))
      return point;
  }
  return NULL;
}

StoreChainDisk *
store_chain_point_find_disk(const StoreChainPoint *point, const char *name)
{
  for (guint i = 0; i < point->disks->len; i++) {
    StoreChainDisk *disk = point->disks->pdata[i];
    if (strcmp(disk->name, name) == 0)
      return disk;
  }
  return NULL;
}

void
store_chain_index_put(StoreChainIndex *index, StoreChainPoint *point)
{
  guint at = index->points->len;
  for (guint i = 0; i < index->points->len; i++) {
    StoreChainPoint *other = index->points->pdata[i];
    if (cbt_uuid_equal(&other->uuid, &point->uuid)) {
      index->points->pdata[i] = point;
      store_chain_point_free(other);
      return;
    }
    if (at == index->points->len && other->time > point->time)
      at = i;
  }
  g_ptr_array_insert(index->points, (int) at, point);
}

/* ---- the file ---- */

static gboolean
check_owner(const StoreChainIndex *index, const char *folder, const CbtUuid *store, const char *vm,
            GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  const char *hint = "Choose another folder.";
  if (!cbt_uuid_equal(&index->store, store))
    cbt_set_error(error, CBT_ERROR_STATE, hint, "%s holds a chain of another store (%s)", folder,
                  cbt_uuid_format(&index->store, text));
  else if (strcmp(index->vm, vm) != 0)
    cbt_set_error(error, CBT_ERROR_STATE, hint, "%s holds the chain of vm '%s', not of '%s'", folder,
                  index->vm, vm);
  else
    return TRUE;
  return FALSE;
}

StoreChainIndex *
store_chain_index_load(const CbtFileOps *ops, const char *folder, const CbtUuid *store, const char *vm,
                       GError **error)
{
  g_autofree char *path = g_build_filename(folder, STORE_CHAIN_INDEX_NAME, NULL);
  g_autoptr(GError) local = NULL;
  gsize length;
  g_autofree char *text = cbt_file_read(ops, path, STORE_CHAIN_INDEX_LENGTH_MAX, &length, &local);
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return store_chain_index_new(store, vm);
  if (!text) {
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
  }
  g_autoptr(StoreChainIndex) index = store_chain_index_decode(text, length, error);
  if (!index) {
    g_prefix_error(error, "%s: ", path);
    return NULL;
  }
  return check_owner(index, folder, store, vm, error) ? g_steal_pointer(&index) : NULL;
}

gboolean
store_chain_index_save(const CbtFileOps *ops, const char *folder, const StoreChainIndex *index,
                       GError **error)
{
  g_autofree char *path = g_build_filename(folder, STORE_CHAIN_INDEX_NAME, NULL);
  g_autofree char *text = store_chain_index_encode(index);
  gsize length = strlen(text);
  if (length <= STORE_CHAIN_INDEX_LENGTH_MAX)
    return cbt_file_replace(ops, path, text, length, 0600, error);
  cbt_set_error(error, CBT_ERROR_TOO_LARGE, "Begin a chain in another folder.", "%s would have %zu bytes",
                path, length);
  return FALSE;
}
