/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that the store has of each recovery point (store/point.h), and the catalogue's row of it.
 *
 * Of a point only its note, its protection and its verdicts ever change. All else in a file that can be read
 * is right, for it has a checksum and the row has none: so it is never written over with what a row says.
 *
 * Threads: main, but for what says otherwise.
 */
#pragma once

#include <daemon/daemon.h>

/* The folder of the files (transfer full). Any thread. */
char *point_files_folder(const Daemon *daemon);

/* Whether a file (of a point or a vm) says something wrong, rather than that it cannot be read just now. Any
 * thread. */
gboolean point_files_is_damage(const GError *error);

/* The error where a file and a row that should be the same are not. Any thread. */
void point_files_set_differs(const CbtUuid *uuid, GError **error);

/* Writes POINT in place of a damaged file, which is set aside as *aside (transfer full). */
gboolean point_files_write_again(const Daemon *daemon, const StorePoint *point, char **aside, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * Notes what can change of POINT, which is its row otherwise, in its file and then in the catalogue. A file that
 * is missing is written, a damaged one as above. CORRUPT: the file says something else, nothing is changed;
 * UNSUPPORTED: it is of a later release; what a load and a save say.
 */
gboolean point_files_update(Daemon *daemon, const StorePoint *point, GError **error) G_GNUC_WARN_UNUSED_RESULT;
