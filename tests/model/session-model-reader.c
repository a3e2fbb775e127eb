/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's way to the bytes of one cluster: daemon/backup-extents.c with cbt_session_next_preserved() for
 * holes, the reader for data, cbt_session_settle() behind both.
 */
#include <tests/model/session-model.h>

typedef void (*ReaderStep)(const Turn *turn, guint cluster);

static SessionState *
advance(const Turn *turn, guint cluster, ReaderPc pc, const char *what)
{
  SessionState *next = turn_step(turn, MODEL_DAEMON, what, (int) cluster);
  next->reader[cluster] = (guint8) pc;
  return next;
}

static void
step_look(const Turn *turn, guint cluster)
{
  const guint8 *image = turn->now->image[cluster];
  if (!session_is_wanted(turn->config, turn->now, cluster))
    advance(turn, cluster, R_OVER, "cluster %d is not wanted: as in the point before");
  else if (!image[0] && !image[1])
    advance(turn, cluster, R_HOLE, "finds cluster %d to be a hole");
  else if (turn_has(turn, PLANT_CHECK_BEFORE_READ))
    advance(turn, cluster, R_LOAD_PRESERVED, "finds data in cluster %d");
  else
    advance(turn, cluster, R_READ_0, "finds data in cluster %d");
}

static void
step_hole(const Turn *turn, guint cluster)
{
  if (turn->now->preserved[cluster] && !turn_has(turn, PLANT_HOLE_UNCHECKED))
    advance(turn, cluster, R_READ_0, "finds the hole of cluster %d preserved: to be read");
  else
    advance(turn, cluster, R_SET_DONE, "takes cluster %d for zeros");
}

static void
step_read_0(const Turn *turn, guint cluster)
{
  SessionState *next = advance(turn, cluster, R_READ_1, "reads the first half of cluster %d");
  next->result[cluster][0] = turn->now->image[cluster][0];
  if (turn_has(turn, PLANT_DONE_BEFORE_READ))
    next->done[cluster] = 1;
}

static void
step_read_1(const Turn *turn, guint cluster)
{
  ReaderPc pc = turn_has(turn, PLANT_CHECK_BEFORE_READ) ? R_SET_DONE : R_LOAD_PRESERVED;
  SessionState *next = advance(turn, cluster, pc, "reads the second half of cluster %d");
  next->result[cluster][1] = turn->now->image[cluster][1];
}

static void
step_load_preserved(const Turn *turn, guint cluster)
{
  ReaderPc pc = turn_has(turn, PLANT_CHECK_BEFORE_READ) ? R_READ_0 : R_SET_DONE;
  if (turn_has(turn, PLANT_DONE_BEFORE_CHECK) && !turn->now->done[cluster])
    advance(turn, cluster, R_LOAD_PRESERVED, "sets done of cluster %d")->done[cluster] = 1;
  else if (!turn->now->preserved[cluster])
    advance(turn, cluster, pc, "finds cluster %d not preserved");
  else if (turn_has(turn, PLANT_PUNCH_BEFORE_TAKE))
    advance(turn, cluster, R_PUNCH, "finds cluster %d preserved");
  else
    advance(turn, cluster, R_TAKE, "finds cluster %d preserved");
}

static void
step_take(const Turn *turn, guint cluster)
{
  gboolean punched = turn_has(turn, PLANT_PUNCH_BEFORE_TAKE);
  SessionState *next =
      advance(turn, cluster, punched ? R_SET_DONE : R_SET_DONE_TAKEN, "takes cluster %d from the fleece");
  for (guint half = 0; half < N_HALVES; half++)
    next->result[cluster][half] = turn->now->fleece[cluster][half];
}

static void
step_set_done(const Turn *turn, guint cluster)
{
  gboolean taken = turn->now->reader[cluster] == R_SET_DONE_TAKEN;
  advance(turn, cluster, taken ? R_PUNCH : R_LOAD_BROKEN, "sets done of cluster %d")->done[cluster] = 1;
}

static void
step_punch(const Turn *turn, guint cluster)
{
  gboolean early = turn_has(turn, PLANT_PUNCH_BEFORE_TAKE);
  SessionState *next =
      advance(turn, cluster, early ? R_TAKE : R_LOAD_BROKEN, "punches cluster %d out of the fleece");
  next->fleece[cluster][0] = next->fleece[cluster][1] = 0;
}

static void
step_load_broken(const Turn *turn, guint cluster)
{
  if (turn->now->broken && !turn_has(turn, PLANT_BROKEN_UNCHECKED))
    job_fail(advance(turn, cluster, R_OVER, "having read cluster %d, finds the session broken"));
  else
    advance(turn, cluster, R_OVER, "keeps cluster %d");
}

static const ReaderStep reader_step[] = {
    [R_LOOK] = step_look,
    [R_HOLE] = step_hole,
    [R_READ_0] = step_read_0,
    [R_READ_1] = step_read_1,
    [R_LOAD_PRESERVED] = step_load_preserved,
    [R_TAKE] = step_take,
    [R_SET_DONE] = step_set_done,
    [R_SET_DONE_TAKEN] = step_set_done,
    [R_PUNCH] = step_punch,
    [R_LOAD_BROKEN] = step_load_broken,
};

void
reader_steps(const Turn *turn, guint cluster)
{
  const SessionState *now = turn->now;
  if (now->control != C_COPY || now->failed || now->reader[cluster] == R_OVER)
    return;
  if (cluster > 0 && !turn->config->side_by_side && now->reader[cluster - 1] != R_OVER)
    return;
  reader_step[now->reader[cluster]](turn, cluster);
}
