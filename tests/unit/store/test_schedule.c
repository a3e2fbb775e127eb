/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables that were worked out by hand, and a naive oracle: it looks at the local clock minute by minute, and
 * runs when that shows the time, or has just leapt over it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <stdlib.h>
#include <store/schedule.h>
#include <string.h>
#include <unistd.h>

#define MINUTE ((gint64) 60 * G_USEC_PER_SEC)

typedef struct {
  const char *claim;
  const char *zone;
  const char *schedule;
  const char *runs; /* the first is the instant before, which is no run; local times with their offset */
} Table;

/* Berlin: +01, +02 from 2024-03-31 02:00 to 10-27 03:00. New York: -05, -04 from 2024-03-10 02:00 to 11-03
 * 02:00. Lord Howe: +11 (summer), +10:30 from 2024-04-07 02:00 to 10-06 02:00. 2024-03-04 is a Monday. */
static const Table tables[] = {
    {"minutes count from midnight", "UTC", "every 15m",
     "2024-01-01T10:07:30Z 2024-01-01T10:15Z 2024-01-01T10:30Z 2024-01-01T10:45Z 2024-01-01T11:00Z"},
    {"a run is after the instant, never at it", "UTC", "every 15m", "2024-01-01T10:15Z 2024-01-01T10:30Z"},
    {"hours count from midnight", "UTC", "every 4h",
     "2024-01-01T17:00Z 2024-01-01T20:00Z 2024-01-02T00:00Z 2024-01-02T04:00Z"},
    {"hours count from local midnight", "Asia/Kathmandu", "every 4h",
     "2024-01-01T17:00+05:45 2024-01-01T20:00+05:45 2024-01-02T00:00+05:45"},
    {"a day is every midnight", "America/New_York", "every 1d",
     "2024-01-01T17:00-05:00 2024-01-02T00:00-05:00 2024-01-03T00:00-05:00"},
    {"seconds count from midnight", "UTC", "every 10s",
     "2024-01-01T23:59:45Z 2024-01-01T23:59:50Z 2024-01-02T00:00:00Z 2024-01-02T00:00:10Z"},
    {"what is no part of a day counts from the run before", "Europe/Berlin", "every 7h",
     "2024-01-01T17:03:20+01:00 2024-01-02T00:03:20+01:00 2024-01-02T07:03:20+01:00 "
     "2024-01-02T14:03:20+01:00"},
    {"several days count from the run before", "UTC", "every 2d",
     "2024-02-28T06:00Z 2024-03-01T06:00Z 2024-03-03T06:00Z"},
    {"hourly is at the full hour", "UTC", "hourly", "2024-01-01T22:30Z 2024-01-01T23:00Z 2024-01-02T00:00Z"},
    {"hourly at a minute", "UTC", "hourly :15", "2024-01-01T22:15Z 2024-01-01T23:15Z 2024-01-02T00:15Z"},
    {"hourly at a minute to come", "UTC", "hourly :15", "2024-01-01T22:14:59Z 2024-01-01T22:15Z"},
    {"hours are those of the local clock", "Asia/Kathmandu", "hourly",
     "2024-01-01T04:20Z 2024-01-01T05:15Z 2024-01-01T06:15Z"},
    {"daily", "UTC", "daily 02:30", "2024-02-28T10:00Z 2024-02-29T02:30Z 2024-03-01T02:30Z"},
    {"daily at several times", "Europe/Berlin", "daily 14:30,02:30",
     "2024-01-01T10:00+01:00 2024-01-01T14:30+01:00 2024-01-02T02:30+01:00 2024-01-02T14:30+01:00"},
    {"daily today, if it is to come", "Asia/Kathmandu", "daily 00:00",
     "2023-12-31T23:59:59+05:45 2024-01-01T00:00+05:45"},
    {"weekly", "UTC", "weekly sun 03:00", "2024-03-04T00:00Z 2024-03-10T03:00Z 2024-03-17T03:00Z"},
    {"weekly on the day itself", "UTC", "weekly mon 03:00",
     "2024-03-04T02:00Z 2024-03-04T03:00Z 2024-03-11T03:00Z"},
    {"weekly on several days", "America/New_York", "weekly mon,thu 03:00",
     "2024-03-05T00:00-05:00 2024-03-07T03:00-05:00 2024-03-11T03:00-04:00 2024-03-14T03:00-04:00"},
    {"weekly at several times", "UTC", "weekly sat 06:00,18:00",
     "2024-03-04T00:00Z 2024-03-09T06:00Z 2024-03-09T18:00Z 2024-03-16T06:00Z"},
    {"before 1970", "UTC", "weekly thu 00:00", "1969-12-24T12:00Z 1969-12-25T00:00Z 1970-01-01T00:00Z"},

    /* ---- spring: a time that does not exist runs at the first instant after the gap, once ---- */
    {"daily in the gap", "Europe/Berlin", "daily 02:30",
     "2024-03-30T00:00+01:00 2024-03-30T02:30+01:00 2024-03-31T03:00+02:00 2024-04-01T02:30+02:00"},
    {"daily at the gap's begin", "Europe/Berlin", "daily 02:00",
     "2024-03-30T12:00+01:00 2024-03-31T03:00+02:00 2024-04-01T02:00+02:00"},
    {"daily at the gap's end", "Europe/Berlin", "daily 03:00",
     "2024-03-30T12:00+01:00 2024-03-31T03:00+02:00 2024-04-01T03:00+02:00"},
    {"several times in one gap run once", "America/New_York", "daily 02:15,02:45,03:00",
     "2024-03-10T01:00-05:00 2024-03-10T03:00-04:00 2024-03-11T02:15-04:00"},
    {"weekly in the gap", "America/New_York", "weekly sun 02:30",
     "2024-03-04T00:00-05:00 2024-03-10T03:00-04:00 2024-03-17T02:30-04:00"},
    {"minutes pass over the gap", "Europe/Berlin", "every 15m",
     "2024-03-31T01:40+01:00 2024-03-31T01:45+01:00 2024-03-31T03:00+02:00 2024-03-31T03:15+02:00"},
    {"hours next to the gap", "Europe/Berlin", "every 2h",
     "2024-03-31T00:00+01:00 2024-03-31T03:00+02:00 2024-03-31T04:00+02:00 2024-03-31T06:00+02:00"},
    {"hours that are not in the gap", "Europe/Berlin", "every 4h",
     "2024-03-31T00:00+01:00 2024-03-31T04:00+02:00 2024-03-31T08:00+02:00"},
    {"an hour that is left out runs behind it", "Europe/Berlin", "hourly :20",
     "2024-03-31T01:00+01:00 2024-03-31T01:20+01:00 2024-03-31T03:00+02:00 2024-03-31T03:20+02:00"},
    {"a gap of half an hour", "Australia/Lord_Howe", "daily 02:15",
     "2024-10-05T12:00+10:30 2024-10-06T02:30+11:00 2024-10-07T02:15+11:00"},
    {"behind a gap of half an hour", "Australia/Lord_Howe", "daily 02:45",
     "2024-10-05T12:00+10:30 2024-10-06T02:45+11:00 2024-10-07T02:45+11:00"},
    {"hours over a gap of half an hour", "Australia/Lord_Howe", "hourly",
     "2024-10-06T00:30+10:30 2024-10-06T01:00+10:30 2024-10-06T02:30+11:00 2024-10-06T03:00+11:00"},
    {"midnight in the gap", "America/Sao_Paulo", "daily 00:00",
     "2018-11-03T12:00-03:00 2018-11-04T01:00-02:00 2018-11-05T00:00-02:00"},
    {"a day that begins in the gap", "America/Sao_Paulo", "every 12h",
     "2018-11-03T12:00-03:00 2018-11-04T01:00-02:00 2018-11-04T12:00-02:00"},

    /* ---- autumn: a time that exists twice runs the first time ---- */
    {"daily in the hour that comes twice", "Europe/Berlin", "daily 02:30",
     "2024-10-26T12:00+02:00 2024-10-27T02:30+02:00 2024-10-28T02:30+01:00"},
    {"from within the hour that comes twice", "Europe/Berlin", "daily 02:30",
     "2024-10-27T02:15+01:00 2024-10-28T02:30+01:00"},
    {"from between the two", "Europe/Berlin", "daily 02:30", "2024-10-27T02:45+02:00 2024-10-28T02:30+01:00"},
    {"weekly in the hour that comes twice", "America/New_York", "weekly sun 01:30",
     "2024-11-01T12:00-04:00 2024-11-03T01:30-04:00 2024-11-10T01:30-05:00"},
    {"minutes go on through both hours", "Europe/Berlin", "every 30m",
     "2024-10-27T02:10+02:00 2024-10-27T02:30+02:00 2024-10-27T02:00+01:00 2024-10-27T02:30+01:00 "
     "2024-10-27T03:00+01:00"},
    {"hourly goes on through both hours", "America/New_York", "hourly :45",
     "2024-11-03T01:00-04:00 2024-11-03T01:45-04:00 2024-11-03T01:45-05:00 2024-11-03T02:45-05:00"},
    {"what comes twice less than a period apart runs once", "Europe/Berlin", "every 2h",
     "2024-10-27T01:00+02:00 2024-10-27T02:00+02:00 2024-10-27T04:00+01:00"},
    {"hours that come once", "Europe/Berlin", "every 4h",
     "2024-10-27T00:00+02:00 2024-10-27T04:00+01:00 2024-10-27T08:00+01:00"},
    {"half an hour that comes twice", "Australia/Lord_Howe", "daily 01:45",
     "2024-04-06T12:00+11:00 2024-04-07T01:45+11:00 2024-04-08T01:45+10:30"},
    {"hourly in half an hour that comes twice", "Australia/Lord_Howe", "hourly :45",
     "2024-04-07T01:00+11:00 2024-04-07T01:45+11:00 2024-04-07T02:45+10:30"},
    {"half hours in half an hour that comes twice", "Australia/Lord_Howe", "every 30m",
     "2024-04-07T01:00+11:00 2024-04-07T01:30+11:00 2024-04-07T01:30+10:30 2024-04-07T02:00+10:30"},
    {"midnight that comes twice", "America/Havana", "daily 00:30",
     "2024-11-02T12:00-04:00 2024-11-03T00:30-04:00 2024-11-04T00:30-05:00"},
};

