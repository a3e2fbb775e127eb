/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write gate of an export: lets changes through, until somebody holds them to get an instant at which
 * nothing is under way.
 *
 * Every change of the image stands between enter and leave; reads do not come here. A hold stops new changes,
 * waits for those in flight, and ends by itself at its deadline, whoever died: a change waits at the gate
 * until the release or the deadline, never longer, except for what cbt_gate_run_held() is just carrying out.
 *
 * Threads: every call from any thread.
 */
#pragma once

#include <glib.h>

typedef struct CbtGate CbtGate;
typedef void (*CbtGateFunc)(gpointer user_data);

CbtGate *cbt_gate_new(void);
/* Nobody may be inside, or hold it. */
void cbt_gate_free(CbtGate *gate);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtGate, cbt_gate_free)

/* Around a change. Not to be nested. */
void cbt_gate_enter(CbtGate *gate);
void cbt_gate_leave(CbtGate *gate);

/*
 * Stops new changes and waits until none is in flight; all of it ends TIMEOUT_MS from now. Returns the hold's
 * id, for the calls below. 0 with BUSY if somebody else holds the gate, or the changes in flight took until
 * the deadline.
 */
guint64 cbt_gate_hold(CbtGate *gate, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Runs FUNC while no change can pass, even if the deadline comes meanwhile. FALSE, and FUNC was not run, if
 * HOLD has ended. FUNC must not call the gate. */
gboolean cbt_gate_run_held(CbtGate *gate, guint64 hold, CbtGateFunc func,
                           gpointer user_data) G_GNUC_WARN_UNUSED_RESULT;
/* Ends HOLD. *duration_us (nullable) gets how long it lasted (0 if a later hold took its place). FALSE if it had ended
 * by itself. */
gboolean cbt_gate_release(CbtGate *gate, guint64 hold, guint64 *duration_us);
/* TRUE if HOLD is in force. It may end at any time. */
gboolean cbt_gate_is_held_by(CbtGate *gate, guint64 hold);
/* TRUE if at some instant during the call no change was in flight. */
gboolean cbt_gate_is_idle(const CbtGate *gate);
