/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What differs between a recovery point and the disk as it is now.
 *
 * A bitmap tells what changed since its base. If the point is not the base of a good one, it is the way round
 * that does: the manifests tell what differs between the point and the base, the bitmap what changed since,
 * and a cluster that is in neither is the same. It does not matter which of the two points is older.
 */
#include <daemon/changes.h>

#include <cbt/qemu/nbd-source.h>
#include <common/error.h>
#include <daemon/live-trust.h>
#include <daemon/monitors.h>
#include <daemon/task.h>
#include <string.h>

/* The backup that the bitmap is frozen for has made POINT, but could not let it abdicate: the export died. */
static gboolean
is_pending(const CbtBitmapInfo *info, const StorePoint *point)
{
  return info->state == CBT_BITMAP_FROZEN && cbt_uuid_equal(&info->pending, &point->uuid);
}

/* Good for what is asked now; a frozen one counts, parent and successor together. */
static gboolean
tells_all(const CbtBitmapInfo *info)
{
  return info->state != CBT_BITMAP_INCONSISTENT && info->state != CBT_BITMAP_DISABLED &&
         !cbt_uuid_is_nil(&info->base);
}

/* The bitmap of POINT itself: based on it, or frozen for it, when the successor alone is meant. */
static const CbtBitmapInfo *
find_bitmap_of(const CbtControlReply *list, const StorePoint *point)
{
  for (guint i = 0; i < list->n_bitmaps; i++) {
    const CbtBitmapInfo *info = &list->bitmaps[i];
    if (is_pending(info, point) || (tells_all(info) && cbt_uuid_equal(&info->base, &point->uuid)))
      return info;
  }
  return NULL;
}

typedef struct {
  Daemon *daemon;
  const Changes *changes;
  const CbtControlReply *list;
  const CbtBitmapInfo *info; /* found (nullable) */
  StorePoint *base;          /* its base (transfer full) */
} NewestBase;

/* On the main thread: of the points that good bitmaps are based on, the newest has the least to compare. */
static void
find_newest_base(gpointer data)
{
  NewestBase *newest = data;
  for (guint i = 0; i < newest->list->n_bitmaps; i++) {
    const CbtBitmapInfo *info = &newest->list->bitmaps[i];
    g_autoptr(StorePoint) base =
        tells_all(info) ? catalogue_get_point(newest->daemon->catalogue, &info->base, NULL) : NULL;
    if (!base || strcmp(base->vm, newest->changes->vm->name) != 0 ||
        !store_point_find_disk(base, newest->changes->disk->name) ||
        (newest->base && newest->base->time >= base->time))
      continue;
    g_clear_pointer(&newest->base, store_point_free);
    newest->base = g_steal_pointer(&base);
    newest->info = info;
  }
}

/* The bitmap to answer by in *info; its base in changes->base if that is not `from`. */
static gboolean
find_bitmap(Daemon *daemon, DiskRef *ref, Changes *changes, CbtBitmapInfo *info, GError **error)
{
  CbtControlRequest request;
  CbtControlReply list;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!disk_ref_call(ref, &request, NULL, &list, error))
    return FALSE;
  g_clear_pointer(&changes->base, store_point_free);
  NewestBase newest = {daemon, changes, &list, find_bitmap_of(&list, changes->from), NULL};
  if (!newest.info)
    main_queue_call(daemon->queue, find_newest_base, &newest);
  changes->base = newest.base;
  if (newest.info) {
    *info = *newest.info;
    return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Take an incremental backup, and compare with that point.",
                "no bitmap records what changes, from any recovery point on");
  return FALSE;
}

static LiveMapBits
bits_to_take(const Changes *changes, const CbtBitmapInfo *info)
{
  return is_pending(info, changes->from) ? LIVE_MAP_SUCCESSOR : LIVE_MAP_BOTH;
}

static gboolean
set_difference(const CbtExtent *extent, gboolean zero G_GNUC_UNUSED, gpointer bits)
{
  cbt_bitmap_set(bits, extent->offset, extent->length);
  return TRUE;
}

/* Adds what differs between `from` and the base of the bits. What the disk has grown by since the base is in
 * neither: all of it counts. */
