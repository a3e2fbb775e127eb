/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/job-log.h>

/* GLib has no level for an error that does not end the process: to its filter such a one is a warning. */
static GLogLevelFlags
level_of(int priority)
{
  if (priority <= LOG_WARNING)
    return G_LOG_LEVEL_WARNING;
  return priority == LOG_NOTICE ? G_LOG_LEVEL_MESSAGE : G_LOG_LEVEL_INFO;
}

void
job_log(gint64 id, const char *vm, int priority, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  g_autofree char *id_text = g_strdup_printf("%" G_GINT64_FORMAT, id);
  g_autofree char *priority_text = g_strdup_printf("%d", priority);
  const GLogField fields[] = {
      {"MESSAGE", message, -1}, {"PRIORITY", priority_text, -1}, {"JOB_ID", id_text, -1}, {"VM", vm, -1}};
  g_log_structured_array(level_of(priority), fields, G_N_ELEMENTS(fields) - !vm);
}
