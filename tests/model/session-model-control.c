/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup job (daemon/backup.c, backup-freeze.c, and the settling of backup-plan.c) with the requests that
 * it makes (cbt/export-requests.c, cbt/gate.c), and what crashes do to both. A request is synchronous: C_HOLD
 * and what stands behind it in ControlPc are the control thread's, the rest is the daemon's. A daemon that
 * dies during a request is one that dies right after it: the export does not see the difference.
 *
 * A hold ends by itself between any two steps, unless somebody keeps the gate's mutex: that is the deadline.
 */
#include <tests/model/session-model.h>

#include <string.h>

typedef void (*ControlStep)(const Turn *turn);

static SessionState *
advance(const Turn *turn, ModelActor actor, ControlPc pc, const char *what)
{
  SessionState *next = turn_step(turn, actor, what, 0);
  next->control = (guint8) pc;
  return next;
}

void
job_fail(SessionState *state)
{
  state->failed = 1;
  memset(state->result, 0, sizeof state->result);
  memset(state->reader, 0, sizeof state->reader);
}

/* Nobody can look at the session's memory any more. */
static void
forget_memory(SessionState *state)
{
  memset(state->fleece, 0, sizeof state->fleece);
  memset(state->preserved, 0, sizeof state->preserved);
  memset(state->done, 0, sizeof state->done);
  state->broken = 0;
}

/* --- hold, begin, release --- */

static void
step_plan(const Turn *turn)
{
  advance(turn, MODEL_DAEMON, C_HOLD, "asks for a hold");
}

static void
step_hold(const Turn *turn)
{
  advance(turn, MODEL_EXPORT, C_DRAIN, "holds the gate")->held = 1;
}

static void
step_drain(const Turn *turn)
{
  if (!turn->now->held)
    advance(turn, MODEL_EXPORT, C_PLAN, "the hold ended before the gate was drained: refused");
  else if (turn_has(turn, PLANT_NO_DRAIN))
    advance(turn, MODEL_EXPORT, C_HELD, "does not wait for changes in flight");
  else if (turn->now->in_flight == 0)
    advance(turn, MODEL_EXPORT, C_HELD, "sees the gate drained");
}

static void
step_held(const Turn *turn)
{
  if (turn->now->lost)
    job_fail(advance(turn, MODEL_DAEMON, C_SETTLE, "cannot ask for the begin: the export is gone"));
  else
    advance(turn, MODEL_DAEMON, C_BEGIN, "asks for the begin");
}

static void
step_begin(const Turn *turn)
{
  if (turn->now->held || turn_has(turn, PLANT_EXPIRY_IGNORED))
    advance(turn, MODEL_EXPORT, C_FREEZE, "begins under the hold")->mutex = 1;
  else
    advance(turn, MODEL_EXPORT, C_PLAN, "the hold has ended: begin is refused");
}

static void
step_freeze(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_INIT_DONE, "freezes the bitmap: this is the instant");
  memset(next->bits[!next->parent], 0, sizeof next->bits[0]);
  memcpy(next->instant, next->image, sizeof next->instant);
  next->frozen = 1;
}

static void
step_init_done(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_PUT_UP, "sets done for what is not wanted");
  for (guint c = 0; c < N_CLUSTERS; c++)
    next->done[c] = !session_is_wanted(turn->config, turn->now, c);
  if (turn_has(turn, PLANT_RELEASE_BEFORE_SESSION))
    next->mutex = next->held = 0;
}

static void
step_put_up(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_BEGUN, "turns the session on");
  next->session = 1;
  next->mutex = 0;
}

static void
step_begun(const Turn *turn)
{
  if (turn->now->lost)
    advance(turn, MODEL_DAEMON, C_COPY, "cannot ask for the release, and goes on");
  else
    advance(turn, MODEL_DAEMON, C_RELEASE, "asks for the release");
}

static void
step_release(const Turn *turn)
{
  advance(turn, MODEL_EXPORT, C_COPY, turn->now->held ? "lets the changes go" : "the hold had ended before")
      ->held = 0;
}

/* --- copy, end, commit --- */

static void
step_copy(const Turn *turn)
{
  const SessionState *now = turn->now;
  if (now->failed)
    advance(turn, MODEL_DAEMON, C_END, "gives up and asks for the end");
  else
    job_fail(advance(turn, MODEL_DAEMON, C_END, "is cancelled and asks for the end"));
  if (!now->failed && now->reader[0] == R_OVER && now->reader[1] == R_OVER)
    memset(advance(turn, MODEL_DAEMON, C_CHECK, "has read everything")->reader, 0, sizeof now->reader);
}

static void
step_check(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_DAEMON, C_END, "looks once more at broken, and asks for the end");
  if (turn->now->broken && !turn_has(turn, PLANT_BROKEN_UNCHECKED))
    job_fail(next);
}

static void
after_end(SessionState *next)
{
  next->control = next->dropping ? C_DROP_HOLD : next->failed ? C_SETTLE : C_COMMIT;
}

