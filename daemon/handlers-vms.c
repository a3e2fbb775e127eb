/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <api/json.h>
#include <cbt/bitmap.h>
#include <cbt/image-format.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/source.h>
#include <daemon/disks.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/exports.h>
#include <daemon/images.h>
#include <daemon/json-util.h>
#include <daemon/live-rest.h>
#include <daemon/live-vm.h>
#include <daemon/monitors.h>
#include <daemon/task.h>
#include <daemon/vm-files.h>
#include <daemon/vm-shown.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#define REMOVE_COMMIT_MS 20000u

/* ---- showing
 * -------------------------------------------------------------------------------------------------- */

static JsonNode *
shown_to_json(const VmShown *shown)
{
  JsonBuilder *builder = json_builder_new_immutable();
  vm_shown_put(builder, shown);
  return json_finish(builder);
}

/* DATA: a GPtrArray of VmShown. */
static JsonNode *
show_all(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED,
         GError **error G_GNUC_UNUSED)
{
  const GPtrArray *all = data;
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_array(builder);
  for (guint i = 0; i < all->len; i++)
    vm_shown_put(builder, all->pdata[i]);
  json_builder_end_array(builder);
  return json_finish(builder);
}

void
handle_vm_list(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &error);
  if (!vms) {
    api_request_reply_error(request, error);
    return;
  }
  GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify) vm_shown_free);
  while (vms->len > 0)
    g_ptr_array_add(all, vm_shown_new(daemon, g_ptr_array_steal_index(vms, 0)));
  task_run(daemon, request, 200, show_all, all, (GDestroyNotify) g_ptr_array_unref);
}

static JsonNode *
show_one(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED,
         GError **error G_GNUC_UNUSED)
{
  return shown_to_json(data);
}

void
handle_vm_show(ApiRequest *request, gpointer daemon)
{
  CatalogueVm *vm = handler_get_vm(request, daemon);
  if (vm)
    task_run(daemon, request, 200, show_one, vm_shown_new(daemon, vm), (GDestroyNotify) vm_shown_free);
}

/* ---- adding
 * --------------------------------------------------------------------------------------------------- */

/* An image's real path. A device's name stays as it was given: what it leads to is numbered anew at each
 * boot. */
static char *
path_to_keep(const char *path)
{
  GStatBuf st;
  char *real = g_stat(path, &st) == 0 && S_ISBLK(st.st_mode) ? NULL : realpath(path, NULL);
  return real ? real : g_strdup(path);
}

typedef struct {
  Daemon *daemon;
  ApiRequest *request;
  CatalogueVm *vm;
  VmShown *shown;   /* instead of `vm`, when it is added */
  GPtrArray *named; /* of LiveVmDisk: disks of a live vm that were named */
  guint64 granularity;
  GError *error;
} Addition;

static void
addition_free(gpointer data)
{
  Addition *addition = data;
  catalogue_vm_free(addition->vm);
  vm_shown_free(addition->shown);
  g_ptr_array_unref(addition->named);
  g_free(addition);
}

static gboolean
check_raw(CbtSource *source, const char *path, GError **error)
{
  const char *format = cbt_image_format_probe(cbt_source_fd(source, FALSE));
  if (!format)
    return TRUE;
  g_autofree char *hint =
      g_strdup_printf("Convert it, and let the guest use the result: qemu-img convert -f %s -O raw %s %s.raw",
                      format, path, path);
  cbt_set_error(error, CBT_ERROR_INVALID, hint, "%s is a %s image, not a raw one", path, format);
  return FALSE;
}

/* A device is kept by its name, and what may be named here has no links: /dev/dm-3 is another one after a
 * boot. */
static gboolean
check_lasting(const Addition *addition, const char *path, GError **error)
{
  GStatBuf st;
  if (api_request_is_trusted(addition->request) || g_stat(path, &st) != 0 || !S_ISBLK(st.st_mode))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_DENIED, "Have root add the vm.",
                "%s is a block device, which only root may name as a disk", path);
  return FALSE;
}

