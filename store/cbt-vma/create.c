/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* create: an archive of raw images. */
#include "tool.h"

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <store/vma-sums.h>
#include <store/vma-writer.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  const char *path; /* as given */
  int fd;
  guint64 size; /* bytes, as it is; the header rounds up */
} Image;

typedef struct {
  StoreVmaHeader *header;
  GArray *images; /* of Image, in the order of the devices */
  char *output;   /* "-": standard output */
  int output_fd;
  int sums_fd;
  char *sums_path; /* (nullable) */
  gboolean is_new; /* the output is a file that this made */
} Create;

static void
create_clear(Create *create)
{
  for (guint i = 0; i < create->images->len; i++)
    close(g_array_index(create->images, Image, i).fd);
  g_array_unref(create->images);
  store_vma_header_free(create->header);
  cbt_clear_fd(&create->output_fd);
  cbt_clear_fd(&create->sums_fd);
  g_free(create->sums_path);
  g_free(create->output);
}

/* ---- arguments ---- */

static gboolean
add_config(Create *create, const char *path, GError **error)
{
  gsize length;
  g_autofree char *name = g_path_get_basename(path);
  if (!tool_check_file_name("configuration file", name, "Rename it.", error))
    return FALSE;
  for (guint i = 0; i < create->header->configs->len; i++) {
    if (strcmp(((StoreVmaConfig *) create->header->configs->pdata[i])->name, name) != 0)
      continue;
    tool_set_usage(error, "two configuration files would be named '%s'", name);
    return FALSE;
  }
  g_autofree char *data = cbt_file_read(cbt_file_ops_default(), path, 65535, &length, error);
  if (data)
    store_vma_header_add_config(create->header, name, data, length);
  return data != NULL;
}

