/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that runs for as long as this object: it is killed with it, and also when this process dies in any way, but
 * not when the thread ends that started it. (PR_SET_PDEATHSIG of prctl(2) follows threads: so each has one of its own,
 * which does nothing else.)
 *
 * One thread at a time.
 */
#pragma once

#include <common/error.h>

typedef struct QemuChild QemuChild;

/* Descriptors that the program gets: SOURCES of this process under the numbers TARGETS. */
typedef struct {
  const int *sources, *targets;
  gsize n;
} QemuChildFds;

/* Starts ARGV, which is looked for in PATH; its output is dropped, its errors go to this process's. UNREACHABLE if it
 * cannot be started. */
QemuChild *qemu_child_start(const char *const *argv, const QemuChildFds *fds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Waits for its end until DEADLINE_US of g_get_monotonic_time(). FALSE if it runs on; else *status is as of waitpid(2). */
gboolean qemu_child_wait(QemuChild *child, gint64 deadline_us, int *status);
void qemu_child_kill(QemuChild *child);
/* Kills it if it runs. NULL is allowed. */
void qemu_child_free(QemuChild *child);
