/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Retention: which recovery points of one vm are kept, by the rules that users know from Proxmox Backup.
 *
 * 1. Newest first. Of incomplete points one is kept, if it is newer than the newest complete one.
 * 2. The rules keep-last, -hourly, -daily, -weekly, -monthly, -yearly N in this order, each over the points
 *    that no rule before has marked. The newest point of a period is kept and the older ones of it are removed,
 *    for N periods; empty periods do not count. A period in which a rule before has kept a point is passed by:
 *    it does not count, and its points get no mark. What no rule marks is removed.
 * 3. A protected point is kept, and counts for no rule.
 * 4. Without any rule everything is kept.
 *
 * Periods are those of the local clock: the hour that a clock shows twice in autumn is one, and weeks are those of
 * ISO 8601. To keep-last each point is a period of its own.
 *
 * Pure: no I/O, and no clock. Any thread.
 */
#pragma once

#include <glib.h>

typedef enum {
  /* The six that have a number, in the order in which they are applied. */
  STORE_RETENTION_LAST,
  STORE_RETENTION_HOURLY,
  STORE_RETENTION_DAILY,
  STORE_RETENTION_WEEKLY,
  STORE_RETENTION_MONTHLY,
  STORE_RETENTION_YEARLY,
  STORE_RETENTION_N_NUMBERS,

  STORE_RETENTION_PROTECTED = STORE_RETENTION_N_NUMBERS,
  STORE_RETENTION_INCOMPLETE, /* kept: the newest of all; removed: older than a complete or an incomplete one */
  STORE_RETENTION_NO_RULES,   /* kept: there are none */
  STORE_RETENTION_UNMATCHED,  /* removed: no rule keeps it */
} StoreRetentionRule;

/* "keep-last", ..., "protected", "incomplete", "no-rules", "unmatched". */
const char *store_retention_rule_name(StoreRetentionRule rule);

typedef struct {
  guint64 numbers[STORE_RETENTION_N_NUMBERS]; /* 0: that rule is not given */
} StoreRetention;

gboolean store_retention_has_rules(const StoreRetention *retention);

typedef struct {
  gint64 time; /* microseconds since 1970 */
  gboolean is_protected;
  gboolean is_complete;
} StoreRetentionPoint;

typedef struct {
  gboolean keep;
  StoreRetentionRule rule; /* that decided. A number's on a removed point: it has kept a newer one of that period */
} StoreRetentionVerdict;

/* Decides on each of POINTS, in any order; of two at the same time the first one in the array counts as the newer.
 * ZONE NULL: the local one. VERDICTS has room for N_POINTS. */
void store_retention_decide(const StoreRetention *retention, const StoreRetentionPoint *points, gsize n_points,
                            GTimeZone *zone, StoreRetentionVerdict *verdicts);