static void
end_unreachable(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_DAEMON, C_SETTLE, "cannot end the session: the export is gone");
  forget_memory(next);
  if (turn_has(turn, PLANT_EXPORT_DEATH_IGNORED))
    after_end(next);
  else
    job_fail(next);
}

static void
step_end(const Turn *turn)
{
  if (turn->now->lost)
    end_unreachable(turn);
  else
    advance(turn, MODEL_EXPORT, C_FREE, "takes the session away")->session = 0;
}

static void
retire(const Turn *turn, const char *what)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_FREE, what);
  next->retired = 1;
  after_end(next);
}

static void
step_free(const Turn *turn)
{
  if (turn->now->in_flight == 0 || turn_has(turn, PLANT_FREE_WITHOUT_DRAIN))
    advance(turn, MODEL_EXPORT, C_FREE_NOW, "thinks that no change can have the session");
  else if (turn->now->held)
    retire(turn, "keeps the session for later: changes are in flight, somebody holds the gate");
  else
    advance(turn, MODEL_EXPORT, C_FREE_DRAIN, "holds the gate to free the session")->held = 1;
}

static void
step_free_drain(const Turn *turn)
{
  if (!turn->now->held)
    retire(turn, "keeps the session for later: the gate was not drained in time");
  else if (turn->now->in_flight == 0)
    advance(turn, MODEL_EXPORT, C_FREE_NOW, "sees the gate drained and lets the changes go")->held = 0;
}

static void
step_free_now(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_FREE, "frees the session");
  next->freed = 1;
  forget_memory(next);
  after_end(next);
}

static void
step_drop_hold(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_SETTLE, "ends the dead daemon's hold");
  next->held = next->dropping = 0;
}

static void
step_commit(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_DAEMON, C_SETTLE, "commits the point");
  next->committed = 1;
  if (memcmp(next->result, next->instant, sizeof next->result) != 0)
    next->bug = BUG_WRONG_POINT;
  memset(next->result, 0, sizeof next->result);
}

/* --- abdicate, reclaim --- */

/* Abdicate needs no hold: the array that changes go to stays the same. */
static void
step_settle(const Turn *turn)
{
  SessionState *next;
  if (!turn->now->frozen)
    next = advance(turn, MODEL_DAEMON, C_OVER, "finds nothing frozen");
  else if (turn->now->committed)
    next = advance(turn, MODEL_DAEMON, C_ABDICATE, "asks to abdicate");
  else
    next = advance(turn, MODEL_DAEMON, turn_has(turn, PLANT_RECLAIM_WITHOUT_HOLD) ? C_ALSO : C_SHORT_HOLD,
                   "asks to reclaim");
  next->lost = 0;
}

static void
step_abdicate(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_OVER, "abdicates: the successor takes over");
  next->frozen = 0;
  if (!turn_has(turn, PLANT_ABDICATE_WITHOUT_SUCCESSOR))
    next->parent = !next->parent;
  next->abdicated = 1;
  memset(next->bits[!next->parent], 0, sizeof next->bits[0]);
}

/* A reclaim holds the changes for two moments: when both arrays begin to record, and when but one goes on. */
static void
step_short_hold(const Turn *turn)
{
  advance(turn, MODEL_EXPORT, C_SHORT_DRAIN, "holds the gate for a moment")->held = 1;
}

/* Without the first hold nothing has happened, without the second both arrays record on. */
static void
refuse(const Turn *turn, const char *what)
{
  advance(turn, MODEL_EXPORT, turn->now->also ? C_OVER : C_SETTLE, what);
}

static void
step_short_drain(const Turn *turn)
{
  if (!turn->now->held)
    refuse(turn, "the gate was not drained in time: refused");
  else if (turn->now->in_flight == 0)
    advance(turn, MODEL_EXPORT, C_SHORT_RUN, "sees the gate drained");
}

static void
step_short_run(const Turn *turn)
{
  if (turn->now->held)
    advance(turn, MODEL_EXPORT, turn->now->frozen ? C_ALSO : C_ONE, "goes on under the hold")->mutex = 1;
  else
    refuse(turn, "the hold has ended: refused");
}

static void
step_also(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_MERGE, "lets both arrays record, and the changes go");
  next->also = !turn_has(turn, PLANT_RECLAIM_WITHOUT_BOTH);
  next->held = next->mutex = 0;
}

static void
step_merge(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_RECLAIM, "merges the successor into the parent");
  for (guint c = 0; !turn_has(turn, PLANT_RECLAIM_WITHOUT_MERGE) && c < N_CLUSTERS; c++)
    next->bits[next->parent][c] |= next->bits[!next->parent][c];
}

static void
step_reclaim(const Turn *turn)
{
  SessionState *next = advance(turn, MODEL_EXPORT, C_SHORT_HOLD, "reclaims: the header says so");
  next->frozen = 0;
  memset(next->instant, 0, sizeof next->instant);
}

static void
step_one(const Turn *turn)
{
  SessionState *next =
      advance(turn, MODEL_EXPORT, C_OVER, "lets but the parent record, and the changes go; clears the other");
  next->also = next->held = next->mutex = 0;
  memset(next->bits[!next->parent], 0, sizeof next->bits[0]);
}

