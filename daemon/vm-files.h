/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that the store has of each registered vm (store/vm.h), kept in step with the catalogue.
 *
 * Order: into the catalogue, then the file; the file away, then out of the catalogue. So a vm that has a file
 * was registered and not removed, and who finds a vm in one place only puts it into the other.
 *
 * Threads: main.
 */
#pragma once

#include <daemon/daemon.h>
#include <store/vm.h>

/* The folder of the files (transfer full). */
char *vm_files_folder(const Daemon *daemon);

/* Puts VM into the catalogue and makes its file: both or none. */
gboolean vm_files_add(Daemon *daemon, const CatalogueVm *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Takes the vm's file away, then the vm out of the catalogue. If that fails, it has its file again. */
gboolean vm_files_remove(Daemon *daemon, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes the file of a vm anew, with POLICY (NULL: it has none), a text that only the caller understands. */
gboolean vm_files_set_policy(Daemon *daemon, const char *name, const char *policy,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* At the start: files that are missing or damaged (these are set aside) are written again; a vm that only has
 * a file is taken into the catalogue; one that is other than the catalogue is named. What goes wrong with one
 * of them is logged. */
gboolean vm_files_sync(Daemon *daemon, GError **error) G_GNUC_WARN_UNUSED_RESULT;
