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
 * nodes; descriptors; the socket's file. Goes on past what fails, and tells the first error then; nothing found is no
 * error. FOUND (or NULL) gets a text for each thing (char *, transfer full).
 * BUSY, UNREACHABLE if something does not end in time: it may be tried again.
 */
gboolean qemu_leftovers_clear(Qmp *qmp, const char *prefix, guint timeout_ms, GPtrArray *found,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, telling each step. A step that is refused ends it. */
gboolean qemu_leftovers_clear_by(const QemuSteps *steps, const char *prefix, GPtrArray *found,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* What is noted with each scratch descriptor, as `opaque` of add-fd (transfer full): QEMU does not tell which node stands
 * below a filter, nor where a server listens, nor (IS_PUSHED) which descriptors it was given for a target. */
char *qemu_leftovers_note(const char *prefix, guint disk, const char *node, const char *socket_path,
                          gboolean is_pushed);

/* The node that FILTER, of a backup with any prefix, hides from its device (transfer full), by the answers of
 * query-named-block-nodes and query-fdsets; NULL if it is no such filter. */
char *qemu_leftovers_hidden(const char *filter, JsonNode *nodes, JsonNode *fdsets);
