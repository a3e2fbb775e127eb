/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changed on a disk of a live vm, for who asks: the answer of its QEMU, or of its image at rest.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <cbt/source.h>
#include <daemon/daemon.h>

/* Which of the two bitmaps of a frozen one; others have one only. */
typedef enum { LIVE_MAP_PARENT, LIVE_MAP_SUCCESSOR, LIVE_MAP_BOTH } LiveMapBits;

/* Makes the folder for the sockets of VM, which is ours alone. (transfer full): its path. */
char *live_map_make_folder(Daemon *daemon, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A source with the map of VM's DISK as it is now: qemu_nbd_source_changes() of it is what BITMAP (of ours) marks; with NULL, it
 * has what is allocated. NOT_FOUND if there is no such bitmap; BUSY during a backup; errors of qemu_live_map_read() and
 * qemu_offline_serve(). */
CbtSource *live_map_read(Daemon *daemon, const char *vm, const CatalogueDisk *disk, const char *bitmap,
                         LiveMapBits which, GError **error) G_GNUC_WARN_UNUSED_RESULT;