static const ControlStep control_step[] = {
    [C_PLAN] = step_plan,
    [C_HELD] = step_held,
    [C_BEGUN] = step_begun,
    [C_COPY] = step_copy,
    [C_CHECK] = step_check,
    [C_COMMIT] = step_commit,
    [C_SETTLE] = step_settle,
    [C_HOLD] = step_hold,
    [C_DRAIN] = step_drain,
    [C_BEGIN] = step_begin,
    [C_FREEZE] = step_freeze,
    [C_INIT_DONE] = step_init_done,
    [C_PUT_UP] = step_put_up,
    [C_RELEASE] = step_release,
    [C_END] = step_end,
    [C_FREE] = step_free,
    [C_FREE_DRAIN] = step_free_drain,
    [C_FREE_NOW] = step_free_now,
    [C_DROP_HOLD] = step_drop_hold,
    [C_SHORT_HOLD] = step_short_hold,
    [C_SHORT_DRAIN] = step_short_drain,
    [C_SHORT_RUN] = step_short_run,
    [C_ABDICATE] = step_abdicate,
    [C_ALSO] = step_also,
    [C_MERGE] = step_merge,
    [C_RECLAIM] = step_reclaim,
    [C_ONE] = step_one,
};

/* What the export refuses; only if planted. */
static void
reclaim_by_another(const Turn *turn)
{
  const SessionState *now = turn->now;
  if (!turn_has(turn, PLANT_RECLAIM_BY_ANOTHER) || now->control != C_COPY || !now->frozen ||
      now->in_flight != 0)
    return;
  SessionState *next = turn_step(turn, MODEL_EXPORT, "reclaims, as another peer asks", 0);
  for (guint c = 0; c < N_CLUSTERS; c++)
    next->bits[next->parent][c] |= next->bits[!next->parent][c];
  memset(next->bits[!next->parent], 0, sizeof next->bits[0]);
  next->frozen = 0;
}

/* The control thread looks again at a session that it could not free. */
static void
retry_retired(const Turn *turn)
{
  if (!turn->now->retired || turn->now->control > C_OVER || turn->now->in_flight != 0)
    return;
  SessionState *next = turn_step(turn, MODEL_EXPORT, "sees the gate empty and frees the session kept", 0);
  next->retired = 0;
  next->freed = 1;
  forget_memory(next);
}

static void
deadline(const Turn *turn)
{
  if (turn->now->held && !turn_has(turn, PLANT_HOLD_WITHOUT_END) &&
      (!turn->now->mutex || turn_has(turn, PLANT_EXPIRY_DURING_BEGIN)))
    turn_step(turn, MODEL_EXPORT, "the hold ends by itself", 0)->held = 0;
}

void
control_steps(const Turn *turn)
{
  if (turn->now->control != C_OVER)
    control_step[turn->now->control](turn);
  reclaim_by_another(turn);
  retry_retired(turn);
  deadline(turn);
}

/* --- crashes --- */

/* The next daemon finds what is frozen; before that, the export ends what belonged to the connection. */
static void
daemon_dies(const Turn *turn)
{
  const SessionState *now = turn->now;
  if (!turn->config->daemon_dies || now->daemon_died || now->control > C_COMMIT || now->control == C_PLAN)
    return;
  SessionState *next = turn_step(turn, MODEL_CRASH, "the daemon dies", 0);
  job_fail(next);
  next->daemon_died = 1;
  next->dropping = !now->lost;
  next->control = now->lost ? C_SETTLE : now->session ? C_END : C_DROP_HOLD;
  next->lost = 0;
}

/* Where the job goes on when the export has died: it notices at the next request, or has one under way. */
static void
control_after_export_death(SessionState *next)
{
  switch ((ControlPc) next->control) {
  case C_PLAN:
  case C_COMMIT:
  case C_SETTLE:
  case C_OVER:
    return;
  case C_RELEASE:
    next->control = C_COPY;
    break;
  case C_HELD:
  case C_BEGUN:
  case C_COPY:
  case C_CHECK:
    break;
  default:
    if (!next->committed)
      job_fail(next);
    next->control = C_SETTLE;
    return;
  }
  next->lost = 1;
}

/* Changes under way are cut off, and made again by a guest that connects again. Gate, locks and session are
 * gone, the bitmap file stays. */
static void
export_dies(const Turn *turn)
{
  const SessionState *now = turn->now;
  if (!turn->config->export_dies || now->export_died)
    return;
  SessionState *next = turn_step(turn, MODEL_CRASH, "the export dies, another one starts", 0);
  next->export_died = 1;
  next->in_flight = next->held = next->mutex = next->also = 0;
  next->session = next->retired = next->freed = next->dropping = 0;
  memset(next->stripe, 0, sizeof next->stripe);
  for (guint g = 0; g < turn->config->n_guests; g++)
    next->guest[g] = (GuestState){.pc = now->guest[g].pc == G_OVER ? G_OVER : G_ENTER};
  control_after_export_death(next);
}

void
crash_steps(const Turn *turn)
{
  daemon_dies(turn);
  export_dies(turn);
}
