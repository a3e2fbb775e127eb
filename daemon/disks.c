/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and closing a tracker means syncs, on a file system that may hang. So neither happens under the
 * lock, which the main thread takes as well: a disk that is being opened or closed stands in the list, and
 * whoever wants it waits for that.
 */
#include <daemon/disks.h>

#include <cbt/qemu/bitmaps.h>
#include <daemon/live-rest.h>
#include <daemon/monitors.h>
#include <pthread.h>
#include <string.h>

/* An export that was just started again needs a moment. */
#define CONNECT_TIMEOUT_MS 5000
#define RESERVE_TIMEOUT_S  2

typedef enum { DISK_OPENING, DISK_OPEN, DISK_FAILED, DISK_CLOSING } DiskState;

struct DiskRef {
  Disks *disks; /* constant, up to exported */
  char *vm;
  char *name;
  CbtUuid disk_id;
  char *bitmap_dir;
  gboolean exported;
  CatalogueDisk *live; /* of a live one: how its QEMU, or its image at rest, is found; NULL of others */
  CbtDisk *disk;       /* constant while open, NULL of a live one; its calls under `calls` */
  pthread_mutex_t calls;
  DiskState state; /* under the lock of Disks, as n_users */
  guint n_users;
};

struct Disks {
  const DaemonConfig *config;
  Exports *exports;
  Monitors *monitors;
  pthread_mutex_t lock;
  pthread_cond_t changed; /* some disk's state */
  GPtrArray *local;       /* of DiskRef, the shared ones; under lock */
  GPtrArray *reserved;    /* names of vms whose disks nobody may open here; under lock */
};

Disks *
disks_new(const DaemonConfig *config, Exports *exports, Monitors *monitors)
{
  Disks *disks = g_new0(Disks, 1);
  disks->config = config;
  disks->exports = exports;
  disks->monitors = monitors;
  disks->local = g_ptr_array_new();
  disks->reserved = g_ptr_array_new_with_free_func(g_free);
  pthread_mutex_init(&disks->lock, NULL);
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&disks->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  return disks;
}

void
disks_free(Disks *disks)
{
  g_assert(disks->local->len == 0);
  g_ptr_array_unref(disks->local);
  g_ptr_array_unref(disks->reserved);
  pthread_cond_destroy(&disks->changed);
  pthread_mutex_destroy(&disks->lock);
  g_free(disks);
}

static DiskRef *
disk_ref_new(Disks *disks, const char *vm, const CatalogueDisk *disk, DiskState state, CbtDisk *exported)
{
  DiskRef *ref = g_new0(DiskRef, 1);
  ref->disks = disks;
  ref->vm = g_strdup(vm);
  ref->name = g_strdup(disk->name);
  ref->disk_id = disk->id;
  ref->bitmap_dir = daemon_config_bitmap_dir(disks->config, vm, disk->name);
  ref->exported = exported != NULL;
  ref->live = disk->qmp ? catalogue_disk_copy(disk) : NULL;
  ref->disk = exported;
  ref->state = state;
  ref->n_users = 1;
  pthread_mutex_init(&ref->calls, NULL);
  return ref;
}

static void
disk_ref_free(DiskRef *ref)
{
  cbt_disk_close(ref->disk);
  catalogue_disk_free(ref->live);
  pthread_mutex_destroy(&ref->calls);
  g_free(ref->bitmap_dir);
  g_free(ref->vm);
  g_free(ref->name);
  g_free(ref);
}

/* Under the lock. */
static DiskRef *
find_local(const Disks *disks, const CbtUuid *disk_id)
{
  for (guint i = 0; i < disks->local->len; i++) {
    DiskRef *ref = g_ptr_array_index(disks->local, i);
    if (cbt_uuid_equal(&ref->disk_id, disk_id))
      return ref;
  }
  return NULL;
}

