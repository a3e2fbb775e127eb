/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening an archive, and the commands that only look: list, config, verify. */
#include "tool.h"

#include <common/error.h>
#include <common/fd.h>
#include <common/name.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG "qemu-server.conf"

static gboolean
open_sums(ToolArchive *archive, GError **error)
{
  GError *local = NULL;
  if (strcmp(archive->path, "-") != 0)
    archive->sums = store_vma_sums_open(archive->path, &local);
  if (local)
    g_propagate_error(error, local);
  return local == NULL;
}

ToolArchive *
tool_archive_open(const char *path, gboolean check_sums, GError **error)
{
  g_autoptr(ToolArchive) archive = g_new0(ToolArchive, 1);
  archive->path = g_strdup(path);
  archive->fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
  if (archive->fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return NULL;
  }
  posix_fadvise(archive->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  gboolean ok = !check_sums || open_sums(archive, error);
  archive->source = ok ? store_vma_source_new(archive->fd, archive->sums, error) : NULL;
  archive->reader = archive->source ? store_vma_reader_new(archive->source, error) : NULL;
  if (archive->reader)
    return g_steal_pointer(&archive);
  g_prefix_error(error, "%s: ", path);
  return NULL;
}

void
tool_archive_close(ToolArchive *archive)
{
  g_clear_pointer(&archive->reader, store_vma_reader_free);
  g_clear_pointer(&archive->source, store_vma_source_free);
  g_clear_pointer(&archive->sums, store_vma_sums_free);
  cbt_clear_fd(&archive->fd);
  g_free(archive->path);
  g_free(archive);
}

gboolean
tool_check_file_name(const char *what, const char *name, const char *hint, GError **error)
{
  gboolean ok = strlen(name) <= 200 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
  for (const char *at = name; ok && *at; at++)
    ok = *at != '/' && !g_ascii_iscntrl(*at);
  if (ok)
    return TRUE;
  g_autofree char *shown = cbt_printable(name);
  cbt_set_error(error, CBT_ERROR_INVALID, hint, "a %s is named '%s', which is no plain file name", what,
                shown);
  return FALSE;
}

/* The only argument, or a usage error. */
static const char *
only_arg(char **args, const char *what, GError **error)
{
  if (args[0] && !args[1] && (args[0][0] != '-' || args[0][1] == '\0'))
    return args[0];
  tool_set_usage(error, "%s", what);
  return NULL;
}

static void
print_device(const StoreVmaDevice *device)
{
  g_autofree char *name = cbt_printable(device->name);
  if (store_vma_device_is_state(device))
    printf("VMSTATE: dev_id=%u memory: %" G_GUINT64_FORMAT "\n", device->id, device->size);
  else
    printf("DEV: dev_id=%u size: %" G_GUINT64_FORMAT " devname: %s\n", device->id, device->size, name);
}

static void
print_time(gint64 seconds)
{
  g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(seconds);
  if (!time) {
    printf("CTIME: unknown\n");
    return;
  }
  /* As ctime() does it; GLib's %e would put a figure space before one digit. */
  g_autofree char *day = g_date_time_format(time, "%a %b");
  g_autofree char *rest = g_date_time_format(time, "%H:%M:%S %Y");
  printf("CTIME: %s %2d %s\n", day, g_date_time_get_day_of_month(time), rest);
}

gboolean
tool_list(char **args, GError **error)
{
  const char *path = only_arg(args, "list needs one archive", error);
  g_autoptr(ToolArchive) archive = path ? tool_archive_open(path, FALSE, error) : NULL;
  if (!archive)
    return FALSE;
  const StoreVmaHeader *header = store_vma_reader_header(archive->reader);
  for (guint i = 0; i < header->configs->len; i++) {
    const StoreVmaConfig *config = header->configs->pdata[i];
    g_autofree char *name = cbt_printable(config->name);
    printf("CFG: size: %zu name: %s\n", config->size, name);
  }
  for (guint i = 0; i < header->devices->len; i++)
    print_device(header->devices->pdata[i]);
  print_time(header->time);
  return TRUE;
}

gboolean
tool_config(char **args, GError **error)
{
  const char *path = NULL, *name = DEFAULT_CONFIG;
  for (; *args; args++) {
    if (strcmp(*args, "-c") == 0 && args[1]) {
      name = *++args;
    } else if (!path && (args[0][0] != '-' || args[0][1] == '\0')) {
      path = *args;
    } else {
      path = NULL;
      break;
    }
  }
  if (!path) {
    tool_set_usage(error, "config needs one archive, and perhaps -c NAME");
    return FALSE;
  }
  g_autoptr(ToolArchive) archive = tool_archive_open(path, FALSE, error);
  if (!archive)
    return FALSE;
  const StoreVmaHeader *header = store_vma_reader_header(archive->reader);
  for (guint i = 0; i < header->configs->len; i++) {
    const StoreVmaConfig *config = header->configs->pdata[i];
    if (strcmp(config->name, name) != 0)
      continue;
    if (fwrite(config->data, 1, config->size, stdout) == config->size)
      return TRUE;
    cbt_set_error_errno(error, errno, "cannot write to standard output");
    return FALSE;
  }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-vma list.", "%s has no configuration file '%s'", path,
                name);
  return FALSE;
}

/* ---- verify ---- */

static void
print_extent(const ToolArchive *archive, const StoreVmaExtent *extent)
{
  guint64 end = store_vma_source_offset(archive->source);
  for (guint i = 0; i < extent->n_clusters; i++)
    printf("extent at %" G_GUINT64_FORMAT ": dev_id=%u cluster %u mask %04x\n", end - extent->length,
           extent->clusters[i].device, extent->clusters[i].number, extent->clusters[i].mask);
}

/* What could not be checked is said without being asked for. */
static void
print_verdict(const ToolArchive *archive, gboolean verbose)
{
  const char *path = strcmp(archive->path, "-") == 0 ? "FILE" : archive->path;
  if (verbose)
    printf("%" G_GUINT64_FORMAT " bytes are good; %s\n", store_vma_source_offset(archive->source),
           archive->sums ? "all data has its checksum" : "there are no checksums of the data");
  if (!archive->sums)
    fprintf(stderr,
            "cbt-vma: header and extents are sound and no cluster is missing; but without "
            "%s" STORE_VMA_SUMS_SUFFIX
            " there are no checksums of what the disks hold, and a bit that flipped there is not seen\n",
            path);
}

gboolean
tool_verify(char **args, GError **error)
{
  gboolean verbose = FALSE;
  g_autoptr(GPtrArray) words = g_ptr_array_new();
  for (; *args; args++) {
    if (strcmp(*args, "-v") == 0)
      verbose = TRUE;
    else
      g_ptr_array_add(words, *args);
  }
  g_ptr_array_add(words, NULL);
  const char *path = only_arg((char **) words->pdata, "verify needs one archive, and perhaps -v", error);
  g_autoptr(ToolArchive) archive = path ? tool_archive_open(path, TRUE, error) : NULL;
  g_autoptr(StoreVmaExtent) extent = store_vma_extent_new();
  GError *local = NULL;
  if (!archive)
    return FALSE;
  while (store_vma_reader_next(archive->reader, extent, &local))
    if (verbose)
      print_extent(archive, extent);
  if (local || !store_vma_reader_check_complete(archive->reader, &local)) {
    g_propagate_prefixed_error(error, local, "%s: ", path);
    return FALSE;
  }
  print_verdict(archive, verbose);
  return TRUE;
}
