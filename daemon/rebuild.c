/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything is read, and files that are missing or damaged are written again, before the catalogue changes,
 * which it does in one transaction. It all happens on the main thread: nothing can be committed, removed or
 * registered meanwhile. That takes about 0.2 ms a point, more of one whose file is missing, for its tree is
 * gone down; the service manager is told of each that the daemon does not hang.
 */
#include <daemon/rebuild.h>

#include <cbt/bitmap.h>
#include <daemon/engine.h>
#include <daemon/point-files.h>
#include <daemon/point-walk.h>
#include <daemon/service.h>
#include <daemon/vm-files.h>
#include <store/catalogue-rebuild.h>
#include <string.h>

#define VM_HINT "If the vm was removed before, remove it again: cbt-backup vm remove %s"

typedef struct {
  Daemon *daemon;
  const CbtFileOps *ops;
  char *vms_folder;
  char *points_folder;
  GPtrArray *vms;    /* of StoreVm, to be */
  GPtrArray *points; /* of StorePoint, to be */
  RebuildResult *result;
} Rebuild;

void
rebuild_result_clear(RebuildResult *result)
{
  g_clear_pointer(&result->problems, g_ptr_array_unref);
}

static void
rebuild_clear(Rebuild *rebuild)
{
  g_free(rebuild->vms_folder);
  g_free(rebuild->points_folder);
  g_ptr_array_unref(rebuild->vms);
  g_ptr_array_unref(rebuild->points);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Rebuild, rebuild_clear)

