/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/job-log.h>

void
job_log(gint64 id, const char *vm, GLogLevelFlags level, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  g_autofree char *id_text = g_strdup_printf("%" G_GINT64_FORMAT, id);
  if (vm)
    g_log_structured(G_LOG_DOMAIN, level, "JOB_ID", id_text, "VM", vm, "MESSAGE", "%s", message);
  else
    g_log_structured(G_LOG_DOMAIN, level, "JOB_ID", id_text, "MESSAGE", "%s", message);
}
