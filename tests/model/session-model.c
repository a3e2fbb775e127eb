/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The model put together: how it starts, who moves, what must hold in every state. */
#include <tests/model/session-model.h>

#include <string.h>

static const char *const plant_names[PLANT_N] = {
    [PLANT_NOTHING] = "nothing",
    [PLANT_BIT_AFTER_WRITE] = "bit set after the write",
    [PLANT_LOOK_BEFORE_COUNT] = "a change looks at the hold, then counts itself in",
    [PLANT_NO_DRAIN] = "no drain at begin",
    [PLANT_EXPIRY_IGNORED] = "begin does not look whether the hold is in force",
    [PLANT_EXPIRY_DURING_BEGIN] = "a hold may end in the middle of begin",
    [PLANT_RELEASE_BEFORE_SESSION] = "changes let go before the session is on",
    [PLANT_HOLD_WITHOUT_END] = "a hold does not end by itself",
    [PLANT_PRESERVED_BEFORE_COPY] = "preserved set before the copy to the fleece",
    [PLANT_PRESERVED_AFTER_WRITE] = "preserved set after the write",
    [PLANT_NO_STRIPE] = "no lock between two changes of a cluster",
    [PLANT_NO_RELOAD] = "done and preserved not looked at again under the lock",
    [PLANT_BROKEN_AFTER_WRITE] = "broken set after the write",
    [PLANT_GUEST_WAITS_FOR_READER] = "a change waits until the reader is done",
    [PLANT_CHECK_BEFORE_READ] = "reader looks at preserved before it reads",
    [PLANT_DONE_BEFORE_READ] = "done set before the read is over",
    [PLANT_HOLE_UNCHECKED] = "a hole is taken for zeros without a look at preserved",
    [PLANT_PUNCH_BEFORE_TAKE] = "fleece punched before it is read",
    [PLANT_BROKEN_UNCHECKED] = "reader does not look at broken",
    [PLANT_FREE_WITHOUT_DRAIN] = "session freed without a drain",
    [PLANT_EXPORT_DEATH_IGNORED] = "point committed although the export died",
    [PLANT_RECLAIM_BY_ANOTHER] = "another peer may reclaim while the session is on",
    [PLANT_RECLAIM_WITHOUT_MERGE] = "reclaim without merge",
    [PLANT_ABDICATE_WITHOUT_SUCCESSOR] = "abdicate drops the successor, not the parent",
    [PLANT_RECLAIM_WITHOUT_HOLD] = "reclaim without a hold",
    [PLANT_RECLAIM_WITHOUT_BOTH] = "reclaim while only the successor records",
    [PLANT_DONE_BEFORE_CHECK] = "done set after the read, before the look at preserved",
};

const char *
session_plant_name(ModelPlant plant)
{
  return plant_names[plant];
}

SessionState *
turn_step(const Turn *turn, ModelActor actor, const char *what, int number)
{
  g_assert(turn->steps->n < MODEL_STEPS_MAX);
  ModelStep *step = &turn->steps->step[turn->steps->n++];
  step->actor = actor;
  step->what = what;
  step->number = number;
  memcpy(step->next, turn->now, sizeof *turn->now);
  return (SessionState *) step->next;
}

gboolean
turn_has(const Turn *turn, ModelPlant plant)
{
  return turn->config->plant == plant;
}

gboolean
session_is_wanted(const SessionConfig *config, const SessionState *state, guint cluster)
{
  return config->whole || state->bits[state->parent][cluster];
}

/* Cluster 0 was changed since the last point; cluster 1 is a hole as it was then. */
static void
init(gconstpointer data, gpointer state)
{
  const SessionConfig *config = data;
  SessionState *start = state;
  memset(start, 0, sizeof *start);
  start->image[0][0] = start->image[0][1] = 1;
  start->bits[0][0] = 1;
  for (guint g = config->n_guests; g < MAX_GUESTS; g++)
    start->guest[g].pc = G_OVER;
}

static void
steps(gconstpointer data, gconstpointer state, ModelSteps *out)
{
  Turn turn = {data, state, out};
  for (guint g = 0; g < turn.config->n_guests; g++)
    guest_steps(&turn, g);
  control_steps(&turn);
  for (guint c = 0; c < N_CLUSTERS; c++)
    reader_steps(&turn, c);
  crash_steps(&turn);
}

static gboolean
has_changed(const SessionState *state, const guint8 since[N_CLUSTERS][N_HALVES], guint cluster)
{
  return memcmp(state->image[cluster], since[cluster], N_HALVES) != 0;
}

/* At any moment everything may die, so this must hold in every state: whatever a settling makes of the bits,
 * no cluster that differs is clean. */
static gboolean
bits_cover_changes(const SessionState *state)
{
  static const guint8 nothing[N_CLUSTERS][N_HALVES];
  const guint8(*base)[N_HALVES] = state->abdicated ? state->instant : nothing;
  const guint8 *parent = state->bits[state->parent], *successor = state->bits[!state->parent];
  for (guint c = 0; c < N_CLUSTERS; c++) {
    if (has_changed(state, base, c) && !parent[c] && !(state->frozen && successor[c]))
      return FALSE;
    if (state->frozen && has_changed(state, state->instant, c) && !successor[c])
      return FALSE;
  }
  return TRUE;
}

static gboolean
guest_is_over(const SessionState *state)
{
  for (guint g = 0; g < MAX_GUESTS; g++)
    if (state->guest[g].pc != G_OVER)
      return FALSE;
  return TRUE;
}

static guint
count_steps(const ModelSteps *steps_out, ModelActor first, ModelActor last)
{
  guint n = 0;
  for (guint i = 0; i < steps_out->n; i++)
    n += steps_out->step[i].actor >= first && steps_out->step[i].actor <= last;
  return n;
}

/*
 * That no change waits for the daemon: where one is not over, guest and export can move without it. Their own
 * steps cannot go on for ever (each ends a change, a request or a hold), so with the daemon stopped all
 * changes come to their end.
 */
static const char *
judge(gconstpointer data G_GNUC_UNUSED, gconstpointer state, const ModelSteps *steps_out)
{
  const SessionState *now = state;
  if (now->bug == BUG_USE_AFTER_FREE)
    return "a change uses a session that was freed";
  if (now->bug == BUG_WRONG_POINT)
    return "the committed point is not the instant of begin";
  if (!bits_cover_changes(now))
    return "a cluster differs and is clean";
  if (!guest_is_over(now) && count_steps(steps_out, MODEL_GUEST, MODEL_EXPORT) == 0)
    return "a change waits for the daemon";
  if (now->control != C_OVER && count_steps(steps_out, MODEL_GUEST, MODEL_DAEMON) == 0)
    return "nobody can move";
  return NULL;
}

void
session_model_init(Model *model, const SessionConfig *config)
{
  *model = (Model){.state_size = sizeof(SessionState),
                   .max_states = 40 * 1000 * 1000,
                   .data = config,
                   .init = init,
                   .steps = steps,
                   .judge = judge};
}
