/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <common/name.h>
#include <store/policy.h>
#include <string.h>

#define N_POLICIES 2000
#define N_HOSTILE  20000
#define SHORTEST   "schedule=daily 02:30; bitmap=default; gc=yes; enabled=yes"

static GRand *random_numbers;

static int
seed(void **state)
{
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 value = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  (void) state;
  print_message("seed %u (CBT_TEST_SEED repeats it)\n", value);
  random_numbers = g_rand_new_with_seed(value);
  return 0;
}

static int
clear(void **state)
{
  (void) state;
  g_rand_free(random_numbers);
  return 0;
}

static guint32
below(guint32 limit)
{
  return g_rand_int(random_numbers) % limit;
}

/* ---- policies ---- */

static guint64
random_number(guint64 max)
{
  guint64 bits = (guint64) g_rand_int(random_numbers) << 32 | g_rand_int(random_numbers);
  return below(3) == 0 ? 0 : (bits >> below(64)) % max + 1;
}

static void
append_random_times(GString *text)
{
  guint n = 1 + below(STORE_SCHEDULE_TIMES_MAX);
  for (guint i = 0; i < n; i++)
    g_string_append_printf(text, "%s%02u:%02u", i > 0 ? "," : " ", below(24), below(60));
}

static void
set_random_schedule(StorePolicy *policy)
{
  static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
  g_autoptr(GString) text = g_string_new(NULL);
  switch (below(4)) {
  case 0:
    g_string_printf(text, "every %us", 1 + below(STORE_SCHEDULE_SECONDS_MAX));
    break;
  case 1:
    g_string_printf(text, "hourly :%02u", below(60));
    break;
  case 2:
    g_string_assign(text, "daily");
    append_random_times(text);
    break;
  default:
    g_string_printf(text, "weekly %s,%s", days[below(7)], days[below(7)]);
    append_random_times(text);
  }
  assert_true(store_schedule_parse(text->str, &policy->schedule, NULL));
}

static StorePolicy *
random_policy(void)
{
  static const char letters[] = "abcXYZ0189._+-";
  StorePolicy *policy = store_policy_new("web");
  char bitmap[CBT_NAME_MAX + 1] = "b";
  guint length = 1 + below(CBT_NAME_MAX);
  for (guint i = 1; i < length; i++)
    bitmap[i] = letters[below(sizeof letters - 1)];
  g_free(policy->bitmap);
  policy->bitmap = g_strdup(bitmap);
  set_random_schedule(policy);
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    policy->retention.numbers[i] = random_number(STORE_POLICY_COUNT_MAX);
  policy->speed = random_number(STORE_POLICY_COUNT_MAX);
  if (policy->speed > 0)
    policy->speed = MAX(policy->speed, STORE_POLICY_SPEED_MIN);
  policy->verify_share = random_number(STORE_POLICY_VERIFY_SHARE_MAX);
  policy->gc = below(2) == 0;
  policy->enabled = below(2) == 0;
  return policy;
}

static void
assert_same_settings(const StorePolicy *a, const StorePolicy *b)
{
  assert_string_equal(a->vm, b->vm);
  assert_string_equal(a->bitmap, b->bitmap);
  assert_memory_equal(&a->schedule, &b->schedule, sizeof a->schedule);
  assert_memory_equal(&a->retention, &b->retention, sizeof a->retention);
  assert_int_equal(a->speed, b->speed);
  assert_int_equal(a->verify_share, b->verify_share);
  assert_int_equal(a->gc, b->gc);
  assert_int_equal(a->enabled, b->enabled);
}

static void
assert_did_nothing_yet(const StorePolicy *policy)
{
  assert_int_equal(policy->done_until, 0);
  assert_int_equal(policy->last_run, 0);
  assert_int_equal(policy->last_result, STORE_POLICY_NEVER);
  assert_null(policy->last_error);
  assert_int_equal(policy->last_job, 0);
  assert_int_equal(policy->n_removed, 0);
  assert_int_equal(policy->n_failures, 0);
  assert_int_equal(policy->next_retry, 0);
}

/* ---- claims ---- */

static void
test_random_policies_come_back_as_they_were(void **state)
{
  (void) state;
  for (guint i = 0; i < N_POLICIES; i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StorePolicy) policy = random_policy();
    g_autofree char *text = store_policy_encode(policy);
    assert_true(strlen(text) <= STORE_POLICY_TEXT_MAX);
    assert_null(strchr(text, '\n'));
    g_autoptr(StorePolicy) found = store_policy_decode("web", text, &error);
    if (!found)
      fail_msg("%s: %s", text, error->message);
    assert_same_settings(found, policy);
    assert_did_nothing_yet(found);
  }
}

