/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/disks.h>

#include <pthread.h>
#include <string.h>

/* An export that was just started again needs a moment. */
#define CONNECT_TIMEOUT_MS 5000

struct DiskRef {
  Disks *disks;
  char *vm; /* constant, up to disk */
  CbtUuid disk_id;
  char *bitmap_dir;
  gboolean exported;
  CbtDisk *disk; /* its calls under `calls` */
  pthread_mutex_t calls;
  guint n_users; /* under the lock of Disks */
};

struct Disks {
  const DaemonConfig *config;
  Exports *exports;
  pthread_mutex_t lock;
  GPtrArray *local; /* of DiskRef, the shared ones; under lock */
};

Disks *
disks_new(const DaemonConfig *config, Exports *exports)
{
  Disks *disks = g_new0(Disks, 1);
  disks->config = config;
  disks->exports = exports;
  disks->local = g_ptr_array_new();
  pthread_mutex_init(&disks->lock, NULL);
  return disks;
}

void
disks_free(Disks *disks)
{
  g_assert(disks->local->len == 0);
  g_ptr_array_unref(disks->local);
  pthread_mutex_destroy(&disks->lock);
  g_free(disks);
}

static DiskRef *
disk_ref_new(Disks *disks, const char *vm, const CatalogueDisk *disk, CbtDisk *handle, gboolean exported)
{
  DiskRef *ref = g_new0(DiskRef, 1);
  ref->disks = disks;
  ref->vm = g_strdup(vm);
  ref->disk_id = disk->id;
  ref->bitmap_dir = daemon_config_bitmap_dir(disks->config, vm, disk->name);
  ref->exported = exported;
  ref->disk = handle;
  ref->n_users = 1;
  pthread_mutex_init(&ref->calls, NULL);
  return ref;
}

static void
disk_ref_free(DiskRef *ref)
{
  cbt_disk_close(ref->disk);
  pthread_mutex_destroy(&ref->calls);
  g_free(ref->bitmap_dir);
  g_free(ref->vm);
  g_free(ref);
}

/* Under the lock: the open one, or a new one. */
static DiskRef *
acquire_local(Disks *disks, const char *vm, const CatalogueDisk *disk, GError **error)
{
  for (guint i = 0; i < disks->local->len; i++) {
    DiskRef *ref = g_ptr_array_index(disks->local, i);
    if (cbt_uuid_equal(&ref->disk_id, &disk->id)) {
      ref->n_users++;
      return ref;
    }
  }
  g_autofree char *bitmap_dir = daemon_config_bitmap_dir(disks->config, vm, disk->name);
  g_autofree char *witness_dir = daemon_config_witness_dir(disks->config);
  CbtDisk *handle = cbt_disk_open(disk->path, bitmap_dir, witness_dir, &disk->id, error);
  if (!handle)
    return NULL;
  DiskRef *ref = disk_ref_new(disks, vm, disk, handle, FALSE);
  g_ptr_array_add(disks->local, ref);
  return ref;
}

DiskRef *
disks_acquire(Disks *disks, const char *vm, const CatalogueDisk *disk, GError **error)
{
  g_autofree char *control = exports_control_socket(disks->exports, vm, disk->name);
  if (control) {
    CbtDisk *handle = cbt_disk_connect(control, CONNECT_TIMEOUT_MS, error);
    return handle ? disk_ref_new(disks, vm, disk, handle, TRUE) : NULL;
  }
  pthread_mutex_lock(&disks->lock);
  DiskRef *ref = acquire_local(disks, vm, disk, error);
  pthread_mutex_unlock(&disks->lock);
  return ref;
}

void
disk_ref_release(DiskRef *ref)
{
  Disks *disks = ref->disks;
  pthread_mutex_lock(&disks->lock);
  gboolean last = --ref->n_users == 0;
  if (last && !ref->exported)
    g_ptr_array_remove(disks->local, ref);
  /* Closed under the lock, so that nobody opens the folder while it is still locked. */
  if (last)
    disk_ref_free(ref);
  pthread_mutex_unlock(&disks->lock);
}

gboolean
disks_in_use(Disks *disks, const char *vm)
{
  gboolean found = FALSE;
  pthread_mutex_lock(&disks->lock);
  for (guint i = 0; i < disks->local->len; i++)
    found |= strcmp(((DiskRef *) g_ptr_array_index(disks->local, i))->vm, vm) == 0;
  pthread_mutex_unlock(&disks->lock);
  return found;
}

gboolean
disk_ref_is_exported(const DiskRef *ref)
{
  return ref->exported;
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

gboolean
disk_ref_call(DiskRef *ref, const CbtControlRequest *request, CbtSession *session, CbtControlReply *reply,
              GError **error)
{
  pthread_mutex_lock(&ref->calls);
  gboolean ok = cbt_disk_call(ref->disk, request, session, reply, error);
  pthread_mutex_unlock(&ref->calls);
  return ok;
}

gboolean
disk_ref_apply(DiskRef *ref, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
               const char *reason, GError **error)
{
  pthread_mutex_lock(&ref->calls);
  gboolean ok = cbt_disk_apply(ref->disk, bitmap, event, pending, reason, error);
  pthread_mutex_unlock(&ref->calls);
  return ok;
}

gboolean
disk_ref_info(DiskRef *ref, const char *bitmap, CbtBitmapInfo *info, GError **error)
{
  pthread_mutex_lock(&ref->calls);
  gboolean ok = cbt_disk_info(ref->disk, bitmap, info, error);
  pthread_mutex_unlock(&ref->calls);
  return ok;
}
