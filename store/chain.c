/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Point by point: images and configuration files durable under their names, then the index that names them.
 * So the index never promises what is not there.
 */
#include <store/chain-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

static gboolean
check_points(const GPtrArray *points, GError **error)
{
  const StorePoint *first = points->len > 0 ? points->pdata[0] : NULL;
  g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  for (guint i = 0; i < points->len; i++) {
    char text[CBT_UUID_TEXT_SIZE];
    const StorePoint *point = points->pdata[i];
    if (!store_point_check(point, error))
      return FALSE;
    if (strcmp(point->vm, first->vm) != 0 ||
        !g_hash_table_add(seen, g_strdup(cbt_uuid_format(&point->uuid, text)))) {
      cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a chain is made of different recovery points of one vm");
      return FALSE;
    }
  }
  if (first)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "there is no recovery point to export");
  return FALSE;
}

/* The folder, held until it is closed; -1 with ERROR. File systems without such locks go without. */
static int
open_folder(const char *folder, GError **error)
{
  if (g_mkdir_with_parents(folder, 0755) != 0) {
    cbt_set_error_errno(error, errno, "cannot make the folder %s", folder);
    return -1;
  }
  CBT_AUTO_FD int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open the folder %s", folder);
    return -1;
  }
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
    return cbt_steal_fd(&fd);
  cbt_set_error(error, CBT_ERROR_BUSY, NULL, "another export is writing to %s", folder);
  return -1;
}

static gboolean
write_links(StoreChainExport *export, StoreChainResult *result, GError **error)
{
  for (guint i = 0; i < export->links->len; i++) {
    StoreChainLink *link = store_chain_link(export, i);
    if (!link->is_new) {
      result->n_kept++;
      continue;
    }
    if (!store_chain_write_link(export, i, &result->bytes_written, error))
      return FALSE;
    store_chain_index_put(export->index, g_steal_pointer(&link->entry));
    if (!store_chain_index_save(export->ops, export->folder, export->index, error))
      return FALSE;
    result->n_written++;
  }
  return TRUE;
}

static void
init_export(StoreChainExport *export)
{
  export->links = g_array_new(FALSE, FALSE, sizeof(StoreChainLink));
  export->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  export->files = g_hash_table_new(g_str_hash, g_str_equal);
  export->usable = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  export->planned = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
}

static void
clear_export(StoreChainExport *export)
{
  for (guint i = 0; i < export->links->len; i++)
    g_clear_pointer(&store_chain_link(export, i)->entry, store_chain_point_free);
  g_array_unref(export->links);
  g_hash_table_unref(export->names);
  g_hash_table_unref(export->files);
  g_hash_table_unref(export->usable);
  g_hash_table_unref(export->planned);
  store_chain_index_free(export->index);
}

gboolean
store_chain_export(Store *store, const GPtrArray *points, const char *folder,
                   const StoreChainOptions *options, StoreChainResult *result, GError **error)
{
  StoreChainExport export = {.store = store, .points = points, .folder = folder, .options = options};
  *result = (StoreChainResult){0};
  export.ops = options->ops ? options->ops : cbt_file_ops_default();
  if (!check_points(points, error))
    return FALSE;
  CBT_AUTO_FD int lock = open_folder(folder, error);
  if (lock < 0)
    return FALSE;
  const StorePoint *first = points->pdata[0];
  export.index = store_chain_index_load(export.ops, folder, store_uuid(store), first->vm, error);
  if (!export.index)
    return FALSE;
  init_export(&export);
  gboolean ok = store_chain_plan(&export, error) && write_links(&export, result, error);
  clear_export(&export);
  return ok;
}
