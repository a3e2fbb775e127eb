/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calculated in seconds since 1970, and in "local seconds": what the local clock shows, read as if it were
 * UTC. GTimeZone gives the offset between the two at an instant. That is all that is asked of it: an instant
 * where it changes is found by halving.
 *
 * It is taken for granted that an offset holds for two days around a change. No zone ever broke that.
 */
#include <store/schedule.h>

#include <common/error.h>
#include <string.h>

#define DAY      ((gint64) 86400)
#define HOUR     ((gint64) 3600)
#define EXAMPLES "Write for example: every 15m, hourly :15, daily 02:30, or weekly sun 03:00."

static const char *const weekday_names[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

/* ---- reading ---- */

static gboolean G_GNUC_PRINTF(2, 3) refuse(GError **error, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *problem = g_strdup_vprintf(format, args);
  va_end(args);
  cbt_set_error(error, CBT_ERROR_INVALID, EXAMPLES, "%s", problem);
  return FALSE;
}

/* Up to two digits, less than LIMIT; moves *TEXT behind them. */
static gboolean
take_number(const char **text, guint limit, guint32 *number)
{
  const char *at = *text;
  *number = 0;
  while (g_ascii_isdigit(*at) && at - *text < 2)
    *number = *number * 10 + (guint32) g_ascii_digit_value(*at++);
  gboolean ok = at > *text && *number < limit;
  *text = at;
  return ok;
}

static gboolean
parse_time(const char *text, guint32 *minutes)
{
  const char *at = text;
  guint32 hour, minute;
  if (!take_number(&at, 24, &hour) || *at++ != ':' || strlen(at) != 2 || !take_number(&at, 60, &minute))
    return FALSE;
  *minutes = hour * 60 + minute;
  return TRUE;
}

/* Puts MINUTES into the ascending times, unless it is there. FALSE if there is no room. */
static gboolean
add_time(StoreSchedule *schedule, guint32 minutes)
{
  guint32 at = 0;
  while (at < schedule->n_times && schedule->times[at] < minutes)
    at++;
  if (at < schedule->n_times && schedule->times[at] == minutes)
    return TRUE;
  if (schedule->n_times == STORE_SCHEDULE_TIMES_MAX)
    return FALSE;
  for (guint32 i = schedule->n_times++; i > at; i--)
    schedule->times[i] = schedule->times[i - 1];
  schedule->times[at] = minutes;
  return TRUE;
}

static gboolean
parse_times(const char *text, StoreSchedule *schedule, GError **error)
{
  g_auto(GStrv) parts = g_strsplit(text, ",", -1);
  for (char **part = parts; *part; part++) {
    guint32 minutes = 0;
    if (!parse_time(*part, &minutes))
      return refuse(error, "'%s' is no time of the day", *part);
    if (!add_time(schedule, minutes))
      return refuse(error, "a schedule has at most %d times a day", STORE_SCHEDULE_TIMES_MAX);
  }
  return schedule->n_times > 0 || refuse(error, "the schedule has no time of the day");
}

static gboolean
parse_weekdays(const char *text, StoreSchedule *schedule, GError **error)
{
  g_auto(GStrv) parts = g_strsplit(text, ",", -1);
  for (char **part = parts; *part; part++) {
    guint day = 0;
    while (day < 7 && strcmp(*part, weekday_names[day]) != 0)
      day++;
    if (day == 7)
      return refuse(error, "'%s' is no day; the days are mon, tue, wed, thu, fri, sat and sun", *part);
    schedule->weekdays |= 1U << day;
  }
  return schedule->weekdays != 0 || refuse(error, "the schedule has no day");
}

static gboolean
parse_every(char **words, StoreSchedule *schedule, GError **error)
{
  static const struct {
    char letter;
    guint64 seconds;
  } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
  char *end = words[0];
  guint64 number = g_ascii_isdigit(words[0][0]) ? g_ascii_strtoull(words[0], &end, 10) : 0;
  guint64 unit = 0;
  for (guint i = 0; i < G_N_ELEMENTS(units) && end > words[0]; i++)
    if (end[0] == units[i].letter && end[1] == '\0')
      unit = units[i].seconds;
  if (unit == 0)
    return refuse(error, "'%s' is no number with s, m, h or d behind it", words[0]);
  if (number == 0 || number > STORE_SCHEDULE_SECONDS_MAX / unit)
    return refuse(error, "'every %s' is not possible: it must be from 1s to 366d", words[0]);
  schedule->seconds = (guint32) (number * unit);
  return TRUE;
}

static gboolean
parse_hourly(char **words, StoreSchedule *schedule, GError **error)
{
  const char *at = words[0] ? words[0] + 1 : NULL;
  if (!at)
    return TRUE;
  if (words[0][0] != ':' || strlen(at) != 2 || !take_number(&at, 60, &schedule->minute) || *at != '\0')
    return refuse(error, "'%s' is no minute from :00 to :59", words[0]);
  return TRUE;
}

static gboolean
parse_daily(char **words, StoreSchedule *schedule, GError **error)
{
  return parse_times(words[0], schedule, error);
}

static gboolean
parse_weekly(char **words, StoreSchedule *schedule, GError **error)
{
  return parse_weekdays(words[0], schedule, error) && parse_times(words[1], schedule, error);
}

static const struct {
  const char *name;
  const char *args;
  guint min_args;
  guint max_args;
  gboolean (*parse)(char **words, StoreSchedule *schedule, GError **error);
} kinds[] = {
    [STORE_SCHEDULE_EVERY] = {"every", "how often, as in 'every 15m'", 1, 1, parse_every},
    [STORE_SCHEDULE_HOURLY] = {"hourly", "a minute at most, as in 'hourly :15'", 0, 1, parse_hourly},
    [STORE_SCHEDULE_DAILY] = {"daily", "times, as in 'daily 02:30,14:30'", 1, 1, parse_daily},
    [STORE_SCHEDULE_WEEKLY] = {"weekly", "days and times, as in 'weekly mon,thu 03:00'", 2, 2, parse_weekly},
};

static gboolean
parse_words(char **words, guint n_words, StoreSchedule *schedule, GError **error)
{
  if (n_words == 0)
    return refuse(error, "the schedule is empty");
  for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
    if (strcmp(words[0], kinds[i].name) != 0)
      continue;
    schedule->kind = (StoreScheduleKind) i;
    if (n_words - 1 < kinds[i].min_args || n_words - 1 > kinds[i].max_args)
      return refuse(error, "'%s' takes %s", kinds[i].name, kinds[i].args);
    return kinds[i].parse(words + 1, schedule, error);
  }
  return refuse(error, "a schedule begins with every, hourly, daily or weekly, not with '%s'", words[0]);
}

