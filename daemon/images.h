/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which registered disk has an image, by whatever name: a link, a path through a linked folder, another node
 * of a device. Main thread.
 */
#pragma once

#include <daemon/daemon.h>

/* TRUE if both paths lead to the same file or block device now, or are the same. */
gboolean images_are_same(const char *a, const char *b);
/* The vm that has the image of PATH, and in *DISK its disk (transfer none); NULL if there is none. ERROR: the
 * catalogue cannot be read. */
CatalogueVm *images_find_owner(Catalogue *catalogue, const char *path, const CatalogueDisk **disk,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
