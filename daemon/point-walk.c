/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks tell of each chunk once. So they are kept from point to point only as long as nothing was missing:
 * what a point shares with one that is sound is sound.
 */
#include <daemon/point-walk.h>

#include <store/mark.h>

struct PointWalk {
  Store *store;
  StoreMark *mark; /* (nullable) of points that are sound */
  GCancellable *cancellable;
};

PointWalk *
point_walk_new(Daemon *daemon)
{
  PointWalk *walk = g_new0(PointWalk, 1);
  walk->store = daemon->store;
  walk->cancellable = g_cancellable_new();
  return walk;
}

void
point_walk_free(PointWalk *walk)
{
  g_clear_pointer(&walk->mark, store_mark_free);
  g_object_unref(walk->cancellable);
  g_free(walk);
}

/* One that is missing is enough. */
static void
on_chunk(const StoreChunkId *id G_GNUC_UNUSED, const StoreLocation *location, gpointer cancellable)
{
  if (!location)
    g_cancellable_cancel(cancellable);
}

gboolean
point_walk_check(PointWalk *walk, const StorePoint *point, GError **error)
{
  g_autoptr(GPtrArray) points = g_ptr_array_new();
  g_autoptr(GError) local = NULL;
  g_ptr_array_add(points, (gpointer) point);
  if (!walk->mark) {
    walk->mark = store_mark_new(walk->store, walk->cancellable);
    store_mark_set_listener(walk->mark, on_chunk, walk->cancellable);
  }
  gboolean ok = store_mark_add(walk->mark, points, &local);
  gboolean is_missing = g_cancellable_is_cancelled(walk->cancellable);
  if (ok && !is_missing)
    return TRUE;
  g_clear_pointer(&walk->mark, store_mark_free);
  g_cancellable_reset(walk->cancellable);
  if (is_missing)
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the store has not all that it needs");
  else
    g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}
