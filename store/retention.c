/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A period is a number made of the fields of the local time that name it; two points are of one period if the
 * numbers are equal. That is not asked of neighbours alone: where a clock is set back over midnight, the
 * hours of a day are not one stretch of time.
 */
#include <store/retention.h>

typedef enum { UNMARKED, KEPT, REMOVED } Mark;

typedef struct {
  const StoreRetentionPoint *point;
  gsize index; /* in the caller's array */
  GDateTime *local;
  Mark mark;
  StoreRetentionRule rule;
} Entry;

typedef gint64 (*PeriodFunc)(const Entry *entry);

/* What GDateTime can express; a damaged time must not end the program. */
#define YEAR_1    (G_GINT64_CONSTANT(-62135596800) + 86400 * 2)
#define YEAR_9999 (G_GINT64_CONSTANT(253402300799) - 86400 * 2)

static gint64
period_point(const Entry *entry)
{
  return (gint64) entry->index;
}

static gint64
period_year(const Entry *entry)
{
  return g_date_time_get_year(entry->local);
}

static gint64
period_month(const Entry *entry)
{
  return period_year(entry) * 100 + g_date_time_get_month(entry->local);
}

/* The year that the week belongs to, which is not always the day's. */
static gint64
period_week(const Entry *entry)
{
  return (gint64) g_date_time_get_week_numbering_year(entry->local) * 100 +
         g_date_time_get_week_of_year(entry->local);
}

static gint64
period_day(const Entry *entry)
{
  return period_month(entry) * 100 + g_date_time_get_day_of_month(entry->local);
}

static gint64
period_hour(const Entry *entry)
{
  return period_day(entry) * 100 + g_date_time_get_hour(entry->local);
}

static const struct {
  const char *name;
  PeriodFunc period;
} rules[] = {
    [STORE_RETENTION_LAST] = {"keep-last", period_point},
    [STORE_RETENTION_HOURLY] = {"keep-hourly", period_hour},
    [STORE_RETENTION_DAILY] = {"keep-daily", period_day},
    [STORE_RETENTION_WEEKLY] = {"keep-weekly", period_week},
    [STORE_RETENTION_MONTHLY] = {"keep-monthly", period_month},
    [STORE_RETENTION_YEARLY] = {"keep-yearly", period_year},
    [STORE_RETENTION_PROTECTED] = {"protected", NULL},
    [STORE_RETENTION_INCOMPLETE] = {"incomplete", NULL},
    [STORE_RETENTION_NO_RULES] = {"no-rules", NULL},
    [STORE_RETENTION_UNMATCHED] = {"unmatched", NULL},
};

const char *
store_retention_rule_name(StoreRetentionRule rule)
{
  return rules[rule].name;
}

gboolean
store_retention_has_rules(const StoreRetention *retention)
{
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    if (retention->numbers[i] > 0)
      return TRUE;
  return FALSE;
}

static int
compare_newest_first(const void *a, const void *b)
{
  const Entry *x = a, *y = b;
  if (x->point->time != y->point->time)
    return x->point->time > y->point->time ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

static GDateTime *
local_time(gint64 time, GTimeZone *zone)
{
  gint64 seconds = time / G_USEC_PER_SEC - (time % G_USEC_PER_SEC < 0);
  g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(CLAMP(seconds, YEAR_1, YEAR_9999));
  return g_date_time_to_timezone(utc, zone);
}

static void
entry_clear(gpointer data)
{
  g_date_time_unref(((Entry *) data)->local);
}

static GArray *
sorted_entries(const StoreRetentionPoint *points, gsize n_points, GTimeZone *zone)
{
  GArray *entries = g_array_new(FALSE, FALSE, sizeof(Entry));
  for (gsize i = 0; i < n_points; i++) {
    Entry entry = {.point = &points[i], .index = i, .local = local_time(points[i].time, zone)};
    g_array_append_val(entries, entry);
  }
  g_array_set_clear_func(entries, entry_clear);
  g_array_sort(entries, compare_newest_first);
  return entries;
}

static void
mark(Entry *entry, Mark value, StoreRetentionRule rule)
{
  entry->mark = value;
  entry->rule = rule;
}

static void
mark_protected(GArray *entries)
{
  for (guint i = 0; i < entries->len; i++) {
    Entry *entry = &g_array_index(entries, Entry, i);
    if (entry->point->is_protected)
      mark(entry, KEPT, STORE_RETENTION_PROTECTED);
  }
}

static void
mark_incomplete(GArray *entries)
{
  gboolean keep = TRUE;
  for (guint i = 0; i < entries->len; i++) {
    Entry *entry = &g_array_index(entries, Entry, i);
    if (!entry->point->is_complete && entry->mark == UNMARKED)
      mark(entry, keep ? KEPT : REMOVED, STORE_RETENTION_INCOMPLETE);
    else if (!entry->point->is_complete)
      continue;
    keep = FALSE;
  }
}

/* Periods in which a rule has kept a point. */
static GHashTable *
periods_kept(GArray *entries, PeriodFunc period)
{
  GHashTable *kept = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  for (guint i = 0; i < entries->len; i++) {
    const Entry *entry = &g_array_index(entries, Entry, i);
    gint64 key = period(entry);
    if (entry->mark == KEPT && entry->rule < STORE_RETENTION_N_NUMBERS)
      g_hash_table_add(kept, g_memdup2(&key, sizeof key));
  }
  return kept;
}

static void
apply(GArray *entries, StoreRetentionRule rule, guint64 number)
{
  PeriodFunc period = rules[rule].period;
  g_autoptr(GHashTable) before = periods_kept(entries, period);
  g_autoptr(GHashTable) now = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  for (guint i = 0; i < entries->len && number > 0; i++) {
    Entry *entry = &g_array_index(entries, Entry, i);
    gint64 key = period(entry);
    if (entry->mark != UNMARKED || g_hash_table_contains(before, &key))
      continue;
    if (g_hash_table_contains(now, &key)) {
      mark(entry, REMOVED, rule);
      continue;
    }
    if (g_hash_table_size(now) >= number)
      return;
    g_hash_table_add(now, g_memdup2(&key, sizeof key));
    mark(entry, KEPT, rule);
  }
}

void
store_retention_decide(const StoreRetention *retention, const StoreRetentionPoint *points, gsize n_points,
                       GTimeZone *zone, StoreRetentionVerdict *verdicts)
{
  g_autoptr(GTimeZone) used = zone ? g_time_zone_ref(zone) : g_time_zone_new_local();
  g_autoptr(GArray) entries = sorted_entries(points, n_points, used);
  gboolean has_rules = store_retention_has_rules(retention);
  mark_protected(entries);
  if (has_rules)
    mark_incomplete(entries);
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    apply(entries, i, retention->numbers[i]);
  for (guint i = 0; i < entries->len; i++) {
    Entry *entry = &g_array_index(entries, Entry, i);
    if (entry->mark == UNMARKED)
      mark(entry, has_rules ? REMOVED : KEPT,
           has_rules ? STORE_RETENTION_UNMATCHED : STORE_RETENTION_NO_RULES);
    verdicts[entry->index] = (StoreRetentionVerdict){entry->mark == KEPT, entry->rule};
  }
}
