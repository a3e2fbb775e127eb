/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A body that is written while it is made. libsoup would take it chunk by chunk through the main loop; here
 * the connection is taken away from it, and the thread that makes the body writes it to the socket in
 * HTTP/1.1's chunked form. So a slow client slows that thread alone, and no copy waits in memory.
 */
#include <api/stream-private.h>

#include <api/json.h>
#include <api/listener-private.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define POLL_MS     200   /* how soon a cancel is seen */
#define PATIENCE_MS 60000 /* with a client that takes nothing */

struct ApiStream {
  GIOStream *connection;
  int fd;
  guint patience_ms;
  char *head; /* of the answer, until it was written */
};

ApiStream *
api_stream_new(GIOStream *connection, const char *content_type)
{
  g_autoptr(GSocketConnection) base = NULL;
  ApiStream *stream = g_new0(ApiStream, 1);
  g_object_get(connection, "base-iostream", &base, NULL);
  stream->connection = g_object_ref(connection);
  stream->fd = g_socket_get_fd(g_socket_connection_get_socket(base));
  stream->patience_ms = PATIENCE_MS;
  stream->head = g_strdup_printf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nCache-Control: no-store\r\n"
                                 "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
                                 content_type);
  return stream;
}

char *
api_stream_steal_head(ApiStream *stream)
{
  return g_steal_pointer(&stream->head);
}

int
api_stream_fd(const ApiStream *stream)
{
  return stream->fd;
}

void
api_stream_set_patience(ApiStream *stream, guint patience_ms)
{
  stream->patience_ms = patience_ms;
}

void
api_stream_fail(ApiStream *stream, const GError *problem)
{
  g_autofree char *head = g_steal_pointer(&stream->head);
  if (!head)
    return;
  g_autoptr(JsonNode) node = api_json_from_error(problem);
  g_autofree char *answer = api_error_to_http((guint) cbt_error_http_status((int) cbt_error_code(problem)), node);
  /* Nothing was sent yet: this fits, or the client has left. */
  if (send(stream->fd, answer, strlen(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    g_debug("a client does not get its error: %s", g_strerror(errno));
}

void
api_stream_shutdown(ApiStream *stream)
{
  shutdown(stream->fd, SHUT_WR);
}

void
api_stream_free(ApiStream *stream)
{
  if (!stream)
    return;
  g_object_unref(stream->connection);
  g_free(stream->head);
  g_free(stream);
}

static gboolean
wait_until_writable(const ApiStream *stream, GCancellable *cancellable, GError **error)
{
  struct pollfd poll_fd = {.fd = stream->fd, .events = POLLOUT};
  gint64 until_us = g_get_monotonic_time() + (gint64) stream->patience_ms * 1000;
  while (poll(&poll_fd, 1, POLL_MS) <= 0) {
    if (cancellable && g_cancellable_is_cancelled(cancellable)) {
      cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
      return FALSE;
    }
    if (g_get_monotonic_time() >= until_us) {
      cbt_set_error(error, CBT_ERROR_IO, NULL, "the client takes nothing");
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
send_all(const ApiStream *stream, const void *data, gsize length, gboolean more, GCancellable *cancellable,
         GError **error)
{
  while (length > 0) {
    ssize_t n = send(stream->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (!wait_until_writable(stream, cancellable, error))
        return FALSE;
    } else if (n < 0 && errno != EINTR) {
      cbt_set_error(error, CBT_ERROR_IO, NULL, "the client left: %s", g_strerror(errno));
      return FALSE;
    } else if (n > 0) {
      data = (const guint8 *) data + n;
      length -= (gsize) n;
    }
  }
  return TRUE;
}

static gboolean
send_head(ApiStream *stream, GCancellable *cancellable, GError **error)
{
  g_autofree char *head = g_steal_pointer(&stream->head);
  return !head || send_all(stream, head, strlen(head), TRUE, cancellable, error);
}

gboolean
api_stream_write(ApiStream *stream, const guint8 *data, gsize length, GCancellable *cancellable,
                 GError **error)
{
  g_autofree char *size = g_strdup_printf("%zx\r\n", length);
  return length == 0 || (send_head(stream, cancellable, error) &&
                         send_all(stream, size, strlen(size), TRUE, cancellable, error) &&
                         send_all(stream, data, length, TRUE, cancellable, error) &&
                         send_all(stream, "\r\n", 2, FALSE, cancellable, error));
}

gboolean
api_stream_finish(ApiStream *stream, GCancellable *cancellable, GError **error)
{
  return send_head(stream, cancellable, error) && send_all(stream, "0\r\n\r\n", 5, FALSE, cancellable, error);
}
