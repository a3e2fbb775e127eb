/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <api/prometheus.h>

#include <math.h>

struct ApiPrometheus {
  GString *text;
  const char *family;
};

ApiPrometheus *
api_prometheus_new(void)
{
  ApiPrometheus *text = g_new0(ApiPrometheus, 1);
  text->text = g_string_new(NULL);
  return text;
}

char *
api_prometheus_free_to_text(ApiPrometheus *text)
{
  char *result = g_string_free(text->text, FALSE);
  g_free(text);
  return result;
}

/* Backslash and line feed; in labels quotes, too. */
static void
append_escaped(GString *string, const char *value, gboolean quotes)
{
  for (; *value; value++)
    if (*value == '\n')
      g_string_append(string, "\\n");
    else if (*value == '\\' || (quotes && *value == '"'))
      g_string_append_printf(string, "\\%c", *value);
    else
      g_string_append_c(string, *value);
}

/* The shortest text that gives the same number; the C locale's, whatever is set. */
static void
append_number(GString *string, double value)
{
  char buffer[G_ASCII_DTOSTR_BUF_SIZE];
  if (isinf(value))
    g_string_append(string, value > 0 ? "+Inf" : "-Inf");
  else if (isnan(value))
    g_string_append(string, "NaN");
  else if (value == g_ascii_strtod(g_ascii_formatd(buffer, sizeof buffer, "%.15g", value), NULL))
    g_string_append(string, buffer);
  else
    g_string_append(string, g_ascii_dtostr(buffer, sizeof buffer, value));
}

void
api_prometheus_family(ApiPrometheus *text, const char *name, const char *type, const char *help)
{
  text->family = name;
  g_string_append_printf(text->text, "# HELP %s ", name);
  append_escaped(text->text, help, FALSE);
  g_string_append_printf(text->text, "\n# TYPE %s %s\n", name, type);
}

static void
append_label(GString *string, gboolean *is_first, const char *name, const char *value)
{
  g_string_append_printf(string, "%c%s=\"", *is_first ? '{' : ',', name);
  append_escaped(string, value, TRUE);
  g_string_append_c(string, '"');
  *is_first = FALSE;
}

/* BOUND (nullable) is the value of "le". */
static void
append_sample(ApiPrometheus *text, const char *suffix, double value, const char *const *labels,
              const char *bound)
{
  gboolean is_first = TRUE;
  g_string_append(text->text, text->family);
  g_string_append(text->text, suffix);
  for (; labels && *labels; labels += 2)
    append_label(text->text, &is_first, labels[0], labels[1]);
  if (bound)
    append_label(text->text, &is_first, "le", bound);
  g_string_append(text->text, is_first ? " " : "} ");
  append_number(text->text, value);
  g_string_append_c(text->text, '\n');
}

void
api_prometheus_sample(ApiPrometheus *text, double value, const char *const *labels)
{
  append_sample(text, "", value, labels, NULL);
}

void
api_histogram_init(ApiHistogram *histogram, const double *bounds, guint n_bounds)
{
  *histogram = (ApiHistogram){bounds, n_bounds, g_new0(guint64, n_bounds + 1), 0};
}

void
api_histogram_clear(ApiHistogram *histogram)
{
  g_clear_pointer(&histogram->counts, g_free);
}

void
api_histogram_add(ApiHistogram *histogram, double value)
{
  guint at = 0;
  while (at < histogram->n_bounds && value > histogram->bounds[at])
    at++;
  histogram->counts[at]++;
  histogram->sum += value;
}

void
api_prometheus_histogram(ApiPrometheus *text, const ApiHistogram *histogram, const char *const *labels)
{
  guint64 n = 0;
  for (guint i = 0; i <= histogram->n_bounds; i++) {
    g_autoptr(GString) bound = g_string_new(NULL);
    append_number(bound, i < histogram->n_bounds ? histogram->bounds[i] : (double) INFINITY);
    n += histogram->counts[i];
    append_sample(text, "_bucket", (double) n, labels, bound->str);
  }
  append_sample(text, "_sum", histogram->sum, labels, NULL);
  append_sample(text, "_count", (double) n, labels, NULL);
}
