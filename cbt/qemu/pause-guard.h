/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets a guest that we have stopped go on, whatever becomes of us: a process that shares the connection to the monitor and
 * sends `cont` on it if its parent ends (kill -9 too) or if the time is over (SIGSTOP, a storage that hangs).
 *
 * It has nothing else open, and ends with whatever it waited for.
 */
#pragma once

#include <cbt/qemu/qmp.h>

typedef struct QemuPauseGuard QemuPauseGuard;

/* Before `stop` is sent. FAILED, TOO_MANY: then do not stop the guest. */
QemuPauseGuard *qemu_pause_guard_new(const Qmp *qmp, guint limit_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* After `cont` was answered, or when it was never stopped. */
void qemu_pause_guard_free(QemuPauseGuard *guard);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuPauseGuard, qemu_pause_guard_free)
