/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lets a guest that we have stopped go on, whatever becomes of us: a process that shares the connection to the monitor and
 * sends `cont` on it if its parent ends (kill -9 too), gives it up, or if the time is over (SIGSTOP, a storage that hangs).
 * It then keeps the connection until QEMU has answered, for a minute at most: QEMU drops what a client that has left asked
 * for. Until then QEMU takes nobody else on that socket.
 *
 * It has nothing else open, ends with whatever it waited for, and is nobody's child.
 */
#pragma once

#include <cbt/qemu/qmp.h>

typedef struct QemuPauseGuard QemuPauseGuard;

/* Before `stop` is sent. FAILED, TOO_MANY: then do not stop the guest. */
QemuPauseGuard *qemu_pause_guard_new(const Qmp *qmp, guint limit_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Only after `cont` was answered, when the guest was seen not to stand still, or when `stop` was never sent. */
void qemu_pause_guard_disarm(QemuPauseGuard *guard);
/* Leaves it to the guard, which sends `cont` at once. Does not wait. */
void qemu_pause_guard_give_up(QemuPauseGuard *guard);
