/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection has an input stream of its own before that of the socket. It takes in what comes until the
 * head is complete, by libsoup's rule, judges it by libsoup's parser, and gives it on. All that follows
 * passes through.
 */
#include <api/connection-private.h>

#include <libsoup/soup.h>
#include <string.h>

#define HEAD_MAX (128u << 10) /* more than libsoup takes */
#define BLOCK    8192u

/* Heads that are refused as on_headers() of the server does it. */
#define HEAD_OF_NO_LENGTH  "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
#define HEAD_OF_BAD_LENGTH "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"

/* ---- the stream ---- */

#define API_TYPE_HEAD_STREAM api_head_stream_get_type()
G_DECLARE_FINAL_TYPE(ApiHeadStream, api_head_stream, API, HEAD_STREAM, GInputStream)

struct _ApiHeadStream {
  GInputStream parent;
  GInputStream *base;
  gboolean is_judged;
  GByteArray *taken; /* what came and was not given on yet: [n_given, len) */
  gsize n_given;
};

static void api_head_stream_pollable_init(GPollableInputStreamInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE(ApiHeadStream, api_head_stream, G_TYPE_INPUT_STREAM,
                              G_IMPLEMENT_INTERFACE(G_TYPE_POLLABLE_INPUT_STREAM,
                                                    api_head_stream_pollable_init))

static void
replace_with(ApiHeadStream *self, const char *head)
{
  g_byte_array_set_size(self->taken, 0);
  g_byte_array_append(self->taken, (const guint8 *) head, (guint) strlen(head));
}

/* The head is of LENGTH bytes. */
static void
judge(ApiHeadStream *self, gsize length)
{
  SoupMessageHeaders *headers = soup_message_headers_new(SOUP_MESSAGE_HEADERS_REQUEST);
  guint status =
      soup_headers_parse_request((const char *) self->taken->data, (int) length, headers, NULL, NULL, NULL);
  if (SOUP_STATUS_IS_SUCCESSFUL(status) &&
      soup_message_headers_get_encoding(headers) == SOUP_ENCODING_UNRECOGNIZED)
    replace_with(self, soup_message_headers_get_one(headers, "Transfer-Encoding") ? HEAD_OF_NO_LENGTH
                                                                                  : HEAD_OF_BAD_LENGTH);
  soup_message_headers_unref(headers);
  self->is_judged = TRUE;
}

/* Looks for the empty line that ends the head, which is new behind FROM. Empty lines before it are skipped as
 * libsoup does it. */
static void
look_for_end(ApiHeadStream *self, gsize from)
{
  const char *text = (const char *) self->taken->data;
  for (gsize i = from; i < self->taken->len; i++) {
    if (text[i] != '\n')
      continue;
    if (i >= 2 && text[i - 1] == '\n') {
      judge(self, i);
      return;
    }
    if (i >= 4 && text[i - 1] == '\r' && text[i - 2] == '\n') {
      judge(self, i - 1);
      return;
    }
  }
}

/* Takes in more of the head. One that the end of the stream cuts off libsoup reads as if it were complete;
 * one that is too long it refuses. */
static gboolean
take_in(ApiHeadStream *self, gboolean blocking, GCancellable *cancellable, GError **error)
{
  guint8 block[BLOCK];
  guint before = self->taken->len;
  gssize n = g_pollable_stream_read(self->base, block, sizeof block, blocking, cancellable, error);
  if (n < 0)
    return FALSE;
  g_byte_array_append(self->taken, block, (guint) n);
  look_for_end(self, before);
  if (n == 0 && before > 0)
    judge(self, before);
  self->is_judged |= n == 0 || self->taken->len >= HEAD_MAX;
  return TRUE;
}

static gssize
read_some(ApiHeadStream *self, void *buffer, gsize count, gboolean blocking, GCancellable *cancellable,
          GError **error)
{
  while (!self->is_judged)
    if (!take_in(self, blocking, cancellable, error))
      return -1;
  gsize left = self->taken->len - self->n_given;
  if (left == 0)
    return g_pollable_stream_read(self->base, buffer, count, blocking, cancellable, error);
  gsize n = MIN(count, left);
  memcpy(buffer, self->taken->data + self->n_given, n);
  self->n_given += n;
  return (gssize) n;
}

static gssize
api_head_stream_read(GInputStream *stream, void *buffer, gsize count, GCancellable *cancellable,
                     GError **error)
{
  return read_some(API_HEAD_STREAM(stream), buffer, count, TRUE, cancellable, error);
}

static gssize
api_head_stream_read_nonblocking(GPollableInputStream *stream, void *buffer, gsize count, GError **error)
{
  return read_some(API_HEAD_STREAM(stream), buffer, count, FALSE, NULL, error);
}

static gboolean
has_taken(const ApiHeadStream *self)
{
  return self->is_judged && self->n_given < self->taken->len;
}

static gboolean
api_head_stream_is_readable(GPollableInputStream *stream)
{
  ApiHeadStream *self = API_HEAD_STREAM(stream);
  return has_taken(self) || g_pollable_input_stream_is_readable(G_POLLABLE_INPUT_STREAM(self->base));
}

static GSource *
api_head_stream_create_source(GPollableInputStream *stream, GCancellable *cancellable)
{
  ApiHeadStream *self = API_HEAD_STREAM(stream);
  g_autoptr(GSource) source =
      has_taken(self) ? g_timeout_source_new(0)
                      : g_pollable_input_stream_create_source(G_POLLABLE_INPUT_STREAM(self->base), NULL);
  return g_pollable_source_new_full(stream, source, cancellable);
}

static void
api_head_stream_finalize(GObject *object)
{
  ApiHeadStream *self = API_HEAD_STREAM(object);
  g_object_unref(self->base);
  g_byte_array_unref(self->taken);
  G_OBJECT_CLASS(api_head_stream_parent_class)->finalize(object);
}

static void
api_head_stream_pollable_init(GPollableInputStreamInterface *iface)
{
  iface->is_readable = api_head_stream_is_readable;
  iface->create_source = api_head_stream_create_source;
  iface->read_nonblocking = api_head_stream_read_nonblocking;
}

static void
api_head_stream_class_init(ApiHeadStreamClass *klass)
{
  G_OBJECT_CLASS(klass)->finalize = api_head_stream_finalize;
  G_INPUT_STREAM_CLASS(klass)->read_fn = api_head_stream_read;
}

static void
api_head_stream_init(ApiHeadStream *self)
{
  self->taken = g_byte_array_new();
}

/* ---- the connection ---- */

#define API_TYPE_CONNECTION api_connection_get_type()
G_DECLARE_FINAL_TYPE(ApiConnection, api_connection, API, CONNECTION, GSocketConnection)

struct _ApiConnection {
  GSocketConnection parent;
  ApiHeadStream *input;
};

G_DEFINE_FINAL_TYPE(ApiConnection, api_connection, G_TYPE_SOCKET_CONNECTION)

static GInputStream *
api_connection_get_input_stream(GIOStream *stream)
{
  ApiConnection *self = API_CONNECTION(stream);
  if (!self->input) {
    self->input = g_object_new(API_TYPE_HEAD_STREAM, NULL);
    self->input->base =
        g_object_ref(G_IO_STREAM_CLASS(api_connection_parent_class)->get_input_stream(stream));
  }
  return G_INPUT_STREAM(self->input);
}

static void
api_connection_finalize(GObject *object)
{
  g_clear_object(&API_CONNECTION(object)->input);
  G_OBJECT_CLASS(api_connection_parent_class)->finalize(object);
}

static void
api_connection_class_init(ApiConnectionClass *klass)
{
  G_OBJECT_CLASS(klass)->finalize = api_connection_finalize;
  G_IO_STREAM_CLASS(klass)->get_input_stream = api_connection_get_input_stream;
}

static void
api_connection_init(ApiConnection *self)
{
  (void) self;
}

GSocketConnection *
api_connection_new(GSocket *socket)
{
  return g_object_new(API_TYPE_CONNECTION, "socket", socket, NULL);
}
