/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What differs between two points of a disk, or between a point and the disk as it is now.
 *
 * Two points: the difference of their manifests, exact, without reading data. To `live` (changes-live.c): by
 * a bitmap, which may name clusters that were written with what they held (a superset). Without `from`: all
 * that is allocated.
 *
 * Of a bitmap (changes-bitmap.c): its bits as they are, whatever they are relative to. While it is frozen
 * these are the frozen ones, so that pages of one answer fit together. The image is not looked at: where its
 * holes are moves with the guest.
 */
#include <daemon/handlers.h>

#include <api/json.h>
#include <common/error.h>
#include <daemon/changes.h>
#include <daemon/json-util.h>
#include <daemon/task.h>
#include <string.h>

#define DEFAULT_LIMIT 1000
#define MAX_LIMIT     100000

static void
changes_free(gpointer data)
{
  Changes *changes = data;
  catalogue_vm_free(changes->vm);
  g_clear_pointer(&changes->from, store_point_free);
  g_clear_pointer(&changes->to, store_point_free);
  g_clear_pointer(&changes->base, store_point_free);
  g_clear_object(&changes->builder);
  g_free(changes->bitmap);
  g_free(changes);
}

/* FALSE when the answer is full. */
gboolean
changes_add_extent(const CbtExtent *extent, gboolean zero, gpointer data)
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

const StorePointDisk *
changes_point_disk(const StorePoint *point, const CatalogueDisk *disk, GError **error)
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
  const StorePoint *points[3]; /* (nullable) */
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
  Presence presence = {daemon, {changes->from, changes->to, changes->base}, NULL};
  main_queue_call(daemon->queue, look_for_points, &presence);
  g_propagate_error(error, presence.error ? presence.error : g_error_copy(local));
  g_error_free(local);
  return FALSE;
}

gboolean
changes_difference(Daemon *daemon, const Changes *changes, const StorePointDisk *from,
                   const StorePointDisk *to, guint64 offset, StoreDifferenceFunc func, gpointer user_data,
                   GError **error)
{
  g_autoptr(StoreWorker) worker = store_worker_new(daemon->store);
  GError *local = NULL;
  return store_manifest_difference(worker, from ? &from->manifest : NULL, &to->manifest, offset, func,
                                   user_data, &local) ||
         fail_difference(daemon, changes, local, error);
}

/* ---- the request
 * ---------------------------------------------------------------------------------------------- */

static gboolean
add_extents(Daemon *daemon, Changes *changes, GError **error)
{
  const StorePointDisk *from = NULL, *to = NULL;
  if (changes->bitmap)
    return changes_of_bitmap(daemon, changes, error);
  if ((changes->from && !(from = changes_point_disk(changes->from, changes->disk, error))) ||
      (changes->to && !(to = changes_point_disk(changes->to, changes->disk, error))))
    return FALSE;
  changes->size_from = from ? from->manifest.size : 0;
  changes->size_to = to ? to->manifest.size : 0;
  return to ? changes_difference(daemon, changes, from, to, changes->offset, changes_add_extent, changes,
                                 error)
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
