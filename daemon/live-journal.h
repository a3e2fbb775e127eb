/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a backup does to a QEMU, journalled: the first step durably before it is taken, the others behind it, for the
 * guest may stand still meanwhile. A vm that is in the journal is looked at when the daemon starts.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <daemon/daemon.h>

typedef struct LiveJournal LiveJournal;

LiveJournal *live_journal_new(Daemon *daemon, const char *vm, gint64 job);
void live_journal_free(LiveJournal *journal);
/* A QemuStepFunc; JOURNAL is a LiveJournal. */
gboolean live_journal_note(const char *step, gpointer journal, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Nothing is left in QEMU. */
void live_journal_forget(LiveJournal *journal);
