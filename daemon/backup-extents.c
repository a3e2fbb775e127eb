/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A walk in three levels: regions (the disk, or runs of changed clusters), in each the next data behind a
 * hole, and in the hole the preserved clusters. Positions are on cluster boundaries but at the disk's end.
 */
#include <daemon/backup-extents.h>

#include <common/bytes.h>
#include <pthread.h>

struct BackupExtents {
  CbtSource *source; /* constant */
  const CbtBitmap *changes;
  CbtSession *session;
  /* owned by the walking thread */
  guint64 position;   /* all before it was handed out or is zero */
  guint64 region_end; /* of the region that `position` is in */
  guint64 data_start; /* the next data in the region: a hole reaches from position to here */
  guint64 data_end;
  pthread_mutex_t lock;
  GQueue zeros; /* of CbtExtent, ascending; under lock */
};

BackupExtents *
backup_extents_new(CbtSource *source, const CbtBitmap *changes, CbtSession *session)
{
  BackupExtents *extents = g_new0(BackupExtents, 1);
  extents->source = source;
  extents->changes = changes;
  extents->session = session;
  extents->region_end = changes ? 0 : source->size;
  pthread_mutex_init(&extents->lock, NULL);
  g_queue_init(&extents->zeros);
  return extents;
}

void
backup_extents_free(BackupExtents *extents)
{
  g_queue_clear_full(&extents->zeros, g_free);
  pthread_mutex_destroy(&extents->lock);
  g_free(extents);
}

static guint64
cluster_end(const BackupExtents *extents, guint64 offset)
{
  return MIN(cbt_round_up(offset, CBT_CLUSTER_SIZE), extents->source->size);
}

/* Moves into the next run of changed clusters. FALSE at the end. */
static gboolean
next_region(BackupExtents *extents)
{
  CbtExtent run;
  if (!extents->changes || !cbt_bitmap_next_dirty(extents->changes, extents->region_end, G_MAXUINT64, &run))
    return FALSE;
  extents->position = MAX(cbt_round_down(run.offset, CBT_CLUSTER_SIZE), extents->region_end);
  extents->region_end = cluster_end(extents, run.offset + run.length);
  extents->data_start = extents->data_end = extents->position;
  return TRUE;
}

/* Looks for the next data in the region, at or after `position`. */
static gboolean
find_data(BackupExtents *extents, GError **error)
{
  guint64 from = extents->position;
  gboolean hole = TRUE;
  CbtExtent run = {from, 0};
  while (hole && from < extents->region_end) {
    if (!cbt_source_next_extent(extents->source, from, extents->region_end - from, &run, &hole, error))
      return FALSE;
    from = run.offset + run.length;
  }
  extents->data_start =
      hole ? extents->region_end : MAX(cbt_round_down(run.offset, CBT_CLUSTER_SIZE), extents->position);
  extents->data_end = hole ? extents->region_end : MIN(cluster_end(extents, from), extents->region_end);
  return TRUE;
}

static void
pass_zero(BackupExtents *extents, guint64 end)
{
  if (end == extents->position)
    return;
  CbtExtent *zero = g_new(CbtExtent, 1);
  *zero = (CbtExtent){extents->position, end - extents->position};
  pthread_mutex_lock(&extents->lock);
  g_queue_push_tail(&extents->zeros, zero);
  pthread_mutex_unlock(&extents->lock);
  extents->position = end;
}

/* Passes the hole up to `data_start`, or up to the first preserved run in it, which is to be read. */
static gboolean
next_preserved(BackupExtents *extents, CbtExtent *extent)
{
  guint64 length = extents->data_start - extents->position;
  gboolean found =
      extents->session && cbt_session_next_preserved(extents->session, extents->position, length, extent);
  pass_zero(extents, found ? extent->offset : extents->data_start);
  if (found)
    extents->position = extent->offset + extent->length;
  return found;
}

gboolean
backup_extents_next(gpointer data, CbtExtent *extent, GError **error)
{
  BackupExtents *extents = data;
  for (;;) {
    if (extents->position < extents->data_start) {
      if (next_preserved(extents, extent))
        return TRUE;
    } else if (extents->position < extents->data_end) {
      *extent = (CbtExtent){extents->position, extents->data_end - extents->position};
      extents->position = extents->data_end;
      return TRUE;
    } else if (extents->position < extents->region_end) {
      if (!find_data(extents, error))
        return FALSE;
    } else if (!next_region(extents)) {
      return FALSE;
    }
  }
}

gboolean
backup_extents_take_zero(BackupExtents *extents, guint64 offset, CbtExtent *zero)
{
  pthread_mutex_lock(&extents->lock);
  CbtExtent *first = g_queue_peek_head(&extents->zeros);
  gboolean found = first && first->offset < offset;
  if (found)
    *zero = *first;
  if (found)
    g_free(g_queue_pop_head(&extents->zeros));
  pthread_mutex_unlock(&extents->lock);
  return found;
}
