/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the model of the session protocol: as the code is, nothing may be found in any configuration; with a
 * bug planted, one must be. Prints the states explored and the shortest trace of each bug. CBT_TEST_LONG=1:
 * three changes at once and clusters read side by side.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <tests/model/session-model.h>

#define ALL_FAILURES .fleece_fails = 1, .daemon_dies = 1, .export_dies = 1

static const SessionConfig small_configs[] = {
    {"writes of a wanted cluster and of another", 2, {{0, 2}, {1, 3}}, ALL_FAILURES},
    {"two writes of a cluster", 2, {{0, 2}, {0, 3}}, ALL_FAILURES},
    {"a write and a trim of a cluster, whole disk", 2, {{0, 2}, {0, 0}}, .whole = 1, ALL_FAILURES},
    {"a trim, a write into a hole, whole disk", 2, {{0, 0}, {1, 2}}, .whole = 1, ALL_FAILURES},
};

static const SessionConfig large_configs[] = {
    {"a trim, a write into a hole, read side by side",
     2,
     {{0, 0}, {1, 2}},
     .whole = 1,
     .side_by_side = 1,
     ALL_FAILURES},
    {"three changes of a cluster", 3, {{0, 2}, {0, 3}, {0, 0}}, .fleece_fails = 1},
    {"three changes, whole disk", 3, {{0, 2}, {0, 0}, {1, 3}}, .whole = 1, .fleece_fails = 1},
    {"three changes, the daemon dies", 3, {{0, 2}, {0, 3}, {1, 4}}, .daemon_dies = 1},
    {"three changes, the export dies", 3, {{0, 2}, {0, 3}, {1, 4}}, .export_dies = 1},
};

static void
explore(const SessionConfig *config, ModelPlant plant, ModelResult *result)
{
  SessionConfig planted = *config;
  Model model;
  planted.plant = plant;
  session_model_init(&model, &planted);
  model_explore(&model, result);
}

static void
print_trace(const ModelResult *result)
{
  for (guint i = 0; result->trace != NULL && i < result->trace->len; i++)
    print_message("    %2u  %s\n", i + 1, (const char *) g_ptr_array_index(result->trace, i));
}

static void
assert_no_fault(const SessionConfig *config, ModelPlant plant)
{
  ModelResult result;
  explore(config, plant, &result);
  print_message("%s: %zu states, %zu steps, depth %zu\n", config->name, result.n_states, result.n_steps,
                result.depth);
  if (result.fault != NULL) {
    print_trace(&result);
    fail_msg("%s: %s", config->name, result.fault);
  }
  model_result_clear(&result);
}

static void
test_protocol_holds_in_every_state(void **state G_GNUC_UNUSED)
{
  for (guint i = 0; i < G_N_ELEMENTS(small_configs); i++)
    assert_no_fault(&small_configs[i], PLANT_NOTHING);
}

static void
test_protocol_holds_with_three_changes(void **state G_GNUC_UNUSED)
{
  if (g_getenv("CBT_TEST_LONG") == NULL)
    skip();
  for (guint i = 0; i < G_N_ELEMENTS(large_configs); i++)
    assert_no_fault(&large_configs[i], PLANT_NOTHING);
}

/* Order is free there: once the read is over, preserved cannot change for what was read. */
static void
test_done_may_be_set_before_the_check(void **state G_GNUC_UNUSED)
{
  for (guint i = 0; i < G_N_ELEMENTS(small_configs); i++)
    assert_no_fault(&small_configs[i], PLANT_DONE_BEFORE_CHECK);
}

/* In the first configuration that shows it. */
static gboolean
find_bug(ModelPlant plant)
{
  gsize n_states = 0;
  for (guint i = 0; i < G_N_ELEMENTS(small_configs); i++) {
    ModelResult result;
    explore(&small_configs[i], plant, &result);
    n_states += result.n_states;
    gboolean found = result.trace != NULL;
    if (found) {
      print_message("\n%s: %s, after %zu states, in %u steps (%s)\n", session_plant_name(plant), result.fault,
                    n_states, result.trace->len, small_configs[i].name);
      print_trace(&result);
    }
    model_result_clear(&result);
    if (found)
      return TRUE;
  }
  print_message("\n%s: NOT FOUND in %zu states\n", session_plant_name(plant), n_states);
  return FALSE;
}

static void
test_every_planted_bug_is_found(void **state G_GNUC_UNUSED)
{
  guint n_missed = 0;
  for (ModelPlant plant = PLANT_NOTHING + 1; plant <= PLANT_LAST_BUG; plant++)
    n_missed += !find_bug(plant);
  assert_int_equal(n_missed, 0);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_protocol_holds_in_every_state),
      cmocka_unit_test(test_done_may_be_set_before_the_check),
      cmocka_unit_test(test_every_planted_bug_is_found),
      cmocka_unit_test(test_protocol_holds_with_three_changes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
