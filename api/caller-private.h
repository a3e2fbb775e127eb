/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For api/: who is at the other end of a connection, and how long it may take. libsoup, which has no place
 * for this, carries it through as the address of the peer.
 */
#pragma once

#include <libsoup/soup.h>

typedef struct ApiCaller ApiCaller;

/* The address (transfer full) to give to libsoup for CONNECTION, which ends after SECONDS unless that is set
 * anew; the caller lives as long as the address does. */
GSocketAddress *api_caller_new(GSocketConnection *connection, gboolean trusted, guint seconds);
/* The caller who sent MESSAGE, as its address (transfer none). */
ApiCaller *api_caller_of(SoupServerMessage *message);
gboolean api_caller_is_trusted(const ApiCaller *caller);
/* Ends the connection after so many seconds, instead of after what was set before; 0: not at all. */
void api_caller_set_deadline(ApiCaller *caller, guint seconds);
