/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The export processes: started, found again after a restart of the daemon, started again when they die, and
 * stopped.
 *
 * One nbdkit process a disk, in a session of its own, so that it lives on when the daemon ends. Its NBD
 * socket is RUNTIME/exports/VM/DISK.nbd, its control socket DISK.ctl; its messages go to syslog. The
 * catalogue remembers which vms are exported; this module watches the processes.
 *
 * Threads: any; start and stop block, so they belong into a task.
 */
#pragma once

#include <daemon/daemon.h>

Exports *exports_new(const DaemonConfig *config);
/* Stops watching. The processes go on. */
void exports_free(Exports *exports);

/* What is told of one export (transfer full fields). */
typedef struct {
  char *vm;
  char *disk;
  char *socket;
  char *control;
  gint64 pid;
  gboolean running;
} ExportInfo;
void export_info_free(ExportInfo *info);

/* Takes over the processes of VM's disks that an earlier daemon left, and starts one for each disk that has
 * none: all of these or none; those that ran before go on. nbdkit's own message if it does not start. */
gboolean exports_start(Exports *exports, const CatalogueVm *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends the vm's processes. NOT_FOUND if it is not exported. */
gboolean exports_stop(Exports *exports, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Of all vms, or of VM. */
GPtrArray *exports_list(Exports *exports, const char *vm_or_null);
gboolean exports_has(Exports *exports, const char *vm);
/* Whether a process listens on the control socket of one of VM's disks, known to us or not. */
gboolean exports_are_listening(Exports *exports, const CatalogueVm *vm);
/* The control socket of a disk (transfer full); NULL if the vm is not exported. */
char *exports_control_socket(Exports *exports, const char *vm, const char *disk);