static gboolean
add_disk(const Addition *addition, JsonObject *object, GError **error)
{
  CatalogueVm *vm = addition->vm;
  const char *name = NULL, *path = NULL;
  if (!api_json_check_keys(object, "name path", error) ||
      !api_json_get_string(object, "name", TRUE, &name, error) ||
      !api_json_get_string(object, "path", TRUE, &path, error) || !cbt_name_check("disk", name, error))
    return FALSE;
  g_autofree char *taken = handler_take_path(addition->request, addition->daemon, path, error);
  g_autofree char *kept = taken && check_lasting(addition, taken, error) ? path_to_keep(taken) : NULL;
  g_autoptr(CbtSource) source = kept ? cbt_source_open_file(kept, error) : NULL;
  if (!source || !check_raw(source, kept, error))
    return FALSE;
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *other = g_ptr_array_index(vm->disks, i);
    gboolean same_name = strcmp(other->name, name) == 0;
    if (same_name || images_are_same(other->path, kept)) {
      cbt_set_error(error, CBT_ERROR_INVALID, NULL, "disks '%s' and '%s' have the same %s", other->name, name,
                    same_name ? "name" : "image");
      return FALSE;
    }
  }
  catalogue_vm_add_disk(vm, name, kept, addition->granularity);
  return TRUE;
}

static gboolean
add_config(const Addition *addition, const char *given, GError **error)
{
  GStatBuf st;
  CatalogueVm *vm = addition->vm;
  g_autofree char *path = handler_take_path(addition->request, addition->daemon, given, error);
  if (!path)
    return FALSE;
  g_autofree char *name = g_path_get_basename(path);
  if (g_stat(path, &st) != 0) {
    cbt_set_error_errno(error, errno, "configuration file %s", path);
    return FALSE;
  }
  if (!S_ISREG(st.st_mode) || st.st_size >= STORE_CHUNK_LENGTH_MAX || name[0] == '.') {
    cbt_set_error(error, CBT_ERROR_INVALID,
                  "Give a plain file of at most 65535 bytes whose name has no leading dot.",
                  "%s cannot be kept as a configuration file", path);
    return FALSE;
  }
  for (guint i = 0; i < vm->configs->len; i++) {
    g_autofree char *other = g_path_get_basename(g_ptr_array_index(vm->configs, i));
    if (strcmp(other, name) == 0) {
      cbt_set_error(error, CBT_ERROR_INVALID, NULL, "two configuration files are called %s", name);
      return FALSE;
    }
  }
  g_ptr_array_add(vm->configs, g_steal_pointer(&path));
  return TRUE;
}

static gboolean
check_granularity(guint64 granularity, GError **error)
{
  if (cbt_granularity_is_valid(granularity))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Use a power of two from 4K to 16M.",
                "granularity %" G_GUINT64_FORMAT " is not possible", granularity);
  return FALSE;
}

/* A disk of a live vm that was named; it is looked for later. */
static gboolean
name_disk(GPtrArray *named, JsonObject *object, GError **error)
{
  const char *name = NULL, *node = NULL;
  if (!api_json_check_keys(object, "name node", error) ||
      !api_json_get_string(object, "name", TRUE, &name, error) ||
      !api_json_get_string(object, "node", TRUE, &node, error) || !cbt_name_check("disk", name, error))
    return FALSE;
  for (guint i = 0; i < named->len; i++) {
    const LiveVmDisk *other = named->pdata[i];
    if (strcmp(other->name, name) != 0 && strcmp(other->node, node) != 0)
      continue;
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "disks '%s' and '%s' are the same", other->name, name);
    return FALSE;
  }
  LiveVmDisk *disk = g_new0(LiveVmDisk, 1);
  disk->name = g_strdup(name);
  disk->node = g_strdup(node);
  g_ptr_array_add(named, disk);
  return TRUE;
}

