/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/size.h>

#include <common/error.h>
#include <string.h>

static const char units[] = "KMGTPE";

static gboolean
parse_suffix(const char *suffix, guint *shift)
{
  *shift = 0;
  if (suffix[0] == '\0' || g_ascii_strcasecmp(suffix, "B") == 0)
    return TRUE;
  const char *unit = strchr(units, g_ascii_toupper(suffix[0]));
  if (!unit)
    return FALSE;
  *shift = 10 * (guint) (unit - units + 1);
  return suffix[1] == '\0' || g_ascii_strcasecmp(suffix + 1, "iB") == 0 ||
         g_ascii_strcasecmp(suffix + 1, "B") == 0;
}

gboolean
cbt_size_parse(const char *text, guint64 *bytes, GError **error)
{
  char *end = NULL;
  guint shift = 0;
  guint64 value = g_ascii_isdigit(text[0]) ? g_ascii_strtoull(text, &end, 10) : 0;
  if (!end || !parse_suffix(end, &shift) || value > ((guint64) G_MAXINT64 >> shift)) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Write a number of bytes, or one with K, M, G or T behind it.",
                  "'%s' is not a size", text);
    return FALSE;
  }
  *bytes = value << shift;
  return TRUE;
}

char *
cbt_size_format(guint64 bytes)
{
  if (bytes < 1024)
    return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
  double value = (double) bytes / 1024;
  guint unit = 0;
  while (value >= 1024 && units[unit + 1] != '\0') {
    value /= 1024;
    unit++;
  }
  return g_strdup_printf("%.1f %ciB", value, units[unit]);
}