static void
test_longest_policy_fits(void **state)
{
  (void) state;
  g_autoptr(GString) schedule = g_string_new("weekly mon,tue,wed,thu,fri,sat,sun ");
  for (guint i = 0; i < STORE_SCHEDULE_TIMES_MAX; i++)
    g_string_append_printf(schedule, "%s%02u:59", i > 0 ? "," : "", i);
  g_autoptr(StorePolicy) policy = store_policy_new("web");
  assert_true(store_schedule_parse(schedule->str, &policy->schedule, NULL));
  g_free(policy->bitmap);
  policy->bitmap = g_strnfill(CBT_NAME_MAX, 'b');
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    policy->retention.numbers[i] = STORE_POLICY_COUNT_MAX;
  policy->speed = STORE_POLICY_COUNT_MAX;
  policy->verify_share = STORE_POLICY_VERIFY_SHARE_MAX;
  g_autofree char *text = store_policy_encode(policy);
  g_autoptr(StorePolicy) found = store_policy_decode("web", text, NULL);
  assert_non_null(found);
  assert_same_settings(found, policy);
}

static void
test_text_is_what_people_would_write(void **state)
{
  (void) state;
  g_autoptr(StorePolicy) policy = store_policy_new("web");
  assert_true(store_schedule_parse("DAILY 14:30,02:30", &policy->schedule, NULL));
  policy->retention.numbers[STORE_RETENTION_DAILY] = 7;
  policy->speed = 4096;
  policy->gc = FALSE;
  g_autofree char *text = store_policy_encode(policy);
  assert_string_equal(
      text, "schedule=daily 02:30,14:30; bitmap=default; keep-daily=7; speed=4096; gc=no; enabled=yes");
}

static void
test_what_became_of_it_is_not_in_the_text(void **state)
{
  (void) state;
  g_autoptr(StorePolicy) policy = random_policy();
  g_autofree char *before = store_policy_encode(policy);
  store_policy_begin(policy, 1000, 0);
  store_policy_cancelled(policy, "why; not");
  policy->n_failures = 3;
  g_autofree char *after = store_policy_encode(policy);
  assert_string_equal(before, after);
}

static void
test_wrong_text_is_corrupt_and_the_key_is_named(void **state)
{
  static const struct {
    const char *text, *part;
  } wrong[] = {
      {"", "'schedule' is missing"},
      {"schedule", "'schedule' has no value"},
      {"schedule=daily 02:30; ", "'' has no value"},
      {"schedule=daily 02:30; bitmap=default; gc=yes", "'enabled' is missing"},
      {"bitmap=default; gc=yes; enabled=yes", "'schedule' is missing"},
      {"schedule=daily 02:30; gc=yes; enabled=yes", "'bitmap' is missing"},
      {SHORTEST "; keep-centennial=1", "'keep-centennial' is unknown"},
      {SHORTEST "; =1", "'' is unknown"},
      {SHORTEST "; Speed=8192", "'Speed' is unknown"},
      {SHORTEST "; vm=other", "'vm' is unknown"},
      {SHORTEST ";speed=8192", "'enabled' cannot be 'yes;speed=8192'"},
      {SHORTEST "; \033[2J=1", "'\\033[2J' is unknown"},
      {SHORTEST "\n", "'enabled' cannot be 'yes\\n'"},
      {SHORTEST "; enabled=yes", "'enabled' is there twice"},
      {SHORTEST "; speed=8192; speed=8192", "'speed' is there twice"},
      {SHORTEST "; speed=1", "'speed' is not possible"},
      {SHORTEST "; speed=64M", "'speed' cannot be '64M'"},
      {SHORTEST "; verify-share=101", "'verify-share' is not possible"},
      {SHORTEST "; keep-daily=-1", "'keep-daily' cannot be '-1'"},
      {SHORTEST "; keep-daily=", "'keep-daily' cannot be ''"},
      {SHORTEST "; keep-last= 1", "'keep-last' cannot be ' 1'"},
      {SHORTEST "; keep-last=9223372036854775808", "'keep-last' cannot be"},
      {SHORTEST "; keep-last=99999999999999999999", "'keep-last' cannot be"},
      {"schedule=now and then; bitmap=default; gc=yes; enabled=yes", "'schedule' cannot be 'now and then'"},
      {"schedule=every 0s; bitmap=default; gc=yes; enabled=yes", "'schedule' cannot be"},
      {"schedule=; bitmap=default; gc=yes; enabled=yes", "'schedule' cannot be ''"},
      {"schedule=hourly; bitmap=../x; gc=yes; enabled=yes", "'bitmap' is not possible"},
      {"schedule=hourly; bitmap=; gc=yes; enabled=yes", "'bitmap' is not possible"},
      {"schedule=hourly; bitmap=default; gc=1; enabled=yes", "'gc' cannot be '1'"},
      {"{\"schedule\":\"daily 02:30\"}\n", "has no value"},
  };
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(store_policy_decode("web", wrong[i].text, &error));
    if (!g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT) || !strstr(error->message, wrong[i].part))
      fail_msg("%s: expected '%s', got: %s", wrong[i].text, wrong[i].part, error->message);
  }
}

