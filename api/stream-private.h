/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For api/: how a stream begins; the rest is in api/server.h. */
#pragma once

#include <api/server.h>
#include <gio/gio.h>

/* Takes CONNECTION (transfer none) from libsoup, whose request was read. */
ApiStream *api_stream_new(GIOStream *connection, const char *content_type);
/* The head of the answer (transfer full), for who sends it, and all that follows, by himself. */
char *api_stream_steal_head(ApiStream *stream);
/* The socket; it stays the stream's. */
int api_stream_fd(const ApiStream *stream);
/* How long a writer waits for a client that takes nothing, instead of a minute. */
void api_stream_set_patience(ApiStream *stream, guint patience_ms);
