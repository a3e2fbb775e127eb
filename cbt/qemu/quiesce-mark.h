/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mark of a freeze: a file beside the agent's socket. Whoever quiesces the guest holds its lock, so that two never
 * do; and from before a freeze to after the thaw it names the socket, so that a guest that was left frozen is found. It
 * names it by inode and time: a QEMU that was started since has another one. Where the file cannot be made or written
 * there is no mark, and all else works. It need not survive a loss of power, which no guest does.
 */
#pragma once

#include <common/error.h>

typedef struct {
  char *socket, *path;
  int fd; /* locked; -1: there is no mark */
} QemuQuiesceMark;

/* BUSY if another process holds it. With CREATE the file is made; without, and without a file, fd is -1. */
gboolean qemu_quiesce_mark_open(QemuQuiesceMark *mark, const char *socket, gboolean create,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether it says that the guest behind this very socket was left frozen. */
gboolean qemu_quiesce_mark_is_set(const QemuQuiesceMark *mark);
void qemu_quiesce_mark_set(const QemuQuiesceMark *mark);
/* Removes it: the guest is not frozen, or not by us. */
void qemu_quiesce_mark_remove(QemuQuiesceMark *mark);
/* Leaves it as it is. */
void qemu_quiesce_mark_close(QemuQuiesceMark *mark);