static gboolean
add_difference_to_base(Daemon *daemon, const Changes *changes, CbtBitmap *bits, GError **error)
{
  const StorePointDisk *from, *base;
  if (!changes->base)
    return TRUE;
  if (!(from = changes_point_disk(changes->from, changes->disk, error)) ||
      !(base = changes_point_disk(changes->base, changes->disk, error)) ||
      !changes_difference(daemon, changes, from, base, changes->offset, set_difference, bits, error))
    return FALSE;
  if (base->manifest.size < cbt_bitmap_size(bits))
    cbt_bitmap_set(bits, base->manifest.size, cbt_bitmap_size(bits) - base->manifest.size);
  return TRUE;
}

/* Splits a dirty extent into data and holes. */
static gboolean
add_live_extent(CbtSource *source, const CbtExtent *dirty, Changes *changes, GError **error)
{
  guint64 end = dirty->offset + dirty->length;
  CbtExtent run = {dirty->offset, 0};
  while (run.offset < end) {
    gboolean hole;
    if (!cbt_source_next_extent(source, run.offset, end - run.offset, &run, &hole, error))
      return FALSE;
    if (!changes_add_extent(&run, hole, changes))
      return TRUE;
    run.offset += run.length;
  }
  return TRUE;
}

static gboolean
changes_since(CbtSource *source, const CbtBitmap *bits, Changes *changes, GError **error)
{
  CbtExtent dirty;
  guint64 offset = changes->offset;
  while (!changes->more && cbt_bitmap_next_dirty(bits, offset, G_MAXUINT64, &dirty)) {
    if (!add_live_extent(source, &dirty, changes, error))
      return FALSE;
    offset = dirty.offset + dirty.length;
  }
  return TRUE;
}

static gboolean
allocated_now(CbtSource *source, Changes *changes, GError **error)
{
  CbtExtent run = {changes->offset, 0};
  while (run.offset < source->size) {
    gboolean hole;
    if (!cbt_source_next_extent(source, run.offset, source->size - run.offset, &run, &hole, error))
      return FALSE;
    if (!hole && !changes_add_extent(&run, FALSE, changes))
      return TRUE;
    run.offset += run.length;
  }
  return TRUE;
}

/* The bits of changes since the base. A backup may let the bitmap abdicate while they are copied: then they
 * are those of another point, and it is looked for again. */
static CbtBitmap *
bits_since(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  for (guint attempt = 0; attempt < CHANGES_MAX_ATTEMPTS; attempt++) {
    CbtBitmapInfo before, after;
    g_autoptr(CbtBitmap) bits = NULL;
    if (!find_bitmap(daemon, ref, changes, &before, error) ||
        !(bits = changes_copy_bits(ref, &before, bits_to_take(changes, &before), error)) ||
        !disk_ref_info(ref, before.name, &after, error))
      return NULL;
    if (after.generation == before.generation)
      return g_steal_pointer(&bits);
  }
  changes_set_unsteady(error);
  return NULL;
}

static gboolean
answer_by_bits(Daemon *daemon, CbtSource *source, CbtBitmap *bits, Changes *changes, GError **error)
{
  if (cbt_bitmap_size(bits) != source->size) {
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Take an incremental backup, and compare with that point.",
                  "%s was resized", changes->disk->path);
    return FALSE;
  }
  changes->granularity = cbt_bitmap_granularity(bits);
  return add_difference_to_base(daemon, changes, bits, error) && changes_since(source, bits, changes, error);
}

/* The source with the map of the disk, and of changes since `from`, that its QEMU gives. Whether it still is
 * the bitmap that was asked for is seen afterwards: its base is in its name. */
static CbtSource *
read_map_of_qemu(Daemon *daemon, DiskRef *ref, Changes *changes, CbtBitmapInfo *info, GError **error)
{
  CbtBitmapInfo after;
  if (!find_bitmap(daemon, ref, changes, info, error))
    return NULL;
  g_autoptr(CbtSource) source =
      live_map_read(daemon, changes->vm->name, changes->disk, info->name, bits_to_take(changes, info), error);
  if (!source || !find_bitmap(daemon, ref, changes, &after, error))
    return NULL;
  if (strcmp(info->name, after.name) == 0 && cbt_uuid_equal(&info->base, &after.base))
    return g_steal_pointer(&source);
  changes_set_unsteady(error);
  return NULL;
}