static void
test_order_of_the_keys_does_not_matter(void **state)
{
  (void) state;
  g_autoptr(StorePolicy) a = store_policy_decode("web", SHORTEST "; speed=8192", NULL);
  g_autoptr(StorePolicy) b = store_policy_decode(
      "web", "speed=8192; gc=yes; enabled=yes; bitmap=default; schedule=daily 02:30", NULL);
  assert_true(a && b);
  assert_same_settings(a, b);
}

/* Some bytes changed, put in, taken out, or doubled. */
static char *
spoil(const char *text)
{
  static const char bytes[] = "=; \n\t\\-09:,azA\001\177\377\300";
  GString *spoilt = g_string_new(text);
  for (guint n = 1 + below(3); n > 0 && spoilt->len > 0; n--) {
    gssize at = (gssize) below((guint32) spoilt->len);
    char byte = bytes[below(sizeof bytes - 1)];
    switch (below(5)) {
    case 0:
      spoilt->str[at] = byte;
      break;
    case 1:
      g_string_insert_c(spoilt, at, byte);
      break;
    case 2:
      g_string_erase(spoilt, at, 1 + (gssize) below((guint32) (spoilt->len - (gsize) at)));
      break;
    case 3:
      g_string_truncate(spoilt, (gsize) at);
      break;
    default:
      g_string_insert(spoilt, at, text);
    }
  }
  return g_string_free(spoilt, FALSE);
}

static void
test_hostile_text_is_corrupt_or_a_policy_that_is_possible(void **state)
{
  (void) state;
  guint n_taken = 0;
  for (guint i = 0; i < N_HOSTILE; i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StorePolicy) policy = random_policy();
    g_autofree char *text = store_policy_encode(policy);
    g_autofree char *spoilt = spoil(text);
    g_autoptr(StorePolicy) found = store_policy_decode("web", spoilt, &error);
    if (!found) {
      assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT));
      assert_true(g_utf8_validate(error->message, -1, NULL));
      continue;
    }
    n_taken++;
    assert_true(store_policy_check(found, NULL));
    g_autofree char *again = store_policy_encode(found);
    g_autoptr(StorePolicy) same = store_policy_decode("web", again, NULL);
    assert_non_null(same);
    assert_same_settings(found, same);
  }
  print_message("%u of %u spoilt texts were policies all the same\n", n_taken, (guint) N_HOSTILE);
}

static void
test_text_without_end_is_refused(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  g_autofree char *spaces = g_strnfill(1 << 20, ' ');
  g_autofree char *text =
      g_strconcat("schedule=hourly", spaces, "; bitmap=default; gc=yes; enabled=yes", NULL);
  assert_null(store_policy_decode("web", text, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_policies_come_back_as_they_were),
      cmocka_unit_test(test_longest_policy_fits),
      cmocka_unit_test(test_text_is_what_people_would_write),
      cmocka_unit_test(test_what_became_of_it_is_not_in_the_text),
      cmocka_unit_test(test_wrong_text_is_corrupt_and_the_key_is_named),
      cmocka_unit_test(test_order_of_the_keys_does_not_matter),
      cmocka_unit_test(test_hostile_text_is_corrupt_or_a_policy_that_is_possible),
      cmocka_unit_test(test_text_without_end_is_refused),
  };
  return cmocka_run_group_tests(tests, seed, clear);
}
