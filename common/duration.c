/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/duration.h>

#include <common/error.h>

/* 0 if SUFFIX is no unit. */
static guint64
unit_seconds(const char *suffix)
{
  static const struct {
    const char *name;
    guint64 seconds;
  } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
  for (guint i = 0; i < G_N_ELEMENTS(units); i++)
    if (g_str_equal(suffix, units[i].name))
      return units[i].seconds;
  return 0;
}

gboolean
cbt_duration_parse(const char *text, guint64 *seconds, GError **error)
{
  char *end = NULL;
  guint64 value = g_ascii_isdigit(text[0]) ? g_ascii_strtoull(text, &end, 10) : 0;
  guint64 unit = end ? unit_seconds(end) : 0;
  if (unit == 0 || value > G_MAXINT32 / unit) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Write a number of seconds, or one with s, m, h or d behind it.",
                  "'%s' is not a duration", text);
    return FALSE;
  }
  *seconds = value * unit;
  return TRUE;
}