/* Under the lock. */
static gboolean
is_reserved(const Disks *disks, const char *vm)
{
  return g_ptr_array_find_with_equal_func(disks->reserved, vm, g_str_equal, NULL);
}

/* Under the lock: the open one, as soon as it is; or a new one, which the caller is to open. NULL if there
 * was a reservation: by now the disk may be exported. */
static DiskRef *
share_local(Disks *disks, const char *vm, const CatalogueDisk *disk)
{
  for (;;) {
    if (is_reserved(disks, vm)) {
      pthread_cond_wait(&disks->changed, &disks->lock);
      return NULL;
    }
    DiskRef *ref = find_local(disks, &disk->id);
    if (!ref) {
      ref = disk_ref_new(disks, vm, disk, DISK_OPENING, NULL);
      g_ptr_array_add(disks->local, ref);
      return ref;
    }
    if (ref->state == DISK_OPEN) {
      ref->n_users++;
      return ref;
    }
    pthread_cond_wait(&disks->changed, &disks->lock);
  }
}

static void
set_state(DiskRef *ref, DiskState state)
{
  ref->state = state;
  pthread_cond_broadcast(&ref->disks->changed);
}

/* NULL without an error: see share_local(). */
static DiskRef *
acquire_local(Disks *disks, const char *vm, const CatalogueDisk *disk, GError **error)
{
  pthread_mutex_lock(&disks->lock);
  DiskRef *ref = share_local(disks, vm, disk);
  gboolean is_ready = !ref || ref->state == DISK_OPEN;
  pthread_mutex_unlock(&disks->lock);
  if (is_ready)
    return ref;
  g_autofree char *witness_dir = daemon_config_witness_dir(disks->config);
  ref->disk = cbt_disk_open(disk->path, ref->bitmap_dir, witness_dir, &disk->id, error);
  pthread_mutex_lock(&disks->lock);
  set_state(ref, ref->disk ? DISK_OPEN : DISK_FAILED);
  pthread_mutex_unlock(&disks->lock);
  if (!ref->disk)
    disk_ref_release(g_steal_pointer(&ref));
  return ref;
}

DiskRef *
disks_acquire(Disks *disks, const char *vm, const CatalogueDisk *disk, GError **error)
{
  g_autofree char *control = NULL;
  if (disk->qmp)
    return disk_ref_new(disks, vm, disk, DISK_OPEN, NULL);
  while (!(control = exports_control_socket(disks->exports, vm, disk->name))) {
    g_autoptr(GError) local = NULL;
    DiskRef *ref = acquire_local(disks, vm, disk, &local);
    if (local)
      g_propagate_error(error, g_steal_pointer(&local));
    else if (!ref)
      continue;
    return ref;
  }
  CbtDisk *handle = cbt_disk_connect(control, CONNECT_TIMEOUT_MS, error);
  return handle ? disk_ref_new(disks, vm, disk, DISK_OPEN, handle) : NULL;
}

void
disk_ref_release(DiskRef *ref)
{
  Disks *disks = ref->disks;
  pthread_mutex_lock(&disks->lock);
  gboolean last = --ref->n_users == 0;
  if (last)
    set_state(ref, DISK_CLOSING);
  pthread_mutex_unlock(&disks->lock);
  if (!last)
    return;
  g_clear_pointer(&ref->disk, cbt_disk_close);
  pthread_mutex_lock(&disks->lock);
  if (!ref->exported && !ref->live)
    g_ptr_array_remove(disks->local, ref);
  pthread_cond_broadcast(&disks->changed);
  pthread_mutex_unlock(&disks->lock);
  disk_ref_free(ref);
}

/* Under the lock. */
static gboolean
has_local(const Disks *disks, const char *vm)
{
  for (guint i = 0; i < disks->local->len; i++)
    if (strcmp(((DiskRef *) g_ptr_array_index(disks->local, i))->vm, vm) == 0)
      return TRUE;
  return FALSE;
}

