/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/policy-steps.h>

void
policy_verify(Daemon *daemon G_GNUC_UNUSED, const char *vm, guint share)
{
  g_message("policy of vm '%s': %u %% would be verified, which this version cannot do", vm, share);
}

void
policy_collect_garbage(Daemon *daemon G_GNUC_UNUSED, const char *vm, guint n_removed)
{
  g_message("policy of vm '%s': the space of %u points would be given back, which this version cannot do", vm,
            n_removed);
}
