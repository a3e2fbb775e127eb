/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each event is a chunk of its own. What the socket does not take at once waits here for the next flush. */
#include <api/events.h>

#include <api/stream-private.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct ApiEvents {
  ApiStream *stream;
  GString *unsent;
  gsize n_sent; /* of it */
};

ApiEvents *
api_events_new(ApiRequest *request)
{
  ApiStream *stream = api_request_reply_stream(request, "text/event-stream");
  if (!stream)
    return NULL;
  g_autofree char *head = api_stream_steal_head(stream);
  ApiEvents *events = g_new0(ApiEvents, 1);
  events->stream = stream;
  events->unsent = g_string_new(head);
  return events;
}

void
api_events_free(ApiEvents *events)
{
  if (!events)
    return;
  api_stream_shutdown(events->stream);
  api_stream_free(events->stream);
  g_string_free(events->unsent, TRUE);
  g_free(events);
}

static gboolean
has_left(const ApiEvents *events)
{
  struct pollfd poll_fd = {.fd = api_stream_fd(events->stream)};
  return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLERR));
}

ApiEventsState
api_events_flush(ApiEvents *events)
{
  GString *unsent = events->unsent;
  if (has_left(events))
    return API_EVENTS_GONE;
  while (events->n_sent < unsent->len) {
    ssize_t n = send(api_stream_fd(events->stream), unsent->str + events->n_sent,
                     unsent->len - events->n_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
      events->n_sent += (gsize) n;
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      return API_EVENTS_BUSY;
    else if (errno != EINTR)
      return API_EVENTS_GONE;
  }
  g_string_truncate(unsent, 0);
  events->n_sent = 0;
  return API_EVENTS_READY;
}

static void
add_chunk(ApiEvents *events, const char *text)
{
  g_string_append_printf(events->unsent, "%zx\r\n%s\r\n", strlen(text), text);
}

void
api_events_send(ApiEvents *events, const char *name, const char *data)
{
  g_autofree char *text = g_strdup_printf("event: %s\ndata: %s\n\n", name, data);
  add_chunk(events, text);
}

void
api_events_keep_alive(ApiEvents *events)
{
  add_chunk(events, ":\n\n");
}

void
api_events_end(ApiEvents *events)
{
  g_string_append(events->unsent, "0\r\n\r\n");
}
