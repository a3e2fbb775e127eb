/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether another program uses a disk image, and how others are told that we do.
 *
 * What cannot be seen: a program that takes no locks on an image file. The locks are those of QEMU
 * (block/file-posix.c there), so that QEMU and this product refuse each other's images. Any thread.
 */
#pragma once

#include <glib.h>

typedef enum {
  CBT_IMAGE_READ,    /* a copy of one instant: nobody may be writing */
  CBT_IMAGE_EXPORT,  /* we are the only one who writes */
  CBT_IMAGE_REPLACE, /* all of it changes: nobody may use it */
} CbtImageUse;

/* BUSY, with who it is where that can be found out, and with HINT (nullable), if another open description of
 * the image behind FD stands against USE. PATH is for the message. */
gboolean cbt_image_check_use(int fd, const char *path, CbtImageUse use, const char *hint,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * Opens PATH read-write for USE (EXPORT or REPLACE); -1 on failure. Until the descriptor is closed, a block
 * device is claimed (it can neither be mounted nor become part of another device), and QEMU refuses the image.
 * Errors: BUSY as above, or because the device is claimed by others; else as open().
 */
int cbt_image_open(const char *path, CbtImageUse use, const char *hint,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
