/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/point-files.h>

char *
point_files_folder(const Daemon *daemon)
{
  return g_build_filename(store_directory(daemon->store), "points", NULL);
}

gboolean
point_files_is_damage(const GError *error)
{
  const int codes[] = {CBT_ERROR_CORRUPT, CBT_ERROR_UNSUPPORTED, CBT_ERROR_TOO_LARGE, CBT_ERROR_INVALID};
  for (guint i = 0; i < G_N_ELEMENTS(codes); i++)
    if (g_error_matches(error, CBT_ERROR, codes[i]))
      return TRUE;
  return FALSE;
}

void
point_files_set_differs(const CbtUuid *uuid, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  cbt_set_error(error, CBT_ERROR_CORRUPT,
                "The file has a checksum, the catalogue has none. This takes what the files say: cbt-backup "
                "rebuild-catalogue",
                "the catalogue says something else of recovery point %s than its file",
                cbt_uuid_format(uuid, text));
}

gboolean
point_files_write_again(const Daemon *daemon, const StorePoint *point, char **aside, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autofree char *folder = point_files_folder(daemon);
  return store_point_set_aside(ops, folder, &point->uuid, aside, error) &&
         store_point_save(ops, folder, point, error);
}

/* ---- changes ---- */

static void
take_changes(StorePoint *point, const StorePoint *from)
{
  g_free(point->note);
  point->note = g_strdup(from->note);
  point->is_protected = from->is_protected;
  point->verified = from->verified;
  point->damaged = from->damaged;
}

static gboolean
change_file(const char *folder, StorePoint *file, const StorePoint *point, GError **error)
{
  take_changes(file, point);
  if (store_point_equal(file, point))
    return store_point_save(cbt_file_ops_default(), folder, file, error);
  point_files_set_differs(&point->uuid, error);
  return FALSE;
}

/* REASON: why the file cannot be read. One of a later release is nobody's to replace. */
static gboolean
write_from_row(const Daemon *daemon, const char *folder, const StorePoint *point, const GError *reason,
               GError **error)
{
  g_autofree char *aside = NULL;
  g_autofree char *message = cbt_error_message(reason);
  if (g_error_matches(reason, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return store_point_save(cbt_file_ops_default(), folder, point, error);
  if (!point_files_is_damage(reason) || g_error_matches(reason, CBT_ERROR, CBT_ERROR_UNSUPPORTED)) {
    g_propagate_error(error, g_error_copy(reason));
    return FALSE;
  }
  if (!point_files_write_again(daemon, point, &aside, error))
    return FALSE;
  g_warning("%s; it was written again from the catalogue, the damaged file is %s", message, aside);
  return TRUE;
}

gboolean
point_files_update(Daemon *daemon, const StorePoint *point, GError **error)
{
  if (!store_check_in_place(daemon->store, error))
    return FALSE;
  g_autoptr(GError) reason = NULL;
  g_autofree char *folder = point_files_folder(daemon);
  g_autoptr(StorePoint) file = store_point_load(cbt_file_ops_default(), folder, &point->uuid, &reason);
  gboolean ok =
      file ? change_file(folder, file, point, error) : write_from_row(daemon, folder, point, reason, error);
  return ok && catalogue_update_point(daemon->catalogue, point, error);
}
