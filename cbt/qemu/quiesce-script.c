/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/quiesce-private.h>

#include <string.h>

#define MAX_WORDS_BYTES 400 /* of what a script said, in a reason */

/* The beginning of TEXT on one line. */
static char *
shorten(const char *text)
{
  g_autofree char *cut = g_strndup(text, MAX_WORDS_BYTES);
  g_autofree char *valid = g_utf8_make_valid(cut, -1);
  g_strstrip(g_strdelimit(valid, "\r\n\t", ' '));
  return g_steal_pointer(&valid);
}

static gboolean
has_line(const char *text, const char *line)
{
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (guint i = 0; lines[i]; i++)
    if (g_str_equal(g_strchomp(lines[i]), line))
      return TRUE;
  return FALSE;
}

static char *
explain(const char *path, const QgaExecResult *result, const char *marker)
{
  g_autofree char *words = shorten(*result->err ? result->err : result->out);
  g_autofree char *ending = result->signal ? g_strdup_printf("was killed by signal %d", (int) result->signal)
                            : result->exit_status
                                ? g_strdup_printf("ended with status %d", (int) result->exit_status)
                                : g_strdup_printf("did not print the line '%s'", marker);
  return g_strdup_printf("the script %s in the guest %s%s%s", path, ending, *words ? ": " : "", words);
}

gboolean
qemu_quiesce_run_script(Qga *qga, const char *path, const char *action, const char *marker, guint timeout_ms,
                        char **why)
{
  const char *argv[] = {path, action, NULL};
  g_autoptr(GError) error = NULL;
  g_auto(QgaExecResult) result = {0};
  if (!qga_exec(qga, argv, timeout_ms, &result, &error)) {
    g_autofree char *message = cbt_error_message(error);
    *why = g_strdup_printf("the script %s in the guest: %s", path, message);
    return FALSE;
  }
  if (result.exit_status == 0 && result.signal == 0 && (!marker || has_line(result.out, marker)))
    return TRUE;
  *why = explain(path, &result, marker);
  return FALSE;
}

void
qemu_quiesce_run_post_script(Qga *qga, const QemuQuiesceRequest *request, QemuQuiesceFacts *facts)
{
  g_autofree char *why = NULL;
  if (!facts->is_pre_run)
    return;
  if (!qga)
    why = g_strdup_printf("the script %s was not run: the guest agent does not answer", request->post_script);
  else if (qemu_quiesce_run_script(qga, request->post_script, "thaw", NULL, request->script_timeout_ms, &why))
    return;
  facts->is_app_ready = FALSE;
  if (!facts->app_why)
    facts->app_why = g_steal_pointer(&why);
}
