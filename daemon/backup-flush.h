/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes what a backup has stored, and makes it durable, while it goes on: so that its workers need not wait
 * for the disk, nor the commit for all of it. Only a beginning: the commit flushes by itself, and tells of
 * what fails.
 *
 * Threads: note and now from any.
 */
#pragma once

#include <daemon/daemon.h>

typedef struct BackupFlush BackupFlush;

BackupFlush *backup_flush_new(const Daemon *daemon);
/* BYTES more are in the store: enough of them are written and flushed. */
void backup_flush_note(BackupFlush *flush, guint64 bytes);
/* All that was stored is flushed, while the caller does something else. */
void backup_flush_now(BackupFlush *flush);
/* Waits for a flush that is under way. */
void backup_flush_free(BackupFlush *flush);
