/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon can say of its host, its store and the vms' disks: for `cbt-backup doctor`. The main thread
 * notes what is to be looked at; the looks, which may block, are taken in a task.
 */
#pragma once

#include <common/check.h>
#include <daemon/daemon.h>

typedef struct Doctor Doctor;

/* Of VM, or of all. Main thread. NOT_FOUND. */
Doctor *doctor_new(Daemon *daemon, const char *vm_or_null, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void doctor_free(Doctor *doctor);
/* (transfer full), of CbtCheck. Any thread. */
GPtrArray *doctor_run(Doctor *doctor);
