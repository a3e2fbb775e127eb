/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Orders: note, freeze; and end, remove. What dies in between leaves a lease without a freeze, never a freeze
 * without a lease. A freeze of which it is not known whether it was made (the export died in it) keeps a
 * lease that has ended: the timer then finds out.
 *
 * No lock is shared with jobs, as none of them touches a bitmap that is frozen by hand, and a bitmap that is
 * frozen for a job (it has a pending point) is left alone here.
 */
#include <daemon/leases.h>

#include <daemon/durable.h>

#define SOON 1 /* of a lease that was over before it began: microseconds since 1970 */

/* ---- the catalogue, on the main thread ---- */

typedef struct {
  Daemon *daemon;
  CatalogueLease lease;
  gboolean ok;
  GError *error;
} LeaseCall;

static void
get_lease(gpointer data)
{
  LeaseCall *call = data;
  const CatalogueLease of = call->lease;
  call->ok = catalogue_get_lease(call->daemon->catalogue, &of.disk_id, of.bitmap, &call->lease, &call->error);
}

static void
save_lease(gpointer data)
{
  LeaseCall *call = data;
  call->ok = catalogue_save_lease(call->daemon->catalogue, &call->lease, &call->error);
  leases_look_again(call->daemon->leases);
}

static void
remove_lease(gpointer data)
{
  LeaseCall *call = data;
  const CatalogueLease *lease = &call->lease;
  call->ok = catalogue_remove_lease(call->daemon->catalogue, &lease->disk_id, lease->bitmap, &lease->id,
                                    &call->error);
}

static gboolean
call_main(Daemon *daemon, MainFunc func, CatalogueLease *lease, GError **error)
{
  LeaseCall call = {.daemon = daemon, .lease = *lease};
  if (func == get_lease)
    main_queue_call(daemon->queue, func, &call);
  else
    durable_call(daemon, func, &call);
  *lease = call.lease;
  if (call.error)
    g_propagate_error(error, call.error);
  return call.ok;
}

static void
init_lease(CatalogueLease *lease, const CbtUuid *disk_id, const char *bitmap)
{
  *lease = (CatalogueLease){.disk_id = *disk_id};
  g_strlcpy(lease->bitmap, bitmap, sizeof lease->bitmap);
}

gboolean
leases_get(Daemon *daemon, const CbtUuid *disk_id, const char *bitmap, CatalogueLease *lease, GError **error)
{
  init_lease(lease, disk_id, bitmap);
  return call_main(daemon, get_lease, lease, error);
}

/* What stays is dropped at its end. */
static void
drop(Daemon *daemon, CatalogueLease *lease)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_uuid_is_nil(&lease->id) && !call_main(daemon, remove_lease, lease, &error))
    g_warning("%s", error->message);
}

/* ---- errors ---- */

static char *
format_time(gint64 time_us)
{
  g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(time_us / G_USEC_PER_SEC);
  return time ? g_date_time_format_iso8601(time) : g_strdup("an unknown time");
}

static gboolean
has_ended(const CatalogueLease *lease)
{
  return lease->expires <= g_get_real_time();
}

gboolean
lease_is_by_hand(const CbtBitmapInfo *info)
{
  return info->state == CBT_BITMAP_FROZEN && cbt_uuid_is_nil(&info->pending);
}

gboolean
lease_check_seconds(const char *key, guint64 seconds, GError **error)
{
  if (seconds >= LEASE_MIN_S && seconds <= LEASE_MAX_S)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID,
                "A freeze has to end by itself, or it would keep all backups from the bitmap: take what the "
                "reading needs, and renew the lease where it needs more.",
                "'%s': a lease lasts from %u second to %u seconds (7 days), not %" G_GUINT64_FORMAT, key,
                LEASE_MIN_S, LEASE_MAX_S, seconds);
  return FALSE;
}

