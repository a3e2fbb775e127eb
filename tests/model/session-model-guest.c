/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A change: cbt/export.c begin_change() to end_change(), with cbt_gate_enter(), cbt_gate_leave(),
 * cbt_bitmap_file_record() and cbt_session_preserve(). Taking a lock is one step with the load behind it,
 * letting it go one with the store before it: nobody can tell them apart.
 */
#include <tests/model/session-model.h>

typedef void (*GuestStep)(const Turn *turn, guint guest);

static guint
cluster_of(const Turn *turn, guint guest)
{
  return turn->config->change[guest].cluster;
}

/* A step of GUEST after which it is at PC. */
static SessionState *
advance(const Turn *turn, guint guest, GuestPc pc, const char *what)
{
  SessionState *next = turn_step(turn, MODEL_GUEST, what, (int) guest);
  next->guest[guest].pc = (guint8) pc;
  return next;
}

/* As advance(), for a step that touches the session's memory. */
static SessionState *
advance_in_session(const Turn *turn, guint guest, GuestPc pc, const char *what)
{
  SessionState *next = advance(turn, guest, pc, what);
  if (turn->now->freed)
    next->bug = BUG_USE_AFTER_FREE;
  return next;
}

/* --- gate --- */

static GuestPc
first_inside(const Turn *turn)
{
  return turn_has(turn, PLANT_BIT_AFTER_WRITE) ? G_LOAD_SESSION : G_LOAD_RECORDING;
}

static void
look_held(const Turn *turn, guint guest, GuestPc if_not_held)
{
  if (turn->now->held)
    advance(turn, guest, turn_has(turn, PLANT_LOOK_BEFORE_COUNT) ? G_WAIT : G_TURN_BACK,
            "%d finds the gate held");
  else
    advance(turn, guest, if_not_held, "%d finds the gate open");
}

static void
step_enter(const Turn *turn, guint guest)
{
  if (turn_has(turn, PLANT_LOOK_BEFORE_COUNT))
    look_held(turn, guest, G_LOOK_HELD);
  else
    advance(turn, guest, G_LOOK_HELD, "%d counts itself in")->in_flight++;
}

static void
step_look_held(const Turn *turn, guint guest)
{
  if (turn_has(turn, PLANT_LOOK_BEFORE_COUNT))
    advance(turn, guest, first_inside(turn), "%d counts itself in")->in_flight++;
  else
    look_held(turn, guest, first_inside(turn));
}

static void
step_turn_back(const Turn *turn, guint guest)
{
  advance(turn, guest, G_WAIT, "%d counts itself out and waits")->in_flight--;
}

static void
step_wait(const Turn *turn, guint guest)
{
  if (!turn->now->held && !turn->now->mutex)
    advance(turn, guest, first_inside(turn), "%d has waited and counts itself in")->in_flight++;
}

static void
step_leave(const Turn *turn, guint guest)
{
  advance(turn, guest, G_OVER, "%d leaves the gate")->in_flight--;
}

/* --- bits --- */

static void
step_load_recording(const Turn *turn, guint guest)
{
  const SessionState *now = turn->now;
  SessionState *next = advance(turn, guest, G_SET_BIT,
                               now->also     ? "%d finds that both arrays record"
                               : now->frozen ? "%d finds that the successor records"
                                             : "%d finds that the bitmap itself records");
  next->guest[guest].recording = now->also ? 3 : (guint8) (1 << (now->frozen ? !now->parent : now->parent));
}

static void
step_set_bit(const Turn *turn, guint guest)
{
  GuestPc pc = turn_has(turn, PLANT_BIT_AFTER_WRITE) ? G_LEAVE : G_LOAD_SESSION;
  SessionState *next = advance(turn, guest, pc, "%d sets the cluster's bit");
  for (guint array = 0; array < 2; array++)
    if (turn->now->guest[guest].recording & 1 << array)
      next->bits[array][cluster_of(turn, guest)] = 1;
  next->guest[guest].recording = 0;
}

/* --- session --- */

static void
step_load_session(const Turn *turn, guint guest)
{
  if (turn->now->session)
    advance(turn, guest, G_LOAD_DONE, "%d finds a session");
  else
    advance(turn, guest, G_WRITE_0, "%d finds no session");
}