static gint64
parse_instant(const char *text)
{
  const char *zone = strpbrk(text + 11, "Z+-");
  g_autofree char *clock = g_strndup(text, (gsize) (zone - text));
  g_autofree char *full = g_strconcat(clock, strlen(clock) == 16 ? ":00" : "", zone, NULL);
  g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(full, NULL);
  assert_non_null(time);
  return g_date_time_to_unix(time) * G_USEC_PER_SEC;
}

/* NULL where the machine lacks the zone. */
static GTimeZone *
get_zone(const char *name)
{
  GTimeZone *zone = g_time_zone_new_identifier(name);
  if (!zone) {
    print_message("no time zone %s: tzdata is missing\n", name);
    skip();
  }
  return zone;
}

static void
parse_schedule(const char *text, StoreSchedule *schedule)
{
  g_autoptr(GError) error = NULL;
  if (!store_schedule_parse(text, schedule, &error))
    fail_msg("%s: %s", text, error->message);
}

static void
check_run(const char *claim, gint64 run, gint64 expected, GTimeZone *zone)
{
  g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(run / G_USEC_PER_SEC);
  g_autoptr(GDateTime) local = g_date_time_to_timezone(utc, zone);
  g_autofree char *text = g_date_time_format_iso8601(local);
  if (run != expected)
    fail_msg("%s: ran at %s", claim, text);
}