static void add_problem(Rebuild *rebuild, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
add_problem(Rebuild *rebuild, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  char *text = g_strdup_vprintf(format, args);
  va_end(args);
  g_warning("%s", text);
  g_ptr_array_add(rebuild->result->problems, text);
}

/* ---- points ---- */

/* The point of a file that cannot be read: the catalogue's, whose file is written again. NULL if it has none.
 */
static StorePoint *
point_from_catalogue(Rebuild *rebuild, const CbtUuid *uuid, GError *damage)
{
  g_autofree char *message = cbt_error_message(damage);
  g_autoptr(GError) error = NULL;
  g_autofree char *aside = NULL;
  g_autoptr(StorePoint) point = catalogue_get_point(rebuild->daemon->catalogue, uuid, NULL);
  rebuild->result->n_damaged++;
  if (!point) {
    add_problem(rebuild, "%s; the file is left as it is, and the point is not there", message);
    return NULL;
  }
  if (point_files_write_again(rebuild->daemon, point, &aside, &error))
    add_problem(rebuild, "%s; it was written again from the catalogue, the damaged file is %s", message,
                aside);
  else
    add_problem(rebuild, "%s; the catalogue still has the point, but: %s", message, error->message);
  return g_steal_pointer(&point);
}

static gboolean
load_points(Rebuild *rebuild, GHashTable *seen, GError **error)
{
  g_autoptr(GArray) uuids = store_point_list(rebuild->points_folder, error);
  for (guint i = 0; uuids && i < uuids->len; i++) {
    const CbtUuid *uuid = &g_array_index(uuids, CbtUuid, i);
    char text[CBT_UUID_TEXT_SIZE];
    g_autoptr(GError) local = NULL;
    service_at_work();
    StorePoint *point = store_point_load(rebuild->ops, rebuild->points_folder, uuid, &local);
    if (local && !point_files_is_damage(local)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    if (!point)
      point = point_from_catalogue(rebuild, uuid, local);
    if (point)
      g_ptr_array_add(rebuild->points, point);
    g_hash_table_add(seen, g_strdup(cbt_uuid_format(uuid, text)));
  }
  return uuids != NULL;
}

/* A point without a file was removed, and comes from an older copy of the catalogue; unless the store has all
 * that it needs. */
static gboolean
keep_point_without_file(Rebuild *rebuild, PointWalk *walk, StorePoint **point, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_autoptr(GError) local = NULL;
  cbt_uuid_format(&(*point)->uuid, text);
  if (point_walk_check(walk, *point, &local)) {
    if (!store_point_save(rebuild->ops, rebuild->points_folder, *point, error))
      return FALSE;
    add_problem(rebuild, "the file of recovery point %s was missing; it was written again from the catalogue",
                text);
    g_ptr_array_add(rebuild->points, g_steal_pointer(point));
    return TRUE;
  }
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  g_autofree char *message = cbt_error_message(local);
  add_problem(rebuild, "recovery point %s of vm '%s' has no file, and %s: it is not there any more", text,
              (*point)->vm, message);
  return TRUE;
}

/* Points whose files are gone, but that the catalogue still has. */
static gboolean
keep_points_without_file(Rebuild *rebuild, GHashTable *seen, GError **error)
{
  g_autoptr(PointWalk) walk = point_walk_new(rebuild->daemon);
  g_autoptr(GPtrArray) known = catalogue_list_points(rebuild->daemon->catalogue, NULL, error);
  for (guint i = 0; known && i < known->len; i++) {
    StorePoint **point =
        (StorePoint **) &known->pdata[i]; /* what is taken leaves NULL for the list to free */
    char text[CBT_UUID_TEXT_SIZE];
    service_at_work();
    if (!g_hash_table_contains(seen, cbt_uuid_format(&(*point)->uuid, text)) &&
        !keep_point_without_file(rebuild, walk, point, error))
      return FALSE;
  }
  return known != NULL;
}

/* ---- vms ---- */

/* What the newest point of a vm knows of it. */
static StoreVm *
vm_from_points(const Rebuild *rebuild, const char *name)
{
  const StorePoint *newest = NULL;
  for (guint i = 0; i < rebuild->points->len; i++) {
    const StorePoint *point = rebuild->points->pdata[i];
    if (strcmp(point->vm, name) == 0 && (!newest || point->time > newest->time))
      newest = point;
  }
  if (!newest)
    return NULL;
  CatalogueVm *vm = catalogue_vm_new(name);
  for (guint i = 0; i < newest->disks->len; i++) {
    const StorePointDisk *from = newest->disks->pdata[i];
    if (cbt_uuid_is_nil(&from->disk_id) || !g_path_is_absolute(from->path))
      continue;
    CatalogueDisk *disk = catalogue_vm_add_disk(vm, from->name, from->path, CBT_GRANULARITY_DEFAULT);
    disk->id = from->disk_id;
  }
  return store_vm_new(vm, NULL);
}

/* A vm of the catalogue, with its policy if that can be read. */
static StoreVm *
vm_from_catalogue(Rebuild *rebuild, const char *name, GError **error)
{
  g_autoptr(GError) local = NULL;
  CatalogueVm *vm = catalogue_get_vm(rebuild->daemon->catalogue, name, error);
  if (!vm)
    return NULL;
  g_autofree char *policy = vm_files_policy_text(rebuild->daemon, name, &local);
  g_autofree char *message = local ? cbt_error_message(local) : NULL;
  if (message)
    add_problem(rebuild, "%s", message);
  return store_vm_new(vm, policy);
}

/* The vm of a file that cannot be read. */
static StoreVm *
vm_from_elsewhere(Rebuild *rebuild, const char *name, const GError *damage)
{
  g_autofree char *message = cbt_error_message(damage);
  g_autofree char *aside = NULL;
  g_autoptr(GError) error = NULL;
  StoreVm *known = vm_from_catalogue(rebuild, name, NULL);
  g_autoptr(StoreVm) record = known ? known : vm_from_points(rebuild, name);
  rebuild->result->n_damaged++;
  if (!record || record->vm->disks->len == 0) {
    add_problem(rebuild, "%s; the file is left as it is: add the vm again", message);
    return NULL;
  }
  const char *source = known ? "the catalogue"
                             : "its newest recovery point: look whether disks and configuration files are "
                               "complete (cbt-backup vm show), and set its policy again";
  if (store_vm_set_aside(rebuild->ops, rebuild->vms_folder, name, &aside, &error) &&
      store_vm_save(rebuild->ops, rebuild->vms_folder, record, &error))
    add_problem(rebuild, "%s; it is kept as %s, and was made again from %s", message, aside, source);
  else
    add_problem(rebuild, "%s; the vm was made again from %s; but: %s", message, source, error->message);
  return g_steal_pointer(&record);
}

static gboolean
load_vms(Rebuild *rebuild, GHashTable *seen, GError **error)
{
  g_autoptr(GPtrArray) names = store_vm_list(rebuild->vms_folder, error);
  for (guint i = 0; names && i < names->len; i++) {
    const char *name = names->pdata[i];
    g_autoptr(GError) local = NULL;
    StoreVm *record = store_vm_load(rebuild->ops, rebuild->vms_folder, name, &local);
    if (local && !point_files_is_damage(local)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    if (!record)
      record = vm_from_elsewhere(rebuild, name, local);
    if (record)
      g_ptr_array_add(rebuild->vms, record);
    g_hash_table_add(seen, g_strdup(name));
  }
  return names != NULL;
}

static gboolean
keep_vms_without_file(Rebuild *rebuild, GHashTable *seen, GError **error)
{
  g_autoptr(GPtrArray) known = catalogue_list_vms(rebuild->daemon->catalogue, error);
  for (guint i = 0; known && i < known->len; i++) {
    const CatalogueVm *vm = known->pdata[i];
    if (g_hash_table_contains(seen, vm->name))
      continue;
    StoreVm *record = vm_from_catalogue(rebuild, vm->name, error);
    if (!record)
      return FALSE;
    g_ptr_array_add(rebuild->vms, record);
    if (!store_vm_save(rebuild->ops, rebuild->vms_folder, record, error))
      return FALSE;
    add_problem(rebuild, "the file of vm '%s' was missing; it was written again from the catalogue. " VM_HINT,
                vm->name, vm->name);
  }
  return known != NULL;
}

/* ---- all of it ---- */

static gboolean
load_all(Rebuild *rebuild, GError **error)
{
  g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  if (!load_points(rebuild, seen, error) || !keep_points_without_file(rebuild, seen, error))
    return FALSE;
  g_hash_table_remove_all(seen);
  return load_vms(rebuild, seen, error) && keep_vms_without_file(rebuild, seen, error);
}

static gboolean
check_idle(Daemon *daemon, GError **error)
{
  guint n_active, n_queued;
  engine_counts(daemon->engine, &n_active, &n_queued);
  if (n_active + n_queued == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for them, or cancel them: cbt-backup job list",
                "the catalogue cannot be made again while jobs run (%u active, %u queued)", n_active,
                n_queued);
  return FALSE;
}

/* What the catalogue could not take is logged as well. */
static gboolean
replace(Rebuild *rebuild, GError **error)
{
  GPtrArray *problems = rebuild->result->problems;
  guint n_logged = problems->len;
  if (!catalogue_replace(rebuild->daemon->catalogue, rebuild->vms, rebuild->points, g_get_real_time(),
                         problems, error))
    return FALSE;
  for (guint i = n_logged; i < problems->len; i++)
    g_warning("%s", (const char *) problems->pdata[i]);
  return TRUE;
}

gboolean
rebuild_catalogue(Daemon *daemon, RebuildResult *result, GError **error)
{
  g_auto(Rebuild) rebuild = {.daemon = daemon, .ops = cbt_file_ops_default(), .result = result};
  *result = (RebuildResult){.problems = g_ptr_array_new_with_free_func(g_free)};
  rebuild.vms = g_ptr_array_new_with_free_func((GDestroyNotify) store_vm_free);
  rebuild.points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  rebuild.vms_folder = vm_files_folder(daemon);
  rebuild.points_folder = point_files_folder(daemon);
  if (!check_idle(daemon, error) || !store_check_in_place(daemon->store, error) ||
      !load_all(&rebuild, error) || !replace(&rebuild, error) ||
      !catalogue_ensure_file(daemon->catalogue, &result->file_made, error))
    return FALSE;
  result->n_vms = rebuild.vms->len;
  result->n_points = rebuild.points->len;
  g_message("the catalogue was made again from the store: %u vms, %u recovery points, %u damaged files",
            result->n_vms, result->n_points, result->n_damaged);
  return TRUE;
}

/* ---- at the start ---- */

static gboolean
store_has_records(Daemon *daemon, gboolean *has, GError **error)
{
  g_autofree char *vms_folder = vm_files_folder(daemon);
  g_autofree char *points_folder = point_files_folder(daemon);
  g_autoptr(GPtrArray) vms = store_vm_list(vms_folder, error);
  g_autoptr(GArray) points = vms ? store_point_list(points_folder, error) : NULL;
  *has = points && (vms->len > 0 || points->len > 0);
  return points != NULL;
}

gboolean
rebuild_if_lost(Daemon *daemon, GError **error)
{
  gboolean is_empty, has_records;
  g_auto(RebuildResult) result = {0};
  if (!catalogue_is_empty(daemon->catalogue, &is_empty, error) ||
      !store_has_records(daemon, &has_records, error))
    return FALSE;
  if (!is_empty || !has_records)
    return TRUE;
  g_message("the catalogue is lost, but the store has vms or recovery points: it is made again from these");
  if (!rebuild_catalogue(daemon, &result, error))
    return FALSE;
  for (guint i = 0; i < result.problems->len; i++)
    g_debug("%s", (char *) result.problems->pdata[i]);
  return TRUE;
}
