/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What differs between two points of a disk, or between a point and the disk as it is now.
 *
 * Two points: the difference of their manifests, exact, without reading data. To `live`: the bitmap that is
 * based on the point, which may name clusters that were written with what they held (a superset). Without
 * `from`: all that is allocated.
 *
 * Of a bitmap: its bits as they are, whatever they are relative to. While it is frozen these are the frozen
 * ones, so that pages of one answer fit together. The image is not looked at: where its holes are moves with
 * the guest.
 */
#include <daemon/handlers.h>

#include <api/json.h>
#include <cbt/qemu/nbd-source.h>
#include <daemon/disks.h>
#include <daemon/json-util.h>
#include <daemon/leases.h>
#include <daemon/live-map.h>
#include <daemon/task.h>
#include <string.h>

#define DEFAULT_LIMIT 1000
#define MAX_LIMIT     100000
#define MAX_ATTEMPTS  5

typedef struct {
  CatalogueVm *vm;
  const CatalogueDisk *disk;
  StorePoint *from; /* (nullable) */
  StorePoint *to;   /* NULL: live */
  char *bitmap;     /* (nullable) its bits instead of the difference of points */
  CbtUuid lease;    /* that must hold it; nil: none */
  guint64 offset;
  guint64 limit; /* extents */

  /* the answer as it grows */
  CbtBitmapInfo info; /* of `bitmap`, as it was read */
  guint64 granularity, size_from, size_to;
  JsonBuilder *builder;
  guint64 n_extents;
  guint64 next_offset;
  gboolean more;
} Changes;

static void
changes_free(gpointer data)
{
  Changes *changes = data;
  catalogue_vm_free(changes->vm);
  g_clear_pointer(&changes->from, store_point_free);
  g_clear_pointer(&changes->to, store_point_free);
  g_clear_object(&changes->builder);
  g_free(changes->bitmap);
  g_free(changes);
}

/* FALSE when the answer is full. */
static gboolean
add_extent(const CbtExtent *extent, gboolean zero, gpointer data)
{
  Changes *changes = data;
  if (changes->n_extents == changes->limit) {
    changes->more = TRUE;
    changes->next_offset = extent->offset;
    return FALSE;
  }
  changes->n_extents++;
  json_builder_begin_object(changes->builder);
  json_put_int(changes->builder, "offset", extent->offset);
  json_put_int(changes->builder, "length", extent->length);
  json_put_string(changes->builder, "kind", zero ? "zero" : "data");
  json_builder_end_object(changes->builder);
  return TRUE;
}

static const StorePointDisk *
point_disk(const StorePoint *point, const CatalogueDisk *disk, GError **error)
{
  const StorePointDisk *found = store_point_find_disk(point, disk->name);
  char text[CBT_UUID_TEXT_SIZE];
  if (!found)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "recovery point %s has no disk '%s'",
                  cbt_uuid_format(&point->uuid, text), disk->name);
  return found;
}

typedef struct {
  Daemon *daemon;
  const StorePoint *points[2]; /* (nullable) */
  GError *error;               /* (nullable) of the first that is not there any more */
} Presence;

static void
look_for_points(gpointer data)
{
  Presence *presence = data;
  for (guint i = 0; i < G_N_ELEMENTS(presence->points) && !presence->error; i++)
    if (presence->points[i])
      store_point_free(
          catalogue_get_point(presence->daemon->catalogue, &presence->points[i]->uuid, &presence->error));
}

/* Nothing keeps a point that is only compared from being forgotten, and what it had from being collected:
 * then LOCAL (transfer full) is no damage. */
static gboolean
fail_difference(Daemon *daemon, const Changes *changes, GError *local, GError **error)
{
  Presence presence = {daemon, {changes->from, changes->to}, NULL};
  main_queue_call(daemon->queue, look_for_points, &presence);
  g_propagate_error(error, presence.error ? presence.error : g_error_copy(local));
  g_error_free(local);
  return FALSE;
}

static gboolean
difference_of_points(Daemon *daemon, Changes *changes, const StorePointDisk *from, const StorePointDisk *to,
                     GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(daemon->store);
  GError *local = NULL;
  return store_manifest_difference(worker, from ? &from->manifest : NULL, &to->manifest, changes->offset,
                                   add_extent, changes, &local) ||
         fail_difference(daemon, changes, local, error);
}

/* ---- live
 * ----------------------------------------------------------------------------------------------------- */

/* The backup that the bitmap is frozen for has made POINT, but could not let it abdicate: the export died. */
static gboolean
is_pending(const CbtBitmapInfo *info, const StorePoint *point)
{
  return info->state == CBT_BITMAP_FROZEN && cbt_uuid_equal(&info->pending, &point->uuid);
}

/* The good bitmap that is based on POINT, or will be. A frozen one still counts: parent and successor
 * together for its base, the successor alone for the point that it is frozen for. */