static void
set_frozen(DiskRef *ref, const CatalogueDisk *disk, const char *bitmap, const CatalogueLease *lease,
           GError **error)
{
  char id[CBT_UUID_TEXT_SIZE];
  g_autofree char *end = format_time(lease->expires);
  g_autofree char *target = disk_ref_target(ref, bitmap);
  g_autofree char *hint =
      g_strdup_printf("Its lease ends at %s. Before that end it with: cbt-backup bitmap "
                      "abdicate %s (the reading succeeded), or: cbt-backup bitmap reclaim %s",
                      end, target, target);
  cbt_set_error(error, CBT_ERROR_STATE, hint, "bitmap '%s' of disk '%s' was frozen by hand (lease %s)",
                bitmap, disk->name, cbt_uuid_format(&lease->id, id));
}

static gboolean
check_current(const DiskRef *ref, const CbtBitmapInfo *info, const CatalogueLease *lease, const CbtUuid *id,
              GError **error)
{
  char text[CBT_UUID_TEXT_SIZE], current[CBT_UUID_TEXT_SIZE];
  g_autofree char *target = disk_ref_target(ref, info->name);
  g_autofree char *hint = g_strdup_printf("See: cbt-backup bitmap show %s", target);
  cbt_uuid_format(id, text);
  if (!lease_is_by_hand(info))
    cbt_set_error(error, CBT_ERROR_STATE, "What it froze was taken back with all changes: freeze it again.",
                  "lease %s is over: bitmap '%s' is %s", text, info->name,
                  info->state == CBT_BITMAP_FROZEN ? "frozen for a backup"
                                                   : cbt_bitmap_state_name(info->state));
  else if (!cbt_uuid_equal(&lease->id, id))
    cbt_set_error(error, CBT_ERROR_STATE, hint, "lease %s does not hold bitmap '%s': lease %s does", text,
                  info->name, cbt_uuid_format(&lease->id, current));
  else if (has_ended(lease)) {
    g_autofree char *end = format_time(lease->expires);
    cbt_set_error(error, CBT_ERROR_STATE, "Freeze the bitmap again: it has all changes.",
                  "lease %s of bitmap '%s' ended at %s", text, info->name, end);
  } else
    return TRUE;
  return FALSE;
}

/* ---- under the disk's lock ---- */

static gboolean
reclaim(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CatalogueLease *lease, GError **error)
{
  char id[CBT_UUID_TEXT_SIZE];
  if (!disk_ref_apply(ref, lease->bitmap, CBT_BITMAP_RECLAIM, NULL, NULL, error))
    return FALSE;
  g_message("lease %s of bitmap '%s' of %s/%s has ended: the bitmap was reclaimed",
            cbt_uuid_format(&lease->id, id), lease->bitmap, disk_ref_vm(ref), disk->name);
  drop(daemon, lease);
  return TRUE;
}

static gboolean
note(Daemon *daemon, CatalogueLease *lease, guint64 seconds, GError **error)
{
  lease->expires = g_get_real_time() + (gint64) seconds * G_USEC_PER_SEC;
  return call_main(daemon, save_lease, lease, error);
}

/* LEASE gets the current one. */
static gboolean
settle(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info, CatalogueLease *lease,
       GError **error)
{
  if (!leases_get(daemon, &disk->id, info->name, lease, error))
    return FALSE;
  if (!lease_is_by_hand(info))
    return TRUE;
  if (cbt_uuid_is_nil(&lease->id)) {
    init_lease(lease, &disk->id, info->name);
    lease->id = cbt_uuid_generate();
    g_message("bitmap '%s' of %s/%s is frozen by hand and had no lease: it gets one of %u s", info->name,
              disk_ref_vm(ref), disk->name, LEASE_DEFAULT_S);
    return note(daemon, lease, LEASE_DEFAULT_S, error);
  }
  return !has_ended(lease) ||
         (reclaim(daemon, ref, disk, lease, error) && disk_ref_info(ref, lease->bitmap, info, error));
}

