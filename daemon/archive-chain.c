/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The chain of a point, in a folder that may have a part of it. */
#include <daemon/archive-private.h>

#include <store/chain.h>
#include <string.h>

/* A disk that the point asked for no longer has is in none of the job's. */
static JobDisk *
find_disk(const Archive *archive, const char *name)
{
  for (guint i = 0; i < archive->job->disks->len; i++) {
    JobDisk *disk = g_ptr_array_index(archive->job->disks, i);
    if (strcmp(disk->name, name) == 0)
      return disk;
  }
  return g_ptr_array_index(archive->job->disks, 0);
}

static void
on_plan(gpointer data, const char *name, guint64 bytes)
{
  atomic_fetch_add(&find_disk(data, name)->dirty, bytes);
}

static void
on_progress(gpointer data, const char *name, guint64 bytes)
{
  archive_progress(data, find_disk(data, name), bytes);
}

gboolean
archive_write_chain(Archive *archive, GError **error)
{
  const ArchiveRequest *request = archive->request;
  g_autoptr(GPtrArray) chain = store_chain_select(request->points, &request->point->uuid);
  StoreChainOptions options = {.n_threads = archive->daemon->config->workers,
                               .cancellable = archive->job->cancellable,
                               .plan = on_plan,
                               .progress = on_progress,
                               .user_data = archive};
  StoreChainResult result;
  for (guint i = 0; i < archive->job->disks->len; i++)
    ((JobDisk *) g_ptr_array_index(archive->job->disks, i))->dirty = 0;
  gboolean ok = store_chain_export(archive->daemon->store, chain, request->path, &options, &result, error);
  archive->job->stored = result.bytes_written;
  return ok;
}