static void
step_load_done(const Turn *turn, guint guest)
{
  if (turn->now->done[cluster_of(turn, guest)])
    advance_in_session(turn, guest, G_WRITE_0, "%d finds the cluster done: passes");
  else
    advance_in_session(turn, guest, G_LOAD_PRESERVED, "%d finds the cluster not done");
}

static void
step_load_preserved(const Turn *turn, guint guest)
{
  if (turn->now->preserved[cluster_of(turn, guest)])
    advance_in_session(turn, guest, G_WRITE_0, "%d finds the cluster preserved: passes");
  else if (!turn_has(turn, PLANT_GUEST_WAITS_FOR_READER))
    advance_in_session(turn, guest, G_LOCK, "%d finds the cluster not preserved");
  else if (turn->now->done[cluster_of(turn, guest)])
    advance_in_session(turn, guest, G_WRITE_0, "%d has waited for the reader");
}

static void
unlock(const Turn *turn, SessionState *next, guint guest)
{
  if (!turn_has(turn, PLANT_NO_STRIPE))
    next->stripe[cluster_of(turn, guest)] = 0;
}

static void
step_lock(const Turn *turn, guint guest)
{
  guint cluster = cluster_of(turn, guest);
  if (turn->now->stripe[cluster])
    return;
  if (turn->now->done[cluster]) {
    advance_in_session(turn, guest, G_WRITE_0, "%d takes the stripe, finds the cluster done: passes");
    return;
  }
  GuestPc pc = turn_has(turn, PLANT_NO_RELOAD) ? G_READ_OLD : G_RELOAD_PRESERVED;
  SessionState *next = advance_in_session(turn, guest, pc, "%d takes the stripe, the cluster is not done");
  next->stripe[cluster] = !turn_has(turn, PLANT_NO_STRIPE);
}

static void
step_reload_preserved(const Turn *turn, guint guest)
{
  if (turn->now->preserved[cluster_of(turn, guest)])
    unlock(turn,
           advance_in_session(turn, guest, G_WRITE_0, "%d finds the cluster preserved meanwhile: passes"),
           guest);
  else
    advance_in_session(turn, guest, G_LOAD_BROKEN, "%d finds the cluster still not preserved");
}

static void
step_load_broken(const Turn *turn, guint guest)
{
  GuestPc pc = turn_has(turn, PLANT_PRESERVED_BEFORE_COPY) ? G_SET_PRESERVED : G_READ_OLD;
  if (turn->now->broken)
    unlock(turn, advance_in_session(turn, guest, G_WRITE_0, "%d finds the session broken: passes"), guest);
  else
    advance_in_session(turn, guest, pc, "%d finds the session whole");
}

static void
step_read_old(const Turn *turn, guint guest)
{
  const guint8 *image = turn->now->image[cluster_of(turn, guest)];
  SessionState *next = advance_in_session(turn, guest, G_COPY, "%d reads the old bytes");
  for (guint half = 0; half < N_HALVES; half++)
    next->guest[guest].old[half] = image[half];
}

static void
forget_old(SessionState *next, guint guest)
{
  for (guint half = 0; half < N_HALVES; half++)
    next->guest[guest].old[half] = 0;
}

static void
copy_fails(const Turn *turn, guint guest)
{
  gboolean late = turn_has(turn, PLANT_BROKEN_AFTER_WRITE);
  SessionState *next = advance_in_session(turn, guest, late ? G_WRITE_0 : G_MARK_BROKEN,
                                          "%d cannot write the old bytes to the fleece");
  next->guest[guest].late = late ? LATE_BROKEN : LATE_NOTHING;
  forget_old(next, guest);
}

static void
step_copy(const Turn *turn, guint guest)
{
  guint cluster = cluster_of(turn, guest);
  const guint8 *old = turn->now->guest[guest].old;
  gboolean is_zero = !old[0] && !old[1];
  gboolean early = turn_has(turn, PLANT_PRESERVED_BEFORE_COPY);
  gboolean late = turn_has(turn, PLANT_PRESERVED_AFTER_WRITE);
  GuestPc pc = early || late ? G_WRITE_0 : G_RELOAD_DONE;
  SessionState *next = advance_in_session(
      turn, guest, pc, is_zero ? "%d has zeros to preserve" : "%d writes the old bytes to the fleece");
  for (guint half = 0; !is_zero && half < N_HALVES; half++)
    next->fleece[cluster][half] = old[half];
  next->guest[guest].late = late ? LATE_PRESERVED : LATE_NOTHING;
  forget_old(next, guest);
  if (early)
    unlock(turn, next, guest);
  if (!is_zero && turn->config->fleece_fails)
    copy_fails(turn, guest);
}