static gboolean
set_lie(const char *lie, GError **error)
{
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Take an incremental backup, and compare with that point.",
                "%s", lie);
  return FALSE;
}

/* An image that cannot be seen from here: whether the QEMU that has it now had it all the time. */
static gboolean
check_instance(Daemon *daemon, const Changes *changes, const char *bitmap, const GError *why, GError **error)
{
  gboolean is_same = FALSE;
  Qmp *qmp = monitors_open(daemon->monitors, changes->disk->qmp, NULL, error);
  if (!qmp)
    return FALSE;
  g_autofree char *instance = qmp_instance(qmp);
  g_autofree char *text =
      g_strdup_printf("another QEMU has disk '%s' than at the latest backup, and whether its "
                      "image was changed meanwhile cannot be seen: %s",
                      changes->disk->name, why->message);
  monitors_close(daemon->monitors, qmp);
  return live_trust_is_same(daemon, changes->disk, bitmap, instance, &is_same, error) &&
         (is_same || set_lie(text, error));
}

/* ZEROS (nullable, then WHY) were read before the MARKS of the bitmap INFO. */
static gboolean
check_trust(Daemon *daemon, const Changes *changes, const CbtBitmapInfo *info, const CbtBitmap *zeros,
            const GError *why, const CbtBitmap *marks, GError **error)
{
  g_autofree char *lie = NULL;
  if (!zeros)
    return check_instance(daemon, changes, info->name, why, error);
  const StorePointDisk *base =
      changes_point_disk(changes->base ? changes->base : changes->from, changes->disk, error);
  return base && live_trust_check(daemon, &base->manifest, info->name, zeros, marks, &lie, error) &&
         (!lie || set_lie(lie, error));
}

static gboolean
changes_since_point(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  CbtBitmapInfo info;
  g_autoptr(GError) why = NULL;
  g_autofree char *sockets = live_map_make_folder(daemon, changes->vm->name, error);
  if (!sockets)
    return FALSE;
  g_autoptr(CbtBitmap) zeros =
      live_trust_read_zeros(changes->disk, sockets, tasks_cancellable(daemon->tasks), &why);
  g_autoptr(CbtSource) source = read_map_of_qemu(daemon, ref, changes, &info, error);
  if (!source)
    return FALSE;
  changes->size_to = source->size;
  const CbtBitmap *marks = qemu_nbd_source_changes(source);
  if (!check_trust(daemon, changes, &info, zeros, why, marks, error))
    return FALSE;
  g_autoptr(CbtBitmap) bits = cbt_bitmap_copy(marks, cbt_bitmap_granularity(marks));
  if (bits)
    return answer_by_bits(daemon, source, bits, changes, error);
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "not enough memory for the changes of %s",
                changes->disk->name);
  return FALSE;
}

static gboolean
changes_in_qemu(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  if (changes->from)
    return changes_since_point(daemon, ref, changes, error);
  g_autoptr(CbtSource) source =
      live_map_read(daemon, changes->vm->name, changes->disk, NULL, LIVE_MAP_BOTH, error);
  if (source)
    changes->size_to = source->size;
  return source && allocated_now(source, changes, error);
}

gboolean
changes_to_live(Daemon *daemon, Changes *changes, GError **error)
{
  const char *vm = changes->vm->name;
  g_autoptr(CbtSource) source = changes->disk->qmp ? NULL : cbt_source_open_file(changes->disk->path, error);
  if (!source && !changes->disk->qmp)
    return FALSE;
  changes->size_to = source ? source->size : 0;
  if (source && !changes->from)
    return allocated_now(source, changes, error);
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm, changes->disk, error);
  if (!ref)
    return FALSE;
  if (!source)
    return changes_in_qemu(daemon, ref, changes, error);
  g_autoptr(CbtBitmap) bits = bits_since(daemon, ref, changes, error);
  return bits && answer_by_bits(daemon, source, bits, changes, error);
}
