/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezes by hand, and the leases that end them.
 *
 * A bitmap that is frozen without a pending point was frozen by hand: by an operator, or by another backup
 * program. Nobody's job stands behind it, so each such freeze has a lease in the catalogue. Whoever froze it
 * ends it (abdicate, reclaim) or renews the lease; at its end the daemon reclaims the bitmap, which loses
 * nothing. The lease is noted before the freeze and removed after its end: a bitmap is never frozen without
 * one, and a lease without a frozen bitmap only waits to be dropped. Why it stands in the catalogue and not
 * in the bitmap's header: docs/architecture.md.
 *
 * Threads: the timer's functions are the main thread's; all others are for tasks and jobs, never for the main
 * thread. What changes a freeze by hand has the disk's lock.
 */
#pragma once

#include <daemon/disks.h>

#define LEASE_DEFAULT_S 600u
#define LEASE_MIN_S     1u
#define LEASE_MAX_S     (7u * 24 * 3600)

/* ---- the timer, and the locks (lease-timer.c) ---- */

Leases *leases_new(Daemon *daemon);
/* Begins to watch; before, exports that are still to be found could be kept from their folders. */
void leases_start(Leases *leases);
/* Watches no more; what is under way is a task. */
void leases_stop(Leases *leases);
void leases_free(Leases *leases);
/* A lease was noted or has another end. */
void leases_look_again(Leases *leases);

/* One at a time for each disk. Nobody waits for the main thread's disk I/O, as there is none. */
void leases_lock(Leases *leases, const CbtUuid *disk_id);
void leases_unlock(Leases *leases, const CbtUuid *disk_id);

/* ---- freezes by hand (leases.c) ---- */

gboolean lease_is_by_hand(const CbtBitmapInfo *info);
/* INVALID, naming KEY, unless SECONDS are from LEASE_MIN_S to LEASE_MAX_S. */
gboolean lease_check_seconds(const char *key, guint64 seconds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The lease of a disk's BITMAP; its id is nil if there is none. */
gboolean leases_get(Daemon *daemon, const CbtUuid *disk_id, const char *bitmap, CatalogueLease *lease,
                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Under the disk's lock: create-successor with a lease of SECONDS. REQUEST is that event, for the owner;
 * STATE names the lease of a bitmap that is frozen by hand already. */
gboolean leases_freeze(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk,
                       const CbtControlRequest *request, guint64 seconds, CbtControlReply *reply,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Under the disk's lock: REQUEST, an abdicate or reclaim. STATE if ID (nil: whichever it is) is not the
 * current lease, or has ended. */
gboolean leases_end(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const CbtControlRequest *request,
                    const CbtUuid *id, CbtControlReply *reply, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Under the disk's lock: the lease ID ends SECONDS from now. STATE as above. */
gboolean leases_renew(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const char *bitmap,
                      const CbtUuid *id, guint64 seconds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Under the disk's lock: takes BITMAP back if its lease has ended, and drops a lease that ended. */
gboolean leases_expire(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, const char *bitmap,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* STATE unless ID is the lease that holds the bitmap of INFO, and has not ended. */
gboolean leases_check_current(Daemon *daemon, const DiskRef *ref, const CatalogueDisk *disk,
                              const CbtBitmapInfo *info, const CbtUuid *id,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Brings a freeze by hand in order: one without a lease gets one, one whose lease has ended is taken back.
 * INFO is brought up to date. */
gboolean leases_settle(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The same; then STATE, with the lease's end and what to do, if INFO still says that the bitmap is frozen by
 * hand. */
gboolean leases_check_free(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