static void
step_reload_done(const Turn *turn, guint guest)
{
  if (turn->now->done[cluster_of(turn, guest)])
    advance_in_session(turn, guest, G_DROP_COPY, "%d finds the cluster done meanwhile");
  else
    advance_in_session(turn, guest, G_SET_PRESERVED, "%d finds the cluster still not done");
}

static void
step_set_preserved(const Turn *turn, guint guest)
{
  gboolean early = turn_has(turn, PLANT_PRESERVED_BEFORE_COPY);
  gboolean late = turn->now->guest[guest].late == LATE_PRESERVED;
  GuestPc pc = early ? G_READ_OLD : late ? G_LEAVE : G_WRITE_0;
  SessionState *next = advance_in_session(turn, guest, pc, "%d sets preserved");
  next->guest[guest].late = LATE_NOTHING;
  next->preserved[cluster_of(turn, guest)] = 1;
  if (!early)
    unlock(turn, next, guest);
}

static void
step_drop_copy(const Turn *turn, guint guest)
{
  guint cluster = cluster_of(turn, guest);
  SessionState *next = advance_in_session(turn, guest, G_WRITE_0, "%d punches its copy out of the fleece");
  next->fleece[cluster][0] = next->fleece[cluster][1] = 0;
  unlock(turn, next, guest);
}

static void
step_mark_broken(const Turn *turn, guint guest)
{
  GuestPc pc = turn->now->guest[guest].late == LATE_BROKEN ? G_LEAVE : G_WRITE_0;
  SessionState *next = advance_in_session(turn, guest, pc, "%d marks the session broken");
  next->guest[guest].late = LATE_NOTHING;
  next->broken = 1;
  unlock(turn, next, guest);
}

/* --- image --- */

static void
step_write_0(const Turn *turn, guint guest)
{
  const GuestChange *change = &turn->config->change[guest];
  SessionState *next = advance(turn, guest, G_WRITE_1,
                               change->value ? "%d writes the first half of the cluster"
                                             : "%d trims the first half of the cluster");
  next->image[change->cluster][0] = change->value;
}

static GuestPc
after_write(const Turn *turn, guint guest)
{
  static const GuestPc late_pc[] = {
      [LATE_NOTHING] = G_LEAVE, [LATE_PRESERVED] = G_SET_PRESERVED, [LATE_BROKEN] = G_MARK_BROKEN};
  return turn_has(turn, PLANT_BIT_AFTER_WRITE) ? G_LOAD_RECORDING : late_pc[turn->now->guest[guest].late];
}

static void
step_write_1(const Turn *turn, guint guest)
{
  const GuestChange *change = &turn->config->change[guest];
  SessionState *next = advance(turn, guest, after_write(turn, guest),
                               change->value ? "%d writes the second half" : "%d trims the second half");
  next->image[change->cluster][1] = change->value;
}

static const GuestStep guest_step[] = {
    [G_ENTER] = step_enter,
    [G_LOOK_HELD] = step_look_held,
    [G_TURN_BACK] = step_turn_back,
    [G_WAIT] = step_wait,
    [G_LOAD_RECORDING] = step_load_recording,
    [G_SET_BIT] = step_set_bit,
    [G_LOAD_SESSION] = step_load_session,
    [G_LOAD_DONE] = step_load_done,
    [G_LOAD_PRESERVED] = step_load_preserved,
    [G_LOCK] = step_lock,
    [G_RELOAD_PRESERVED] = step_reload_preserved,
    [G_LOAD_BROKEN] = step_load_broken,
    [G_READ_OLD] = step_read_old,
    [G_COPY] = step_copy,
    [G_RELOAD_DONE] = step_reload_done,
    [G_SET_PRESERVED] = step_set_preserved,
    [G_DROP_COPY] = step_drop_copy,
    [G_MARK_BROKEN] = step_mark_broken,
    [G_WRITE_0] = step_write_0,
    [G_WRITE_1] = step_write_1,
    [G_LEAVE] = step_leave,
};

void
guest_steps(const Turn *turn, guint guest)
{
  if (turn->now->guest[guest].pc != G_OVER)
    guest_step[turn->now->guest[guest].pc](turn, guest);
}
