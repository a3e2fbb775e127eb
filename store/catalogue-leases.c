/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Leases: a row is written before its bitmap is frozen and removed after that has ended, so that no bitmap
 * stays frozen without one, whatever dies in between. A row alone freezes nothing. */
#include <store/catalogue-private.h>

#include <common/error.h>

#define LEASE_COLUMNS "disk_id, bitmap, id, expires"

gboolean
catalogue_save_lease(Catalogue *catalogue, const CatalogueLease *lease, GError **error)
{
  if (catalogue_run(catalogue, error,
                    "INSERT INTO leases (" LEASE_COLUMNS ") VALUES (?,?,?,?)"
                    " ON CONFLICT (disk_id, bitmap) DO UPDATE"
                    " SET id = excluded.id, expires = excluded.expires",
                    "usui", &lease->disk_id, lease->bitmap, &lease->id, lease->expires))
    return TRUE;
  g_prefix_error(error, "cannot note the lease of bitmap '%s': ", lease->bitmap);
  return FALSE;
}

/* The lease of STMT's current row. */
static gboolean
read_lease(sqlite3_stmt *stmt, CatalogueLease *lease, GError **error)
{
  g_autofree char *bitmap = catalogue_column_text(stmt, 1);
  if (!cbt_name_is_valid(bitmap)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the catalogue has a lease of a bitmap '%s'", bitmap);
    return FALSE;
  }
  g_strlcpy(lease->bitmap, bitmap, sizeof lease->bitmap);
  lease->expires = sqlite3_column_int64(stmt, 3);
  return catalogue_column_uuid(stmt, 0, &lease->disk_id, error) &&
         catalogue_column_uuid(stmt, 2, &lease->id, error);
}

gboolean
catalogue_get_lease(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, CatalogueLease *lease,
                    GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT " LEASE_COLUMNS " FROM leases WHERE disk_id = ? AND bitmap = ?", "us",
      disk_id, bitmap);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  *lease = (CatalogueLease){0};
  if (step == CATALOGUE_ROW)
    return read_lease(stmt, lease, error);
  return step == CATALOGUE_DONE;
}

GArray *
catalogue_list_leases(Catalogue *catalogue, GError **error)
{
  g_autoptr(GArray) leases = g_array_new(FALSE, TRUE, sizeof(CatalogueLease));
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT " LEASE_COLUMNS " FROM leases ORDER BY expires, disk_id, bitmap", "");
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    CatalogueLease lease = {0};
    if (!read_lease(stmt, &lease, error))
      return NULL;
    g_array_append_val(leases, lease);
  }
  return step == CATALOGUE_DONE ? g_steal_pointer(&leases) : NULL;
}

gboolean
catalogue_remove_lease(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, const CbtUuid *id,
                       GError **error)
{
  return catalogue_run(catalogue, error, "DELETE FROM leases WHERE disk_id = ? AND bitmap = ? AND id = ?",
                       "usu", disk_id, bitmap, id);
}