static gboolean
get_disks(JsonObject *body, Addition *addition, GError **error)
{
  gboolean is_live = catalogue_vm_is_live(addition->vm);
  JsonArray *disks = NULL;
  if (!api_json_get_objects(body, "disks", !is_live, &disks, error))
    return FALSE;
  guint n = disks ? json_array_get_length(disks) : 0;
  if (n == 0 && !is_live) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Name at least one with --disk NAME=PATH.",
                  "vm '%s' has no disks", addition->vm->name);
    return FALSE;
  }
  for (guint i = 0; i < n; i++) {
    JsonObject *disk = json_array_get_object_element(disks, i);
    if (is_live ? !name_disk(addition->named, disk, error) : !add_disk(addition, disk, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
get_socket(const Addition *addition, const char *key, char **path, GError **error)
{
  const char *given = NULL;
  if (!api_json_get_string(api_request_body(addition->request), key, FALSE, &given, error))
    return FALSE;
  if (given)
    *path = handler_take_path(addition->request, addition->daemon, given, error);
  return !given || *path;
}

static gboolean
read_addition(Addition *addition, GError **error)
{
  JsonObject *body = api_request_body(addition->request);
  const char *name = NULL;
  g_auto(GStrv) configs = NULL;
  if (!api_json_get_string(body, "name", TRUE, &name, error) || !cbt_name_check("vm", name, error) ||
      !api_json_get_size(body, "granularity", FALSE, &addition->granularity, error) ||
      !check_granularity(addition->granularity, error) ||
      !api_json_get_strings(body, "configs", FALSE, &configs, error))
    return FALSE;
  addition->vm = catalogue_vm_new(name);
  if (!get_socket(addition, "qmp", &addition->vm->qmp, error) ||
      !get_socket(addition, "qga", &addition->vm->qga, error) || !get_disks(body, addition, error))
    return FALSE;
  for (char **path = configs; path && *path; path++)
    if (!add_config(addition, *path, error))
      return FALSE;
  return TRUE;
}

/* EXISTS if a disk of VM has the image of a registered one. */
static gboolean
check_images_free(Daemon *daemon, const CatalogueVm *vm, GError **error)
{
  for (guint i = 0; i < vm->disks->len; i++) {
    const char *path = ((CatalogueDisk *) g_ptr_array_index(vm->disks, i))->path;
    const CatalogueDisk *disk = NULL;
    g_autoptr(GError) local = NULL;
    g_autoptr(CatalogueVm) owner = images_find_owner(daemon->catalogue, path, &disk, &local);
    if (!owner && !local)
      continue;
    if (owner)
      cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "image %s is already disk %s/%s", path, owner->name,
                    disk->name);
    else
      g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  return TRUE;
}

/* A QEMU, or its image, may have the bitmap of an earlier registration: its base is none that we know. */
static gboolean
make_bitmap(DiskRef *ref, const CbtControlRequest *add, GError **error)
{
  g_autoptr(GError) local = NULL;
  if (disk_ref_call(ref, add, NULL, NULL, &local))
    return TRUE;
  if (disk_ref_is_live(ref) && g_error_matches(local, CBT_ERROR, CBT_ERROR_EXISTS))
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

/* Makes the `default` bitmap of each disk, in a task: it touches the images. */
static JsonNode *
make_bitmaps(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  const CatalogueVm *vm = data;
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    CbtControlRequest add;
    cbt_control_request_init(&add, CBT_CONTROL_ADD, "default");
    add.granularity = disk->granularity;
    g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm->name, disk, error);
    if (!ref || !make_bitmap(ref, &add, error))
      return NULL;
  }
  return json_node_new(JSON_NODE_NULL);
}

static void
remove_bitmap_files(Daemon *daemon, const CatalogueVm *vm)
{
  g_autofree char *vm_dir = g_build_filename(daemon->config->state_dir, "bitmaps", vm->name, NULL);
  for (guint i = 0; i < vm->disks->len; i++) {
    const CatalogueDisk *disk = g_ptr_array_index(vm->disks, i);
    g_autofree char *folder = daemon_config_bitmap_dir(daemon->config, vm->name, disk->name);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir)) != NULL) {
      g_autofree char *path = g_build_filename(folder, name, NULL);
      g_unlink(path);
    }
    g_rmdir(folder);
  }
  g_rmdir(vm_dir);
}

