/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scratch files: a descriptor each, of a file that has no name any more, so that nothing is left of it once all who have
 * it open are gone. Whoever gets the descriptor need not be able to open the folder.
 */
#pragma once

#include <common/error.h>

typedef struct {
  const char *folder;
  guint64 size_bytes;  /* of the disk */
  guint64 limit_bytes; /* the file's size if it is qcow2: QEMU's `raw` node of that size on it bounds it; 0: none */
  gboolean is_qcow2;   /* else raw, and sparse */
  const char *backing;        /* of the qcow2: what it says in its header that it stands on; or NULL */
  const char *backing_format; /* of that */
  gboolean is_reserved; /* room for all of the disk is taken at once, so that no write into it fails */
} QemuScratch;

/* The descriptor (transfer full), readable and writable; -1 with ERROR: NO_SPACE, also if the limit is less than what is
 * to be reserved; UNREACHABLE if there is no qemu-img; DENIED, IO. */
int qemu_scratch_open(const QemuScratch *scratch, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NO_SPACE if the file FD in FOLDER has nearly reached LIMIT_BYTES (0: none), or the file system is nearly full: for saying
 * why a write into it may have failed. */
gboolean qemu_scratch_check_room(int fd, const char *folder, guint64 limit_bytes,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes that a file for a disk of SIZE_BYTES can get to have in the worst case. */
guint64 qemu_scratch_worst_bytes(guint64 size_bytes);
