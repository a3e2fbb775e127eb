/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Our bitmaps of a disk that QEMU has, as bitmaps of QEMU: which ones stand for a bitmap NAME, in what state it is, and
 * what to change for each request. Pure: what is to be done comes out as a list of steps, carried out by QMP in one
 * transaction (here), or by qemu-img while the image is at rest.
 *
 * QEMU cannot rename a bitmap, and knows neither bases nor successors. So the name says it: PREFIX-NAME-BASE, where BASE
 * is the uuid of the recovery point that the bits are relative to, or "none-" and eight random digits. PREFIX is of one
 * store, so that several stores, and other programs, have bitmaps on the same disk side by side.
 *
 *   of one NAME QEMU has                     the state is
 *   one that records                         active
 *   one that does not, without a BASE        disabled
 *   one that records, one that does not      frozen: that one is the parent, the recording one the successor, whose BASE
 *                                            is the point that is pending (none-: frozen by hand)
 *   an inconsistent one alone, or            inconsistent
 *   anything else
 *
 * The steps of create-successor, abdicate and reclaim are one transaction each; the image of a bitmap that was taken
 * back or put back to an older copy has an older BASE in its name, and is found out by that.
 */
#pragma once

#include <cbt/control.h>
#include <cbt/qemu/disks.h>
#include <cbt/qemu/qmp.h>

typedef enum { QEMU_BITMAP_ADD, QEMU_BITMAP_MERGE, QEMU_BITMAP_ENABLE, QEMU_BITMAP_DISABLE, QEMU_BITMAP_REMOVE } QemuBitmapOp;

typedef struct {
  QemuBitmapOp op;
  char *name;          /* QEMU's, of the bitmap that is changed */
  char *source;        /* MERGE: name |= source */
  guint64 granularity; /* ADD: bytes */
  gboolean disabled;   /* ADD: does not record */
} QemuBitmapStep;

/* The name in QEMU (transfer full); a nil BASE gives another name each time. */
char *qemu_bitmap_name(const char *prefix, const char *name, const CbtUuid *base);

/* Fills INFOS, room for CBT_TRACKER_MAX_BITMAPS, with our bitmaps among DISK's, and returns how many. */
guint qemu_bitmaps_list(const QemuDisk *disk, const char *prefix, CbtBitmapInfo *infos);
/* The name in QEMU of the bitmap that holds the changes since the base of NAME, and stands still if it is frozen; and of
 * the one that records. (transfer none); NULL if there is none. */
const char *qemu_bitmaps_parent(const QemuDisk *disk, const char *prefix, const char *name);
const char *qemu_bitmaps_recorder(const QemuDisk *disk, const char *prefix, const char *name);

/*
 * The steps (of QemuBitmapStep, transfer full), in an order in which each may be the last: none for LIST and HELLO.
 * EXISTS, NOT_FOUND; STATE where a bitmap's state does not take the event; INVALID; UNSUPPORTED for HOLD, BEGIN, RELEASE
 * and END, which are no changes of one disk.
 */
GPtrArray *qemu_bitmaps_plan(const QemuDisk *disk, const char *prefix, const CbtControlRequest *request,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Carries them out on DISK, all or none. Bitmaps are persistent where the image's format can keep them. Errors of
 * qmp_call(). */
gboolean qemu_bitmaps_run(Qmp *qmp, const QemuDisk *disk, const GPtrArray *steps, guint timeout_ms,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* One STEP on NODE as an action of `transaction` (transfer full). */
JsonNode *qemu_bitmap_action(const QemuBitmapStep *step, const char *node, gboolean persistent);
/* Whether DISK's image keeps bitmaps when QEMU ends. */
gboolean qemu_disk_keeps_bitmaps(const QemuDisk *disk);
