/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * extract: everything of an archive into a new folder, or disks to where a map says. A disk in the new folder
 * has its name only when the whole archive was read, found good and made durable; until then, and after an
 * error, it is called *.partial.
 */
#include "tool.h"

#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <store/vma-extract.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAP_LENGTH_MAX (1u << 20)
#define STATE_FILE     "vmstate.bin"
#define PARTIAL        ".partial"

/* Where one disk goes. */
typedef struct {
  char *path; /* NULL: left out */
  gboolean write_zeros;
} Place;

typedef struct {
  const char *directory;
  int directory_fd;
  GHashTable *map; /* of Place by the disk's name; NULL: no map */
  ToolArchive *archive;
  StoreVmaTarget targets[STORE_VMA_DEVICE_MAX + 1];
} Extraction;

static void
place_free(gpointer data)
{
  Place *place = data;
  g_free(place->path);
  g_free(place);
}

/* ---- the map ---- */

static gboolean
add_place(GHashTable *map, char *name, char *path, gboolean write_zeros, GError **error)
{
  Place *place = g_new0(Place, 1);
  *place = (Place){path, write_zeros};
  if (g_hash_table_insert(map, name, place))
    return TRUE;
  tool_set_usage(error, "the map names disk '%s' twice", name);
  return FALSE;
}

/* [format=F:](0|1):NAME=PATH, or skip=NAME. */
static gboolean
parse_line(GHashTable *map, const char *line, GError **error)
{
  const char *at = line;
  if (g_str_has_prefix(at, "skip="))
    return add_place(map, g_strdup(at + strlen("skip=")), NULL, FALSE, error);
  if (g_str_has_prefix(at, "format=")) {
    if (!g_str_has_prefix(at, "format=raw:")) {
      tool_set_usage(error, "map line '%s': only format=raw can be written", line);
      return FALSE;
    }
    at += strlen("format=raw:");
  }
  const char *equals = strchr(at, '=');
  if ((at[0] != '0' && at[0] != '1') || at[1] != ':' || !equals || equals == at + 2 || equals[1] == '\0') {
    tool_set_usage(error, "map line '%s' is neither [format=raw:](0|1):NAME=PATH nor skip=NAME", line);
    return FALSE;
  }
  return add_place(map, g_strndup(at + 2, (gsize) (equals - at - 2)), g_strdup(equals + 1), at[0] == '1',
                   error);
}

static GHashTable *
parse_map(const char *text, GError **error)
{
  g_autoptr(GHashTable) map = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, place_free);
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    if (strcmp(*line, "done") == 0)
      return g_steal_pointer(&map);
    if (**line != '\0' && !parse_line(map, *line, error))
      return NULL;
  }
  tool_set_usage(error, "the map does not end in a line 'done'");
  return NULL;
}

/* Standard input up to the line `done`: who writes the map may keep the pipe open. */
static char *
read_map_from_stdin(void)
{
  GString *text = g_string_new(NULL);
  char line[8192];
  while (text->len < MAP_LENGTH_MAX && fgets(line, sizeof line, stdin)) {
    g_string_append(text, line);
    if (strcmp(line, "done\n") == 0)
      break;
  }
  return g_string_free(text, FALSE);
}

static GHashTable *
load_map(const char *path, GError **error)
{
  gsize length;
  g_autofree char *text = strcmp(path, "-") == 0
                              ? read_map_from_stdin()
                              : cbt_file_read(cbt_file_ops_default(), path, MAP_LENGTH_MAX, &length, error);
  return text ? parse_map(text, error) : NULL;
}

/* A map that names what is not there would restore less than was asked for. */
static gboolean
check_map(const Extraction *extraction, const StoreVmaHeader *header, GError **error)
{
  GHashTableIter iter;
  gpointer name;
  if (!extraction->map)
    return TRUE;
  g_hash_table_iter_init(&iter, extraction->map);
  while (g_hash_table_iter_next(&iter, &name, NULL)) {
    gboolean found = FALSE;
    for (guint i = 0; i < header->devices->len; i++)
      found |= strcmp(((StoreVmaDevice *) header->devices->pdata[i])->name, name) == 0;
    if (found)
      continue;
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See cbt-vma list.",
                  "the archive has no disk '%s', which the map names", (char *) name);
    return FALSE;
  }
  return TRUE;
}

/* ---- targets ---- */

/* The disk's file in the new folder (transfer full). */
static char *
file_name(const StoreVmaDevice *device)
{
  return store_vma_device_is_state(device) ? g_strdup(STATE_FILE)
                                           : g_strdup_printf("disk-%s.raw", device->name);
}

