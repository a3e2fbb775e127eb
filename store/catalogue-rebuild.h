/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making the catalogue's vms, policies, points and bases again from what the store says of them, and what a
 * catalogue file needs that was damaged or taken away. Jobs, leases and audit cursors are in the catalogue
 * alone: they stay where they can.
 */
#pragma once

#include <store/vm.h>

/* Whether there is neither a vm nor a point in it, as in a new one. */
gboolean catalogue_is_empty(Catalogue *catalogue, gboolean *is_empty,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * In one transaction: VMS (of StoreVm) and POINTS (of StorePoint) are all that there is, and the base of each
 * bitmap is the newest point that names its disk and its name. A vm that is there and equal keeps its
 * exports, leases and audits. A vm whose image another one has is left out, and named in PROBLEMS (of char
 * *).
 *
 * Each vm has the policy of its record, and no other: one that is there and equal keeps what it did last, of
 * others nothing is owed from before NOW (store_policy_restart()). One whose text cannot be read is named;
 * then the vm keeps the policy that it has, if any.
 */
gboolean catalogue_replace(Catalogue *catalogue, const GPtrArray *vms, const GPtrArray *points, gint64 now,
                           GPtrArray *problems, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Renames the catalogue file PATH and its log files, as far as they are there, to names with the time. *to
 * (transfer full) is the file's new name; NULL if there was none. */
gboolean catalogue_set_aside(const char *path, char **to, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* If the file of an open catalogue was removed or replaced by another one, writes it again (*was_gone),
 * durably; the other one is set aside. If that fails after the old one was let go, the catalogue answers
 * nothing any more. */
gboolean catalogue_ensure_file(Catalogue *catalogue, gboolean *was_gone,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