static void
test_tables(void **state)
{
  (void) state;
  for (guint t = 0; t < G_N_ELEMENTS(tables); t++) {
    StoreSchedule schedule;
    g_autoptr(GTimeZone) zone = get_zone(tables[t].zone);
    g_auto(GStrv) runs = g_strsplit(tables[t].runs, " ", -1);
    parse_schedule(tables[t].schedule, &schedule);
    gint64 now = parse_instant(runs[0]);
    for (guint i = 1; runs[i]; i++) {
      g_autofree char *claim = g_strdup_printf("%s: %s instead of %s", tables[t].claim, runs[i - 1], runs[i]);
      now = store_schedule_next(&schedule, now, zone);
      check_run(claim, now, parse_instant(runs[i]), zone);
    }
  }
  print_message("%zu tables\n", G_N_ELEMENTS(tables));
}

/* ---- texts ---- */

static void
test_texts_have_one_form(void **state)
{
  (void) state;
  static const char *const texts[][2] = {
      {"every 15m", "every 15m"},
      {"EVERY  90m", "every 90m"},
      {"every 3600s", "every 1h"},
      {"every 24h", "every 1d"},
      {"every 61s", "every 61s"},
      {"every 366d", "every 366d"},
      {"hourly", "hourly"},
      {"hourly :00", "hourly"},
      {"hourly :05", "hourly :05"},
      {" daily 02:30 ", "daily 02:30"},
      {"daily 2:30", "daily 02:30"},
      {"daily 14:30,02:30,14:30", "daily 02:30,14:30"},
      {"weekly sun 03:00", "weekly sun 03:00"},
      {"weekly Thu,Mon,thu 23:59,00:00", "weekly mon,thu 00:00,23:59"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
    StoreSchedule schedule, again;
    parse_schedule(texts[i][0], &schedule);
    g_autofree char *text = store_schedule_format(&schedule);
    assert_string_equal(text, texts[i][1]);
    parse_schedule(text, &again);
    assert_memory_equal(&schedule, &again, sizeof schedule);
  }
}

static void
test_wrong_texts_are_refused_with_an_example(void **state)
{
  (void) state;
  static const char *const texts[][2] = {
      {"", "empty"},
      {"   ", "empty"},
      {"sometimes", "'sometimes'"},
      {"15m", "'15m'"},
      {"0 3 * * *", "'0'"},
      {"every", "every 15m"},
      {"every 15", "'15'"},
      {"every 15m 20m", "every 15m"},
      {"every -5m", "'-5m'"},
      {"every m", "'m'"},
      {"every 5w", "'5w'"},
      {"every 5mm", "'5mm'"},
      {"every 0m", "366d"},
      {"every 367d", "366d"},
      {"every 99999999999999999999999d", "366d"},
      {"hourly 15", "'15'"},
      {"hourly :5", "':5'"},
      {"hourly :60", "':60'"},
      {"hourly :15 :30", "hourly :15"},
      {"daily", "daily 02:30"},
      {"daily 24:00", "'24:00'"},
      {"daily 02:60", "'02:60'"},
      {"daily 0230", "'0230'"},
      {"daily 2:3", "'2:3'"},
      {"daily 02:30:00", "'02:30:00'"},
      {"daily 02:30,", "''"},
      {"daily 02:30 14:30", "daily 02:30"},
      {"daily +2:30", "'+2:30'"},
      {"weekly sun", "weekly mon"},
      {"weekly 03:00", "weekly mon"},
      {"weekly sunday 03:00", "'sunday'"},
      {"weekly mon, 03:00", "''"},
      {"weekly mon thu 03:00", "weekly mon"},
      {"monthly 1 03:00", "'monthly'"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
    StoreSchedule schedule;
    g_autoptr(GError) error = NULL;
    if (store_schedule_parse(texts[i][0], &schedule, &error))
      fail_msg("'%s' was taken", texts[i][0]);
    assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_INVALID));
    g_autofree char *message = cbt_error_message(error), *hint = cbt_error_hint(error);
    if (!strstr(message, texts[i][1]))
      fail_msg("'%s': %s", texts[i][0], message);
    assert_non_null(strstr(hint, "daily 02:30"));
  }
}

