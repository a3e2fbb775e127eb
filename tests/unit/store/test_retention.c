/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables that were worked out by hand, with calendars. A table is a list of points, newest first, each
 * TIME[!][~]=VERDICT: "!" is protected, "~" incomplete. A verdict is the letter of the rule that decided, a
 * capital if the point is kept: L H D W M Y for the six, P protected, I incomplete, A all (no rules), x no
 * rule keeps it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <store/retention.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  const char *claim;
  const char *zone;
  const char *rules; /* "last=1 daily=7" */
  const char *points;
} Table;

static const Table tables[] = {
    /* ---- no rules ---- */
    {"without rules all is kept", "UTC", "", "2024-01-03T00:00Z=A 2024-01-02T00:00Z=A 2019-01-01T00:00Z=A"},
    {"rules of zero are none", "UTC", "last=0 hourly=0 daily=0 weekly=0 monthly=0 yearly=0",
     "2024-01-03T00:00Z=A 2024-01-02T00:00Z=A"},
    {"without rules incomplete ones stay, too", "UTC", "",
     "2024-01-03T00:00Z=A 2024-01-02T00:00Z!=P 2024-01-01T00:00Z~=A 2023-01-01T00:00Z~!=P"},
    {"no points are no trouble", "UTC", "last=1 yearly=1", ""},

    /* ---- keep-last ---- */
    {"keep-last keeps the newest", "UTC", "last=1",
     "2024-01-03T00:00Z=L 2024-01-02T00:00Z=x 2024-01-01T00:00Z=x"},
    {"keep-last of as many as there are", "UTC", "last=2", "2024-01-03T00:00Z=L 2024-01-02T00:00Z=L"},
    {"keep-last of more than there are", "UTC", "last=18446744073709551615",
     "2024-01-03T00:00Z=L 2024-01-02T00:00Z=L 1999-01-02T00:00Z=L"},
    {"to keep-last points of one second are several", "UTC", "last=2",
     "2024-01-03T00:00:00.9Z=L 2024-01-03T00:00:00.5Z=L 2024-01-03T00:00:00.1Z=x"},
    {"of two points at the same instant the first counts as newer", "UTC", "last=2",
     "2024-01-03T00:00Z=L 2024-01-03T00:00Z=L 2024-01-03T00:00Z=x"},

    /* ---- one rule ---- */
    {"keep-hourly keeps the newest of an hour", "UTC", "hourly=2",
     "2024-01-03T10:50Z=H 2024-01-03T10:10Z=h 2024-01-03T09:59Z=H 2024-01-03T09:00Z=h 2024-01-03T08:59Z=x"},
    {"empty hours do not count", "UTC", "hourly=3",
     "2024-01-03T10:00Z=H 2024-01-03T07:30Z=H 2024-01-01T02:15Z=H 2024-01-01T02:10Z=h 2024-01-01T01:00Z=x"},
    {"an hour ends with its last second", "UTC", "hourly=2",
     "2024-01-03T10:00:00Z=H 2024-01-03T09:59:59.999Z=H 2024-01-03T08:00Z=x"},
    {"the same hour of another day is another", "UTC", "hourly=2",
     "2024-01-03T10:00Z=H 2024-01-02T10:00Z=H 2024-01-01T10:00Z=x"},
    {"keep-daily keeps the newest of a day", "UTC", "daily=2",
     "2024-03-02T23:59Z=D 2024-03-02T00:00Z=d 2024-03-01T23:59Z=D 2024-03-01T00:00Z=d 2024-02-29T12:00Z=x"},
    {"empty days do not count", "UTC", "daily=3",
     "2024-05-30T01:00Z=D 2024-05-20T01:00Z=D 2024-05-01T01:00Z=D 2024-04-30T01:00Z=x"},
    {"the same day of another month is another", "UTC", "daily=2",
     "2024-05-30T01:00Z=D 2024-04-30T01:00Z=D 2023-04-30T01:00Z=x"},
    {"keep-monthly keeps the newest of a month", "UTC", "monthly=2",
     "2024-03-31T23:59Z=M 2024-03-01T00:00Z=m 2024-02-29T10:00Z=M 2024-02-01T00:00Z=m 2024-01-31T23:59Z=x"},
    {"the same month of another year is another", "UTC", "monthly=3",
     "2024-03-10T00:00Z=M 2023-03-10T00:00Z=M 2022-03-10T00:00Z=M 2021-03-10T00:00Z=x"},
    {"keep-yearly keeps the newest of a year", "UTC", "yearly=2",
     "2024-12-31T23:59Z=Y 2024-01-01T00:00Z=y 2023-06-01T00:00Z=Y 2023-01-01T00:00Z=y 2022-12-31T23:59Z=x"},
    {"years before 1970 are years", "UTC", "yearly=2",
     "1970-01-01T00:00Z=Y 1969-12-31T23:59:59.5Z=Y 1969-01-01T00:00Z=y 1968-12-31T23:59:59.5Z=x"},

    /* ---- weeks: 2024-03-04 is a Monday; 2020-W53 runs from 2020-12-28 to 2021-01-03 ---- */
    {"a week begins on Monday", "UTC", "weekly=2",
     "2024-03-04T00:00Z=W 2024-03-03T23:59Z=W 2024-02-26T00:00Z=w 2024-02-25T23:59Z=x"},
    {"a week over the year's end is one", "UTC", "weekly=1",
     "2021-01-03T12:00Z=W 2021-01-01T00:00Z=w 2020-12-31T23:59Z=w 2020-12-28T00:00Z=w 2020-12-27T23:59Z=x"},
    {"week 53 is followed by week 1", "UTC", "weekly=2",
     "2021-01-04T00:00Z=W 2021-01-03T23:59Z=W 2020-12-28T00:00Z=w 2020-12-27T23:59Z=x"},
    {"the last day of a year may be in week 1", "UTC", "weekly=2",
     "2019-01-06T10:00Z=W 2018-12-31T00:00Z=w 2018-12-30T23:59Z=W 2018-12-24T00:00Z=w 2018-12-23T23:59Z=x"},
    {"week 1 of two years is two, both on days of 2018", "UTC", "weekly=2",
     "2018-12-31T00:00Z=W 2018-01-01T00:00Z=W 2017-12-31T00:00Z=x"},
    {"week 52 of two years is two, both on days of 2017", "UTC", "weekly=2",
     "2017-12-31T00:00Z=W 2017-01-01T00:00Z=W 2016-12-26T00:00Z=w 2016-12-25T00:00Z=x"},

    /* ---- rules that overlap ---- */
    {"a day that keep-last kept a point of does not count", "UTC", "last=1 daily=2",
     "2024-03-03T12:00Z=L 2024-03-03T08:00Z=x 2024-03-02T20:00Z=D 2024-03-02T10:00Z=d 2024-03-01T20:00Z=D "
     "2024-02-29T20:00Z=x"},
    {"an hour that keep-last kept two points of does not count", "UTC", "last=2 hourly=1",
     "2024-03-03T10:50Z=L 2024-03-03T10:40Z=L 2024-03-03T10:30Z=x 2024-03-03T09:50Z=H 2024-03-03T09:10Z=h "
     "2024-03-03T08:00Z=x"},
    {"weeks that days were kept of do not count", "UTC", "daily=2 weekly=2",
     "2024-03-06T01:00Z=D 2024-03-05T01:00Z=D 2024-03-04T01:00Z=x 2024-03-03T01:00Z=W 2024-03-01T01:00Z=w "
     "2024-02-25T01:00Z=W 2024-02-18T01:00Z=x"},
    {"what a rule removed no later one keeps", "UTC", "weekly=1 monthly=2",
     "2024-03-01T12:00Z=W 2024-02-29T12:00Z=w 2024-02-26T00:00Z=w 2024-02-25T12:00Z=M 2024-02-24T12:00Z=m "
     "2024-01-31T12:00Z=M 2023-12-31T12:00Z=x"},
    {"what is passed by in a week is passed by in its month", "UTC", "last=1 weekly=1 monthly=1",
     "2024-03-01T12:00Z=L 2024-02-29T12:00Z=x 2024-02-25T12:00Z=W 2024-02-24T12:00Z=w 2024-01-31T12:00Z=M "
     "2024-01-30T12:00Z=m 2023-12-31T12:00Z=x"},
    {"what is passed by in a week may be the newest of its month", "UTC", "last=1 weekly=1 monthly=2",
     "2024-04-01T12:00Z=L 2024-03-24T12:00Z=W 2024-03-18T12:00Z=w 2024-02-29T12:00Z=M 2024-02-26T12:00Z=m "
     "2024-01-31T12:00Z=M"},
    {"a week over the year's end takes its days from the old year", "UTC", "weekly=1 yearly=1",
     "2021-01-02T12:00Z=W 2020-12-30T12:00Z=w 2020-12-27T12:00Z=Y 2020-12-26T12:00Z=y 2019-12-31T12:00Z=x"},
    {"rules that find nothing new keep nothing more", "UTC",
     "last=2 hourly=5 daily=5 weekly=5 monthly=5 yearly=5",
     "2024-03-06T10:30Z=L 2024-03-06T10:20Z=L 2024-03-06T10:10Z=x"},
    {"all six", "UTC", "last=1 hourly=2 daily=2 weekly=2 monthly=2 yearly=2",
     "2024-03-06T10:30Z=L 2024-03-06T10:10Z=x 2024-03-06T09:40Z=H 2024-03-06T09:20Z=h 2024-03-06T07:00Z=H "
     "2024-03-06T06:00Z=x 2024-03-05T22:00Z=D 2024-03-05T21:00Z=d 2024-03-04T22:00Z=D 2024-03-04T01:00Z=d "
     "2024-03-03T22:00Z=W 2024-03-02T22:00Z=w 2024-02-25T22:00Z=W 2024-02-19T00:00Z=w 2024-02-18T22:00Z=x "
     "2024-01-31T22:00Z=M 2024-01-01T22:00Z=m 2023-12-31T22:00Z=M 2023-12-01T22:00Z=m 2023-11-30T22:00Z=x "
     "2022-05-05T22:00Z=Y 2022-01-01T22:00Z=y 2021-12-31T22:00Z=Y 2020-12-31T22:00Z=x"},

    /* ---- protected ---- */
    {"a protected point does not count", "UTC", "last=2",
     "2024-03-03T10:00Z!=P 2024-03-03T09:00Z=L 2024-03-03T08:00Z=L 2024-03-03T07:00Z=x"},
    {"a protected point stays behind all rules", "UTC", "last=1",
     "2024-03-03T10:00Z=L 2024-03-02T09:00Z=x 2003-03-03T08:00Z!=P"},
    {"a protected point does not take its day", "UTC", "daily=1",
     "2024-03-02T20:00Z!=P 2024-03-02T10:00Z=D 2024-03-02T08:00Z=d 2024-03-01T20:00Z=x"},
    {"a protected point stays beside the one that its day keeps", "UTC", "daily=1",
     "2024-03-02T20:00Z=D 2024-03-02T10:00Z!=P 2024-03-02T08:00Z=d"},
    {"a protected point does not take its month from a later rule", "UTC", "last=1 monthly=1",
     "2024-03-10T00:00Z=L 2024-02-20T00:00Z!=P 2024-02-10T00:00Z=M 2024-02-09T00:00Z=m 2024-01-10T00:00Z=x"},
    {"all may be protected", "UTC", "last=1", "2024-03-10T00:00Z!=P 2024-02-20T00:00Z!=P"},

    /* ---- incomplete ---- */
    {"of incomplete points the newest stays, if nothing complete is newer", "UTC", "last=1",
     "2024-03-03T12:00Z~=I 2024-03-03T11:00Z~=i 2024-03-03T10:00Z=L 2024-03-03T09:00Z~=i "
     "2024-03-03T08:00Z=x"},
    {"an incomplete point older than a complete one goes", "UTC", "last=9",
     "2024-03-03T12:00Z=L 2024-03-03T11:00Z~=i 2024-03-03T10:00Z=L"},
    {"of nothing but incomplete points one stays", "UTC", "last=3",
     "2024-03-03T12:00Z~=I 2024-03-03T11:00Z~=i 2024-03-03T10:00Z~=i"},
    {"an incomplete point takes no day", "UTC", "daily=1",
     "2024-03-02T20:00Z~=I 2024-03-02T10:00Z=D 2024-03-02T08:00Z=d 2024-03-01T08:00Z=x"},
    {"a protected incomplete point does not count", "UTC", "last=1",
     "2024-03-03T12:00Z~!=P 2024-03-03T11:00Z~=I 2024-03-03T10:00Z=L 2024-03-03T09:00Z=x"},
    {"a protected point is a complete one", "UTC", "last=1",
     "2024-03-03T12:00Z!=P 2024-03-03T11:00Z~=i 2024-03-03T10:00Z=L"},

    /* ---- daylight saving: Berlin sets back at 2024-10-27T01:00Z, forward at 2024-03-31T01:00Z ---- */
    {"the hour that comes twice is one", "Europe/Berlin", "hourly=2",
     "2024-10-27T01:50Z=H 2024-10-27T00:10Z=h 2024-10-26T23:59Z=H 2024-10-26T22:59Z=x"},
    {"the same hours in UTC are two", "UTC", "hourly=2",
     "2024-10-27T01:50Z=H 2024-10-27T00:10Z=H 2024-10-26T23:59Z=x 2024-10-26T22:59Z=x"},
    {"the hour that is left out does not count", "Europe/Berlin", "hourly=3",
     "2024-03-31T01:00Z=H 2024-03-31T00:59Z=H 2024-03-31T00:00Z=h 2024-03-30T23:30Z=H 2024-03-30T22:59Z=x"},
    {"a day of 25 hours is one", "Europe/Berlin", "daily=2",
     "2024-10-27T23:00Z=D 2024-10-27T22:59Z=D 2024-10-26T22:00Z=d 2024-10-26T21:59Z=x"},
    {"a day of 23 hours is one", "Europe/Berlin", "daily=2",
     "2024-03-31T22:00Z=D 2024-03-31T21:59Z=D 2024-03-30T23:00Z=d 2024-03-30T22:59Z=x"},
    {"a week with the change in it is one", "Europe/Berlin", "weekly=2",
     "2024-10-27T23:00Z=W 2024-10-27T22:59Z=W 2024-10-20T22:00Z=w 2024-10-20T21:59Z=x"},
    {"an hour and a half where clocks move by 30 minutes", "Australia/Lord_Howe", "hourly=2",
     "2024-04-06T15:30Z=H 2024-04-06T15:29Z=H 2024-04-06T14:00Z=h 2024-04-06T13:59Z=x"},
    {"a day that was left out does not count", "Pacific/Apia", "daily=3",
     "2011-12-30T10:00Z=D 2011-12-30T09:59Z=D 2011-12-29T10:00Z=d 2011-12-29T09:59Z=D 2011-12-28T09:59Z=x"},
    {"a day that is entered twice, once for a minute, is one", "America/St_Johns", "daily=2",
     "2006-10-29T03:30Z=D 2006-10-29T03:29Z=D 2006-10-29T02:30Z=d 2006-10-29T02:29Z=d 2006-10-28T02:29Z=x"},

    /* ---- zones ---- */
    {"days end at local midnight", "America/New_York", "daily=2",
     "2024-01-02T05:00Z=D 2024-01-02T04:59Z=D 2024-01-01T05:00Z=d 2024-01-01T04:59Z=x"},
    {"weeks end at local midnight", "Asia/Tokyo", "weekly=2",
     "2024-03-03T15:00Z=W 2024-03-03T14:59Z=W 2024-02-25T15:00Z=w 2024-02-25T14:59Z=x"},
    {"months end at local midnight", "America/Los_Angeles", "monthly=2",
     "2024-03-01T08:00Z=M 2024-03-01T07:59Z=M 2024-02-01T08:00Z=m 2024-02-01T07:59Z=x"},
    {"years end at local midnight", "Pacific/Auckland", "yearly=2",
     "2023-12-31T11:00Z=Y 2023-12-31T10:59Z=Y 2022-12-31T11:00Z=y 2022-12-31T10:59Z=x"},
    {"hours begin with the local one", "Asia/Kathmandu", "hourly=2",
     "2024-01-01T10:15Z=H 2024-01-01T10:14Z=H 2024-01-01T09:15Z=h 2024-01-01T09:14Z=x"},
};

