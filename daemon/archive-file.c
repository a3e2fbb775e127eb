/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a daemon that was killed leaves behind shows by its name that it is not complete, and is in nobody's
 * way: no later job has the same number. */
#include <daemon/archive-file.h>

#include <common/error.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <store/vma-sums.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

GPtrArray *
archive_paths_of_vma(const char *path)
{
  GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
  g_ptr_array_add(paths, g_strdup(path));
  g_ptr_array_add(paths, g_strconcat(path, STORE_VMA_SUMS_SUFFIX, NULL));
  return paths;
}

gboolean
archive_paths_check(const GPtrArray *paths, GError **error)
{
  struct stat st;
  for (guint i = 0; i < paths->len; i++)
    if (lstat(paths->pdata[i], &st) == 0) {
      cbt_set_error(error, CBT_ERROR_EXISTS, "Choose another name, or remove it.", "%s exists already",
                    (const char *) paths->pdata[i]);
      return FALSE;
    }
  return TRUE;
}

static void
archive_file_free(gpointer data)
{
  ArchiveFile *file = data;
  if (file->fd >= 0) {
    close(file->fd);
    if (!file->has_name)
      unlink(file->temporary);
  }
  g_free(file->path);
  g_free(file->temporary);
  g_free(file);
}

static gboolean
open_file(ArchiveFile *file, GError **error)
{
  file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file->fd < 0)
    cbt_set_error_errno(error, errno, "cannot create %s", file->path);
  return file->fd >= 0;
}

GPtrArray *
archive_files_new(const GPtrArray *paths, gint64 job, GError **error)
{
  g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(archive_file_free);
  for (guint i = 0; i < paths->len; i++) {
    ArchiveFile *file = g_new0(ArchiveFile, 1);
    file->path = g_strdup(paths->pdata[i]);
    file->temporary = g_strdup_printf("%s.%" G_GINT64_FORMAT ".part", file->path, job);
    g_ptr_array_add(files, file);
    if (!open_file(file, error))
      return NULL;
  }
  return g_steal_pointer(&files);
}

/* Not all file systems know how to rename without replacing. */
static int
rename_to_new(const char *from, const char *to)
{
  struct stat st;
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
    return 0;
  if (errno != EINVAL && errno != ENOSYS)
    return -1;
  if (lstat(to, &st) != 0)
    return rename(from, to);
  errno = EEXIST;
  return -1;
}

static gboolean
name_files(GPtrArray *files, GError **error)
{
  for (guint i = 0; i < files->len; i++) {
    ArchiveFile *file = archive_files_get(files, i);
    file->has_name = rename_to_new(file->temporary, file->path) == 0;
    if (!file->has_name) {
      cbt_set_error_errno(error, errno, "cannot create %s", file->path);
      return FALSE;
    }
  }
  return TRUE;
}

static void
remove_named(GPtrArray *files)
{
  for (guint i = 0; i < files->len; i++)
    if (archive_files_get(files, i)->has_name)
      unlink(archive_files_get(files, i)->path);
}

static gboolean
sync_folder(const char *path, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autofree char *folder = g_path_get_dirname(path);
  if (ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", path);
  return FALSE;
}

gboolean
archive_files_commit(GPtrArray *files, GError **error)
{
  for (guint i = 0; i < files->len; i++) {
    const ArchiveFile *file = archive_files_get(files, i);
    if (fdatasync(file->fd) != 0) {
      cbt_set_error_errno(error, errno, "cannot make %s durable", file->path);
      return FALSE;
    }
  }
  if (name_files(files, error) && sync_folder(archive_files_get(files, 0)->path, error))
    return TRUE;
  remove_named(files);
  return FALSE;
}
