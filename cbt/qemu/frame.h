/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cuts the bytes that come from a QMP monitor or a guest agent into messages: JSON objects, one after the other, on one
 * line or on many. Pure: reads nothing, knows no time. What comes is not trusted: its size and its depth have limits.
 *
 * A guest agent's stream is cut anew at the byte 0xFF, which no JSON holds (qga/qapi-schema.json, guest-sync-delimited).
 * After an error nothing more comes out, but for a frame with markers on which qemu_frame_skip() was called.
 */
#pragma once

#include <common/error.h>
#include <json-glib/json-glib.h>

#define QEMU_FRAME_MAX_DEPTH 512 /* a backing chain nests as deep as it is long */

typedef struct QemuFrame QemuFrame;

/* Messages of at most MAX_BYTES. With HAS_MARKERS, a byte 0xFF drops what came of a message before it. */
QemuFrame *qemu_frame_new(gsize max_bytes, gboolean has_markers);
void qemu_frame_free(QemuFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuFrame, qemu_frame_free)

void qemu_frame_feed(QemuFrame *frame, const guint8 *bytes, gsize length);
/* *message (transfer full) is the next one, or NULL until more bytes come. CORRUPT if it is no JSON object, TOO_LARGE
 * beyond the limits. */
gboolean qemu_frame_next(QemuFrame *frame, JsonObject **message, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Drops everything up to and with the next marker, that which is still to come included. Forgets an error. */
void qemu_frame_skip(QemuFrame *frame);
/* Whether there are bytes that did not come out yet, and are more than the space between messages. */
gboolean qemu_frame_has_bytes(const QemuFrame *frame);
