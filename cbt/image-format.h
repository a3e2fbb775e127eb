/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What kind of image a file is. Images that are registered by their path are raw ones only: of any other, the container
 * would be backed up in place of the disk, and a guest that uses it past the export would go unnoticed. Any thread. */
#pragma once

#include <glib.h>

/* The name of the format that the first bytes of FD's file belong to; NULL for what is taken to be raw. */
const char *cbt_image_format_probe(int fd);
