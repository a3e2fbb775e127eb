/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A consistent instant of several disks of a running, unmodified QEMU: what they held at one moment can be read over NBD
 * at leisure while the guest writes on, and from that moment on new bitmaps record its changes.
 *
 * Lifecycle: prepare, take, offer, (ready,) end, free. Each call gets a connection, which may be another one each time.
 * Before the first, qemu_leftovers_clear() with the same prefix takes away what an earlier process left; an instant that
 * was given up at any point is cleared the same way. Nothing here knows what a backup is for: which bitmap is abdicated
 * or reclaimed is decided by the caller, afterwards.
 *
 * QEMU gets descriptors, not paths: it may be another user's, and confined. One thread at a time.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <cbt/qemu/steps.h>

/* How the old bytes are kept while they are read. */
typedef enum {
  QEMU_WAY_AUTO,
  /* A copy-before-write filter in front of each disk, which is put in while the guest stands still for some milliseconds.
   * The scratch file gets at most what is to be read. If it fails, the instant is lost: reads fail then (EINVAL), and
   * no write of the guest does. QEMU 7.1 or newer. */
  QEMU_WAY_FILTER,
  /* blockdev-backup sync=none into a scratch qcow2: the guest does not stop, but its writes would fail if the scratch
   * file could not be written. So room for the whole disk is reserved first; an I/O error there remains. */
  QEMU_WAY_FLEECE,
  /* As FILTER, but instead of being read from QEMU's NBD server, the disks are pushed by QEMU to servers of ours, from
   * which they are read then: for disks with an iothread, where the first client of QEMU's own server that leaves can
   * abort QEMU. A target that fails, fails the instant, not the guest. */
  QEMU_WAY_PUSH,
  /* An external snapshot: from the instant on an overlay beside the image takes what the guest writes, and the image
   * stands still. The end commits the overlay into the image (cbt/qemu/overlay.h): then, and not before, the bitmaps can
   * be changed again. Only if asked for: if QEMU ends meanwhile, what the guest wrote stands in the overlay alone. */
  QEMU_WAY_EXTERNAL,
} QemuWay;

typedef struct {
  const QemuDisk *disk;
  const char *frozen;     /* bitmap that records no more from the instant on, or NULL */
  const char *changes_of; /* the frozen one, if only its changes are wanted; NULL: all is wanted */
  const char *recorder;   /* bitmap that is added at the instant and records from then on; persistent in qcow2 */
  guint64 granularity;    /* of the recorder, bytes */
} QemuInstantDisk;

typedef struct {
  const char *prefix;      /* of the name of everything it makes in QEMU: see qemu_prefix_check() */
  const char *scratch_dir; /* where scratch files are made; they have no names there */
  const char *socket_dir;  /* where the NBD sockets are, whose names begin with the prefix; NULL: scratch_dir */
  guint64 scratch_limit;   /* bytes a disk, 0: none; at least 1 MiB is used */
  QemuWay way;
  guint timeout_ms;  /* of each command */
  QemuStepFunc step; /* or NULL */
  gpointer user_data;
} QemuInstantOptions;

/* No more than this may pass from `stop` to `cont` before it is given up. Some 10 ms are usual. */
#define QEMU_INSTANT_PAUSE_MS 5000

typedef struct QemuInstant QemuInstant;

/*
 * Decides the way, makes scratch files and nodes: all that can be done before the guest is frozen or stopped. Copies what
 * it needs of DISKS and OPTIONS. On failure nothing is left.
 *   UNSUPPORTED   the way that is asked for, or any, cannot be gone with these disks: the message says why
 *   BUSY          QEMU's NBD server is somebody else's
 *   NO_SPACE      FLEECE, EXTERNAL: not enough room for all that could be written
 *   NOT_FOUND     a disk has no bitmap changes_of;  INCONSISTENT, STATE: it cannot be used
 *   INVALID       the prefix, or no disks;  errors of qmp_call(), of the step
 */
QemuInstant *qemu_instant_prepare(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks,
                                  const QemuInstantOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * The instant: one transaction for all disks. A guest that does not run is not made to. Is not ended by the connection's
 * cancellable. On failure bitmaps are as before (what was recorded meanwhile is in changes_of), nothing is left, and the
 * guest runs: should the connection be lost just then, by a new one. If that fails, too, the message says so:
 * qemu_leftovers_clear(). STATE if a disk is not there any more, or somebody had the guest go on meanwhile.
 */
gboolean qemu_instant_take(QemuInstant *instant, Qmp *qmp, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Starts to offer what the disks held. On failure call qemu_instant_end(). BUSY: somebody started an NBD server. */
gboolean qemu_instant_offer(QemuInstant *instant, Qmp *qmp, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * Whether it can be read yet. At once, but for PUSH: then ask again until *is_ready, or it fails; *done_bytes of
 * *total_bytes (or NULL both) are pushed. Once pushed, nothing of it is in QEMU any more.
 */
gboolean qemu_instant_ready(QemuInstant *instant, Qmp *qmp, gboolean *is_ready, guint64 *done_bytes,
                            guint64 *total_bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What to read of disk DISK (transfer none), once it is ready: "nbd+unix:///NAME?socket=PATH", and the bitmap that says
 * which ranges (see qemu_nbd_map_read()): others cannot be read. NULL: everything. */
const char *qemu_instant_uri(const QemuInstant *instant, guint disk);
const char *qemu_instant_bitmap(const QemuInstant *instant, guint disk);
/* ERROR is what reading DISK, or its pushing, ended with. QEMU says no more of a snapshot that broke than EINVAL: if
 * there was no room to keep what the guest overwrote, ERROR becomes NO_SPACE, and says so. Any thread, before the end. */
void qemu_instant_explain(const QemuInstant *instant, guint disk, GError **error);
/* The raw image that stands still, if it can be read by this name as well; the bitmap is to be had over NBD only. NULL for
 * all but EXTERNAL, and where QEMU may mean another file by it. */
const char *qemu_instant_file(const QemuInstant *instant, guint disk);
/* The way that was chosen, and why, in words for the job. */
QemuWay qemu_instant_way(const QemuInstant *instant);
const char *qemu_instant_why(const QemuInstant *instant);
/* The wall clock at the instant, microseconds since 1970; and for how long the guest stood still. 0 before take(). */
gint64 qemu_instant_time_us(const QemuInstant *instant);
gint64 qemu_instant_pause_us(const QemuInstant *instant);
/* Takes all of it down, which may take long (EXTERNAL); the bitmaps stay. Nobody should read any more. Is not ended by the connection's cancellable. On
 * failure it may be called again; or qemu_leftovers_clear(), later. */
gboolean qemu_instant_end(QemuInstant *instant, Qmp *qmp, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, but waits no longer than COMMIT_MS for what takes long; see qemu_leftovers_clear_within(). Call it again. */
gboolean qemu_instant_end_within(QemuInstant *instant, Qmp *qmp, guint commit_ms, guint64 *committed,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Frees memory, and ends servers of PUSH; does nothing in QEMU. */
void qemu_instant_free(QemuInstant *instant);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuInstant, qemu_instant_free)

const char *qemu_way_name(QemuWay way); /* "filter" */
gboolean qemu_way_parse(const char *name, QemuWay *way, GError **error) G_GNUC_WARN_UNUSED_RESULT;