static gboolean
find_bitmap_of(DiskRef *ref, const StorePoint *point, CbtBitmapInfo *info, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!disk_ref_call(ref, &request, NULL, &reply, error))
    return FALSE;
  for (guint i = 0; i < reply.n_bitmaps; i++) {
    *info = reply.bitmaps[i];
    if (is_pending(info, point) ||
        (cbt_uuid_equal(&info->base, &point->uuid) && info->state != CBT_BITMAP_INCONSISTENT &&
         info->state != CBT_BITMAP_DISABLED))
      return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Take an incremental backup, and compare with that point.",
                "no bitmap records the changes since that recovery point");
  return FALSE;
}

/* Where there is no successor, the parent has all. */
static CbtBitmap *
copy_bits(DiskRef *ref, const CbtBitmapInfo *info, LiveMapBits which, GError **error)
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
    if (!add_extent(&run, hole, changes))
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
    if (!hole && !add_extent(&run, FALSE, changes))
      return TRUE;
    run.offset += run.length;
  }
  return TRUE;
}

static void
set_unsteady(GError **error)
{
  cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "the disk's bitmap changes its state all the time");
}

/* The bits of changes since POINT. A backup may let the bitmap abdicate while they are copied: then they are
 * those of another point, and it is looked for again. */
static CbtBitmap *
bits_since(DiskRef *ref, const StorePoint *point, GError **error)
{
  for (guint attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    CbtBitmapInfo before, after;
    g_autoptr(CbtBitmap) bits = NULL;
    if (!find_bitmap_of(ref, point, &before, error) ||
        !(bits = copy_bits(ref, &before, is_pending(&before, point) ? LIVE_MAP_SUCCESSOR : LIVE_MAP_BOTH,
                           error)) ||
        !disk_ref_info(ref, before.name, &after, error))
      return NULL;
    if (after.generation == before.generation)
      return g_steal_pointer(&bits);
  }
  set_unsteady(error);
  return NULL;
}

/* Of a disk that a QEMU has. Whether it still is the bitmap that was asked for is seen afterwards: its base
 * is in its name. */
static gboolean
changes_in_qemu(Daemon *daemon, Changes *changes, GError **error)
{
  const char *vm = changes->vm->name;
  CbtBitmapInfo info = {0};
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm, changes->disk, error);
  if (!ref || (changes->from && !find_bitmap_of(ref, changes->from, &info, error)))
    return FALSE;
  LiveMapBits which = changes->from && is_pending(&info, changes->from) ? LIVE_MAP_SUCCESSOR : LIVE_MAP_BOTH;
  g_autoptr(CbtSource) source =
      live_map_read(daemon, vm, changes->disk, changes->from ? info.name : NULL, which, error);
  if (!source || (changes->from && !find_bitmap_of(ref, changes->from, &info, error)))
    return FALSE;
  changes->size_to = source->size;
  return changes->from ? changes_since(source, qemu_nbd_source_changes(source), changes, error)
                       : allocated_now(source, changes, error);
}

static gboolean
changes_to_live(Daemon *daemon, Changes *changes, GError **error)
{
  if (changes->disk->qmp)
    return changes_in_qemu(daemon, changes, error);
  g_autoptr(CbtSource) source = cbt_source_open_file(changes->disk->path, error);
  if (!source)
    return FALSE;
  changes->size_to = source->size;
  if (!changes->from)
    return allocated_now(source, changes, error);
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, changes->vm->name, changes->disk, error);
  g_autoptr(CbtBitmap) bits = ref ? bits_since(ref, changes->from, error) : NULL;
  if (!bits)
    return FALSE;
  if (cbt_bitmap_size(bits) != source->size) {
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Take an incremental backup, and compare with that point.",
                  "%s was resized", changes->disk->path);
    return FALSE;
  }
  changes->granularity = cbt_bitmap_granularity(bits);
  return changes_since(source, bits, changes, error);
}

/* ---- a bitmap
 * ------------------------------------------------------------------------------------------------- */

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
  for (guint attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    CbtBitmapInfo after;
    g_autoptr(CbtBitmap) bits = NULL;
    if (!look_at_bitmap(daemon, ref, changes, error) ||
        !(bits = copy_bits(ref, &changes->info, LIVE_MAP_PARENT, error)) ||
        !disk_ref_info(ref, changes->bitmap, &after, error))
      return NULL;
    if (after.generation == changes->info.generation)
      return g_steal_pointer(&bits);
  }
  set_unsteady(error);
  return NULL;
}

static gboolean
add_dirty(Changes *changes, const CbtBitmap *bits)
{
  CbtExtent dirty = {changes->offset, 0};
  changes->granularity = cbt_bitmap_granularity(bits);
  changes->size_from = changes->size_to = cbt_bitmap_size(bits);
  while (cbt_bitmap_next_dirty(bits, dirty.offset, G_MAXUINT64, &dirty) && add_extent(&dirty, FALSE, changes))
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
  set_unsteady(error);
  return FALSE;
}

