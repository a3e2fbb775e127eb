/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Schedules: when something is to run, as people write it.
 *
 *   every 15m               every so many s, m, h or d: at local times that count from midnight if the day is a multiple
 *                           of it (00:00, 00:15, ...), else so long after the run before
 *   hourly, hourly :15      each hour, at that minute
 *   daily 02:30,14:30       each day at these times
 *   weekly mon,thu 03:00    on these days at these times
 *
 * Times are those of the local clock. One that the clock leaves out in spring is run at the first instant after the gap, once
 * for all that fall there. One that the clock shows twice in autumn is run the first time; but what runs at least as often as
 * the clock was set back by goes on through both.
 *
 * Pure: no I/O, and no clock. Any thread.
 */
#pragma once

#include <glib.h>

#define STORE_SCHEDULE_TIMES_MAX   24
#define STORE_SCHEDULE_SECONDS_MAX (366 * 86400) /* of "every" */

typedef enum {
  STORE_SCHEDULE_EVERY,
  STORE_SCHEDULE_HOURLY,
  STORE_SCHEDULE_DAILY,
  STORE_SCHEDULE_WEEKLY,
} StoreScheduleKind;

typedef struct {
  StoreScheduleKind kind;
  guint32 seconds;  /* every */
  guint32 minute;   /* hourly */
  guint32 weekdays; /* weekly: bit 0 is Monday */
  guint32 n_times;  /* daily, weekly */
  guint32 times[STORE_SCHEDULE_TIMES_MAX]; /* minutes of the day, ascending, each once */
} StoreSchedule;

/* INVALID says what is wrong, and shows examples. */
gboolean store_schedule_parse(const char *text, StoreSchedule *schedule, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The text in its one form (transfer full): parsed again it gives the same. */
char *store_schedule_format(const StoreSchedule *schedule);

/* The first run after AFTER, both in microseconds since 1970. For an "every" that the day is no multiple of, AFTER is the run
 * before. ZONE NULL: the local one. */
gint64 store_schedule_next(const StoreSchedule *schedule, gint64 after, GTimeZone *zone);
/* No two runs are closer than that, where the clock is not changed; microseconds. */
gint64 store_schedule_period(const StoreSchedule *schedule);