gboolean
store_schedule_parse(const char *text, StoreSchedule *schedule, GError **error)
{
  g_autofree char *lower = g_ascii_strdown(text, -1);
  g_auto(GStrv) parts = g_strsplit_set(lower, " \t", -1);
  g_autofree char **words = g_new0(char *, g_strv_length(parts) + 1);
  guint n_words = 0;
  for (char **part = parts; *part; part++)
    if (**part)
      words[n_words++] = *part;
  *schedule = (StoreSchedule){0};
  return parse_words(words, n_words, schedule, error);
}

/* ---- writing ---- */

static void
append_times(GString *text, const StoreSchedule *schedule)
{
  for (guint32 i = 0; i < schedule->n_times; i++)
    g_string_append_printf(text, "%s%02u:%02u", i > 0 ? "," : " ", schedule->times[i] / 60,
                           schedule->times[i] % 60);
}

static void
append_period(GString *text, guint32 seconds)
{
  if (seconds % DAY == 0)
    g_string_append_printf(text, " %ud", (guint) (seconds / DAY));
  else if (seconds % HOUR == 0)
    g_string_append_printf(text, " %uh", (guint) (seconds / HOUR));
  else if (seconds % 60 == 0)
    g_string_append_printf(text, " %um", seconds / 60);
  else
    g_string_append_printf(text, " %us", seconds);
}

char *
store_schedule_format(const StoreSchedule *schedule)
{
  GString *text = g_string_new(kinds[schedule->kind].name);
  const char *separator = " ";
  if (schedule->kind == STORE_SCHEDULE_EVERY)
    append_period(text, schedule->seconds);
  if (schedule->kind == STORE_SCHEDULE_HOURLY && schedule->minute > 0)
    g_string_append_printf(text, " :%02u", schedule->minute);
  for (guint day = 0; day < 7; day++)
    if (schedule->weekdays & (1U << day)) {
      g_string_append_printf(text, "%s%s", separator, weekday_names[day]);
      separator = ",";
    }
  append_times(text, schedule);
  return g_string_free(text, FALSE);
}

/* ---- the local clock ---- */

static gint64
floor_to(gint64 value, gint64 step)
{
  gint64 rest = value % step;
  return value - (rest < 0 ? rest + step : rest);
}

static gint64
offset_at(GTimeZone *zone, gint64 instant)
{
  return g_time_zone_get_offset(zone, g_time_zone_find_interval(zone, G_TIME_TYPE_UNIVERSAL, instant));
}

