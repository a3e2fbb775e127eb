/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a recovery point of which only the catalogue has a row is there still. Its file may have been lost; or the
 * point was removed and garbage collected, and an older copy of the catalogue put back. Then chunks are missing.
 *
 * Threads: one at a time. What several points share is gone down once, so one PointWalk for all of them is best.
 */
#pragma once

#include <daemon/daemon.h>

typedef struct PointWalk PointWalk;

PointWalk *point_walk_new(Daemon *daemon);
void point_walk_free(PointWalk *walk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PointWalk, point_walk_free)

/* Whether the store has all chunks that POINT needs; clusters are not read. CORRUPT if not, or if a page of its
 * manifests is damaged; any other error: it cannot be told. */
gboolean point_walk_check(PointWalk *walk, const StorePoint *point, GError **error) G_GNUC_WARN_UNUSED_RESULT;