static void
finish_addition(gpointer data)
{
  Addition *addition = data;
  g_autoptr(GError) error = NULL;
  if (!addition->error) {
    addition->shown = vm_shown_new(addition->daemon, g_steal_pointer(&addition->vm));
    return;
  }
  remove_bitmap_files(addition->daemon, addition->vm);
  if (!vm_files_remove(addition->daemon, addition->vm->name, &error))
    g_warning("%s", error->message);
}

/* EXISTS if the QEMU of VM is another vm's: a backup of one would take away what that of the other has made
 * there. */
static gboolean
check_qemu_free(Daemon *daemon, const CatalogueVm *vm, GError **error)
{
  g_autoptr(GPtrArray) vms = vm->qmp ? catalogue_list_vms(daemon->catalogue, error) : NULL;
  for (guint i = 0; vms && i < vms->len; i++) {
    const CatalogueVm *other = vms->pdata[i];
    if (g_strcmp0(other->qmp, vm->qmp) != 0)
      continue;
    cbt_set_error(error, CBT_ERROR_EXISTS,
                  "Give that vm the other disks as well: remove it, and add it again.",
                  "the QEMU at %s is already vm '%s'", vm->qmp, other->name);
    return FALSE;
  }
  return !vm->qmp || vms;
}

static void
register_vm(gpointer data)
{
  Addition *addition = data;
  if (check_qemu_free(addition->daemon, addition->vm, &addition->error) &&
      check_images_free(addition->daemon, addition->vm, &addition->error) &&
      vm_files_add(addition->daemon, addition->vm, &addition->error))
    remove_bitmap_files(addition->daemon, addition->vm); /* of an earlier vm of this name */
}

/* All of it in a task: what is named may be on a file system that hangs. */
static JsonNode *
add_vm(Daemon *daemon, gpointer data, guint *status, GError **error)
{
  Addition *addition = data;
  if (!read_addition(addition, error))
    return NULL;
  if (catalogue_vm_is_live(addition->vm) &&
      !live_vm_find_disks(daemon->monitors, addition->vm, addition->named, addition->granularity, error))
    return NULL;
  durable_call(daemon, register_vm, addition);
  if (!addition->error) {
    g_autoptr(JsonNode) made = make_bitmaps(daemon, addition->vm, status, &addition->error);
    main_queue_call(daemon->queue, finish_addition, addition);
  }
  if (addition->error)
    g_propagate_error(error, addition->error);
  return addition->shown ? shown_to_json(addition->shown) : NULL;
}

void
handle_vm_add(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  Addition *addition = g_new0(Addition, 1);
  *addition = (Addition){.daemon = daemon, .request = request, .granularity = CBT_GRANULARITY_DEFAULT};
  addition->named = g_ptr_array_new_with_free_func(live_vm_disk_free);
  task_run(daemon, request, 201, add_vm, addition, addition_free);
}

/* ---- removing
 * ------------------------------------------------------------------------------------------------- */

static gboolean
check_idle(Daemon *daemon, const char *vm, GError **error)
{
  if (exports_has(daemon->exports, vm)) {
    g_autofree char *hint = g_strdup_printf("Stop it with: cbt-backup export stop %s", vm);
    cbt_set_error(error, CBT_ERROR_BUSY, hint, "vm '%s' is exported", vm);
    return FALSE;
  }
  if (engine_user_of(daemon->engine, vm)) {
    cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it, or cancel it: cbt-backup job list",
                  "a backup or restore of vm '%s' is under way", vm);
    return FALSE;
  }
  return TRUE;
}