static const char letters[] = "LHDWMYPIA";

#define MAX_POINTS 1200

typedef struct {
  StoreRetention retention;
  StoreRetentionPoint points[MAX_POINTS];
  char expected[MAX_POINTS];
  gsize n_points;
  GTimeZone *zone;
} Case;

static void
parse_rules(const char *text, StoreRetention *retention)
{
  g_auto(GStrv) words = g_strsplit(text, " ", -1);
  *retention = (StoreRetention){0};
  for (guint w = 0; words[w] && *words[w]; w++) {
    g_auto(GStrv) parts = g_strsplit(words[w], "=", 2);
    g_autofree char *name = g_strconcat("keep-", parts[0], NULL);
    guint rule = 0;
    while (rule < STORE_RETENTION_N_NUMBERS && strcmp(store_retention_rule_name(rule), name) != 0)
      rule++;
    assert_true(rule < STORE_RETENTION_N_NUMBERS);
    retention->numbers[rule] = g_ascii_strtoull(parts[1], NULL, 10);
  }
}

static gint64
parse_time(const char *text)
{
  /* GLib wants seconds. */
  g_autofree char *full =
      strlen(text) == strlen("2024-01-01T00:00Z") ? g_strdup_printf("%.16s:00Z", text) : g_strdup(text);
  g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(full, NULL);
  assert_non_null(time);
  return g_date_time_to_unix(time) * G_USEC_PER_SEC + g_date_time_get_microsecond(time);
}

