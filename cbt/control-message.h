/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sending and receiving the messages of cbt/control.h, with descriptors. For both ends in this folder. */
#pragma once

#include <cbt/control.h>

#define CBT_CONTROL_MAX_FDS 2

/* One message of LENGTH bytes with N_FDS descriptors (transfer none). FALSE with errno. */
gboolean cbt_control_send(int socket, const void *message, gsize length, const int *fds, guint n_fds);
/* Receives one; descriptors (transfer full) go to FDS, -1 where there was none. Returns its length, 0 at the
 * end of the connection, -1 with errno; a message cut short or with too many descriptors is EPROTO. */
gssize cbt_control_receive(int socket, void *message, gsize capacity, int fds[CBT_CONTROL_MAX_FDS]);