typedef struct {
  Daemon *daemon;
  CatalogueVm *vm;
  gboolean forget;
  gboolean is_journalled; /* a backup of it did not end well */
  GPtrArray *points;      /* (nullable) of StorePoint: those to forget */
  guint n_forgotten;
  GError *error;
} Removal;

static void
removal_free(gpointer data)
{
  Removal *removal = data;
  catalogue_vm_free(removal->vm);
  g_clear_pointer(&removal->points, g_ptr_array_unref);
  g_free(removal);
}

/* Refuses as a whole, before the first one is gone. */
static void
find_points(gpointer data)
{
  Removal *removal = data;
  Daemon *daemon = removal->daemon;
  const char *name = removal->vm->name;
  if (check_idle(daemon, name, &removal->error))
    removal->points = catalogue_list_points(daemon->catalogue, name, &removal->error);
  guint n = removal->points ? removal->points->len : 0;
  for (guint i = 0; i < n && handler_check_removable(daemon, removal->points->pdata[i], &removal->error); i++)
    continue;
}

/* The next one, unless somebody else removed it, or began a job of the vm, meanwhile. */
static void
forget_point(gpointer data)
{
  Removal *removal = data;
  Daemon *daemon = removal->daemon;
  const StorePoint *point = removal->points->pdata[removal->n_forgotten];
  g_autoptr(GError) local = NULL;
  gboolean is_idle = check_idle(daemon, removal->vm->name, &local);
  g_autoptr(StorePoint) now = is_idle ? catalogue_get_point(daemon->catalogue, &point->uuid, &local) : NULL;
  if (now ? handler_forget_point(daemon, now, &local)
          : g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    removal->n_forgotten++;
  else
    g_propagate_prefixed_error(&removal->error, g_steal_pointer(&local),
                               "after %u recovery points were removed: ", removal->n_forgotten);
}

/* Task: each point takes a few syncs, so the main loop is asked for one at a time, and serves others in
 * between. */
static gboolean
forget_points(Removal *removal)
{
  MainQueue *queue = removal->daemon->queue;
  main_queue_call(queue, find_points, removal);
  while (!removal->error && removal->n_forgotten < removal->points->len)
    main_queue_call(queue, forget_point, removal);
  return !removal->error;
}

static void
remove_vm(gpointer data)
{
  Removal *removal = data;
  Daemon *daemon = removal->daemon;
  const char *name = removal->vm->name;
  if (check_idle(daemon, name, &removal->error) && vm_files_remove(daemon, name, &removal->error))
    remove_bitmap_files(daemon, removal->vm);
}

/* Those of a QEMU that cannot be reached stay: an image at rest keeps them, and nobody heeds them. */
static gboolean
remove_bitmaps_of(DiskRef *ref, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!disk_ref_call(ref, &request, NULL, &reply, error))
    return FALSE;
  for (guint i = 0; i < reply.n_bitmaps; i++) {
    const char *name = reply.bitmaps[i].name;
    if (reply.bitmaps[i].state == CBT_BITMAP_FROZEN &&
        !disk_ref_apply(ref, name, CBT_BITMAP_RECLAIM, NULL, NULL, error))
      return FALSE;
    cbt_control_request_init(&request, CBT_CONTROL_REMOVE, name);
    if (!disk_ref_call(ref, &request, NULL, NULL, error))
      return FALSE;
  }
  return TRUE;
}

static void
remove_live_bitmaps(Daemon *daemon, const CatalogueVm *vm)
{
  for (guint i = 0; i < vm->disks->len; i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, vm->name, vm->disks->pdata[i], &error);
    if (!ref || !remove_bitmaps_of(ref, &error))
      g_message("bitmaps of vm '%s' are left in QEMU or in its image: %s", vm->name, error->message);
  }
}

/* Main thread, before QEMU is touched: what is there may be a running job's, also of another vm that has the
 * same QEMU. */