/* Under the lock: until no disk of VM is open here, or the time is up. */
static gboolean
wait_until_closed(Disks *disks, const char *vm)
{
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += RESERVE_TIMEOUT_S;
  while (has_local(disks, vm))
    if (pthread_cond_timedwait(&disks->changed, &disks->lock, &until) != 0)
      return !has_local(disks, vm);
  return TRUE;
}

gboolean
disks_reserve(Disks *disks, const char *vm, GError **error)
{
  pthread_mutex_lock(&disks->lock);
  while (is_reserved(disks, vm))
    pthread_cond_wait(&disks->changed, &disks->lock);
  g_ptr_array_add(disks->reserved, g_strdup(vm));
  gboolean ok = wait_until_closed(disks, vm);
  pthread_mutex_unlock(&disks->lock);
  if (ok)
    return TRUE;
  disks_unreserve(disks, vm);
  cbt_set_error(error, CBT_ERROR_BUSY, "Try again when it has ended. Jobs are shown by: cbt-backup job list",
                "a job or a request has disks of vm '%s' open", vm);
  return FALSE;
}

void
disks_unreserve(Disks *disks, const char *vm)
{
  guint i;
  pthread_mutex_lock(&disks->lock);
  if (g_ptr_array_find_with_equal_func(disks->reserved, vm, g_str_equal, &i))
    g_ptr_array_remove_index_fast(disks->reserved, i);
  pthread_cond_broadcast(&disks->changed);
  pthread_mutex_unlock(&disks->lock);
}

const char *
disk_ref_vm(const DiskRef *ref)
{
  return ref->vm;
}

char *
disk_ref_target(const DiskRef *ref, const char *bitmap)
{
  return g_strdup_printf("%s/%s:%s", ref->vm, ref->name, bitmap);
}

gboolean
disk_ref_is_exported(const DiskRef *ref)
{
  return ref->exported;
}

gboolean
disk_ref_is_live(const DiskRef *ref)
{
  return ref->live != NULL;
}

gboolean
disk_ref_is_lost(const DiskRef *ref)
{
  return !ref->live && cbt_disk_is_lost(ref->disk);
}

const CbtDiskIdentity *
disk_ref_identity(const DiskRef *ref)
{
  return cbt_disk_identity(ref->disk);
}

char *
disk_ref_bitmap_path(const DiskRef *ref, const char *bitmap)
{
  return cbt_tracker_bitmap_path(ref->bitmap_dir, bitmap);
}

/* One look, the change, and for the reply another look if there was one. */
static gboolean
talk_to_qemu(DiskRef *ref, Qmp *qmp, const CbtControlRequest *request, CbtControlReply *reply, GError **error)
{
  g_autofree char *prefix = monitors_bitmap_prefix(ref->disks->monitors, &ref->disk_id);
  g_autoptr(GPtrArray) disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
  QemuDisk *disk = disks ? qemu_disks_find(disks, ref->live->node, error) : NULL;
  g_autoptr(GPtrArray) steps = disk ? qemu_bitmaps_plan(disk, prefix, request, error) : NULL;
  if (!steps || !qemu_bitmaps_run(qmp, disk, steps, MONITOR_TIMEOUT_MS, error))
    return FALSE;
  if (!reply)
    return TRUE;
  if (steps->len > 0) {
    g_ptr_array_unref(disks);
    disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
    disk = disks ? qemu_disks_find(disks, ref->live->node, error) : NULL;
  }
  memset(reply, 0, sizeof *reply);
  reply->code = -1;
  reply->n_bitmaps = disk ? qemu_bitmaps_list(disk, prefix, reply->bitmaps) : 0;
  return disk != NULL;
}

static gboolean
ask_qemu(DiskRef *ref, const CbtControlRequest *request, CbtControlReply *reply, GError **error)
{
  Qmp *qmp = monitors_open(ref->disks->monitors, ref->live->qmp, NULL, error);
  gboolean ok = qmp && talk_to_qemu(ref, qmp, request, reply, error);
  if (qmp)
    monitors_close(ref->disks->monitors, qmp);
  return ok;
}

