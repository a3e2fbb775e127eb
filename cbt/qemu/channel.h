/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A Unix socket on which JSON objects are sent and received, each with a bound on its time: what a QMP monitor and a
 * guest agent have in common. Deadlines are those of g_get_monotonic_time().
 *
 * Errors: UNREACHABLE for a deadline that passed, and for a peer that is gone; CANCELLED; CORRUPT and TOO_LARGE for what
 * the peer sent. A deadline that passes while something is awaited leaves the channel as it was; all else breaks it, but
 * with markers, what the peer sent is got over by qemu_channel_skip().
 *
 * One thread at a time.
 */
#pragma once

#include <common/error.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>

typedef struct QemuChannel QemuChannel;

typedef struct {
  gsize max_bytes;      /* of a message */
  gboolean has_markers; /* 0xFF cuts the stream anew: see cbt/qemu/frame.h */
} QemuChannelKind;

/* Connects to the socket PATH. CANCELLABLE may be NULL; whoever cancels it ends each wait. UNREACHABLE also if nobody
 * listens; DENIED. */
QemuChannel *qemu_channel_open(const char *path, const QemuChannelKind *kind, gint64 deadline_us,
                               GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* On the connected socket FD (transfer full); NAME is what it is called in messages. */
QemuChannel *qemu_channel_adopt(int fd, const char *name, const QemuChannelKind *kind, GCancellable *cancellable);
/* Who ends waits from now on: NULL for nobody. */
void qemu_channel_set_cancellable(QemuChannel *channel, GCancellable *cancellable);
void qemu_channel_close(QemuChannel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuChannel, qemu_channel_close)

/* Ends the connection; the channel is broken then. */
void qemu_channel_drop(QemuChannel *channel);
/* FALSE after an error from which there is no way back. */
gboolean qemu_channel_is_sound(const QemuChannel *channel);
const char *qemu_channel_path(const QemuChannel *channel);
/* The socket (transfer none). */
int qemu_channel_fd(const QemuChannel *channel);
gboolean qemu_channel_send(QemuChannel *channel, const void *bytes, gsize length, gint64 deadline_us,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* OBJECT, followed by a newline. */
gboolean qemu_channel_send_object(QemuChannel *channel, JsonObject *object, gint64 deadline_us,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, and the peer gets a duplicate of FD with it. FD stays the caller's; -1: none. */
gboolean qemu_channel_send_object_with_fd(QemuChannel *channel, JsonObject *object, int fd, gint64 deadline_us,
                                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The next message (transfer full). */
JsonObject *qemu_channel_receive(QemuChannel *channel, gint64 deadline_us, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Drops what came and comes before the next marker. */
void qemu_channel_skip(QemuChannel *channel);
/* Whether something came that was not received yet. */
gboolean qemu_channel_has_input(QemuChannel *channel);
/* Waits, but no longer than for CANCELLABLE. CANCELLED. */
gboolean qemu_channel_pause(QemuChannel *channel, gint64 until_us, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* While TRUE, waits do not end for CANCELLABLE. */
void qemu_channel_ignore_cancel(QemuChannel *channel, gboolean ignore);

/* Why the peer might be silent: QEMU serves one client a socket, and lets the next ones wait. */
typedef enum {
  QEMU_SILENCE_UNKNOWN,
  QEMU_SILENCE_TAKEN,   /* another client is connected, and somebody waits */
  QEMU_SILENCE_HANGING, /* nobody is connected, yet somebody waits: the process does not accept */
} QemuSilence;
QemuSilence qemu_channel_explain_silence(QemuChannel *channel);