static void
parse_points(const char *text, Case *parsed)
{
  g_auto(GStrv) words = g_strsplit(text, " ", -1);
  for (guint w = 0; words[w] && *words[w]; w++) {
    char *equals = strchr(words[w], '=');
    StoreRetentionPoint *point = &parsed->points[parsed->n_points];
    parsed->expected[parsed->n_points++] = equals[1];
    point->is_protected = memchr(words[w], '!', (gsize) (equals - words[w])) != NULL;
    point->is_complete = memchr(words[w], '~', (gsize) (equals - words[w])) == NULL;
    words[w][strcspn(words[w], "!~=")] = '\0';
    point->time = parse_time(words[w]);
  }
}

/* Skips the test where the machine lacks the zone. */
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

static char
letter_of(const StoreRetentionVerdict *verdict)
{
  if (verdict->rule == STORE_RETENTION_UNMATCHED)
    return verdict->keep ? '?' : 'x';
  char letter = letters[verdict->rule];
  return verdict->keep ? letter : g_ascii_tolower(letter);
}

static void
check_case(const char *claim, const Case *wanted)
{
  StoreRetentionVerdict verdicts[MAX_POINTS];
  store_retention_decide(&wanted->retention, wanted->points, wanted->n_points, wanted->zone, verdicts);
  for (gsize i = 0; i < wanted->n_points; i++)
    if (letter_of(&verdicts[i]) != wanted->expected[i])
      fail_msg("%s: point %zu is '%c', should be '%c'", claim, i, letter_of(&verdicts[i]),
               wanted->expected[i]);
}

