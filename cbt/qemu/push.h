/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where QEMU pushes a disk to, and where it is read from then: a qemu-nbd of ours on a scratch image without a name, first
 * to be written, then to be read. A bitmap in it records what was pushed, so that it is read like any other export.
 * Neither outlives this object, or this process.
 *
 * Lifecycle: new, steal_client; finish once QEMU has disconnected; free. One thread at a time.
 */
#pragma once

#include <common/error.h>

#define QEMU_PUSH_GRANULARITY 65536

typedef struct QemuPush QemuPush;

typedef struct {
  const char *scratch_dir;
  const char *socket_path; /* a name that nobody else uses */
  guint64 size_bytes;
  guint64 limit_bytes; /* 0: none */
  const char *bitmap;  /* name of the one that is to record, or NULL */
  guint timeout_ms;    /* for what is started here to end when it should */
} QemuPushOptions;

/* UNSUPPORTED if there is no qemu-nbd or qemu-img. */
QemuPush *qemu_push_new(const QemuPushOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The connection that QEMU is to have (transfer full): the caller closes its own. */
int qemu_push_steal_client(QemuPush *push);
/* QEMU has disconnected: offers the image read-only. *uri is (transfer full). UNREACHABLE if the server does not end; IO
 * if it failed. */
gboolean qemu_push_finish(QemuPush *push, char **uri, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* NO_SPACE: as qemu_scratch_check_room(). */
gboolean qemu_push_check_room(const QemuPush *push, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends a server that is still written to, for a job that is to end. */
void qemu_push_abort(QemuPush *push);
/* NULL is allowed. */
void qemu_push_free(QemuPush *push);
