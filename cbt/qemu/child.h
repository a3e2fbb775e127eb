/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program of QEMU's that we run: with a bound on its time, its output kept, and, if wanted, never longer than this
 * process. Any thread, one at a time per child; the child does not end with the thread that started it.
 */
#pragma once

#include <common/error.h>
#include <gio/gio.h>

typedef struct QemuChild QemuChild;

/* Starts ARGV (NULL at its end; found in PATH), in the C locale. DIES_WITH_US: the kernel kills it when this process ends,
 * whatever ends that. UNSUPPORTED if there is no such program. */
QemuChild *qemu_child_start(const char *const *argv, gboolean dies_with_us, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Descriptors for a child: SOURCES of this process under the numbers TARGETS. */
typedef struct {
  const int *sources, *targets;
  gsize n;
} QemuChildFds;
/* As above, with duplicates of FDS. */
QemuChild *qemu_child_start_with_fds(const char *const *argv, gboolean dies_with_us, const QemuChildFds *fds,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether it has ended, after at most TIMEOUT_MS. */
gboolean qemu_child_wait(QemuChild *child, guint timeout_ms);
/* Of one that has ended: whether it did so with status 0. */
gboolean qemu_child_succeeded(const QemuChild *child);
/* What it has written to standard output, or to standard error without the newlines at its end, as far as that is text and
 * at most 16 MiB. (transfer full) */
char *qemu_child_output(const QemuChild *child);
char *qemu_child_errors(const QemuChild *child);
/* Kills it if it still runs. */
void qemu_child_free(QemuChild *child);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuChild, qemu_child_free)