static void
reverse(Case *c)
{
  for (gsize i = 0, j = c->n_points; i + 1 < j; i++) {
    StoreRetentionPoint point = c->points[i];
    char letter = c->expected[i];
    j--;
    c->points[i] = c->points[j];
    c->expected[i] = c->expected[j];
    c->points[j] = point;
    c->expected[j] = letter;
  }
}

static void
test_verdicts_are_those_of_the_tables(void **state)
{
  (void) state;
  assert_true(G_N_ELEMENTS(tables) >= 40);
  for (guint i = 0; i < G_N_ELEMENTS(tables); i++) {
    Case c = {0};
    parse_rules(tables[i].rules, &c.retention);
    parse_points(tables[i].points, &c);
    c.zone = get_zone(tables[i].zone);
    check_case(tables[i].claim, &c);
    reverse(&c);
    if (!strstr(tables[i].claim, "same instant"))
      check_case(tables[i].claim, &c);
    g_time_zone_unref(c.zone);
  }
}

/* One point a day, from 2022-01-01 to 2024-03-06, a Wednesday. */
static void
test_two_years_of_days_leave_fifteen_points(void **state)
{
  static const char *const kept[] = {
      "2024-03-06T02:00Z=D", "2024-03-05T02:00Z=D", "2024-03-04T02:00Z=D", "2024-03-03T02:00Z=D",
      "2024-03-02T02:00Z=D", "2024-03-01T02:00Z=D", "2024-02-29T02:00Z=D",
      /* Weeks 10 and 9 are kept already. */
      "2024-02-25T02:00Z=W", "2024-02-18T02:00Z=W", "2024-02-11T02:00Z=W", "2024-02-04T02:00Z=W",
      /* The last days of January went with the week of February 4th. */
      "2024-01-28T02:00Z=M", "2023-12-31T02:00Z=M", "2023-11-30T02:00Z=M", "2022-12-31T02:00Z=Y"};
  (void) state;
  static Case c;
  StoreRetentionVerdict verdicts[MAX_POINTS];
  gint64 first = parse_time("2022-01-01T02:00Z"), last = parse_time("2024-03-06T02:00Z");
  guint n_kept = 0;
  parse_rules("daily=7 weekly=4 monthly=3 yearly=2", &c.retention);
  for (gint64 time = last; time >= first; time -= G_TIME_SPAN_DAY)
    c.points[c.n_points++] = (StoreRetentionPoint){time, FALSE, TRUE};
  g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
  store_retention_decide(&c.retention, c.points, c.n_points, utc, verdicts);
  for (gsize i = 0; i < c.n_points; i++) {
    if (!verdicts[i].keep)
      continue;
    assert_true(n_kept < G_N_ELEMENTS(kept));
    g_autofree char *time = g_strndup(kept[n_kept], strlen("2024-01-01T00:00Z"));
    assert_int_equal(c.points[i].time, parse_time(time));
    assert_int_equal(letter_of(&verdicts[i]), kept[n_kept][strlen(time) + 1]);
    n_kept++;
  }
  assert_int_equal(n_kept, G_N_ELEMENTS(kept));
}

