/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's part of an instant: its file systems stand still for it, if an agent is there to have it done.
 * It never fails a backup: what could not be had is said in the point.
 */
#include <daemon/backup-private.h>

gboolean
backup_quiesce_prepare(Backup *backup, GPtrArray *disks, GError **error)
{
  const CatalogueVm *vm = backup->request->vm;
  QemuQuiesceLevel level = backup->request->quiesce;
  g_clear_pointer(&backup->consistency_reason, g_free); /* of an instant that was given up */
  if (level == QEMU_QUIESCE_NONE || !vm->qga)
    return job_check(backup->job, error);
  const DaemonConfig *config = backup->daemon->config;
  const QemuQuiesceOptions options = {.program = config->quiesce_program,
                                      .socket = vm->qga,
                                      .disks = disks,
                                      .level = level,
                                      .budget_ms = (guint) config->quiesce_budget * 1000,
                                      .pre_script = config->quiesce_pre_script,
                                      .post_script = config->quiesce_post_script};
  g_autoptr(GError) local = NULL;
  backup->quiesce = qemu_quiesce_prepare(&options, backup->stop, &local);
  if (!backup->quiesce && g_error_matches(local, CBT_ERROR, CBT_ERROR_CANCELLED)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (!backup->quiesce)
    backup->consistency_reason = cbt_error_message(local);
  return TRUE;
}

void
backup_quiesce_freeze(Backup *backup)
{
  g_autoptr(GError) error = NULL;
  if (backup->quiesce && !qemu_quiesce_freeze(backup->quiesce, &error))
    backup->consistency_reason = cbt_error_message(error);
}

void
backup_quiesce_thaw(Backup *backup)
{
  QemuQuiesceResult result = {0};
  if (!backup->quiesce)
    return;
  qemu_quiesce_thaw(backup->quiesce, &result);
  backup->consistency = result.level == QEMU_QUIESCE_APP  ? STORE_CONSISTENCY_APP
                        : result.level == QEMU_QUIESCE_FS ? STORE_CONSISTENCY_FS
                                                          : STORE_CONSISTENCY_CRASH;
  backup->frozen_ms = result.frozen_ms;
  if (result.why && !backup->consistency_reason)
    backup->consistency_reason = g_strdup(result.why);
  qemu_quiesce_result_clear(&result);
  g_clear_pointer(&backup->quiesce, qemu_quiesce_free);
}
