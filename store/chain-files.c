/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files appear under their names only when they are complete and durable. What an interrupted export left
 * behind is replaced. Links that somebody put into the folder are not followed.
 */
#include <store/chain-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <store/manifest-private.h>

/* No name of an image or configuration file begins with a dot. */
#define TEMPORARY ".new.tmp"

gboolean
store_chain_check_file(const StoreChainExport *export, const char *file, guint64 length, gboolean *there,
                       GError **error)
{
  g_autofree char *path = g_build_filename(export->folder, file, NULL);
  struct stat st;
  *there = lstat(path, &st) == 0;
  if (!*there && errno == ENOENT)
    return TRUE;
  if (!*there)
    cbt_set_error_errno(error, errno, "cannot look at %s", path);
  else if (S_ISREG(st.st_mode) && (guint64) st.st_size == length)
    return TRUE;
  else
    cbt_set_error(error, CBT_ERROR_STATE,
                  "Move it away, then it is exported again; or choose another folder.",
                  "%s was changed after it was exported", path);
  return FALSE;
}

/* ---- one file ---- */

static int
open_temporary(const StoreChainExport *export, const char *path, GError **error)
{
  if (export->ops->unlink(export->ops, path) != 0 && errno != ENOENT) {
    cbt_set_error_errno(error, errno, "cannot remove %s", path);
    return -1;
  }
  int fd = export->ops->open(export->ops, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (fd < 0)
    cbt_set_error_errno(error, errno, "cannot make %s", path);
  return fd;
}

static gboolean
sync_and_rename(const StoreChainExport *export, int fd, const char *temporary, const char *path,
                GError **error)
{
  if (export->ops->fdatasync(export->ops, fd) == 0 && export->ops->rename(export->ops, temporary, path) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write %s", path);
  return FALSE;
}

typedef gboolean (*FillFunc)(StoreOutput *output, gpointer user_data, GError **error);

/* Makes FILE in DIRECTORY of what FILL writes. */
static gboolean
write_file(const StoreChainExport *export, const char *directory, const char *file, FillFunc fill,
           gpointer user_data, GError **error)
{
  g_autofree char *path = g_build_filename(directory, file, NULL);
  g_autofree char *temporary = g_build_filename(directory, TEMPORARY, NULL);
  int fd = open_temporary(export, temporary, error);
  if (fd < 0)
    return FALSE;
  StoreOutput output = {.fd = fd, .ops = export->ops, .name = path};
  gboolean ok = fill(&output, user_data, error) && sync_and_rename(export, fd, temporary, path, error);
  export->ops->close(export->ops, fd);
  if (!ok)
    export->ops->unlink(export->ops, temporary);
  return ok;
}

static gboolean
sync_folder(const StoreChainExport *export, const char *path, GError **error)
{
  if (export->ops->fsync_dir(export->ops, path) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", path);
  return FALSE;
}

/* ---- images ---- */

typedef struct {
  const StoreChainOptions *options;
  const char *disk;
  StoreQcow2 *image;
} FillImage;

static void
report(gpointer user_data, guint64 bytes)
{
  const FillImage *fill = user_data;
  fill->options->progress(fill->options->user_data, fill->disk, bytes);
}

static gboolean
fill_image(StoreOutput *output, gpointer user_data, GError **error)
{
  const FillImage *fill = user_data;
  StoreOutputOptions options = {.n_threads = fill->options->n_threads,
                                .cancellable = fill->options->cancellable,
                                .progress = fill->options->progress ? report : NULL,
                                .user_data = user_data};
  return store_qcow2_write(fill->image, output, &options, error);
}

static gboolean
write_image(const StoreChainExport *export, guint i, guint k, guint64 *bytes, GError **error)
{
  const StoreChainDisk *disk = store_chain_link(export, i)->entry->disks->pdata[k];
  if (!g_hash_table_contains(export->planned, disk->file))
    return TRUE;
  g_autoptr(StoreQcow2) image = store_chain_plan_image(export, i, k, error);
  FillImage fill = {export->options, disk->name, image};
  if (!image)
    return FALSE;
  if (!write_file(export, export->folder, disk->file, fill_image, &fill, error)) {
    g_prefix_error(error, "disk '%s': ", disk->name);
    return FALSE;
  }
  *bytes += disk->bytes;
  return TRUE;
}

/* ---- configuration files ---- */

typedef struct {
  Store *store;
  const StorePointConfig *config;
} FillConfig;

static gboolean
fill_config(StoreOutput *output, gpointer user_data, GError **error)
{
  const FillConfig *fill = user_data;
  g_autoptr(StoreWorker) worker = store_worker_new(fill->store);
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  gsize length = 0;
  if (fill->config->size > 0 && !store_manifest_get_chunk(worker, &fill->config->id, data, &length, error))
    return FALSE;
  if (length == fill->config->size)
    return store_output_write(output, data, length, error);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "its chunk has %zu bytes", length);
  return FALSE;
}

static gboolean
make_folder(const char *path, GError **error)
{
  struct stat st;
  if (mkdir(path, 0700) == 0)
    return TRUE;
  if (errno == EEXIST && lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make the folder %s", path);
  return FALSE;
}

static gboolean
write_configs(const StoreChainExport *export, const StoreChainLink *link, GError **error)
{
  if (link->point->configs->len == 0)
    return TRUE;
  g_autofree char *directory = g_build_filename(export->folder, link->entry->config_folder, NULL);
  if (!make_folder(directory, error))
    return FALSE;
  for (guint i = 0; i < link->point->configs->len; i++) {
    FillConfig fill = {export->store, link->point->configs->pdata[i]};
    if (!write_file(export, directory, fill.config->name, fill_config, &fill, error)) {
      g_prefix_error(error, "configuration file '%s': ", fill.config->name);
      return FALSE;
    }
  }
  return sync_folder(export, directory, error);
}

gboolean
store_chain_write_link(const StoreChainExport *export, guint i, guint64 *bytes, GError **error)
{
  const StoreChainLink *link = store_chain_link(export, i);
  if (!write_configs(export, link, error))
    return FALSE;
  for (guint k = 0; k < link->point->disks->len; k++)
    if (!write_image(export, i, k, bytes, error))
      return FALSE;
  return sync_folder(export, export->folder, error);
}