static void
test_the_local_zone_is_the_default(void **state)
{
  (void) state;
  g_time_zone_unref(get_zone("America/New_York"));
  g_setenv("TZ", "America/New_York", TRUE);
  Case c = {0};
  parse_rules("daily=2", &c.retention);
  parse_points("2024-01-02T05:00Z=D 2024-01-02T04:59Z=D 2024-01-01T05:00Z=d 2024-01-01T04:59Z=x", &c);
  check_case("local zone", &c);
  g_unsetenv("TZ");
}

static void
test_times_out_of_all_calendars_are_taken(void **state)
{
  (void) state;
  Case c = {.zone = g_time_zone_new_utc()};
  parse_rules("yearly=2", &c.retention);
  c.points[0] = (StoreRetentionPoint){G_MAXINT64, FALSE, TRUE};
  c.points[1] = (StoreRetentionPoint){G_MAXINT64 - 1, FALSE, TRUE};
  c.points[2] = (StoreRetentionPoint){G_MININT64, FALSE, TRUE};
  c.n_points = 3;
  memcpy(c.expected, "YyY", 3);
  check_case("times out of all calendars", &c);
  g_time_zone_unref(c.zone);
}

/* ---- properties ---- */

/* Another way to the same verdicts: periods as text, marks by point. Points are newest first. */
static void
decide_naively(const Case *c, char *marks)
{
  static const char *const formats[] = {"%s-%f", "%Y/%m/%d/%H", "%Y/%m/%d", "%G/%V", "%Y/%m", "%Y"};
  gboolean seen = FALSE;
  for (gsize i = 0; i < c->n_points; i++) {
    marks[i] = c->points[i].is_protected ? 'P' : c->points[i].is_complete ? 0 : seen ? 'i' : 'I';
    seen |= c->points[i].is_complete || !c->points[i].is_protected;
  }
  for (guint rule = 0; rule < G_N_ELEMENTS(formats); rule++) {
    g_autoptr(GPtrArray) texts = g_ptr_array_new_with_free_func(g_free);
    guint64 n = 0;
    for (gsize i = 0; i < c->n_points; i++) {
      g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(c->points[i].time / G_USEC_PER_SEC);
      g_autoptr(GDateTime) local = g_date_time_to_timezone(utc, c->zone);
      g_autofree char *text = g_date_time_format(local, formats[rule]);
      g_ptr_array_add(texts, rule > 0 ? g_steal_pointer(&text) : g_strdup_printf("%zu", i));
    }
    for (gsize i = 0; i < c->n_points && c->retention.numbers[rule] > 0; i++) {
      gboolean earlier = FALSE, same = FALSE;
      for (gsize j = 0; j < c->n_points && marks[i] == 0; j++) {
        gboolean equal = strcmp(texts->pdata[i], texts->pdata[j]) == 0;
        earlier |= equal && marks[j] != 0 && memchr(letters, marks[j], rule) != NULL;
        same |= equal && marks[j] == letters[rule];
      }
      if (marks[i] != 0 || earlier)
        continue;
      if (!same && n++ == c->retention.numbers[rule])
        break;
      marks[i] = same ? g_ascii_tolower(letters[rule]) : letters[rule];
    }
  }
  for (gsize i = 0; i < c->n_points; i++)
    if (marks[i] == 0)
      marks[i] = store_retention_has_rules(&c->retention) ? 'x' : 'A';
}