static void
test_more_times_than_there_is_room_for_are_refused(void **state)
{
  (void) state;
  g_autoptr(GString) text = g_string_new("daily 00:00");
  StoreSchedule schedule;
  g_autoptr(GError) error = NULL;
  for (guint i = 1; i < STORE_SCHEDULE_TIMES_MAX; i++)
    g_string_append_printf(text, ",%02u:30", i % 24);
  assert_true(store_schedule_parse(text->str, &schedule, NULL));
  g_string_append(text, ",00:01");
  assert_false(store_schedule_parse(text->str, &schedule, &error));
  assert_non_null(strstr(error->message, "at most 24"));
}

static void
test_periods(void **state)
{
  (void) state;
  static const struct {
    const char *text;
    gint64 minutes;
  } periods[] = {
      {"every 15m", 15},          {"every 3d", 3 * 1440},          {"hourly :20", 60},
      {"daily 02:30", 1440},      {"daily 02:30,03:00,14:00", 30}, {"daily 23:50,00:10", 20},
      {"weekly sun 03:00", 1440},
  };
  for (guint i = 0; i < G_N_ELEMENTS(periods); i++) {
    StoreSchedule schedule;
    parse_schedule(periods[i].text, &schedule);
    assert_int_equal(store_schedule_period(&schedule), periods[i].minutes * MINUTE);
  }
}