gboolean
leases_expire(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const char *bitmap, GError **error)
{
  CbtBitmapInfo info = {.state = CBT_BITMAP_ACTIVE};
  CatalogueLease lease;
  g_autoptr(GError) local = NULL;
  if (!disk_ref_info(ref, bitmap, &info, &local)) {
    if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    g_strlcpy(info.name, bitmap, sizeof info.name);
  }
  if (!settle(daemon, ref, disk, &info, &lease, error))
    return FALSE;
  if (!lease_is_by_hand(&info) && has_ended(&lease))
    drop(daemon, &lease);
  return TRUE;
}

gboolean
leases_freeze(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const CbtControlRequest *request,
              guint64 seconds, CbtControlReply *reply, GError **error)
{
  CbtBitmapInfo info;
  CatalogueLease lease;
  CbtBitmapState next;
  if (!disk_ref_info(ref, request->name, &info, error) || !settle(daemon, ref, disk, &info, &lease, error))
    return FALSE;
  if (lease_is_by_hand(&info)) {
    set_frozen(ref, disk, info.name, &lease, error);
    return FALSE;
  }
  /* A state that does not allow it: the owner says so. */
  if (!cbt_bitmap_next_state(info.state, CBT_BITMAP_CREATE_SUCCESSOR, FALSE, &next))
    return disk_ref_call(ref, request, NULL, reply, error);
  init_lease(&lease, &disk->id, info.name);
  lease.id = cbt_uuid_generate();
  if (!note(daemon, &lease, seconds, error))
    return FALSE;
  g_autoptr(GError) local = NULL;
  if (disk_ref_call(ref, request, NULL, reply, error)) {
    /* Writes may have been held for longer than the lease lasts: it begins now. */
    if (!note(daemon, &lease, seconds, &local))
      g_warning("%s", local->message);
    return TRUE;
  }
  lease.expires = SOON;
  if (!call_main(daemon, save_lease, &lease, &local))
    g_warning("%s", local->message);
  return FALSE;
}

gboolean
leases_end(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const CbtControlRequest *request,
           const CbtUuid *id, CbtControlReply *reply, GError **error)
{
  CbtBitmapInfo info;
  CatalogueLease lease;
  if (!disk_ref_info(ref, request->name, &info, error) ||
      !leases_get(daemon, &disk->id, info.name, &lease, error) ||
      (!cbt_uuid_is_nil(id) && !check_current(ref, &info, &lease, id, error)) ||
      !disk_ref_call(ref, request, NULL, reply, error))
    return FALSE;
  drop(daemon, &lease);
  return TRUE;
}

gboolean
leases_renew(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const char *bitmap, const CbtUuid *id,
             guint64 seconds, GError **error)
{
  CbtBitmapInfo info;
  CatalogueLease lease;
  return disk_ref_info(ref, bitmap, &info, error) &&
         leases_get(daemon, &disk->id, info.name, &lease, error) &&
         check_current(ref, &info, &lease, id, error) && note(daemon, &lease, seconds, error);
}

/* ---- for all others ---- */

static gboolean
settle_locked(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
              CatalogueLease *lease, GError **error)
{
  if (!lease_is_by_hand(info))
    return TRUE;
  leases_lock(daemon->leases, &disk->id);
  gboolean ok = disk_ref_info(ref, info->name, info, error) && settle(daemon, ref, disk, info, lease, error);
  leases_unlock(daemon->leases, &disk->id);
  return ok;
}

gboolean
leases_check_current(Daemon *daemon, const DiskRef *ref, const CatalogueDisk *disk, const CbtBitmapInfo *info,
                     const CbtUuid *id, GError **error)
{
  CatalogueLease lease;
  return leases_get(daemon, &disk->id, info->name, &lease, error) &&
         check_current(ref, info, &lease, id, error);
}

gboolean
leases_settle(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info, GError **error)
{
  CatalogueLease lease;
  return settle_locked(daemon, ref, disk, info, &lease, error);
}

gboolean
leases_check_free(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
                  GError **error)
{
  CatalogueLease lease;
  if (!settle_locked(daemon, ref, disk, info, &lease, error))
    return FALSE;
  if (!lease_is_by_hand(info))
    return TRUE;
  set_frozen(ref, disk, info->name, &lease, error);
  return FALSE;
}
