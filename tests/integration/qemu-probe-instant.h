/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The part of qemu-probe that takes instants: cbt/qemu/instant.h for scripts. */
#pragma once

#include <glib.h>

#define PROBE_INSTANT_USAGE \
  "       qemu-probe instant SOCKET WAY FOLDER PREFIX DISK CHANGES-OF|- RECORDER ...\n" \
  "           prints what it is, then DISK URI [BITMAP] lines, then `ready`; ends when its input does. PROBE_LIMIT:\n" \
  "           bytes of scratch; PROBE_REFUSE_AT, PROBE_DIE_AT: the step that is refused, or at which it is killed,\n" \
  "           PROBE_DIE_US microseconds later; PROBE_DROP_AT: at which the connection is lost. Steps are told on standard error.\n" \
  "       qemu-probe read URI BITMAP|- FILE    what is marked is written into it; prints bytes of data and of zeros\n" \
  "       qemu-probe leftovers SOCKET PREFIX             prints what it found\n"

/* ARGV begins behind the socket's path. *is_known is FALSE for other commands; FALSE without ERROR: bad arguments. */
gboolean probe_instant(const char *command, const char *socket_path, char **argv, guint timeout_ms, gboolean *is_known,
                       GError **error);
