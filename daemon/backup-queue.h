/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks of a disk that were read, on their way to the workers. A run of blocks goes to one worker where that
 * can be: what is side by side on the disk is alike, is compressed together, and will be read together again.
 *
 * Threads: one pushes, any number take.
 */
#pragma once

#include <cbt/reader.h>

typedef struct BackupQueue BackupQueue;

/* N_RUN blocks are a run, by their sequence; at least 1. */
BackupQueue *backup_queue_new(guint n_run);
/* Nobody waits. What was not taken is the reader's. */
void backup_queue_free(BackupQueue *self);
void backup_queue_push(BackupQueue *self, CbtReadBlock *block);
/* Nothing more will be pushed. */
void backup_queue_end(BackupQueue *self);
/*
 * The next block of RUN, which is the caller's and first G_MAXUINT64, else of one that no other is at, else
 * any; waits for one. NULL: there are none left.
 */
CbtReadBlock *backup_queue_take(BackupQueue *self, guint64 *run);
