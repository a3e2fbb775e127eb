/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <api/prometheus.h>
#include <math.h>

static void
check_text(ApiPrometheus *text, const char *expected)
{
  g_autofree char *result = api_prometheus_free_to_text(text);
  assert_string_equal(result, expected);
}

static void
test_family_has_help_type_and_samples(void **state)
{
  (void) state;
  ApiPrometheus *text = api_prometheus_new();
  const char *const labels[] = {"vm", "web", "disk", "root", NULL};
  api_prometheus_family(text, "dirty_bytes", "gauge", "Bytes.");
  api_prometheus_sample(text, 65536, labels);
  api_prometheus_sample(text, 1, NULL);
  check_text(text, "# HELP dirty_bytes Bytes.\n"
                   "# TYPE dirty_bytes gauge\n"
                   "dirty_bytes{vm=\"web\",disk=\"root\"} 65536\n"
                   "dirty_bytes 1\n");
}

static void
test_help_and_labels_are_escaped(void **state)
{
  (void) state;
  ApiPrometheus *text = api_prometheus_new();
  const char *const labels[] = {"vm", "a\\b\"c\nd", NULL};
  api_prometheus_family(text, "x", "gauge", "a\\b\"c\nd");
  api_prometheus_sample(text, 0, labels);
  check_text(text, "# HELP x a\\\\b\"c\\nd\n# TYPE x gauge\nx{vm=\"a\\\\b\\\"c\\nd\"} 0\n");
}

static void
test_numbers_keep_their_value(void **state)
{
  (void) state;
  ApiPrometheus *text = api_prometheus_new();
  api_prometheus_family(text, "x", "gauge", "");
  api_prometheus_sample(text, 0.005, NULL);
  api_prometheus_sample(text, 9007199254740991.0, NULL);
  api_prometheus_sample(text, (double) INFINITY, NULL);
  api_prometheus_sample(text, (double) NAN, NULL);
  check_text(text, "# HELP x \n# TYPE x gauge\nx 0.005\nx 9007199254740991\nx +Inf\nx NaN\n");
}

static void
test_histogram_counts_values_up_to_each_bound(void **state)
{
  (void) state;
  static const double bounds[] = {0.5, 1};
  const char *const labels[] = {"type", "gc", NULL};
  ApiHistogram histogram;
  ApiPrometheus *text = api_prometheus_new();
  api_histogram_init(&histogram, bounds, G_N_ELEMENTS(bounds));
  api_histogram_add(&histogram, 0.5);
  api_histogram_add(&histogram, 0.75);
  api_histogram_add(&histogram, 8);
  api_prometheus_family(text, "h", "histogram", "H.");
  api_prometheus_histogram(text, &histogram, labels);
  api_histogram_clear(&histogram);
  check_text(text, "# HELP h H.\n# TYPE h histogram\n"
                   "h_bucket{type=\"gc\",le=\"0.5\"} 1\n"
                   "h_bucket{type=\"gc\",le=\"1\"} 2\n"
                   "h_bucket{type=\"gc\",le=\"+Inf\"} 3\n"
                   "h_sum{type=\"gc\"} 9.25\n"
                   "h_count{type=\"gc\"} 3\n");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_family_has_help_type_and_samples),
      cmocka_unit_test(test_help_and_labels_are_escaped),
      cmocka_unit_test(test_numbers_keep_their_value),
      cmocka_unit_test(test_histogram_counts_values_up_to_each_bound),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