/* The same while the guest is off. */
static gboolean
change_at_rest(DiskRef *ref, const CbtControlRequest *request, CbtControlReply *reply, GError **error)
{
  g_autofree char *prefix = monitors_bitmap_prefix(ref->disks->monitors, &ref->disk_id);
  QemuDisk *disk = live_rest_look(ref->live, error);
  g_autoptr(GPtrArray) steps = disk ? qemu_bitmaps_plan(disk, prefix, request, error) : NULL;
  gboolean ok = steps && live_rest_run(ref->live, steps, error);
  if (ok && reply && steps->len > 0) {
    qemu_disk_free(disk);
    disk = live_rest_look(ref->live, error);
    ok = disk != NULL;
  }
  if (ok && reply) {
    memset(reply, 0, sizeof *reply);
    reply->code = -1;
    reply->n_bitmaps = qemu_bitmaps_list(disk, prefix, reply->bitmaps);
  }
  if (disk)
    qemu_disk_free(disk);
  return ok;
}

static gboolean
call_live(DiskRef *ref, const CbtControlRequest *request, CbtControlReply *reply, GError **error)
{
  gboolean ok = live_is_off(ref->live->qmp) ? change_at_rest(ref, request, reply, error)
                                            : ask_qemu(ref, request, reply, error);
  if (!ok)
    g_prefix_error(error, "disk '%s' of vm '%s': ", ref->name, ref->vm);
  return ok;
}

static gboolean
list_of_live(DiskRef *ref, const char *bitmap, CbtBitmapInfo *info, GError **error)
{
  CbtControlRequest request;
  CbtControlReply reply;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  if (!call_live(ref, &request, &reply, error))
    return FALSE;
  for (guint i = 0; i < reply.n_bitmaps; i++)
    if (strcmp(reply.bitmaps[i].name, bitmap) == 0) {
      *info = reply.bitmaps[i];
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "there is no bitmap '%s'", bitmap);
  return FALSE;
}

gboolean
disk_ref_call(DiskRef *ref, const CbtControlRequest *request, CbtSession *session, CbtControlReply *reply,
              GError **error)
{
  if (ref->live)
    return call_live(ref, request, reply, error);
  pthread_mutex_lock(&ref->calls);
  gboolean ok = cbt_disk_call(ref->disk, request, session, reply, error);
  pthread_mutex_unlock(&ref->calls);
  return ok;
}

gboolean
disk_ref_apply(DiskRef *ref, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
               const char *reason, GError **error)
{
  if (ref->live) {
    CbtControlRequest request;
    cbt_control_request_init(&request, CBT_CONTROL_APPLY, bitmap);
    request.event = event;
    if (pending)
      request.pending = *pending;
    return call_live(ref, &request, NULL, error);
  }
  pthread_mutex_lock(&ref->calls);
  gboolean ok = cbt_disk_apply(ref->disk, bitmap, event, pending, reason, error);
  pthread_mutex_unlock(&ref->calls);
  return ok;
}

gboolean
disk_ref_info(DiskRef *ref, const char *bitmap, CbtBitmapInfo *info, GError **error)
{
  g_autoptr(GError) local = NULL;
  pthread_mutex_lock(&ref->calls);
  gboolean ok =
      ref->live ? list_of_live(ref, bitmap, info, &local) : cbt_disk_info(ref->disk, bitmap, info, &local);
  pthread_mutex_unlock(&ref->calls);
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) { /* the owner knows its files, not our names */
    g_autofree char *hint = g_strdup_printf("See: cbt-backup bitmap list %s/%s", ref->vm, ref->name);
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, hint, "disk '%s' of vm '%s' has no bitmap '%s'", ref->name,
                  ref->vm, bitmap);
  } else if (local)
    g_propagate_error(error, g_steal_pointer(&local));
  return ok;
}
