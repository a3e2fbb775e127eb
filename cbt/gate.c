/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two atomics make the fast path: a change counts itself in, then looks at `held`; a holder sets `held`, then
 * looks at the count. Both pairs are sequentially consistent, so at least one of the two sees the other:
 * either the change turns back, or the holder waits for it.
 *
 * Everything slow goes through the mutex. `held` changes only under it; so a change that was turned back
 * counts itself in again under the mutex, where it is certain that nobody holds. cbt_gate_run_held() keeps
 * the mutex all the time, which is why a change whose patience ends at the deadline cannot slip past it.
 * Nobody watches the deadline: whoever looks at the hold after it (a waiting change, the next one to come,
 * the holder) ends it.
 */
#include <cbt/gate.h>

#include <common/error.h>
#include <pthread.h>
#include <stdatomic.h>

struct CbtGate {
  _Atomic guint64 in_flight; /* changes between enter and leave, and for a moment those being turned back */
  _Atomic gboolean held;     /* written under mutex */

  pthread_mutex_t mutex;
  pthread_cond_t released; /* for changes that wait */
  pthread_cond_t drained;  /* for the holder */
  /* protected by mutex */
  guint64 hold; /* id of the last hold */
  gint64 since_us;
  gint64 deadline_us;
  gint64 ended_us;
};

static void
init_monotonic_cond(pthread_cond_t *cond)
{
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(cond, &attributes);
  pthread_condattr_destroy(&attributes);
}

CbtGate *
cbt_gate_new(void)
{
  CbtGate *gate = g_new0(CbtGate, 1);
  atomic_init(&gate->in_flight, 0);
  atomic_init(&gate->held, FALSE);
  pthread_mutex_init(&gate->mutex, NULL);
  init_monotonic_cond(&gate->released);
  init_monotonic_cond(&gate->drained);
  return gate;
}

void
cbt_gate_free(CbtGate *gate)
{
  if (gate == NULL)
    return;
  g_assert(atomic_load(&gate->in_flight) == 0);
  pthread_cond_destroy(&gate->drained);
  pthread_cond_destroy(&gate->released);
  pthread_mutex_destroy(&gate->mutex);
  g_free(gate);
}

/* g_get_monotonic_time() is CLOCK_MONOTONIC in microseconds. */
static void
wait_until(CbtGate *gate, pthread_cond_t *cond, gint64 deadline_us)
{
  struct timespec deadline = {.tv_sec = deadline_us / G_USEC_PER_SEC,
                              .tv_nsec = deadline_us % G_USEC_PER_SEC * 1000};
  pthread_cond_timedwait(cond, &gate->mutex, &deadline);
}

static void
end_hold_locked(CbtGate *gate, gint64 now_us)
{
  gate->ended_us = now_us;
  atomic_store(&gate->held, FALSE);
  pthread_cond_broadcast(&gate->released);
  pthread_cond_broadcast(&gate->drained);
}

/* Whether a hold is in force; ends it if its deadline has come. */
static gboolean
in_force_locked(CbtGate *gate)
{
  if (!atomic_load(&gate->held))
    return FALSE;
  if (g_get_monotonic_time() < gate->deadline_us)
    return TRUE;
  end_hold_locked(gate, gate->deadline_us);
  return FALSE;
}

static gboolean
is_held_by_locked(CbtGate *gate, guint64 hold)
{
  return in_force_locked(gate) && gate->hold == hold;
}

static void
enter_slowly(CbtGate *gate)
{
  cbt_gate_leave(gate);
  pthread_mutex_lock(&gate->mutex);
  while (in_force_locked(gate))
    wait_until(gate, &gate->released, gate->deadline_us);
  atomic_fetch_add(&gate->in_flight, 1);
  pthread_mutex_unlock(&gate->mutex);
}

void
cbt_gate_enter(CbtGate *gate)
{
  atomic_fetch_add(&gate->in_flight, 1);
  if (G_UNLIKELY(atomic_load(&gate->held)))
    enter_slowly(gate);
}

void
cbt_gate_leave(CbtGate *gate)
{
  guint64 before = atomic_fetch_sub(&gate->in_flight, 1);
  if (G_LIKELY(before != 1 || !atomic_load(&gate->held)))
    return;
  pthread_mutex_lock(&gate->mutex);
  pthread_cond_broadcast(&gate->drained);
  pthread_mutex_unlock(&gate->mutex);
}

/* Returns the new hold's id, or 0 if the gate is held already. */
static guint64
begin_hold_locked(CbtGate *gate, guint timeout_ms)
{
  if (in_force_locked(gate))
    return 0;
  gate->since_us = g_get_monotonic_time();
  gate->deadline_us = gate->since_us + (gint64) timeout_ms * 1000;
  atomic_store(&gate->held, TRUE);
  return ++gate->hold;
}

static gboolean
drain_locked(CbtGate *gate, guint64 hold)
{
  while (is_held_by_locked(gate, hold)) {
    if (atomic_load(&gate->in_flight) == 0)
      return TRUE;
    wait_until(gate, &gate->drained, gate->deadline_us);
  }
  return FALSE;
}

guint64
cbt_gate_hold(CbtGate *gate, guint timeout_ms, GError **error)
{
  pthread_mutex_lock(&gate->mutex);
  guint64 hold = begin_hold_locked(gate, timeout_ms);
  gboolean drained = hold != 0 && drain_locked(gate, hold);
  pthread_mutex_unlock(&gate->mutex);
  if (drained)
    return hold;
  if (hold == 0)
    cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "somebody else is holding the writes of this disk");
  else
    cbt_set_error(error, CBT_ERROR_BUSY, "The disk's storage is slow just now; try again.",
                  "writes in flight did not end within %u ms", timeout_ms);
  return 0;
}

gboolean
cbt_gate_run_held(CbtGate *gate, guint64 hold, CbtGateFunc func, gpointer user_data)
{
  pthread_mutex_lock(&gate->mutex);
  gboolean in_force = is_held_by_locked(gate, hold);
  if (in_force)
    func(user_data);
  pthread_mutex_unlock(&gate->mutex);
  return in_force;
}

gboolean
cbt_gate_release(CbtGate *gate, guint64 hold, guint64 *duration_us)
{
  pthread_mutex_lock(&gate->mutex);
  gboolean in_force = is_held_by_locked(gate, hold);
  if (in_force)
    end_hold_locked(gate, g_get_monotonic_time());
  if (duration_us != NULL)
    *duration_us = gate->hold == hold ? (guint64) (gate->ended_us - gate->since_us) : 0;
  pthread_mutex_unlock(&gate->mutex);
  return in_force;
}

gboolean
cbt_gate_is_held_by(CbtGate *gate, guint64 hold)
{
  pthread_mutex_lock(&gate->mutex);
  gboolean in_force = is_held_by_locked(gate, hold);
  pthread_mutex_unlock(&gate->mutex);
  return in_force;
}

gboolean
cbt_gate_is_idle(const CbtGate *gate)
{
  return atomic_load(&gate->in_flight) == 0;
}
