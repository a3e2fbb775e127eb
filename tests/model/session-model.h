/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol of cbt/session.h, cbt/gate.h and the control channel, as a model for checker.h: two clusters,
 * up to three changes by the guest at once, one backup, and what may die in it. One step of the model is one
 * step of the code that another thread or process can see.
 *
 * A cluster has two halves, so that a read or a write of it can be torn. What stands in a half is a small
 * number: 0 for zeros (both halves zero: a hole), 1 for what it held at first, 2 and up for what a change
 * writes. The point before the backup, which the bitmap's bits are relative to, holds zeros everywhere.
 */
#pragma once

#include <tests/model/checker.h>

#define N_CLUSTERS 2
#define N_HALVES   2
#define MAX_GUESTS 3

/* What a change does next. */
typedef enum {
  G_ENTER, /* count in */
  G_LOOK_HELD,
  G_TURN_BACK,
  G_WAIT, /* until nobody holds; counts in under the gate's mutex */
  G_LOAD_RECORDING,
  G_SET_BIT,
  G_LOAD_SESSION,
  G_LOAD_DONE,
  G_LOAD_PRESERVED,
  G_LOCK, /* takes the stripe, loads done again */
  G_RELOAD_PRESERVED,
  G_LOAD_BROKEN,
  G_READ_OLD,
  G_COPY, /* to the fleece; may fail */
  G_RELOAD_DONE,
  G_SET_PRESERVED, /* and lets the stripe go, as the next two */
  G_DROP_COPY,
  G_MARK_BROKEN,
  G_WRITE_0,
  G_WRITE_1,
  G_LEAVE,
  G_OVER
} GuestPc;

/* Job and control thread: requests are synchronous, so at any time one of the two is at work. */
typedef enum {
  /* the daemon's turn */
  C_PLAN,
  C_HELD,
  C_BEGUN,
  C_COPY, /* readers run */
  C_CHECK,
  C_COMMIT,
  C_SETTLE, /* abdicate or reclaim, or find that nothing is frozen */
  C_OVER,
  /* the export's turn */
  C_HOLD,
  C_DRAIN,
  C_BEGIN,
  C_FREEZE,
  C_INIT_DONE,
  C_PUT_UP,
  C_RELEASE,
  C_END,
  C_FREE,
  C_FREE_DRAIN,
  C_FREE_NOW,
  C_DROP_HOLD,
  C_SHORT_HOLD,
  C_SHORT_DRAIN,
  C_SHORT_RUN,
  C_ABDICATE,
  C_ALSO,
  C_MERGE,
  C_RECLAIM,
  C_ONE
} ControlPc;

/* One cluster's way through reader and worker. */
typedef enum {
  R_LOOK, /* wanted? hole or data? */
  R_HOLE,
  R_READ_0,
  R_READ_1,
  R_LOAD_PRESERVED,
  R_TAKE, /* from the fleece */
  R_SET_DONE,
  R_SET_DONE_TAKEN,
  R_PUNCH,
  R_LOAD_BROKEN,
  R_OVER
} ReaderPc;

/* What a step found wrong; the rest is seen in the state. */
typedef enum { BUG_NONE, BUG_USE_AFTER_FREE, BUG_WRONG_POINT } ModelBug;

enum { LATE_NOTHING, LATE_PRESERVED, LATE_BROKEN };

typedef struct {
  guint8 pc;
  guint8 recording; /* the bit arrays that it loaded, one bit each */
  guint8 late;      /* what is still to be set after the write: LATE_*; only if planted */
  guint8 old[N_HALVES];
} GuestState;