/* ---- properties ---- */

static const char *const zones[] = {
    "Europe/Berlin",    "America/New_York",  "Australia/Lord_Howe", "UTC",
    "Asia/Kathmandu",   "America/Sao_Paulo", "America/St_Johns",    "America/Havana",
    "Pacific/Auckland", "Africa/Casablanca", "Asia/Tehran"};

/* Whole minutes of the local clock since 1970, as it shows them. */
static gint64
clock_at(gint64 minute, GTimeZone *zone)
{
  g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(minute * 60);
  g_autoptr(GDateTime) local = g_date_time_to_timezone(utc, zone);
  return minute + g_date_time_get_utc_offset(local) / MINUTE;
}

static gboolean
is_time(const StoreSchedule *schedule, gint64 clock)
{
  gint64 day = clock / 1440, time = clock % 1440;
  if (schedule->kind == STORE_SCHEDULE_EVERY)
    return time % (schedule->seconds / 60) == 0;
  if (schedule->kind == STORE_SCHEDULE_HOURLY)
    return time % 60 == schedule->minute;
  if (schedule->kind == STORE_SCHEDULE_WEEKLY && !(schedule->weekdays & (1U << (day + 3) % 7)))
    return FALSE;
  for (guint i = 0; i < schedule->n_times; i++)
    if (schedule->times[i] == time)
      return TRUE;
  return FALSE;
}

/* How long a time of the clock may be ago for it to be no new one, in minutes. */
static gint64
oracle_period(const StoreSchedule *schedule)
{
  if (schedule->kind == STORE_SCHEDULE_EVERY)
    return schedule->seconds / 60;
  return schedule->kind == STORE_SCHEDULE_HOURLY ? 60 : 1440;
}

static gint64
oracle_next(const StoreSchedule *schedule, gint64 minute, GTimeZone *zone)
{
  for (minute++;; minute++) {
    gint64 before = clock_at(minute - 1, zone), clock = clock_at(minute, zone);
    for (gint64 shown = before + 1; shown <= clock; shown++)
      if (is_time(schedule, shown)) {
        gint64 shift = 0; /* by how much the clock was set back since it showed that before */
        for (gint64 ago = 1; ago <= 180 && shift == 0; ago++)
          shift = clock_at(minute - ago, zone) == shown ? ago : 0;
        if (shift == 0 || oracle_period(schedule) <= shift)
          return minute;
      }
    if (clock <= before && is_time(schedule, clock) && oracle_period(schedule) <= before + 1 - clock)
      return minute;
  }
}

static const char *const schedules[] = {
    "every 5m",    "every 15m",         "every 30m",        "every 1h",         "every 2h",
    "every 3h",    "every 6h",          "every 12h",        "every 1d",         "every 96m",
    "hourly",      "hourly :15",        "hourly :45",       "daily 02:30",      "daily 01:45,02:15",
    "daily 00:00", "daily 00:30,23:30", "weekly sun 02:30", "weekly mon 00:15", "weekly sat,sun 01:30,02:00",
};

/* A minute in the days around a change of ZONE's clock, or anywhere. */
static gint64
random_minute(GRand *random, GTimeZone *zone)
{
  gint64 minute = 26297280 + g_rand_int_range(random, 0, 20 * 525960); /* from 2020-01-01 on */
  for (guint i = 0; i < 300 && g_rand_boolean(random); i++) {
    gint64 day = minute + 1440 * g_rand_int_range(random, 0, 366);
    if (clock_at(day, zone) - day != clock_at(day + 1440, zone) - day - 1440)
      return day + g_rand_int_range(random, -1440, 1440);
  }
  return minute;
}

