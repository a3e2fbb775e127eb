/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When leases end. The catalogue is asked each time: it is small, and it is the truth. Leases end by the
 * clock of the wall, which must outlive a restart of the host; timers do not follow when it is set, so they
 * never run for longer than RECHECK_US.
 *
 * Ending one is a task. If it fails (the export is down, the image away) it is tried again, later each time.
 */
#include <daemon/leases.h>

#include <daemon/task.h>
#include <pthread.h>

#define RECHECK_US   (10 * G_USEC_PER_SEC)
#define RETRY_US     (2 * G_USEC_PER_SEC)
#define RETRY_MAX_US (300 * G_USEC_PER_SEC)

typedef struct {
  gboolean running;  /* there is a task */
  gint64 delay_us;   /* after the last failure; 0: none */
  gint64 not_before; /* monotonic */
} Attempt;

struct Leases {
  Daemon *daemon; /* constant */
  /* main thread */
  gboolean started;
  guint timer_id;
  GHashTable *attempts; /* lease id as text -> Attempt; of those that ended and are still there */
  /* under lock */
  pthread_mutex_t lock;
  pthread_cond_t unlocked;
  GHashTable *locked; /* disk ids as text */
};

Leases *
leases_new(Daemon *daemon)
{
  Leases *leases = g_new0(Leases, 1);
  leases->daemon = daemon;
  leases->attempts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  leases->locked = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  pthread_mutex_init(&leases->lock, NULL);
  pthread_cond_init(&leases->unlocked, NULL);
  return leases;
}

void
leases_free(Leases *leases)
{
  g_hash_table_unref(leases->attempts);
  g_hash_table_unref(leases->locked);
  pthread_mutex_destroy(&leases->lock);
  pthread_cond_destroy(&leases->unlocked);
  g_free(leases);
}

void
leases_lock(Leases *leases, const CbtUuid *disk_id)
{
  char text[CBT_UUID_TEXT_SIZE];
  cbt_uuid_format(disk_id, text);
  pthread_mutex_lock(&leases->lock);
  while (g_hash_table_contains(leases->locked, text))
    pthread_cond_wait(&leases->unlocked, &leases->lock);
  g_hash_table_add(leases->locked, g_strdup(text));
  pthread_mutex_unlock(&leases->lock);
}

void
leases_unlock(Leases *leases, const CbtUuid *disk_id)
{
  char text[CBT_UUID_TEXT_SIZE];
  pthread_mutex_lock(&leases->lock);
  g_hash_table_remove(leases->locked, cbt_uuid_format(disk_id, text));
  pthread_cond_broadcast(&leases->unlocked);
  pthread_mutex_unlock(&leases->lock);
}

/* ---- ending one ---- */

typedef struct {
  Leases *leases;
  CatalogueLease lease;
  CatalogueVm *vm;
  const CatalogueDisk *disk;
  gboolean failed;
} Expiry;

static gboolean
expire(Daemon *daemon, const Expiry *expiry, GError **error)
{
  g_autoptr(DiskRef) ref = disks_acquire(daemon->disks, expiry->vm->name, expiry->disk, error);
  return ref && leases_expire(daemon, ref, expiry->disk, expiry->lease.bitmap, error);
}

static JsonNode *
run_expiry(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  Expiry *expiry = data;
  g_autoptr(GError) local = NULL;
  leases_lock(expiry->leases, &expiry->disk->id);
  expiry->failed = !expire(daemon, expiry, &local);
  leases_unlock(expiry->leases, &expiry->disk->id);
  if (local)
    g_warning("the lease of bitmap '%s' of %s/%s has ended, but the bitmap cannot be reclaimed yet: %s",
              expiry->lease.bitmap, expiry->vm->name, expiry->disk->name, local->message);
  return NULL;
}

static void set_timer(Leases *leases, gint64 delay_us);

