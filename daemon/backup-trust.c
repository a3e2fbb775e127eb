/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layout is looked at before the instant. What becomes zeros between the two is marked as dirty by then.
 */
#include <daemon/backup-private.h>

#include <daemon/live-trust.h>

gboolean
backup_trust_look(BackupDisk *disk, const char *instance, const char *sockets, GError **error)
{
  const Backup *backup = disk->backup;
  gboolean is_same;
  g_autoptr(GError) local = NULL;
  g_clear_pointer(&disk->zeros, cbt_bitmap_free);
  if (!disk->changes_only)
    return TRUE;
  disk->zeros = live_trust_read_zeros(disk->disk, sockets, backup->stop, &local);
  if (disk->zeros)
    return TRUE;
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_CANCELLED)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (!live_trust_is_same(backup->daemon, disk->disk, backup->request->bitmap, instance, &is_same, error))
    return FALSE;
  /* An image that is none of this host's: its QEMU had it all the time. */
  if (is_same)
    return TRUE;
  g_autofree char *why = cbt_error_message(local);
  disk->changes_only = FALSE;
  disk->reason =
      g_strdup_printf("another QEMU has it than at the latest backup, and whether its image was changed "
                      "meanwhile cannot be seen: %s",
                      why);
  return TRUE;
}

gboolean
backup_trust_check(BackupDisk *disk, gboolean *lies, GError **error)
{
  char *lie = NULL;
  *lies = FALSE;
  if (!disk->zeros || !disk->changes_only)
    return TRUE;
  if (!live_trust_check(disk->backup->daemon, &disk->base, disk->backup->request->bitmap, disk->zeros,
                        disk->changes, &lie, error))
    return FALSE;
  g_clear_pointer(&disk->zeros, cbt_bitmap_free);
  *lies = lie != NULL;
  if (lie) {
    disk->changes_only = FALSE;
    disk->reason = lie;
  }
  return TRUE;
}
