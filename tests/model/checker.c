/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * States stand one behind the other in the order in which they were found, which is also the queue of the
 * search. A hash table of their numbers, open addressing, finds one again; states are compared whole, so no
 * hash can hide one. Each keeps the number of the state it was found from; the words of a trace are made anew
 * from the model.
 */
#include <tests/model/checker.h>

#include <string.h>

#define INITIAL_SLOTS (1u << 16)
#define NO_STATE      G_MAXUINT32

typedef struct {
  const Model *model;
  guint8 *states;
  guint32 *parents;
  gsize n_states;
  gsize n_room;
  guint32 *slots;
  gsize n_slots; /* a power of two */
} Search;

static guint8 *
state_at(const Search *search, gsize i)
{
  return search->states + i * search->model->state_size;
}

static guint64
hash_state(const guint8 *state, gsize size)
{
  guint64 hash = G_GUINT64_CONSTANT(0xcbf29ce484222325);
  for (gsize at = 0; at < size; at += sizeof(guint64)) {
    guint64 word = 0;
    memcpy(&word, state + at, MIN(sizeof word, size - at));
    hash = (hash ^ word) * G_GUINT64_CONSTANT(0x9e3779b97f4a7c15);
    hash ^= hash >> 29;
  }
  return hash;
}

/* The slot that STATE is in, or the free one where it belongs. */
static guint32 *
find_slot(const Search *search, const guint8 *state)
{
  gsize size = search->model->state_size;
  gsize mask = search->n_slots - 1;
  gsize at = hash_state(state, size) & mask;
  while (search->slots[at] != NO_STATE && memcmp(state_at(search, search->slots[at]), state, size) != 0)
    at = (at + 1) & mask;
  return &search->slots[at];
}

static void
make_slots(Search *search, gsize n_slots)
{
  g_free(search->slots);
  search->n_slots = n_slots;
  search->slots = g_new(guint32, n_slots);
  memset(search->slots, 0xff, n_slots * sizeof *search->slots);
  for (gsize i = 0; i < search->n_states; i++)
    *find_slot(search, state_at(search, i)) = (guint32) i;
}

static void
make_room(Search *search)
{
  if (search->n_states * 2 >= search->n_slots)
    make_slots(search, search->n_slots * 2);
  if (search->n_states < search->n_room)
    return;
  search->n_room = search->n_room * 2;
  search->states = g_realloc(search->states, search->n_room * search->model->state_size);
  search->parents = g_renew(guint32, search->parents, search->n_room);
}

static void
add_state(Search *search, const guint8 *state, guint32 parent)
{
  guint32 *slot = find_slot(search, state);
  if (*slot != NO_STATE)
    return;
  *slot = (guint32) search->n_states;
  memcpy(state_at(search, search->n_states), state, search->model->state_size);
  search->parents[search->n_states++] = parent;
  make_room(search);
}

static void
search_init(Search *search, const Model *model)
{
  guint8 initial[MODEL_STATE_MAX] = {0};
  g_assert(model->state_size <= MODEL_STATE_MAX && model->max_states < NO_STATE);
  *search = (Search){.model = model, .n_room = INITIAL_SLOTS};
  search->states = g_malloc(search->n_room * model->state_size);
  search->parents = g_new(guint32, search->n_room);
  make_slots(search, INITIAL_SLOTS);
  model->init(model->data, initial);
  add_state(search, initial, NO_STATE);
}

static void
search_clear(Search *search)
{
  g_free(search->states);
  g_free(search->parents);
  g_free(search->slots);
}

static const char *const actor_names[MODEL_N_ACTORS] = {
    [MODEL_GUEST] = "change", [MODEL_EXPORT] = "export", [MODEL_DAEMON] = "daemon", [MODEL_CRASH] = "crash"};

/* In words, the step from state FROM to state TO. */
static char *
describe_step(const Search *search, guint32 from, guint32 to)
{
  ModelSteps steps = {0};
  search->model->steps(search->model->data, state_at(search, from), &steps);
  for (guint i = 0; i < steps.n; i++) {
    const ModelStep *step = &steps.step[i];
    if (memcmp(step->next, state_at(search, to), search->model->state_size) != 0)
      continue;
    g_autofree char *number = g_strdup_printf("%d", step->number);
    g_auto(GStrv) parts = g_strsplit(step->what, "%d", -1);
    g_autofree char *what = g_strjoinv(number, parts);
    return g_strdup_printf("%-6s  %s", actor_names[step->actor], what);
  }
  g_assert_not_reached();
}

static GPtrArray *
make_trace(const Search *search, guint32 end)
{
  GPtrArray *trace = g_ptr_array_new_with_free_func(g_free);
  for (guint32 at = end; search->parents[at] != NO_STATE; at = search->parents[at])
    g_ptr_array_insert(trace, 0, describe_step(search, search->parents[at], at));
  return trace;
}

static gsize
depth_of(const Search *search, guint32 end)
{
  gsize depth = 0;
  for (guint32 at = end; search->parents[at] != NO_STATE; at = search->parents[at])
    depth++;
  return depth;
}

/* Looks at state I, and notes what can follow. Returns what is wrong with it, or NULL. */
static const char *
visit(Search *search, gsize i, ModelResult *result)
{
  guint8 state[MODEL_STATE_MAX];
  ModelSteps steps;
  steps.n = 0;
  memcpy(state, state_at(search, i), search->model->state_size);
  search->model->steps(search->model->data, state, &steps);
  result->n_steps += steps.n;
  const char *fault = search->model->judge(search->model->data, state, &steps);
  for (guint s = 0; fault == NULL && s < steps.n; s++)
    add_state(search, steps.step[s].next, (guint32) i);
  return fault;
}

void
model_explore(const Model *model, ModelResult *result)
{
  Search search;
  gsize i = 0;
  search_init(&search, model);
  *result = (ModelResult){0};
  for (; result->fault == NULL && i < search.n_states && search.n_states <= model->max_states; i++)
    result->fault = visit(&search, i, result);
  if (result->fault != NULL)
    result->trace = make_trace(&search, (guint32) i - 1);
  else if (i < search.n_states)
    result->fault = "there are more states than the bound";
  result->n_states = search.n_states;
  result->depth = depth_of(&search, (guint32) i - 1);
  search_clear(&search);
}

void
model_result_clear(ModelResult *result)
{
  g_clear_pointer(&result->trace, g_ptr_array_unref);
}