/* Bytes only, so that there is no padding. What is not needed any more is zeroed: fewer states. */
typedef struct {
  guint8 image[N_CLUSTERS][N_HALVES];
  guint8 fleece[N_CLUSTERS][N_HALVES];
  guint8 instant[N_CLUSTERS][N_HALVES]; /* the image at begin */
  guint8 result[N_CLUSTERS][N_HALVES];  /* what the reader has */
  guint8 bits[2][N_CLUSTERS];           /* parent and successor arrays of the bitmap file */
  guint8 parent;                        /* which of them */
  guint8 frozen;
  guint8 also;      /* both arrays record */
  guint8 abdicated; /* the bits are relative to the instant now */
  guint8 preserved[N_CLUSTERS];
  guint8 done[N_CLUSTERS];
  guint8 stripe[N_CLUSTERS]; /* locked */
  guint8 broken;
  guint8 session; /* the export has one */
  guint8 retired; /* one that is not freed yet */
  guint8 freed;
  guint8 in_flight;
  guint8 held;
  guint8 mutex; /* the gate's, kept over several steps */
  guint8 control;
  guint8 reader[N_CLUSTERS];
  guint8 failed; /* the job */
  guint8 committed;
  guint8 lost;     /* the connection, unknown to the daemon so far */
  guint8 dropping; /* the export ends what a dead daemon left */
  guint8 daemon_died;
  guint8 export_died;
  guint8 bug;
  GuestState guest[MAX_GUESTS];
} SessionState;

G_STATIC_ASSERT(sizeof(SessionState) <= MODEL_STATE_MAX);

/* Planted bugs; see the table in session-model.c. */
typedef enum {
  PLANT_NOTHING,
  PLANT_BIT_AFTER_WRITE,
  PLANT_LOOK_BEFORE_COUNT,
  PLANT_NO_DRAIN,
  PLANT_EXPIRY_IGNORED,
  PLANT_EXPIRY_DURING_BEGIN,
  PLANT_RELEASE_BEFORE_SESSION,
  PLANT_HOLD_WITHOUT_END,
  PLANT_PRESERVED_BEFORE_COPY,
  PLANT_PRESERVED_AFTER_WRITE,
  PLANT_NO_STRIPE,
  PLANT_NO_RELOAD,
  PLANT_BROKEN_AFTER_WRITE,
  PLANT_GUEST_WAITS_FOR_READER,
  PLANT_CHECK_BEFORE_READ,
  PLANT_DONE_BEFORE_READ,
  PLANT_HOLE_UNCHECKED,
  PLANT_PUNCH_BEFORE_TAKE,
  PLANT_BROKEN_UNCHECKED,
  PLANT_FREE_WITHOUT_DRAIN,
  PLANT_EXPORT_DEATH_IGNORED,
  PLANT_RECLAIM_BY_ANOTHER,
  PLANT_RECLAIM_WITHOUT_MERGE,
  PLANT_ABDICATE_WITHOUT_SUCCESSOR,
  PLANT_RECLAIM_WITHOUT_HOLD,
  PLANT_RECLAIM_WITHOUT_BOTH,
  PLANT_LAST_BUG = PLANT_RECLAIM_WITHOUT_BOTH,
  /* looks wrong and is not */
  PLANT_DONE_BEFORE_CHECK,
  PLANT_N
} ModelPlant;

typedef struct {
  guint8 cluster;
  guint8 value; /* 0: a trim */
} GuestChange;

typedef struct {
  const char *name;
  guint n_guests;
  GuestChange change[MAX_GUESTS];
  guint8 whole;                                  /* all clusters are wanted */
  guint8 side_by_side;                           /* both clusters are read at once, not in order */
  guint8 fleece_fails, daemon_dies, export_dies; /* may happen */
  ModelPlant plant;
} SessionConfig;

typedef struct {
  const SessionConfig *config;
  const SessionState *now;
  ModelSteps *steps;
} Turn;

/* A step of ACTOR, told as WHAT with NUMBER in it: the state after it, to be changed in place. */
SessionState *turn_step(const Turn *turn, ModelActor actor, const char *what, int number);
gboolean turn_has(const Turn *turn, ModelPlant plant);
gboolean session_is_wanted(const SessionConfig *config, const SessionState *state, guint cluster);

void guest_steps(const Turn *turn, guint guest);
void control_steps(const Turn *turn);
void reader_steps(const Turn *turn, guint cluster);
void crash_steps(const Turn *turn);
/* The job fails: what it has read is of no use. */
void job_fail(SessionState *state);

void session_model_init(Model *model, const SessionConfig *config);
/* What PLANT is, in words. */
const char *session_plant_name(ModelPlant plant);
