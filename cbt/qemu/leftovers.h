/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Takes out of a running QEMU what a backup made there for one instant (cbt/qemu/instant.h), whoever did and however far
 * it came: a process that died, killed at any command, leaves nothing that this does not find. Things are known by the
 * names that begin with the prefix; nothing else is touched.
 *
 * Bitmaps stay as they are: which of them are to be merged is the caller's to know.
 */
#pragma once

#include <cbt/qemu/steps.h>

/*
 * In this order: a guest that stands still because of us goes on; exports, and the NBD server if it is ours and nobody
 * else's export is on it; jobs; targets and snapshots; filters, the devices being given their disks back first; scratch
 * nodes; overlays, which are committed (cbt/qemu/overlay.h: that may take long); descriptors; the socket's file. Goes on
 * past what fails, unless QEMU does not answer, and tells the first error then; nothing found is no error. FOUND (or NULL)
 * gets a text for each thing (char *, transfer full).
 * BUSY, UNREACHABLE if something does not end in time: it may be tried again.
 */
gboolean qemu_leftovers_clear(Qmp *qmp, const char *prefix, guint timeout_ms, GPtrArray *found,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, telling each step. A step that is refused ends it. */
gboolean qemu_leftovers_clear_by(const QemuSteps *steps, const char *prefix, GPtrArray *found,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The node that FILTER, of a backup with any prefix, hides from its device (transfer full), by the answers of
 * query-named-block-nodes and query-fdsets; NULL if it is no such filter. */
char *qemu_leftovers_hidden(const char *filter, JsonNode *nodes, JsonNode *fdsets);
/* As above, but waits no longer than COMMIT_MS (0: for as long as they get on) for overlays to be committed. *committed (or
 * NULL) is not 0 if that is why it is BUSY: another value than the last time if they got on since. */
gboolean qemu_leftovers_clear_within(const QemuSteps *steps, const char *prefix, guint commit_ms, guint64 *committed,
                                     GPtrArray *found, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* What is noted with each descriptor, as `opaque` of add-fd: QEMU does not tell which node stands below a filter, nor
 * where a server listens or a file is, nor which descriptors it was given for a target. */
typedef struct {
  const char *prefix;
  guint disk;
  const char *node;
  const char *socket_path;
  const char *overlay_path; /* or NULL */
  const char *overlay_id;   /* qemu_overlay_id() of it, or NULL */
  gboolean is_pushed;
} QemuNote;

#define QEMU_NOTE_DISK    "disk"
#define QEMU_NOTE_NODE    "node"
#define QEMU_NOTE_OVERLAY "overlay"
#define QEMU_NOTE_OVERLAY_ID "overlay-id"

/* (transfer full) */
char *qemu_leftovers_note(const QemuNote *note);
/* The note of a descriptor of FDSET, an item of query-fdsets, if it is of PREFIX (transfer full); else NULL. */
JsonNode *qemu_leftovers_read_note(const char *prefix, JsonObject *fdset);
