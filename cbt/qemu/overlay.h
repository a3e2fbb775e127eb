/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * External snapshots: an overlay beside a disk's image takes what the guest writes, so that the image stands still; later
 * the overlay is committed into the image, and the guest writes to that again. An overlay in use holds what the guest
 * wrote and nothing else does: its file is removed only once QEMU itself says that nobody uses it.
 *
 * The recorder is a bitmap of the image, added at the instant: what a commit writes into the image marks it, and so will
 * all that was written to the overlay.
 *
 * Node ovfN is the file, ovlN the overlay on it. The file is QEMU's by a descriptor, with which is noted (see
 * qemu_leftovers_note()) where the file is and what stands below; ovfN keeps that note for as long as it is there, so it
 * goes last: ovlN, the file, ovfN. Whoever finds ovfN without ovlN finds a file that nobody uses.
 */
#pragma once

#include <cbt/qemu/steps.h>
#include <sys/stat.h>

typedef struct {
  const char *prefix;
  guint index;
  const char *node;         /* that is overlaid */
  const char *image;        /* its file */
  const char *format;       /* of the image */
  const char *path;         /* of the overlay's file, in the folder of the image */
  const char *socket_path;  /* for the note */
  guint64 size_bytes;       /* of the disk */
} QemuOverlay;

/* Where the overlay of IMAGE is; NAME begins with the prefix. (transfer full) */
char *qemu_overlay_path(const char *image, const char *name);
/* Whether PATH could be of an overlay that PREFIX made. */
gboolean qemu_overlay_is_path(const char *path, const char *prefix);
/* Whether it is what qemu_overlay_path() gives for IMAGE and a name that begins with PREFIX. */
gboolean qemu_overlay_is_of(const char *path, const char *image, const char *prefix);
/* Tells a file from all others that are there (transfer full). */
char *qemu_overlay_id(const struct stat *status);
/* Makes file and nodes, which nothing uses yet. Room for all of the disk is reserved, so that no write of the guest fails.
 * UNSUPPORTED if the image is no file here, QEMU is not seen to have it open (qemu_peer_has_open()), or its file system has no
 * files without names; NO_SPACE; DENIED. */
gboolean qemu_overlay_add(const QemuSteps *steps, const QemuOverlay *overlay, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The action of `transaction` from which on NODE stands still (transfer full). */
JsonNode *qemu_overlay_action(const char *prefix, int index, const char *node);

/*
 * Commits each overlay of PREFIX that a device uses, has the guest use the image again, and removes overlays that
 * nobody uses: however far somebody came, who began with it. Waits for as long as the commits get on, but no longer
 * than LIMIT_MS (0: no limit): BUSY then, with *committed as of qemu_leftovers_clear_within(), and they go on in QEMU.
 * An overlay that cannot be committed stays as it is; the others are settled, and the first error is told. A file is
 * removed only if it is the one that was handed over, QEMU is seen to have it open, and it stands beside the image
 * below (and that is one of the steps' images). FOUND: as of qemu_leftovers_clear().
 */
gboolean qemu_overlays_settle(const QemuSteps *steps, const char *prefix, guint limit_ms, guint64 *committed,
                              GPtrArray *found, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Files of overlays beside IMAGE, of char * (transfer full): after settling, those that this QEMU does not know. It was
 * started anew in the middle of a backup, and what the guest wrote from the instant on stands in there only. */
GPtrArray *qemu_overlay_strays(const char *image, const char *prefix);
