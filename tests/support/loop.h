/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loop devices for tests that need a block device. */
#pragma once

#include <glib.h>

/* A read-only loop device over the file PATH: its name (transfer full); NULL without root, or where there are
 * none. */
char *test_loop_attach(const char *path);
/* Detaches and frees DEVICE. */
void test_loop_detach(char *device);
