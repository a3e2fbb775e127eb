/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks of a live vm whose guest is off: its images at rest, with the bitmaps that QEMU stored in them.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <cbt/qemu/bitmaps.h>
#include <store/catalogue.h>

/* Whether no QEMU listens on the monitor socket. One that hangs does. */
gboolean live_is_off(const char *qmp);

/* DISK as if QEMU had it (transfer full), with the bitmaps of its own image. Errors of qemu_offline_bitmaps(): BUSY if a program has
 * the image all the same. UNSUPPORTED for other formats than qcow2 and raw. */
QemuDisk *live_rest_look(const CatalogueDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Carries out the steps of qemu_bitmaps_plan() one after the other. A raw image takes none: UNSUPPORTED. */
gboolean live_rest_run(const CatalogueDisk *disk, const GPtrArray *steps, GError **error) G_GNUC_WARN_UNUSED_RESULT;