static void
check_removable(gpointer data)
{
  Removal *removal = data;
  Daemon *daemon = removal->daemon;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &removal->error);
  for (guint i = 0; vms && !removal->error && i < vms->len; i++) {
    const CatalogueVm *vm = vms->pdata[i];
    if (g_strcmp0(vm->qmp, removal->vm->qmp) == 0)
      (void) check_idle(daemon, vm->name, &removal->error);
  }
  if (removal->error)
    return;
  g_autoptr(GPtrArray) entries = catalogue_journal_list(daemon->catalogue, &removal->error);
  for (guint i = 0; entries && i < entries->len; i++)
    removal->is_journalled |=
        strcmp(((CatalogueJournalEntry *) entries->pdata[i])->vm, removal->vm->name) == 0;
}

static gboolean
refuse_removal(Removal *removal, const GError *why)
{
  cbt_set_error(
      &removal->error, CBT_ERROR_BUSY,
      "See to it that QEMU answers, or end it; then remove the vm again. What a backup left in QEMU, "
      "such as an overlay, nobody would take away later.",
      "vm '%s' is not removed: %s", removal->vm->name, why->message);
  return FALSE;
}

/*
 * Once the vm is forgotten, nobody commits its overlays or takes filters away. QMP (transfer full; NULL if it
 * does not answer) is kept until it is: a job that comes meanwhile waits for it before it does anything.
 */
static gboolean
clear_qemu(Removal *removal, Qmp **qmp)
{
  Daemon *daemon = removal->daemon;
  g_autoptr(GError) local = NULL;
  if (live_is_off(removal->vm->qmp))
    return TRUE;
  g_autoptr(GPtrArray) images = live_vm_images(daemon, removal->vm->qmp);
  *qmp = monitors_open(daemon->monitors, removal->vm->qmp, tasks_cancellable(daemon->tasks), &local);
  main_queue_call(daemon->queue, check_removable, removal);
  if (removal->error)
    return FALSE;
  const QemuSteps steps = {.qmp = *qmp, .timeout_ms = MONITOR_TIMEOUT_MS, .images = images};
  if (*qmp && qemu_leftovers_clear_within(&steps, monitors_prefix(daemon->monitors), REMOVE_COMMIT_MS, NULL,
                                          NULL, &local))
    return TRUE;
  gboolean answers =
      *qmp ? cbt_error_code(local) != CBT_ERROR_UNREACHABLE : cbt_error_code(local) == CBT_ERROR_BUSY;
  if (answers || removal->is_journalled)
    return refuse_removal(removal, local);
  g_message("vm '%s' is removed though its QEMU does not answer: %s", removal->vm->name, local->message);
  return TRUE;
}

/* Requests that have a disk open at this moment end soon. */
static JsonNode *
remove_when_free(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  Removal *removal = data;
  if (!disks_reserve(daemon->disks, removal->vm->name, error))
    return NULL;
  Qmp *qmp = NULL;
  if ((!catalogue_vm_is_live(removal->vm) || clear_qemu(removal, &qmp)) &&
      (!removal->forget || forget_points(removal)))
    durable_call(daemon, remove_vm, removal);
  if (qmp)
    monitors_close(daemon->monitors, qmp);
  disks_unreserve(daemon->disks, removal->vm->name);
  if (!removal->error && catalogue_vm_is_live(removal->vm))
    remove_live_bitmaps(daemon, removal->vm);
  if (removal->error)
    g_propagate_error(error, removal->error);
  return NULL;
}

void
handle_vm_remove(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  CatalogueVm *vm = handler_get_vm(request, daemon);
  if (!vm)
    return;
  if (!check_idle(daemon, vm->name, &error)) {
    catalogue_vm_free(vm);
    api_request_reply_error(request, error);
    return;
  }
  Removal *removal = g_new0(Removal, 1);
  *removal = (Removal){.daemon = daemon, .vm = vm};
  removal->forget = g_strcmp0(api_request_query(request, "forget-points"), "true") == 0;
  task_run(daemon, request, 204, remove_when_free, removal, removal_free);
}