/* WHAT is called NAME and becomes FILE (transfer full), which must be a plain name that FILES does not hold.
 */
static gboolean
add_file(GHashTable *files, const char *what, const char *name, char *file, GError **error)
{
  static const char hint[] = "The archive is damaged, or somebody means ill.";
  gboolean is_new = g_hash_table_add(files, file);
  if (!tool_check_file_name(what, name, hint, error))
    return FALSE;
  if (is_new)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, hint, "two files of the archive would be named '%s'", file);
  return FALSE;
}

static gboolean
check_names(const StoreVmaHeader *header, GError **error)
{
  g_autoptr(GHashTable) files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  for (guint i = 0; i < header->configs->len; i++) {
    const char *name = ((StoreVmaConfig *) header->configs->pdata[i])->name;
    if (!add_file(files, "configuration file", name, g_strdup(name), error))
      return FALSE;
  }
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    if (!add_file(files, "disk", device->name, file_name(device), error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
make_directory(Extraction *extraction, GError **error)
{
  if (mkdir(extraction->directory, 0777) != 0) {
    cbt_set_error_errno(error, errno, "cannot create folder %s", extraction->directory);
    return FALSE;
  }
  extraction->directory_fd = open(extraction->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (extraction->directory_fd >= 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot open folder %s", extraction->directory);
  return FALSE;
}

/* Never follows or replaces anything: the folder is new, and O_EXCL sees to two names that are one. What a
 * guest keeps to itself is not for everybody: the mode is that of an archive that is made, and of a restore.
 */
static int
create_file(const Extraction *extraction, const char *name, GError **error)
{
  int fd = openat(extraction->directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    cbt_set_error_errno(error, errno, "cannot create %s/%s", extraction->directory, name);
  return fd;
}

static gboolean
write_configs(const Extraction *extraction, const StoreVmaHeader *header, GError **error)
{
  for (guint i = 0; i < header->configs->len; i++) {
    const StoreVmaConfig *config = header->configs->pdata[i];
    CBT_AUTO_FD int fd = create_file(extraction, config->name, error);
    if (fd < 0)
      return FALSE;
    if (!cbt_pwrite_full(fd, config->data, config->size, 0) || fdatasync(fd) != 0) {
      cbt_set_error_errno(error, errno, "cannot write %s/%s", extraction->directory, config->name);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
open_new(Extraction *extraction, const StoreVmaDevice *device, GError **error)
{
  gboolean is_state = store_vma_device_is_state(device);
  g_autofree char *whole_name = file_name(device);
  g_autofree char *name = g_strconcat(whole_name, PARTIAL, NULL);
  int fd = create_file(extraction, name, error);
  extraction->targets[device->id].fd = fd;
  if (fd < 0)
    return FALSE;
  if (is_state || ftruncate(fd, (off_t) device->size) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot give %s/%s %" G_GUINT64_FORMAT " bytes", extraction->directory,
                      name, device->size);
  return FALSE;
}

/* A file is made as large as the disk; one that is larger, or a device, keeps its size. */
static gboolean
prepare_place(int fd, const char *path, guint64 size, GError **error)
{
  struct stat st;
  guint64 has = 0;
  if (fstat(fd, &st) != 0 || (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &has) != 0) ||
      (S_ISREG(st.st_mode) && (guint64) st.st_size < size && ftruncate(fd, (off_t) size) != 0)) {
    cbt_set_error_errno(error, errno, "cannot prepare %s", path);
    return FALSE;
  }
  if (S_ISREG(st.st_mode) || (S_ISBLK(st.st_mode) && has >= size))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                "%s is too small for %" G_GUINT64_FORMAT " bytes, or no image", path, size);
  return FALSE;
}

static gboolean
open_place(Extraction *extraction, const StoreVmaDevice *device, const Place *place, GError **error)
{
  StoreVmaTarget *target = &extraction->targets[device->id];
  target->write_zeros = place->write_zeros;
  if (!place->path)
    return TRUE;
  target->fd = open(place->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (target->fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", place->path);
    return FALSE;
  }
  return prepare_place(target->fd, place->path, device->size, error);
}

static gboolean
open_targets(Extraction *extraction, const StoreVmaHeader *header, GError **error)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    const Place *place = extraction->map ? g_hash_table_lookup(extraction->map, device->name) : NULL;
    if (extraction->map && !place && !store_vma_device_is_state(device)) {
      cbt_set_error(error, CBT_ERROR_INVALID, "Add a line for it, or skip=NAME.",
                    "the map does not name disk '%s'", device->name);
      return FALSE;
    }
    if (place ? !open_place(extraction, device, place, error) : !open_new(extraction, device, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
sync_targets(const Extraction *extraction, GError **error)
{
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++) {
    int fd = extraction->targets[id].fd;
    if (fd < 0 || fdatasync(fd) == 0)
      continue;
    cbt_set_error_errno(error, errno, "cannot make a disk durable");
    return FALSE;
  }
  return TRUE;
}

static gboolean
is_placed(const Extraction *extraction, const StoreVmaDevice *device)
{
  return extraction->map && g_hash_table_contains(extraction->map, device->name);
}

/* How long a stream of state is was not known before; zeros at its end are part of it. */
static gboolean
set_state_length(const Extraction *extraction, const StoreVmaHeader *header, GError **error)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    int fd = extraction->targets[device->id].fd;
    guint64 came = store_vma_reader_n_clusters(extraction->archive->reader, device->id);
    if (!store_vma_device_is_state(device) || is_placed(extraction, device) ||
        ftruncate(fd, (off_t) MIN(device->size, came * STORE_VMA_CLUSTER_SIZE)) == 0)
      continue;
    cbt_set_error_errno(error, errno, "cannot set the length of %s/%s", extraction->directory, STATE_FILE);
    return FALSE;
  }
  return TRUE;
}

/* Gives the disks in the new folder their names. No configuration file has one of them: see check_names(). */
static gboolean
finish_names(const Extraction *extraction, const StoreVmaHeader *header, GError **error)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    g_autofree char *name = file_name(device);
    g_autofree char *partial = g_strconcat(name, PARTIAL, NULL);
    if (is_placed(extraction, device) ||
        renameat(extraction->directory_fd, partial, extraction->directory_fd, name) == 0)
      continue;
    cbt_set_error_errno(error, errno, "cannot rename %s/%s", extraction->directory, partial);
    return FALSE;
  }
  if (fsync(extraction->directory_fd) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make folder %s durable", extraction->directory);
  return FALSE;
}

static gboolean
extract(Extraction *extraction, GError **error)
{
  const StoreVmaHeader *header = store_vma_reader_header(extraction->archive->reader);
  if (!check_names(header, error) || !check_map(extraction, header, error) ||
      !make_directory(extraction, error) || !write_configs(extraction, header, error) ||
      !open_targets(extraction, header, error))
    return FALSE;
  if (store_vma_extract(extraction->archive->reader, extraction->targets, g_get_num_processors(), error))
    return set_state_length(extraction, header, error) && sync_targets(extraction, error) &&
           finish_names(extraction, header, error);
  g_prefix_error(error, "%s: ", extraction->archive->path);
  return FALSE;
}

static gboolean
parse_args(char **args, const char **words, const char **map, GError **error)
{
  guint n_words = 0;
  for (; *args; args++) {
    if (strcmp(*args, "-r") == 0 && args[1])
      *map = *++args;
    else if (n_words < 2 && (args[0][0] != '-' || args[0][1] == '\0'))
      words[n_words++] = *args;
    else
      n_words = 3;
  }
  if (n_words != 2)
    tool_set_usage(error, "extract needs an archive and a folder, and perhaps -r MAP");
  else if (*map && strcmp(*map, "-") == 0 && strcmp(words[0], "-") == 0)
    tool_set_usage(error, "archive and map cannot both be standard input");
  else
    return TRUE;
  return FALSE;
}

gboolean
tool_extract(char **args, GError **error)
{
  const char *words[2] = {NULL}, *map = NULL;
  if (!parse_args(args, words, &map, error))
    return FALSE;
  Extraction extraction = {.directory = words[1], .directory_fd = -1};
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    extraction.targets[id].fd = -1;
  gboolean ok = !map || (extraction.map = load_map(map, error)) != NULL;
  ok = ok && (extraction.archive = tool_archive_open(words[0], TRUE, error)) != NULL &&
       extract(&extraction, error);
  for (guint id = 0; id <= STORE_VMA_DEVICE_MAX; id++)
    cbt_clear_fd(&extraction.targets[id].fd);
  cbt_clear_fd(&extraction.directory_fd);
  g_clear_pointer(&extraction.archive, tool_archive_close);
  g_clear_pointer(&extraction.map, g_hash_table_unref);
  return ok;
}
