/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/archive-private.h>

#include <string.h>
#include <sys/stat.h>

static const char *const format_names[] = {"vma", "raw", "qcow2", "chain"};

gboolean
archive_format_parse(const char *text, ArchiveFormat *format, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS(format_names); i++)
    if (strcmp(text, format_names[i]) == 0) {
      *format = (ArchiveFormat) i;
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_INVALID, "Use vma, raw, qcow2 or chain.", "'%s' is no format of archives",
                text);
  return FALSE;
}

void
archive_request_free(ArchiveRequest *request)
{
  g_clear_pointer(&request->disks, g_ptr_array_unref);
  g_clear_pointer(&request->files, g_ptr_array_unref);
  g_clear_pointer(&request->points, g_ptr_array_unref);
  g_clear_pointer(&request->point, store_point_free);
  g_clear_pointer(&request->stream, api_stream_free);
  g_free(request->path);
  g_free(request->disk);
  g_free(request);
}

static gboolean
is_image(const ArchiveRequest *request)
{
  return request->format == ARCHIVE_RAW || request->format == ARCHIVE_QCOW2;
}

static gboolean
add_disks(ArchiveRequest *request, GError **error)
{
  const StorePoint *point = request->point;
  request->disks = g_ptr_array_new();
  for (guint i = 0; i < point->disks->len; i++) {
    const StorePointDisk *disk = point->disks->pdata[i];
    if (!request->disk || strcmp(disk->name, request->disk) == 0)
      g_ptr_array_add(request->disks, (gpointer) disk);
  }
  if (request->disk && !is_image(request))
    cbt_set_error(error, CBT_ERROR_INVALID, "Leave 'disk' out, or use the format raw or qcow2.",
                  "a %s holds all disks", request->format == ARCHIVE_VMA ? "vma archive" : "chain");
  else if (request->disks->len > 0)
    return TRUE;
  else
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-backup show.", "the recovery point has no disk '%s'",
                  request->disk);
  return FALSE;
}

static gboolean
fail_several_disks(const ArchiveRequest *request, GError **error)
{
  g_autoptr(GString) names = g_string_new(NULL);
  for (guint i = 0; i < request->disks->len; i++)
    g_string_append_printf(names, "%s%s", i > 0 ? ", " : "",
                           ((const StorePointDisk *) request->disks->pdata[i])->name);
  cbt_set_error(error, CBT_ERROR_INVALID,
                "Choose one (--disk), name a folder that is there as the output, or use the format vma.",
                "a %s image holds one disk, but the recovery point has %s", format_names[request->format],
                names->str);
  return FALSE;
}

static gboolean
is_folder(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static gboolean
add_images(ArchiveRequest *request, GError **error)
{
  gboolean to_folder = request->path && is_folder(request->path);
  if (!to_folder && request->disks->len > 1)
    return fail_several_disks(request, error);
  if (!request->path)
    return TRUE;
  for (guint i = 0; i < request->disks->len; i++) {
    const StorePointDisk *disk = request->disks->pdata[i];
    const char *extension = format_names[request->format];
    g_ptr_array_add(request->files, to_folder
                                        ? g_strdup_printf("%s/%s.%s", request->path, disk->name, extension)
                                        : g_strdup(request->path));
  }
  return TRUE;
}

static gboolean
check_chain(const ArchiveRequest *request, GError **error)
{
  struct stat st;
  if (!request->path)
    cbt_set_error(error, CBT_ERROR_INVALID, "Name a folder, or use the format vma, raw or qcow2.",
                  "a chain is several files, and cannot be a stream");
  else if (stat(request->path, &st) == 0 && !S_ISDIR(st.st_mode))
    cbt_set_error(error, CBT_ERROR_EXISTS, "A chain goes to a folder, which need not be there.",
                  "%s is no folder", request->path);
  else
    return TRUE;
  return FALSE;
}

gboolean
archive_request_check(ArchiveRequest *request, GError **error)
{
  gboolean is_vma_file = request->format == ARCHIVE_VMA && request->path;
  request->files = is_vma_file ? archive_paths_of_vma(request->path) : g_ptr_array_new_with_free_func(g_free);
  if (!add_disks(request, error))
    return FALSE;
  if (request->format == ARCHIVE_CHAIN)
    return check_chain(request, error);
  if (is_image(request) && !add_images(request, error))
    return FALSE;
  return archive_paths_check(request->files, error);
}
