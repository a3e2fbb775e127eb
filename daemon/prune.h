/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pruning: removes the recovery points that retention does not keep, of one vm or of each by itself.
 *
 * What goes is decided at once, on the main thread; prune_run() counts what comes free and removes, point by
 * point. A point that was protected in between, or that a job reads, stays. The store gets its space back when
 * garbage is collected.
 */
#pragma once

#include <daemon/daemon.h>
#include <store/retention.h>

typedef struct Prune Prune;

/* Decides. VM NULL: all that have points. NOT_FOUND for a vm that is unknown and has none. Main thread. */
Prune *prune_new(Daemon *daemon, const char *vm, const StoreRetention *retention, gboolean dry_run,
                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void prune_free(Prune *prune);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Prune, prune_free)

/* The number of bytes is not asked for: to count them takes a walk through all points' manifests. Before the run. */
void prune_skip_bytes(Prune *prune);
/* Counts, and unless it is a dry run removes. Any thread but the main one. On an error what was removed is
 * gone. */
gboolean prune_run(Prune *prune, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Points that were removed, after prune_run(), also if it failed. */
guint prune_n_removed(const Prune *prune);
/* The answer, after prune_run(). */
JsonNode *prune_to_json(const Prune *prune);