/* The first instant in (FROM, TO] with another offset than FROM; TO if there is none. */
static gint64
find_change(GTimeZone *zone, gint64 from, gint64 to)
{
  gint64 offset = offset_at(zone, from);
  while (to - from > 1) {
    gint64 middle = from + (to - from) / 2;
    if (offset_at(zone, middle) == offset)
      from = middle;
    else
      to = middle;
  }
  return to;
}

/* When the clock shows LOCAL for the first time; or if it never does, when it has just leapt over that. */
static gint64
instant_of(GTimeZone *zone, gint64 local)
{
  gint64 before = offset_at(zone, local - DAY), after = offset_at(zone, local + DAY);
  if (offset_at(zone, local - before) == before)
    return local - before;
  if (offset_at(zone, local - after) == after)
    return local - after;
  return find_change(zone, local - DAY, local + DAY);
}

/* ---- the next run ---- */

static gint64
next_at_times(const StoreSchedule *schedule, gint64 after, GTimeZone *zone)
{
  gint64 today = floor_to(after + offset_at(zone, after), DAY);
  for (gint64 day = today - DAY;; day += DAY) {
    guint weekday = (guint) (floor_to(day, DAY) / DAY + 3 + 7 * 1000000) % 7; /* 1970-01-01 was a Thursday */
    if (schedule->kind == STORE_SCHEDULE_WEEKLY && !(schedule->weekdays & (1U << weekday)))
      continue;
    for (guint32 i = 0; i < schedule->n_times; i++) {
      gint64 instant = instant_of(zone, day + schedule->times[i] * 60);
      if (instant > after)
        return instant;
    }
  }
}

/* The first instant after AFTER whose local time under OFFSET is PHASE behind a multiple of PERIOD. */
static gint64
next_multiple(gint64 after, gint64 offset, gint64 period, gint64 phase)
{
  return floor_to(after + offset - phase, period) + period + phase - offset;
}

/* INSTANT, or if the clock has shown that local time before and that was no longer than a period ago, the
 * first one after it that is new. */
static gint64
skip_repeated(GTimeZone *zone, gint64 instant, gint64 period)
{
  for (;; instant += period) {
    gint64 first = instant_of(zone, instant + offset_at(zone, instant));
    if (instant - first <= 0 || period <= instant - first)
      return instant;
  }
}

static gint64
next_on_grid(gint64 after, gint64 period, gint64 phase, GTimeZone *zone)
{
  gint64 old = offset_at(zone, after);
  gint64 instant = next_multiple(after, old, period, phase);
  gint64 change = find_change(zone, after, instant);
  gint64 new = offset_at(zone, change);
  if (new > old && instant + old < change + new)
    return change; /* it is in the gap */
  if (new > old)
    instant += old - new;
  if (new < old)
    instant = next_multiple(change - 1, new, period, phase);
  return skip_repeated(zone, instant, period);
}

gint64
store_schedule_next(const StoreSchedule *schedule, gint64 after, GTimeZone *zone)
{
  g_autoptr(GTimeZone) here = zone ? g_time_zone_ref(zone) : g_time_zone_new_local();
  gint64 seconds = floor_to(after, G_USEC_PER_SEC) / G_USEC_PER_SEC;
  if (schedule->kind == STORE_SCHEDULE_EVERY && DAY % schedule->seconds != 0)
    return after + (gint64) schedule->seconds * G_USEC_PER_SEC;
  if (schedule->kind == STORE_SCHEDULE_EVERY)
    return next_on_grid(seconds, schedule->seconds, 0, here) * G_USEC_PER_SEC;
  if (schedule->kind == STORE_SCHEDULE_HOURLY)
    return next_on_grid(seconds, HOUR, schedule->minute * 60, here) * G_USEC_PER_SEC;
  return next_at_times(schedule, seconds, here) * G_USEC_PER_SEC;
}

/* Of times within a day; days that follow each other are no closer than those of one day. */
static gint64
least_distance(const StoreSchedule *schedule)
{
  gint64 least = DAY - (schedule->times[schedule->n_times - 1] - schedule->times[0]) * (gint64) 60;
  for (guint32 i = 1; i < schedule->n_times; i++)
    least = MIN(least, (schedule->times[i] - schedule->times[i - 1]) * (gint64) 60);
  return least;
}

gint64
store_schedule_period(const StoreSchedule *schedule)
{
  gint64 seconds = schedule->kind == STORE_SCHEDULE_EVERY    ? schedule->seconds
                   : schedule->kind == STORE_SCHEDULE_HOURLY ? HOUR
                                                             : least_distance(schedule);
  return seconds * G_USEC_PER_SEC;
}
