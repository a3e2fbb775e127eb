/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process at the other end of a monitor, and what files it has open: paths that it tells are believed
 * only then.
 *
 * The kernel tells who began to listen on the socket; that may be another program, which made the socket and
 * handed it to QEMU. Where it is, the processes that have the other end of our connection are looked for. Any
 * thread; needs to be root where QEMU is another user's.
 */
#pragma once

#include <cbt/qemu/qmp.h>

/* Where the file PATH is, as QEMU, at the other end of QMP, tells it: a path that is not absolute is from QEMU's folder
 * (transfer full). NULL if QEMU does not have it open, or if that cannot be seen. */
char *qemu_peer_find(Qmp *qmp, const char *path);
/* Whether it has the file PATH open: then PATH means the same to it. */
gboolean qemu_peer_has_open(Qmp *qmp, const char *path);