static gboolean
changes_of_bitmap(Daemon *daemon, Changes *changes, GError **error)
{
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, changes->vm->name, changes->disk, error);
  if (ref && disk_ref_is_live(ref))
    return bitmap_in_qemu(daemon, ref, changes, error);
  g_autoptr(CbtBitmap) bits = ref ? bits_of_bitmap(daemon, ref, changes, error) : NULL;
  return bits && add_dirty(changes, bits);
}

/* ---- the request
 * ---------------------------------------------------------------------------------------------- */

static gboolean
add_extents(Daemon *daemon, Changes *changes, GError **error)
{
  const StorePointDisk *from = NULL, *to = NULL;
  if (changes->bitmap)
    return changes_of_bitmap(daemon, changes, error);
  if ((changes->from && !(from = point_disk(changes->from, changes->disk, error))) ||
      (changes->to && !(to = point_disk(changes->to, changes->disk, error))))
    return FALSE;
  changes->size_from = from ? from->manifest.size : 0;
  changes->size_to = to ? to->manifest.size : 0;
  return to ? difference_of_points(daemon, changes, from, to, error)
            : changes_to_live(daemon, changes, error);
}

static JsonNode *
run_changes(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  Changes *changes = data;
  JsonBuilder *builder = changes->builder = json_builder_new_immutable();
  changes->granularity = CBT_CLUSTER_SIZE;
  json_builder_begin_object(builder);
  json_builder_set_member_name(builder, "extents");
  json_builder_begin_array(builder);
  if (!add_extents(daemon, changes, error))
    return NULL;
  json_builder_end_array(builder);
  json_put_int(builder, "granularity", changes->granularity);
  json_put_int(builder, "size-from", changes->size_from);
  json_put_int(builder, "size-to", changes->size_to);
  if (changes->more)
    json_put_int(builder, "next-offset", changes->next_offset);
  else
    json_put_string(builder, "next-offset", NULL);
  json_put_string(builder, "source", changes->to ? "index" : "bitmap");
  json_put_string(builder, "proof", changes->to ? "exact" : "superset");
  if (changes->bitmap) {
    json_put_string(builder, "bitmap", changes->info.name);
    json_put_string(builder, "state", cbt_bitmap_state_name(changes->info.state));
    json_put_int(builder, "generation", changes->info.generation);
  }
  json_builder_end_object(builder);
  return json_builder_get_root(builder);
}

static gboolean
resolve(Daemon *daemon, const char *text, const Changes *changes, StorePoint **point, GError **error)
{
  *point = catalogue_resolve_point(daemon->catalogue, text, error);
  if (!*point)
    return FALSE;
  if (strcmp((*point)->vm, changes->vm->name) == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "recovery point '%s' is of vm '%s', not of '%s'", text,
                (*point)->vm, changes->vm->name);
  return FALSE;
}

/* A bitmap is not compared with anything. */
static gboolean
parse_bitmap(ApiRequest *request, Changes *changes, GError **error)
{
  static const char *const others[] = {"from", "to"};
  const char *bitmap = api_request_query(request, "bitmap"), *lease = api_request_query(request, "lease");
  for (guint i = 0; bitmap && i < G_N_ELEMENTS(others); i++)
    if (api_request_query(request, others[i])) {
      cbt_set_error(error, CBT_ERROR_INVALID,
                    "Ask for the bits of a bitmap, or for what differs between points.",
                    "'bitmap' cannot be combined with '%s'", others[i]);
      return FALSE;
    }
  if (lease && !bitmap) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Name the bitmap that it holds.", "'lease' needs 'bitmap'");
    return FALSE;
  }
  changes->bitmap = g_strdup(bitmap);
  return (!bitmap || cbt_name_check("bitmap", bitmap, error)) &&
         handler_parse_lease(lease, &changes->lease, error);
}

/* Without `to`: live. */
static gboolean
parse_query(Daemon *daemon, ApiRequest *request, Changes *changes, GError **error)
{
  const char *from = api_request_query(request, "from");
  const char *to = api_request_query(request, "to");
  changes->limit = DEFAULT_LIMIT;
  if (!api_query_get_u64("offset", api_request_query(request, "offset"), &changes->offset, error) ||
      !api_query_get_u64("limit", api_request_query(request, "limit"), &changes->limit, error))
    return FALSE;
  changes->limit = CLAMP(changes->limit, 1, MAX_LIMIT);
  return parse_bitmap(request, changes, error) &&
         (!from || resolve(daemon, from, changes, &changes->from, error)) &&
         (!to || strcmp(to, "live") == 0 || resolve(daemon, to, changes, &changes->to, error));
}

void
handle_changes(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(CatalogueVm) vm = handler_get_vm(request, daemon);
  const CatalogueDisk *disk = vm ? handler_get_disk(request, vm) : NULL;
  if (!disk)
    return;
  Changes *changes = g_new0(Changes, 1);
  changes->vm = g_steal_pointer(&vm);
  changes->disk = disk;
  if (parse_query(daemon, request, changes, &error)) {
    task_run(daemon, request, 200, run_changes, changes, changes_free);
    return;
  }
  changes_free(changes);
  api_request_reply_error(request, error);
}
