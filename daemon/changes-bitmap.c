/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bits of one bitmap, as they are.
 */
#include <daemon/changes.h>

#include <cbt/qemu/nbd-source.h>
#include <common/error.h>
#include <daemon/leases.h>

void
changes_set_unsteady(GError **error)
{
  cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "the disk's bitmap changes its state all the time");
}

/* Where there is no successor, the parent has all. */
CbtBitmap *
changes_copy_bits(DiskRef *ref, const CbtBitmapInfo *info, LiveMapBits which, GError **error)
{
  g_autofree char *path = disk_ref_bitmap_path(ref, info->name);
  g_autoptr(CbtBitmapFile) file = cbt_bitmap_file_open_readonly(path, error);
  if (!file)
    return NULL;
  const CbtBitmap *successor = cbt_bitmap_file_successor(file);
  gboolean later_only = which == LIVE_MAP_SUCCESSOR && successor;
  CbtBitmap *bits = cbt_bitmap_copy(later_only ? successor : cbt_bitmap_file_parent(file), info->granularity);
  if (bits && which == LIVE_MAP_BOTH && successor)
    cbt_bitmap_merge(bits, successor);
  if (!bits)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "not enough memory for bitmap '%s'", info->name);
  return bits;
}

/* Whether the bits of the bitmap name all that changed: those that do not are no answer. */
static gboolean
check_bits_say_all(const DiskRef *ref, const CbtBitmapInfo *info, GError **error)
{
  g_autofree char *target = disk_ref_target(ref, info->name);
  g_autofree char *enable = g_strdup_printf("Enable it with: cbt-backup bitmap enable %s", target);
  g_autofree char *freeze = g_strdup_printf(
      "Freeze it (cbt-backup bitmap create-successor %s): then the whole disk counts as changed, "
      "and after abdicate the bitmap is good again.",
      target);
  if (info->state == CBT_BITMAP_DISABLED)
    cbt_set_error(error, CBT_ERROR_STATE, enable, "bitmap '%s' is disabled: it does not record what changes",
                  info->name);
  else if (info->state == CBT_BITMAP_INCONSISTENT)
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, freeze, "bitmap '%s' may miss changes: %s", info->name,
                  info->reason);
  else
    return TRUE;
  return FALSE;
}

static gboolean
look_at_bitmap(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  return disk_ref_info(ref, changes->bitmap, &changes->info, error) &&
         (cbt_uuid_is_nil(&changes->lease) ||
          leases_check_current(daemon, ref, changes->disk, &changes->info, &changes->lease, error)) &&
         check_bits_say_all(ref, &changes->info, error);
}

/* A transition while the bits are copied: they are those of another state, and copied again. */
static CbtBitmap *
bits_of_bitmap(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  for (guint attempt = 0; attempt < CHANGES_MAX_ATTEMPTS; attempt++) {
    CbtBitmapInfo after;
    g_autoptr(CbtBitmap) bits = NULL;
    if (!look_at_bitmap(daemon, ref, changes, error) ||
        !(bits = changes_copy_bits(ref, &changes->info, LIVE_MAP_PARENT, error)) ||
        !disk_ref_info(ref, changes->bitmap, &after, error))
      return NULL;
    if (after.generation == changes->info.generation)
      return g_steal_pointer(&bits);
  }
  changes_set_unsteady(error);
  return NULL;
}

static gboolean
add_dirty(Changes *changes, const CbtBitmap *bits)
{
  CbtExtent dirty = {changes->offset, 0};
  changes->granularity = cbt_bitmap_granularity(bits);
  changes->size_from = changes->size_to = cbt_bitmap_size(bits);
  while (cbt_bitmap_next_dirty(bits, dirty.offset, G_MAXUINT64, &dirty) &&
         changes_add_extent(&dirty, FALSE, changes))
    dirty.offset += dirty.length;
  return TRUE;
}

static gboolean
bitmap_in_qemu(Daemon *daemon, DiskRef *ref, Changes *changes, GError **error)
{
  if (!look_at_bitmap(daemon, ref, changes, error))
    return FALSE;
  g_autoptr(CbtSource) source =
      live_map_read(daemon, changes->vm->name, changes->disk, changes->bitmap, LIVE_MAP_PARENT, error);
  CbtBitmapInfo before = changes->info;
  if (!source || !look_at_bitmap(daemon, ref, changes, error))
    return FALSE;
  if (before.state == changes->info.state && cbt_uuid_equal(&before.base, &changes->info.base))
    return add_dirty(changes, qemu_nbd_source_changes(source));
  changes_set_unsteady(error);
  return FALSE;
}

gboolean
changes_of_bitmap(Daemon *daemon, Changes *changes, GError **error)
{
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, changes->vm->name, changes->disk, error);
  if (ref && disk_ref_is_live(ref))
    return bitmap_in_qemu(daemon, ref, changes, error);
  g_autoptr(CbtBitmap) bits = ref ? bits_of_bitmap(daemon, ref, changes, error) : NULL;
  return bits && add_dirty(changes, bits);
}
