/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks as images of their own: raw ones with holes, or as a stream all bytes of it; or qcow2. */
#include <daemon/archive-private.h>

#include <store/extract.h>
#include <store/qcow2.h>
#include <store/raw-stream.h>

typedef struct {
  Archive *archive;
  const StorePointDisk *disk;
  JobDisk *progress;
  ArchiveFile *file; /* NULL: into the stream */
} Image;

static void
on_bytes(gpointer data, guint64 bytes)
{
  const Image *image = data;
  archive_progress(image->archive, image->progress, bytes);
}

static StoreOutputOptions
output_options(Image *image)
{
  return (StoreOutputOptions){.n_threads = image->archive->daemon->config->workers,
                              .cancellable = image->archive->job->cancellable,
                              .progress = on_bytes,
                              .user_data = image};
}

static StoreOutput
image_output(const Image *image)
{
  if (!image->file)
    return (StoreOutput){.func = archive_write_to_client, .user_data = image->archive};
  return (StoreOutput){.fd = image->file->fd, .ops = cbt_file_ops_default(), .name = image->file->path};
}

/* From any thread; the sums may come out of order. */
static void
on_bytes_done(guint64 bytes_done, gpointer data)
{
  const Image *image = data;
  unsigned long long before = atomic_load(&image->progress->transferred);
  while (before < bytes_done &&
         !atomic_compare_exchange_weak(&image->progress->transferred, &before, bytes_done))
    continue;
  if (before < bytes_done)
    throttle_wait(&image->archive->throttle, bytes_done - before, image->archive->job->cancellable);
}

static gboolean
write_raw_file(Image *image, GError **error)
{
  StoreExtractResult result = {0};
  StoreExtractOptions options = {.n_threads = image->archive->daemon->config->workers,
                                 .cancellable = image->archive->job->cancellable,
                                 .progress = on_bytes_done,
                                 .user_data = image};
  gboolean ok = store_extract_raw(image->archive->daemon->store, &image->disk->manifest, image->file->fd,
                                  &options, &result, error);
  atomic_fetch_add(&image->archive->job->stored, result.written);
  atomic_fetch_add(&image->archive->job->zero_bytes, result.zero);
  return ok;
}

static gboolean
write_raw_stream(Image *image, GError **error)
{
  StoreOutput output = image_output(image);
  StoreOutputOptions options = output_options(image);
  gboolean ok =
      store_raw_stream_write(image->archive->daemon->store, &image->disk->manifest, &output, &options, error);
  atomic_fetch_add(&image->archive->job->stored, output.written);
  return ok;
}

static gboolean
write_qcow2(Image *image, GError **error)
{
  StoreOutput output = image_output(image);
  StoreOutputOptions options = output_options(image);
  g_autoptr(StoreQcow2) qcow2 = store_qcow2_new(image->archive->daemon->store, &image->disk->manifest, NULL,
                                                options.cancellable, error);
  if (!qcow2)
    return FALSE;
  image->progress->dirty = store_qcow2_length(qcow2);
  gboolean ok = store_qcow2_write(qcow2, &output, &options, error);
  atomic_fetch_add(&image->archive->job->stored, output.written);
  return ok;
}

static gboolean
write_image(Image *image, GError **error)
{
  if (image->archive->request->format == ARCHIVE_QCOW2)
    return write_qcow2(image, error);
  return image->file ? write_raw_file(image, error) : write_raw_stream(image, error);
}

gboolean
archive_write_images(Archive *archive, GError **error)
{
  for (guint i = 0; i < archive->request->disks->len; i++) {
    Image image = {archive, g_ptr_array_index(archive->request->disks, i),
                   g_ptr_array_index(archive->job->disks, i),
                   archive->files ? archive_files_get(archive->files, i) : NULL};
    if (!write_image(&image, error)) {
      g_prefix_error(error, "disk '%s': ", image.disk->name);
      return FALSE;
    }
  }
  return TRUE;
}