static gboolean
open_image(const char *path, Image *image, GError **error)
{
  struct stat st;
  *image = (Image){path, open(path, O_RDONLY | O_CLOEXEC), 0};
  if (image->fd < 0 || fstat(image->fd, &st) != 0 ||
      (S_ISBLK(st.st_mode) && ioctl(image->fd, BLKGETSIZE64, &image->size) != 0)) {
    cbt_set_error_errno(error, errno, "cannot open image %s", path);
    return FALSE;
  }
  if (S_ISREG(st.st_mode))
    image->size = (guint64) st.st_size;
  posix_fadvise(image->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  if (image->size > 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "image %s is empty, or neither a file nor a block device",
                path);
  return FALSE;
}

/* The name of an image that was given without one: its file name up to the first dot. */
static char *
name_of(const char *path)
{
  char *name = g_path_get_basename(path);
  char *dot = strchr(name + 1, '.');
  if (dot)
    *dot = '\0';
  return name;
}

static gboolean
check_new_name(const Create *create, const char *name, GError **error)
{
  for (guint i = 0; i < create->header->devices->len; i++) {
    if (strcmp(((StoreVmaDevice *) create->header->devices->pdata[i])->name, name) != 0)
      continue;
    tool_set_usage(error, "two images would be named '%s': name them, NAME=PATH", name);
    return FALSE;
  }
  if (strcmp(name, STORE_VMA_STATE_NAME) == 0) {
    tool_set_usage(error, "'%s' names the state of a machine, not a disk", name);
    return FALSE;
  }
  return tool_check_file_name("disk", name, "Name it: NAME=PATH.", error);
}

/* NAME=PATH, unless the text as a whole is a file. */
static gboolean
add_image(Create *create, const char *text, GError **error)
{
  Image image;
  const char *equals = access(text, F_OK) == 0 ? NULL : strchr(text, '=');
  const char *path = equals ? equals + 1 : text;
  g_autofree char *name = equals ? g_strndup(text, (gsize) (equals - text)) : name_of(text);
  if (*name == '\0') {
    tool_set_usage(error, "'%s' has no name before the '='", text);
    return FALSE;
  }
  if (!check_new_name(create, name, error))
    return FALSE;
  gboolean ok = open_image(path, &image, error);
  if (image.fd >= 0)
    g_array_append_val(create->images, image);
  if (!ok)
    return FALSE;
  if (store_vma_header_add_device(create->header, name, cbt_round_up(image.size, 512)) != 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "an archive holds at most %u disks", STORE_VMA_DEVICE_MAX);
  return FALSE;
}

static gboolean
parse(Create *create, char **args, GError **error)
{
  for (; *args; args++) {
    if (strcmp(*args, "-c") == 0 && args[1]) {
      if (!add_config(create, *++args, error))
        return FALSE;
    } else if (args[0][0] == '-' && args[0][1] != '\0') {
      tool_set_usage(error, "create does not know '%s'", *args);
      return FALSE;
    } else if (!create->output) {
      create->output = g_strdup(*args);
    } else if (!add_image(create, *args, error)) {
      return FALSE;
    }
  }
  if (create->output && create->header->devices->len + create->header->configs->len > 0)
    return TRUE;
  tool_set_usage(error, "create needs the archive's name and at least one image or configuration file");
  return FALSE;
}

/* ---- output ---- */

static gboolean
open_sums(Create *create, GError **error)
{
  create->sums_path = g_strconcat(create->output, STORE_VMA_SUMS_SUFFIX, NULL);
  create->sums_fd = open(create->sums_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (create->sums_fd >= 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot create %s", create->sums_path);
  return FALSE;
}

static gboolean
open_output(Create *create, GError **error)
{
  struct stat st;
  if (strcmp(create->output, "-") == 0) {
    create->output_fd = dup(STDOUT_FILENO);
    return TRUE;
  }
  gboolean is_fifo = stat(create->output, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode));
  create->output_fd =
      open(create->output, is_fifo ? O_WRONLY | O_CLOEXEC : O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  create->is_new = !is_fifo && create->output_fd >= 0;
  if (create->output_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot create %s", create->output);
    return FALSE;
  }
  return is_fifo || open_sums(create, error);
}

static void
remove_output(const Create *create)
{
  if (create->is_new)
    unlink(create->output);
  if (create->is_new && create->sums_fd >= 0)
    unlink(create->sums_path);
}

static gboolean
sync_output(const Create *create, GError **error)
{
  if (!create->is_new || (fdatasync(create->output_fd) == 0 && fdatasync(create->sums_fd) == 0))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", create->output);
  return FALSE;
}

/* ---- contents ---- */

static gpointer
use_images(gpointer create, GError **error G_GNUC_UNUSED)
{
  return create;
}

static void
use_no_more(gpointer create G_GNUC_UNUSED)
{
}

/* Whether [offset, offset + length) is a hole, as far as that can be told. */
static gboolean
is_hole(const Image *image, guint64 offset, guint64 length)
{
  off_t data = lseek(image->fd, (off_t) offset, SEEK_DATA);
  return data < 0 ? errno == ENXIO : (guint64) data >= offset + length;
}

static gboolean
add_clusters(gpointer data, const StoreVmaDevice *device, guint64 first, guint n, StoreVmaExtent *extent,
             GError **error)
{
  const Create *create = data;
  const Image *image = &g_array_index(create->images, Image, device->id - 1);
  for (guint64 number = first; number < first + n; number++) {
    guint64 offset = number * STORE_VMA_CLUSTER_SIZE;
    guint64 length = offset < image->size ? MIN(STORE_VMA_CLUSTER_SIZE, image->size - offset) : 0;
    if (is_hole(image, offset, length)) {
      store_vma_extent_add_zero(extent, device->id, (guint32) number);
      continue;
    }
    guint8 *to = store_vma_extent_reserve(extent);
    gssize got = cbt_pread_full(image->fd, to, length, offset);
    if (got < 0 || (guint64) got < length) {
      cbt_set_error_errno(error, got < 0 ? errno : EIO, "cannot read %s at offset %" G_GUINT64_FORMAT,
                          image->path, offset);
      return FALSE;
    }
    memset(to + length, 0, STORE_VMA_CLUSTER_SIZE - length);
    store_vma_extent_add(extent, device->id, (guint32) number);
  }
  return TRUE;
}

static gboolean
write_archive(Create *create, GError **error)
{
  StoreVmaContents contents = {use_images, use_no_more, add_clusters, NULL, create};
  guint n_threads = g_get_num_processors();
  gboolean compressed = g_str_has_suffix(create->output, ".zst");
  g_autoptr(StoreVmaSink) sink =
      store_vma_sink_new(create->output_fd, compressed ? n_threads : 0, create->sums_fd, error);
  create->header->uuid = cbt_uuid_generate();
  create->header->time = g_get_real_time() / G_USEC_PER_SEC;
  return sink && store_vma_write(create->header, &contents, sink, n_threads, NULL, error) &&
         sync_output(create, error);
}

gboolean
tool_create(char **args, GError **error)
{
  Create create = {.output_fd = -1, .sums_fd = -1};
  create.header = store_vma_header_new();
  create.images = g_array_new(FALSE, FALSE, sizeof(Image));
  gboolean ok = parse(&create, args, error) && open_output(&create, error) && write_archive(&create, error);
  if (!ok)
    remove_output(&create);
  create_clear(&create);
  return ok;
}
