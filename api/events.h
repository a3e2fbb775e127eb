/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Server-sent events (text/event-stream): an answer that lasts, and tells what changes.
 *
 * At most one event is in memory at a time. The caller has the newest state to tell, and tells it when the
 * client has taken the event before: one that reads slowly sees fewer of them, and nothing grows.
 *
 * Threads: the main-loop thread only; nothing here waits.
 */
#pragma once

#include <api/server.h>

typedef struct ApiEvents ApiEvents;

typedef enum {
  API_EVENTS_READY, /* all was taken: the next one can go */
  API_EVENTS_BUSY,  /* the client has yet to read some of the last one */
  API_EVENTS_GONE,  /* it left */
} ApiEventsState;

/* Ends REQUEST with a stream of events; NULL if the client left. */
ApiEvents *api_events_new(ApiRequest *request) G_GNUC_WARN_UNUSED_RESULT;
/* Closes the connection; without api_events_end() before, the client sees that it was cut off. */
void api_events_free(ApiEvents *events);
/* Sends on what is left, as far as the client takes it. */
ApiEventsState api_events_flush(ApiEvents *events);
/* Begins with the event NAME, DATA a single line; while READY. */
void api_events_send(ApiEvents *events, const char *name, const char *data);
/* Begins with a comment, so that those in between see that the stream lives; while READY. */
void api_events_keep_alive(ApiEvents *events);
/* Adds the end of the stream behind the last event. */
void api_events_end(ApiEvents *events);
