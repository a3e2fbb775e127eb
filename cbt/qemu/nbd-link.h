/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections to NBD exports with libnbd: what its users here have alike. One thread at a time per connection. */
#pragma once

#include <common/error.h>
#include <gio/gio.h>
#include <libnbd.h>

/* Connects to the export at URI and negotiates CONTEXT (nullable; whether it was granted, nbd_can_meta_context() tells).
 * UNREACHABLE if there is no such export, or nothing moves for TIMEOUT_MS; CANCELLED within 0.1 s. */
struct nbd_handle *qemu_nbd_connect(const char *uri, const char *context, guint timeout_ms, GCancellable *cancellable,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Says good-bye, if that can be done at once, and frees *nbd, which may be NULL. No callback is called any more. */
void qemu_nbd_disconnect(struct nbd_handle **nbd);

/* Sets ERROR for what the export at URI answered while DOING ("reading", "block status") at OFFSET: UNREACHABLE if it is
 * shutting down, else IO. */
void qemu_nbd_set_answer_error(GError **error, const char *uri, const char *doing, guint64 offset, int errsv);