static guint32
random_seed(void)
{
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("seed %u\n", seed);
  return seed;
}

static void
test_agrees_with_a_clock_that_is_watched(void **state)
{
  (void) state;
  g_autoptr(GRand) random = g_rand_new_with_seed(random_seed());
  guint n_rounds = g_getenv("CBT_TEST_LONG") ? 5000 : 150;
  for (guint round = 0; round < n_rounds; round++) {
    const char *name = zones[g_rand_int_range(random, 0, G_N_ELEMENTS(zones))];
    const char *text = schedules[g_rand_int_range(random, 0, G_N_ELEMENTS(schedules))];
    g_autoptr(GTimeZone) zone = get_zone(name);
    StoreSchedule schedule;
    parse_schedule(text, &schedule);
    gint64 minute = random_minute(random, zone);
    for (guint i = 0; i < 3; i++) {
      gint64 expected = oracle_next(&schedule, minute, zone);
      g_autofree char *claim = g_strdup_printf("%s, %s, after %" G_GINT64_FORMAT " not %" G_GINT64_FORMAT,
                                               name, text, minute * 60, expected * 60);
      check_run(claim, store_schedule_next(&schedule, minute * MINUTE, zone), expected * MINUTE, zone);
      minute = expected;
    }
  }
}

static void
test_each_local_day_has_one_daily_run(void **state)
{
  (void) state;
  g_autoptr(GRand) random = g_rand_new_with_seed(random_seed());
  for (guint z = 0; z < G_N_ELEMENTS(zones); z++) {
    g_autoptr(GTimeZone) zone = get_zone(zones[z]);
    g_autofree char *text = g_strdup_printf("daily %02u:%02u", (guint) g_rand_int_range(random, 0, 24),
                                            (guint) g_rand_int_range(random, 0, 60));
    StoreSchedule schedule;
    parse_schedule(text, &schedule);
    gint64 now = store_schedule_next(&schedule, 26297280 * MINUTE, zone);
    for (guint i = 0; i < 10 * 365; i++) {
      gint64 next = store_schedule_next(&schedule, now, zone);
      if (next <= now || clock_at(next / MINUTE, zone) / 1440 != clock_at(now / MINUTE, zone) / 1440 + 1)
        fail_msg("%s, %s: after %" G_GINT64_FORMAT " comes %" G_GINT64_FORMAT, zones[z], text,
                 now / G_USEC_PER_SEC, next / G_USEC_PER_SEC);
      now = next;
    }
  }
}

static void
test_runs_are_in_the_future_and_not_far(void **state)
{
  (void) state;
  g_autoptr(GRand) random = g_rand_new_with_seed(random_seed());
  for (guint round = 0; round < 20000; round++) {
    g_autoptr(GTimeZone) zone = get_zone(zones[g_rand_int_range(random, 0, G_N_ELEMENTS(zones))]);
    StoreSchedule schedule;
    parse_schedule(schedules[g_rand_int_range(random, 0, G_N_ELEMENTS(schedules))], &schedule);
    gint64 now = g_rand_int(random) * (gint64) G_USEC_PER_SEC + g_rand_int_range(random, 0, G_USEC_PER_SEC);
    gint64 next = store_schedule_next(&schedule, now, zone);
    assert_true(next > now);
    assert_true(next <= now + 7 * 1440 * MINUTE + 60 * MINUTE);
    /* Nothing lies between: asked at any instant before it, it is the next one. */
    gint64 between = now + (gint64) (g_rand_double(random) * (double) (next - 1 - now));
    assert_int_equal(store_schedule_next(&schedule, between, zone), next);
    assert_int_equal(store_schedule_next(&schedule, next - 1, zone), next);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),
      cmocka_unit_test(test_texts_have_one_form),
      cmocka_unit_test(test_wrong_texts_are_refused_with_an_example),
      cmocka_unit_test(test_more_times_than_there_is_room_for_are_refused),
      cmocka_unit_test(test_periods),
      cmocka_unit_test(test_agrees_with_a_clock_that_is_watched),
      cmocka_unit_test(test_each_local_day_has_one_daily_run),
      cmocka_unit_test(test_runs_are_in_the_future_and_not_far),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
