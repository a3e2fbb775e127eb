/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a point is worth, said no better than it is known. */
#include <cbt/qemu/quiesce-private.h>

void
qemu_quiesce_facts_clear(QemuQuiesceFacts *facts)
{
  g_clear_pointer(&facts->app_why, g_free);
  g_clear_pointer(&facts->unfrozen, g_free);
  g_clear_pointer(&facts->broken, g_free);
}

void
qemu_quiesce_facts_break(QemuQuiesceFacts *facts, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  if (!facts->broken)
    facts->broken = g_strdup_vprintf(format, args);
  va_end(args);
}

void
qemu_quiesce_result_clear(QemuQuiesceResult *result)
{
  g_clear_pointer(&result->why, g_free);
}

static char *
explain_counts(const QemuQuiesceFacts *facts)
{
  if (facts->n_thawed == facts->n_frozen)
    return NULL;
  return g_strdup_printf("%u file systems were frozen, but %u thawed: something in the guest was not still",
                         facts->n_frozen, facts->n_thawed);
}

/* Why the point is as after a loss of power, or NULL. */
static char *
explain_none(const QemuQuiesceFacts *facts)
{
  if (facts->broken && facts->is_left_frozen)
    return g_strconcat(facts->broken, "; the guest may still be frozen", NULL);
  if (facts->broken)
    return g_strdup(facts->broken);
  if (facts->is_left_frozen)
    return g_strdup("the agent answered no thaw; the guest may still be frozen");
  if (facts->has_filesystems && !facts->begin_us)
    return g_strdup("the guest was not frozen");
  if (!facts->has_filesystems && !facts->is_app_ready)
    return g_strdup("the guest has no mounted file system on these disks");
  return explain_counts(facts);
}

static QemuQuiesceLevel
judge(const QemuQuiesceFacts *facts, char **why)
{
  *why = explain_none(facts);
  if (*why)
    return QEMU_QUIESCE_NONE;
  if (facts->asked == QEMU_QUIESCE_APP && !facts->is_app_ready) {
    *why = g_strdup(facts->app_why ? facts->app_why
                                   : "the scripts in the guest did not say that they are ready");
    return QEMU_QUIESCE_FS;
  }
  if (facts->unfrozen)
    *why = g_strdup_printf("not frozen, for the guest cannot freeze their kind: %s", facts->unfrozen);
  return facts->asked;
}

void
qemu_quiesce_facts_judge(const QemuQuiesceFacts *facts, QemuQuiesceResult *result)
{
  gint64 end_us = facts->end_us ? facts->end_us : g_get_monotonic_time();
  *result = (QemuQuiesceResult){
      .n_frozen = facts->n_frozen, .n_thawed = facts->n_thawed, .is_left_frozen = facts->is_left_frozen};
  result->frozen_ms = facts->begin_us ? (guint64) (end_us - facts->begin_us + 999) / 1000 : 0;
  result->level = judge(facts, &result->why);
}
