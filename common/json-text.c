/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/json-text.h>

#include <string.h>

char *
cbt_json_escape(char *text)
{
  if (!strchr(text, 0x1f))
    return text;
  GString *escaped = g_string_new(text);
  g_free(text);
  g_string_replace(escaped, "\x1f", "\\u001f", 0);
  return g_string_free(escaped, FALSE);
}