static void
make_random_case(Case *c, GRand *rand)
{
  static const gint32 steps[] = {600, 3600, 7200, 86400, 5 * 86400, 40 * 86400};
  gint64 time = 1000000000 + (gint64) g_rand_int_range(rand, 0, 800000000);
  gint32 step = steps[g_rand_int_range(rand, 0, G_N_ELEMENTS(steps))];
  c->n_points = (gsize) g_rand_int_range(rand, 0, 60);
  for (gsize i = 0; i < c->n_points; i++) {
    c->points[i] = (StoreRetentionPoint){time * G_USEC_PER_SEC, g_rand_int_range(rand, 0, 10) == 0,
                                         g_rand_int_range(rand, 0, 10) > 0};
    time -= g_rand_int_range(rand, 1, step);
  }
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    c->retention.numbers[i] = g_rand_boolean(rand) ? 0 : (guint64) g_rand_int_range(rand, 0, 7);
}

static gsize
keep_only(Case *c, const StoreRetentionVerdict *verdicts)
{
  gsize n = 0, before = c->n_points;
  for (gsize i = 0; i < before; i++)
    if (verdicts[i].keep)
      c->points[n++] = c->points[i];
  c->n_points = n;
  return before - n;
}

static void
check_properties(Case *c)
{
  StoreRetentionVerdict verdicts[MAX_POINTS];
  char marks[MAX_POINTS] = {0};
  gboolean has_rules = store_retention_has_rules(&c->retention);
  if (has_rules)
    decide_naively(c, marks);
  store_retention_decide(&c->retention, c->points, c->n_points, c->zone, verdicts);
  gboolean newest_seen = FALSE;
  for (gsize i = 0; i < c->n_points; i++) {
    assert_true(verdicts[i].keep || (has_rules && !c->points[i].is_protected));
    if (has_rules)
      assert_int_equal(letter_of(&verdicts[i]), marks[i]);
    if (c->points[i].is_complete && !newest_seen) /* the newest complete one never goes */
      assert_true(newest_seen = verdicts[i].keep);
  }
  gsize n_removed = keep_only(c, verdicts);
  store_retention_decide(&c->retention, c->points, c->n_points, c->zone, verdicts);
  assert_int_equal(keep_only(c, verdicts), 0);
  assert_true(has_rules || n_removed == 0);
}

static void
test_pruning_twice_changes_nothing_more_and_nothing_protected_goes(void **state)
{
  static const char *const zones[] = {"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe",
                                      "Asia/Kathmandu"};
  (void) state;
  const char *given = g_getenv("CBT_TEST_SEED");
  guint32 seed = given ? (guint32) g_ascii_strtoull(given, NULL, 10) : g_random_int();
  print_message("seed %u (CBT_TEST_SEED repeats it)\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  for (guint i = 0; i < 2000; i++) {
    static Case c;
    c.zone = get_zone(zones[i % G_N_ELEMENTS(zones)]);
    make_random_case(&c, rand);
    check_properties(&c);
    g_time_zone_unref(c.zone);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_verdicts_are_those_of_the_tables),
      cmocka_unit_test(test_two_years_of_days_leave_fifteen_points),
      cmocka_unit_test(test_the_local_zone_is_the_default),
      cmocka_unit_test(test_times_out_of_all_calendars_are_taken),
      cmocka_unit_test(test_pruning_twice_changes_nothing_more_and_nothing_protected_goes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
