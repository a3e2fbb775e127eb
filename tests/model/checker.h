/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small explicit-state model checker: visits every state that a model can reach, breadth first, so that the
 * first fault it meets has the shortest trace.
 *
 * A model is a state of fixed size without padding, the steps that lead out of a state, and a judgement of a
 * state together with its steps. It knows nothing of what it checks, and reduces nothing: what is to be kept
 * small is the model.
 */
#pragma once

#include <glib.h>

#define MODEL_STATE_MAX 64
#define MODEL_STEPS_MAX 32

/* Whose step it is. */
typedef enum {
  MODEL_GUEST,  /* a change of the guest, in the export process */
  MODEL_EXPORT, /* the control thread of the export, or a deadline */
  MODEL_DAEMON, /* job and reader; may stop at any time */
  MODEL_CRASH,  /* may happen, or not */
  MODEL_N_ACTORS
} ModelActor;

typedef struct {
  ModelActor actor;
  const char *what; /* a printf format for `number` */
  int number;
  guint8 next[MODEL_STATE_MAX];
} ModelStep;

typedef struct {
  guint n;
  ModelStep step[MODEL_STEPS_MAX];
} ModelSteps;

typedef struct {
  gsize state_size;
  gsize max_states; /* more is a failure, not a silent end */
  gconstpointer data;
  void (*init)(gconstpointer data, gpointer state);
  void (*steps)(gconstpointer data, gconstpointer state, ModelSteps *steps);
  /* NULL, or what is wrong. */
  const char *(*judge)(gconstpointer data, gconstpointer state, const ModelSteps *steps);
} Model;

typedef struct {
  gsize n_states;
  gsize n_steps;
  gsize depth;       /* of the search */
  const char *fault; /* NULL: none (static) */
  GPtrArray *trace;  /* of char *, the steps to the fault; NULL without one */
} ModelResult;

void model_explore(const Model *model, ModelResult *result);
void model_result_clear(ModelResult *result);
