/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metrics as text: the exposition format of Prometheus, version 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). Escapes what labels and help need; that
 * names are valid, that a family comes once and its samples behind it, is the caller's part.
 *
 * Lifecycle: new, then family and its samples, again and again, free_to_text. One thread.
 */
#pragma once

#include <glib.h>

#define API_PROMETHEUS_TYPE "text/plain; version=0.0.4; charset=utf-8"

typedef struct ApiPrometheus ApiPrometheus;

ApiPrometheus *api_prometheus_new(void);
/* The text (transfer full). */
char *api_prometheus_free_to_text(ApiPrometheus *text);

/* TYPE is "counter", "gauge" or "histogram". NAME is used for the samples that follow, and must live until
 * the next family. */
void api_prometheus_family(ApiPrometheus *text, const char *name, const char *type, const char *help);
/* One value. LABELS: names and values in turn, then NULL; or NULL for none. */
void api_prometheus_sample(ApiPrometheus *text, double value, const char *const *labels);

/* A histogram: how many values were at most as big as each bound, and their sum. */
typedef struct {
  const double *bounds; /* ascending */
  guint n_bounds;
  guint64 *counts; /* one more than bounds; each value is counted once, in the first bound that takes it */
  double sum;
} ApiHistogram;

void api_histogram_init(ApiHistogram *histogram, const double *bounds, guint n_bounds);
void api_histogram_clear(ApiHistogram *histogram);
void api_histogram_add(ApiHistogram *histogram, double value);
/* Its lines, of the family that was begun. LABELS as above, without "le". */
void api_prometheus_histogram(ApiPrometheus *text, const ApiHistogram *histogram, const char *const *labels);
