/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images for QEMU's tools, told by descriptors instead of by paths: what was checked is what they open, whatever is at its
 * path by then, and no backing file that a header names is opened by them. A data file is given too; one that a header
 * begins to name after the check is opened by its name. They open each anew, by /proc/self/fd, with locks of their own.
 */
#pragma once

#include <cbt/qemu/child.h>

typedef struct {
  const char *format; /* "qcow2" or "raw" */
  int fd;             /* of a file or a block device */
  int data_fd;        /* of the external data file of a qcow2; -1: none */
} QemuLayer;

/* What the tools take in the place of a file's name (transfer full): the N images of LAYERS, each upon the next. No -f goes
 * with it. */
char *qemu_layers_name(const QemuLayer *layers, guint n);
/* As qemu_child_start(), of a program that is given such a name. */
QemuChild *qemu_layers_start(const char *const *argv, gboolean dies_with_us, const QemuLayer *layers, guint n,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
