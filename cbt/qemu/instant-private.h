/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of cbt/qemu/instant*.c share: instant.c is the order of things, -way the choice, -nodes what is made in
 * QEMU for a way, -take the instant. */
#pragma once

#include <cbt/qemu/instant.h>
#include <cbt/qemu/push.h>

typedef struct {
  char *node, *qdev, *device_path;
  char *frozen;     /* or NULL */
  char *changes_of; /* or NULL */
  char *recorder;
  guint64 granularity, size_bytes;
  gboolean is_qcow2;
  char *image, *format; /* its file, or NULL */
  gboolean is_readable; /* OVERLAY: by the name of the file, for it is raw */
  char *socket_path; /* where it is read */
  char *uri;         /* once it can be */
  int scratch_fd;    /* to see how full it is; -1: none yet */
  QemuPush *push; /* or NULL */
} InstantDisk;

struct QemuInstant {
  char *prefix, *scratch_dir, *socket_dir;
  guint64 scratch_limit;
  guint timeout_ms;
  QemuStepFunc step;
  gpointer user_data;
  QemuWay way;
  char *why;
  GPtrArray *disks; /* InstantDisk */
  GPtrArray *images; /* of those (of char *, theirs) */
  gint64 time_us, pause_us;
  gboolean is_cleared; /* nothing of it is in QEMU any more */
};

QemuSteps qemu_instant_steps(const QemuInstant *instant, Qmp *qmp);

/* instant-way.c: WAY, or for AUTO the best that DISKS allow; *why (transfer full). */
gboolean qemu_instant_choose(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, const QemuInstantOptions *options,
                             QemuWay *way, char **why, GError **error);

/* instant-nodes.c */
/* The scratch node of disk INDEX. */
gboolean qemu_instant_add_scratch(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
gboolean qemu_instant_add_filter(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
gboolean qemu_instant_add_snap(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
gboolean qemu_instant_add_target(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
/* Starts the job that copies the snap node of disk INDEX to its target. */
gboolean qemu_instant_push(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
/* Whether the NBD server is somebody else's: BUSY. */
gboolean qemu_instant_check_server(const QemuInstant *instant, const QemuSteps *steps, GError **error);
gboolean qemu_instant_start_server(const QemuInstant *instant, const QemuSteps *steps, GError **error);
gboolean qemu_instant_add_overlay(const QemuInstant *instant, const QemuSteps *steps, guint index, GError **error);
/* Exports node KIND of disk INDEX, or (NULL) what the disk was at the instant; and sets its uri. */
gboolean qemu_instant_export(QemuInstant *instant, const QemuSteps *steps, const char *kind, guint index, GError **error);
