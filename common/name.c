/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/name.h>

#include <common/error.h>
#include <string.h>

gboolean
cbt_name_is_valid(const char *name)
{
  gsize length = strlen(name);
  if (length == 0 || length > CBT_NAME_MAX || !(g_ascii_isalnum(name[0]) || name[0] == '_'))
    return FALSE;
  for (gsize i = 1; i < length; i++)
    if (!g_ascii_isalnum(name[i]) && !strchr("._+-", name[i]))
      return FALSE;
  return TRUE;
}

gboolean
cbt_name_check(const char *what, const char *name, GError **error)
{
  if (cbt_name_is_valid(name))
    return TRUE;
  g_autofree char *shown = cbt_printable(name);
  cbt_set_error(error, CBT_ERROR_INVALID,
                "Use 1 to 63 letters, digits, '.', '_', '+' or '-', and begin with a letter or digit.",
                "%s name '%s' is not valid", what, shown);
  return FALSE;
}

char *
cbt_printable(const char *text)
{
  gboolean plain = g_utf8_validate(text, -1, NULL);
  for (const char *at = text; plain && *at; at = g_utf8_next_char(at))
    plain = g_unichar_isprint(g_utf8_get_char(at));
  return plain ? g_strdup(text) : g_strescape(text, NULL);
}