/* Main thread, when the task has ended. */
static void
finish_expiry(gpointer data)
{
  Expiry *expiry = data;
  Leases *leases = expiry->leases;
  char id[CBT_UUID_TEXT_SIZE];
  Attempt *attempt = g_hash_table_lookup(leases->attempts, cbt_uuid_format(&expiry->lease.id, id));
  if (attempt && expiry->failed) {
    attempt->running = FALSE;
    attempt->delay_us = attempt->delay_us ? MIN(2 * attempt->delay_us, RETRY_MAX_US) : RETRY_US;
    attempt->not_before = g_get_monotonic_time() + attempt->delay_us;
  } else {
    g_hash_table_remove(leases->attempts, id);
  }
  catalogue_vm_free(expiry->vm);
  g_free(expiry);
  set_timer(leases, 0);
}

/* The vm that has the disk, and *disk in it; NULL if there is none any more. */
static CatalogueVm *
find_disk(Daemon *daemon, const CbtUuid *disk_id, const CatalogueDisk **disk)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, &error);
  if (!vms)
    g_warning("%s", error->message);
  for (guint i = 0; vms && i < vms->len; i++) {
    const CatalogueVm *vm = g_ptr_array_index(vms, i);
    for (guint j = 0; j < vm->disks->len; j++) {
      *disk = g_ptr_array_index(vm->disks, j);
      if (cbt_uuid_equal(&(*disk)->id, disk_id))
        return g_ptr_array_steal_index(vms, i);
    }
  }
  return NULL;
}

static void
start_expiry(Leases *leases, const CatalogueLease *lease, const char *id)
{
  const CatalogueDisk *disk = NULL;
  CatalogueVm *vm = find_disk(leases->daemon, &lease->disk_id, &disk);
  if (!vm)
    return;
  Attempt *attempt = g_hash_table_lookup(leases->attempts, id);
  if (!attempt) {
    attempt = g_new0(Attempt, 1);
    g_hash_table_insert(leases->attempts, g_strdup(id), attempt);
  }
  attempt->running = TRUE;
  Expiry *expiry = g_new0(Expiry, 1);
  *expiry = (Expiry){leases, *lease, vm, disk, TRUE};
  task_run(leases->daemon, NULL, 0, run_expiry, expiry, finish_expiry);
}

/* ---- the timer ---- */

/* Microseconds until LEASE needs to be looked at; starts what is due. */
static gint64
look_at(Leases *leases, const CatalogueLease *lease)
{
  char id[CBT_UUID_TEXT_SIZE];
  gint64 left = lease->expires - g_get_real_time();
  if (left > 0)
    return left;
  const Attempt *attempt = g_hash_table_lookup(leases->attempts, cbt_uuid_format(&lease->id, id));
  if (attempt && attempt->running)
    return RECHECK_US;
  left = attempt ? attempt->not_before - g_get_monotonic_time() : 0;
  if (left > 0)
    return left;
  start_expiry(leases, lease, id);
  return RECHECK_US;
}

static gboolean
on_timer(gpointer data)
{
  Leases *leases = data;
  gint64 next = RECHECK_US;
  g_autoptr(GError) error = NULL;
  leases->timer_id = 0;
  g_autoptr(GArray) all = catalogue_list_leases(leases->daemon->catalogue, &error);
  if (!all)
    g_warning("%s", error->message);
  for (guint i = 0; all && i < all->len; i++)
    next = MIN(next, look_at(leases, &g_array_index(all, CatalogueLease, i)));
  if (leases->timer_id == 0 && (!all || all->len > 0))
    set_timer(leases, next);
  return G_SOURCE_REMOVE;
}

static void
set_timer(Leases *leases, gint64 delay_us)
{
  if (leases->timer_id)
    g_source_remove(leases->timer_id);
  leases->timer_id = 0;
  if (leases->started)
    leases->timer_id = g_timeout_add((guint) ((delay_us + 999) / 1000), on_timer, leases);
}

void
leases_start(Leases *leases)
{
  leases->started = TRUE;
  set_timer(leases, 0);
}

void
leases_stop(Leases *leases)
{
  leases->started = FALSE;
  set_timer(leases, 0);
}

void
leases_look_again(Leases *leases)
{
  set_timer(leases, 0);
}
