/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/unit/store/catalogue-fixture.h>

static StorePolicy *
make_policy(const char *vm)
{
  StorePolicy *policy = store_policy_new(vm);
  assert_true(store_schedule_parse("weekly mon,thu 03:00", &policy->schedule, NULL));
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    policy->retention.numbers[i] = i + 1;
  policy->speed = 50 << 20;
  policy->verify_share = 5;
  policy->gc = FALSE;
  policy->done_until = 1000;
  policy->last_run = 2000;
  policy->last_result = STORE_POLICY_ERROR;
  policy->last_error = g_strdup("the 'image' is away");
  policy->last_job = 7;
  policy->n_removed = 3;
  policy->n_failures = 2;
  policy->next_retry = 3000;
  return policy;
}

static void
assert_same(const StorePolicy *a, const StorePolicy *b)
{
  assert_string_equal(a->vm, b->vm);
  assert_string_equal(a->bitmap, b->bitmap);
  assert_memory_equal(&a->schedule, &b->schedule, sizeof a->schedule);
  assert_memory_equal(&a->retention, &b->retention, sizeof a->retention);
  assert_int_equal(a->speed, b->speed);
  assert_int_equal(a->verify_share, b->verify_share);
  assert_int_equal(a->gc, b->gc);
  assert_int_equal(a->enabled, b->enabled);
  assert_int_equal(a->done_until, b->done_until);
  assert_int_equal(a->last_run, b->last_run);
  assert_int_equal(a->last_result, b->last_result);
  assert_int_equal(g_strcmp0(a->last_error, b->last_error), 0);
  assert_int_equal(a->last_job, b->last_job);
  assert_int_equal(a->n_removed, b->n_removed);
  assert_int_equal(a->n_failures, b->n_failures);
  assert_int_equal(a->next_retry, b->next_retry);
}

static void
assert_kept(Fixture *fixture, const StorePolicy *policy)
{
  g_autoptr(StorePolicy) found = catalogue_get_policy(fixture->catalogue, policy->vm, NULL);
  assert_non_null(found);
  assert_same(found, policy);
}

static void
test_policy_is_saved_replaced_and_survives_a_restart(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  g_autoptr(StorePolicy) policy = make_policy("web");
  assert_true(catalogue_save_policy(fixture->catalogue, policy, NULL));
  assert_kept(fixture, policy);
  assert_true(store_schedule_parse("every 15m", &policy->schedule, NULL));
  g_free(policy->bitmap);
  policy->bitmap = g_strdup("weekly");
  policy->retention = (StoreRetention){0};
  policy->gc = TRUE;
  policy->enabled = FALSE;
  store_policy_done(policy);
  assert_true(catalogue_save_policy(fixture->catalogue, policy, NULL));
  reopen(fixture);
  assert_kept(fixture, policy);
}

static void
test_policies_are_listed_by_vm_and_go_with_it(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web"), db = add_vm(fixture, "db");
  g_autoptr(StorePolicy) of_web = make_policy("web"), of_db = make_policy("db");
  assert_true(catalogue_save_policy(fixture->catalogue, of_web, NULL));
  assert_true(catalogue_save_policy(fixture->catalogue, of_db, NULL));
  g_autoptr(GPtrArray) both = catalogue_list_policies(fixture->catalogue, NULL, NULL);
  assert_int_equal(both->len, 2);
  assert_same(both->pdata[0], of_db);
  assert_same(both->pdata[1], of_web);
  assert_true(catalogue_remove_vm(fixture->catalogue, "db", NULL));
  g_autoptr(GPtrArray) one = catalogue_list_policies(fixture->catalogue, NULL, NULL);
  assert_int_equal(one->len, 1);
  assert_same(one->pdata[0], of_web);
}

static void
test_removed_and_unknown_policies_are_not_found(void **state)
{
  Fixture *fixture = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(CatalogueVm) vm = add_vm(fixture, "web");
  g_autoptr(StorePolicy) policy = make_policy("web"), stray = make_policy("nobody");
  assert_true(catalogue_save_policy(fixture->catalogue, policy, NULL));
  assert_true(catalogue_remove_policy(fixture->catalogue, "web", NULL));
  assert_null(catalogue_get_policy(fixture->catalogue, "web", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "'web' has no policy");
  assert_false(catalogue_remove_policy(fixture->catalogue, "web", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "'web' has no policy");
  assert_false(catalogue_save_policy(fixture->catalogue, stray, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "'nobody'");
}

static void
test_damaged_policy_is_named_and_the_others_are_listed(void **state)
{
  Fixture *fixture = *state;
  static const struct {
    const char *change, *part;
  } damages[] = {
      {"schedule = 'now and then'", "'schedule'"},
      {"last_result = 'perhaps'", "'last-result'"},
      {"bitmap = '../x'", "'bitmap'"},
      {"keep_daily = -7", "'keep-daily'"},
      {"speed = 1", "'speed'"},
      {"verify_share = 101", "'verify-share'"},
  };
  g_autoptr(CatalogueVm) web = add_vm(fixture, "web"), db = add_vm(fixture, "db"),
                         app = add_vm(fixture, "app");
  g_autoptr(StorePolicy) policy = make_policy("web"), of_db = make_policy("db"), of_app = make_policy("app");
  assert_true(catalogue_save_policy(fixture->catalogue, of_db, NULL));
  assert_true(catalogue_save_policy(fixture->catalogue, of_app, NULL));
  for (guint i = 0; i < G_N_ELEMENTS(damages); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) damaged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    assert_true(catalogue_save_policy(fixture->catalogue, policy, NULL));
    g_autofree char *sql = g_strdup_printf("UPDATE policies SET %s WHERE vm = 'web'", damages[i].change);
    execute(fixture, sql);
    assert_null(catalogue_get_policy(fixture->catalogue, "web", &error));
    check_error(&error, CBT_ERROR_CORRUPT, "'web'");
    g_autoptr(GPtrArray) others = catalogue_list_policies(fixture->catalogue, damaged, NULL);
    assert_int_equal(others->len, 2);
    assert_same(others->pdata[0], of_app);
    assert_same(others->pdata[1], of_db);
    assert_int_equal(g_hash_table_size(damaged), 1);
    assert_non_null(strstr(g_hash_table_lookup(damaged, "web"), damages[i].part));
  }
  assert_true(catalogue_remove_policy(fixture->catalogue, "web", NULL));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_policy_is_saved_replaced_and_survives_a_restart, setup, teardown),
      cmocka_unit_test_setup_teardown(test_policies_are_listed_by_vm_and_go_with_it, setup, teardown),
      cmocka_unit_test_setup_teardown(test_removed_and_unknown_policies_are_not_found, setup, teardown),
      cmocka_unit_test_setup_teardown(test_damaged_policy_is_named_and_the_others_are_listed, setup,
                                      teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
