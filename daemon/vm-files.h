/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that the store has of each registered vm (store/vm.h), kept in step with the catalogue.
 *
 * Order: into the catalogue, then the file; the file away, then out of the catalogue. So a vm that has a file
 * was registered and not removed, and who finds a vm in one place only puts it into the other.
 *
 * With the vm's policy, which is a line in its file, it is the same: into the catalogue, then into the file;
 * out of the file, then out of the catalogue. A crash between the two leaves one that is in the catalogue
 * only, or an older one in the file. While the catalogue is there it is right, and the next start writes the
 * file after it; if it is lost just then, the older one comes back, and who asked for the new one was never
 * told that it is set. A policy that is in the file only was set and not removed: the catalogue was restored
 * from an older copy, or the daemon ended while it took the vm in. It is put into the catalogue, and nothing
 * is owed from before.
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
/* Writes the file of the vm as the catalogue has it now. */
gboolean vm_files_save(Daemon *daemon, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Takes the vm's file away, then the vm out of the catalogue. If that fails, it has its file again. */
gboolean vm_files_remove(Daemon *daemon, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Puts POLICY into the catalogue and into the file of its vm: both or none. NOT_FOUND: there is no such vm.
 */
gboolean vm_files_set_policy(Daemon *daemon, const StorePolicy *policy,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Takes the vm's policy out of the file, then out of the catalogue; both or none. NOT_FOUND: it has none. */
gboolean vm_files_remove_policy(Daemon *daemon, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The text of the policy that the catalogue has (transfer full). NULL without an error: none. CORRUPT. */
char *vm_files_policy_text(Daemon *daemon, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* At the start: files that are missing or damaged (these are set aside) are written again; a vm that only has
 * a file is taken into the catalogue; one that is other than the catalogue is named. Of policies, the
 * catalogue's is written where the file's is other or missing; one that only the file has is taken into the
 * catalogue; one that cannot be read is named and left. What goes wrong with one of them is logged. */
gboolean vm_files_sync(Daemon *daemon, GError **error) G_GNUC_WARN_UNUSED_RESULT;
