/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Brackets are counted outside of strings; where the count comes back to zero, the parser gets what is
 * between. So the parser, which recurses, sees neither half a message, nor one that is too deep.
 */
#include <cbt/qemu/frame.h>

#include <cbt/qemu/json.h>
#include <string.h>

#define MARKER 0xff

struct QemuFrame {
  gsize max_bytes;
  gboolean has_markers;
  GByteArray *bytes;
  gsize start;     /* where the message under way begins in BYTES; what is before it is done with */
  gsize n_scanned; /* bytes of it that were looked at */
  guint depth;
  gboolean in_string;
  gboolean is_escaped; /* the next byte of the string */
  gboolean is_skipping;
  gboolean is_broken;
};

QemuFrame *
qemu_frame_new(gsize max_bytes, gboolean has_markers)
{
  QemuFrame *self = g_new0(QemuFrame, 1);
  self->max_bytes = max_bytes;
  self->has_markers = has_markers;
  self->bytes = g_byte_array_new();
  return self;
}

void
qemu_frame_free(QemuFrame *self)
{
  if (!self)
    return;
  g_byte_array_unref(self->bytes);
  g_free(self);
}

/* A message begins N bytes behind where the last one did. */
static void
drop(QemuFrame *self, gsize n)
{
  self->start += n;
  self->n_scanned = 0;
  self->depth = 0;
  self->in_string = self->is_escaped = FALSE;
}

static gsize
n_left(const QemuFrame *self)
{
  return self->bytes->len - self->start;
}

static void
drop_to_marker(QemuFrame *self)
{
  const guint8 *begin = self->bytes->data + self->start;
  const guint8 *marker = n_left(self) > 0 ? memchr(begin, MARKER, n_left(self)) : NULL;
  self->is_skipping = marker == NULL;
  drop(self, marker ? (gsize) (marker - begin) + 1 : n_left(self));
}

void
qemu_frame_skip(QemuFrame *self)
{
  g_assert(self->has_markers);
  self->is_broken = FALSE;
  drop_to_marker(self);
}

void
qemu_frame_feed(QemuFrame *self, const guint8 *bytes, gsize length)
{
  g_assert(length <= G_MAXUINT - self->bytes->len);
  if (self->is_broken || length == 0)
    return;
  if (self->start > 0)
    g_byte_array_remove_range(self->bytes, 0, (guint) self->start);
  self->start = 0;
  g_byte_array_append(self->bytes, bytes, (guint) length);
  if (self->is_skipping)
    drop_to_marker(self);
}

gboolean
qemu_frame_has_bytes(const QemuFrame *self)
{
  for (gsize i = self->start; i < self->bytes->len; i++)
    if (!g_ascii_isspace((char) self->bytes->data[i]))
      return TRUE;
  return FALSE;
}

static gboolean
set_broken(QemuFrame *self, CbtErrorCode code, const char *what, GError **error)
{
  self->is_broken = TRUE;
  drop(self, n_left(self));
  cbt_set_error(error, code, NULL, "%s", what);
  return FALSE;
}

static JsonObject *
parse(const guint8 *bytes, gsize length, GError **error)
{
  const char *text = (const char *) bytes;
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonParser) parser = json_parser_new_immutable();
  if (!g_utf8_validate(text, (gssize) length, NULL)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "a message is no UTF-8");
    return NULL;
  }
  if (!json_parser_load_from_data(parser, text, (gssize) length, &local)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "a message is no JSON: %s", local->message);
    return NULL;
  }
  JsonObject *object = qemu_json_node_object(json_parser_get_root(parser));
  g_assert(object); /* it begins with a brace */
  return json_object_ref(object);
}

/* Looks at one byte of a message that began; whether the message ends with it. */
static gboolean
scan(QemuFrame *self, guint8 byte)
{
  if (self->in_string) {
    if (self->is_escaped || byte == '\\')
      self->is_escaped = !self->is_escaped;
    else
      self->in_string = byte != '"';
    return FALSE;
  }
  if (byte == '"')
    self->in_string = TRUE;
  else if (byte == '{' || byte == '[')
    self->depth++;
  else if (byte == '}' || byte == ']')
    return --self->depth == 0;
  return FALSE;
}

static gboolean
take_message(QemuFrame *self, JsonObject **message, GError **error)
{
  g_autoptr(GError) local = NULL;
  *message = parse(self->bytes->data + self->start, self->n_scanned, &local);
  if (!*message)
    return set_broken(self, cbt_error_code(local), local->message, error);
  drop(self, self->n_scanned);
  return TRUE;
}

gboolean
qemu_frame_next(QemuFrame *self, JsonObject **message, GError **error)
{
  *message = NULL;
  if (self->is_broken)
    return set_broken(self, CBT_ERROR_CORRUPT, "nothing is read behind a broken message", error);
  while (self->n_scanned < n_left(self)) {
    guint8 byte = self->bytes->data[self->start + self->n_scanned++];
    if (self->has_markers && byte == MARKER)
      drop(self, self->n_scanned);
    else if (self->depth == 0 && g_ascii_isspace((char) byte))
      drop(self, self->n_scanned);
    else if (self->depth == 0 && byte != '{')
      return set_broken(self, CBT_ERROR_CORRUPT, "what comes is no JSON object", error);
    else if (scan(self, byte))
      return take_message(self, message, error);
    else if (self->depth > QEMU_FRAME_MAX_DEPTH)
      return set_broken(self, CBT_ERROR_TOO_LARGE, "a message is nested too deeply", error);
    else if (self->n_scanned >= self->max_bytes)
      return set_broken(self, CBT_ERROR_TOO_LARGE, "a message is too long", error);
  }
  return TRUE;
}
