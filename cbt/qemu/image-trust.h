/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who could write an image, as its guest's QEMU can, says by its header what other files are read with it; by
 * a link in its place, which one is read. This process may read all files; that must not give anybody what is
 * not his own.
 *
 * A daemon that is not root cannot ask for others, and reads what it may.
 *
 * Checks of what is open already: who replaces files afterwards changes nothing, if QEMU's tools are given what was checked
 * (cbt/qemu/layers.h).
 */
#pragma once

#include <glib.h>
#include <sys/stat.h>

/* Whether FD, opened as PATH, is the file of that name, and not of a link's: links are believed in /dev only,
 * where they lead to a device, and not in those of its folders that all may write to. DENIED. */
gboolean qemu_image_check_name(int fd, const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Opens PATH, which the image OWNER names, as the user whom that belongs to, with his groups: DENIED if he may not read it.
 * What this process' own user owns may name anything: *fd is -1 then where it is no file that can be opened. */
gboolean qemu_image_open_below(const struct stat *owner, const char *path, int *fd,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
