/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What reads an NBD export for a reader; for cbt/qemu/nbd-source.c, whose header says what it does. */
#pragma once

#include <cbt/reader-engine.h>
#include <gio/gio.h>

typedef struct {
  const char *uri;
  guint timeout_ms;    /* without any progress */
  guint n_connections; /* 0: up to 4 */
  GCancellable *cancellable; /* for connecting; or NULL */
} QemuNbdEngineOptions;

/* Connects. What OPTIONS point to is (transfer none) and outlives the engine. CORRUPT if the export has not SIZE_BYTES any
 * more. */
CbtReaderEngine *qemu_nbd_engine_new(const QemuNbdEngineOptions *options, guint64 size_bytes, guint depth,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
