/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rebuilding is one transaction, so that who is killed in it finds the catalogue as it was: an empty one,
 * which is rebuilt at the next start.
 *
 * A base is a guess that is checked: the bitmap's file says itself which point its bits are relative to, and
 * a backup that finds another one reads the disk again. Only a point that was the newest when the catalogue
 * was lost can be the right one.
 *
 * A stale log file must never lie beside a new database, as SQLite would play it back into that.
 */
#include <store/catalogue-rebuild.h>

#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <store/catalogue-private.h>
#include <string.h>

gboolean
catalogue_is_empty(Catalogue *catalogue, gboolean *is_empty, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT NOT EXISTS (SELECT 1 FROM vms) AND NOT EXISTS (SELECT 1 FROM points)", "");
  if (!stmt || catalogue_step(catalogue, stmt, error) != CATALOGUE_ROW)
    return FALSE;
  *is_empty = sqlite3_column_int64(stmt, 0) != 0;
  return TRUE;
}

/* ---- rows ---- */

static const StoreVm *
find_vm(const GPtrArray *vms, const char *name)
{
  for (guint i = 0; i < vms->len; i++) {
    const StoreVm *record = vms->pdata[i];
    if (strcmp(record->vm->name, name) == 0)
      return record;
  }
  return NULL;
}

/* Drops the vms that are not to be, or are to be otherwise; KEPT gets the names of the others. */
static gboolean
drop_vms(Catalogue *catalogue, const GPtrArray *vms, GHashTable *kept, GError **error)
{
  g_autoptr(GPtrArray) present = catalogue_list_vms(catalogue, error);
  for (guint i = 0; present && i < present->len; i++) {
    CatalogueVm *vm = present->pdata[i];
    const StoreVm *record = find_vm(vms, vm->name);
    const StoreVm as_is = {vm, record ? record->policy : NULL};
    if (record && store_vm_equal(&as_is, record))
      g_hash_table_add(kept, g_strdup(vm->name));
    else if (!catalogue_remove_vm(catalogue, vm->name, error))
      return FALSE;
  }
  return present != NULL;
}

/* One vm that cannot be taken (*is_in is FALSE then) does not keep the others away. */
static gboolean
insert_vm(Catalogue *catalogue, const CatalogueVm *vm, GPtrArray *problems, gboolean *is_in, GError **error)
{
  g_autoptr(GError) local = NULL;
  if (!catalogue_run(catalogue, error, "SAVEPOINT vm", ""))
    return FALSE;
  *is_in = catalogue_insert_vm_rows(catalogue, vm, &local);
  if (*is_in)
    return catalogue_run(catalogue, error, "RELEASE vm", "");
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_EXISTS)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  g_ptr_array_add(problems, g_strdup_printf("vm '%s' was left out: %s", vm->name, local->message));
  return catalogue_run(catalogue, error, "ROLLBACK TO vm", "") &&
         catalogue_run(catalogue, error, "RELEASE vm", "");
}

/* What the catalogue has of policies, before. */
typedef struct {
  GPtrArray *all;      /* of StorePolicy */
  GHashTable *damaged; /* names of the vms whose rows make no sense */
} Policies;

static void
policies_clear(Policies *policies)
{
  g_clear_pointer(&policies->all, g_ptr_array_unref);
  g_hash_table_unref(policies->damaged);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Policies, policies_clear)

static const StorePolicy *
find_policy(const Policies *policies, const char *vm)
{
  for (guint i = 0; i < policies->all->len; i++) {
    const StorePolicy *policy = policies->all->pdata[i];
    if (strcmp(policy->vm, vm) == 0)
      return policy;
  }
  return NULL;
}

static gboolean
policies_are_equal(const StorePolicy *a, const StorePolicy *b)
{
  g_autofree char *x = store_policy_encode(a), *y = store_policy_encode(b);
  return strcmp(x, y) == 0;
}

/* The policy in the text of RECORD; one that was there before and is the same keeps what it did. A text that
 * cannot be read changes nothing. */
static gboolean
save_policy(Catalogue *catalogue, const StoreVm *record, const Policies *before, gint64 now,
            GPtrArray *problems, GError **error)
{
  const char *vm = record->vm->name;
  const StorePolicy *known = find_policy(before, vm);
  g_autoptr(GError) damage = NULL;
  g_autoptr(StorePolicy) found = record->policy ? store_policy_decode(vm, record->policy, &damage) : NULL;
  if (damage)
    g_ptr_array_add(problems, g_strdup_printf("vm '%s': %s; %s", vm, damage->message,
                                              known ? "the catalogue's policy stays"
                                                    : "it has no policy now: set it again"));
  else if (!found && (known || g_hash_table_contains(before->damaged, vm)))
    g_ptr_array_add(problems, g_strdup_printf("vm '%s' has no policy any more, as its file has none", vm));
  if (damage || (found && known && policies_are_equal(found, known)))
    return !known || catalogue_save_policy(catalogue, known, error);
  if (!found)
    return TRUE;
  store_policy_restart(found, now);
  return catalogue_save_policy(catalogue, found, error);
}

static gint
compare_time(gconstpointer a, gconstpointer b)
{
  const StorePoint *x = *(const StorePoint *const *) a, *y = *(const StorePoint *const *) b;
  return x->time != y->time ? (x->time > y->time ? 1 : -1) : memcmp(&x->uuid, &y->uuid, sizeof x->uuid);
}

/* In the order in which they were made, as far as their times tell. */
static gboolean
insert_points(Catalogue *catalogue, const GPtrArray *points, GError **error)
{
  g_autoptr(GPtrArray) sorted = g_ptr_array_copy((GPtrArray *) points, NULL, NULL);
  g_ptr_array_set_free_func(sorted, NULL);
  g_ptr_array_sort(sorted, compare_time);
  for (guint i = 0; i < sorted->len; i++)
    if (!catalogue_insert_point_rows(catalogue, sorted->pdata[i], error))
      return FALSE;
  return TRUE;
}

static gboolean
set_bases(Catalogue *catalogue, GError **error)
{
  return catalogue_run(catalogue, error,
                       "DELETE FROM bases WHERE NOT EXISTS (SELECT 1 FROM point_disks d"
                       " WHERE d.disk_id = bases.disk_id AND d.bitmap = bases.bitmap)",
                       "") &&
         catalogue_run(catalogue, error,
                       "INSERT INTO bases (disk_id, bitmap, base) SELECT d.disk_id, d.bitmap, p.uuid"
                       " FROM point_disks d JOIN points p ON p.seq = d.point"
                       " WHERE d.bitmap <> '' AND d.disk_id IN (SELECT id FROM disks) ORDER BY p.time, p.seq"
                       " ON CONFLICT (disk_id, bitmap) DO UPDATE SET base = excluded.base",
                       "");
}

static gboolean
replace_vms(Catalogue *catalogue, const GPtrArray *vms, gint64 now, GPtrArray *problems, GError **error)
{
  g_autoptr(GHashTable) kept = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_auto(Policies) before = {NULL, g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free)};
  before.all = catalogue_list_policies(catalogue, before.damaged, error);
  if (!before.all || !catalogue_run(catalogue, error, "DELETE FROM policies", "") ||
      !drop_vms(catalogue, vms, kept, error))
    return FALSE;
  for (guint i = 0; i < vms->len; i++) {
    const StoreVm *record = vms->pdata[i];
    gboolean is_in = g_hash_table_contains(kept, record->vm->name);
    if (!is_in && !insert_vm(catalogue, record->vm, problems, &is_in, error))
      return FALSE;
    if (is_in && !save_policy(catalogue, record, &before, now, problems, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
replace_rows(Catalogue *catalogue, const GPtrArray *vms, const GPtrArray *points, gint64 now,
             GPtrArray *problems, GError **error)
{
  return replace_vms(catalogue, vms, now, problems, error) &&
         catalogue_run(catalogue, error, "DELETE FROM points", "") &&
         insert_points(catalogue, points, error) && set_bases(catalogue, error);
}

gboolean
catalogue_replace(Catalogue *catalogue, const GPtrArray *vms, const GPtrArray *points, gint64 now,
                  GPtrArray *problems, GError **error)
{
  return catalogue_begin(catalogue, error) &&
         catalogue_end(catalogue, replace_rows(catalogue, vms, points, now, problems, error), error);
}

/* ---- the file ---- */

static gboolean
rename_if_there(const char *from, const char *to, gboolean *was_there, GError **error)
{
  *was_there = g_rename(from, to) == 0;
  if (*was_there || errno == ENOENT)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot rename %s to %s", from, to);
  return FALSE;
}

/* The database first: without it the log files are never taken for those of a new one, see open. */
gboolean
catalogue_set_aside(const char *path, char **to, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  const char *const suffixes[] = {"", "-wal", "-shm"};
  g_autoptr(GDateTime) now = g_date_time_new_now_utc();
  g_autofree char *time = g_date_time_format(now, "%Y%m%dT%H%M%S");
  g_autofree char *aside = g_strdup_printf("%s.%s.%06dZ", path, time, g_date_time_get_microsecond(now));
  g_autofree char *folder = g_path_get_dirname(path);
  *to = NULL;
  for (guint i = 0; i < G_N_ELEMENTS(suffixes); i++) {
    g_autofree char *from = g_strconcat(path, suffixes[i], NULL);
    g_autofree char *target = g_strconcat(aside, suffixes[i], NULL);
    gboolean was_there;
    if (!rename_if_there(from, target, &was_there, error))
      return FALSE;
    if (was_there && i == 0)
      *to = g_strdup(target);
  }
  if (ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", folder);
  return FALSE;
}

static gboolean
sync_file(const char *path, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  int fd = ops->open(ops, path, O_RDONLY, 0);
  gboolean ok = fd >= 0 && ops->fdatasync(ops, fd) == 0;
  int errsv = errno;
  if (fd >= 0)
    ops->close(ops, fd);
  if (!ok)
    cbt_set_error_errno(error, errsv, "cannot make %s durable", path);
  return ok;
}

/* A copy of all that CATALOGUE has, at PATH. */
static gboolean
write_copy(Catalogue *catalogue, const char *path, GError **error)
{
  g_unlink(path);
  return catalogue_make_file(path, error) && catalogue_run(catalogue, error, "VACUUM INTO ?", "s", path) &&
         sync_file(path, error);
}

static gboolean
swap_files(Catalogue *catalogue, const char *copy, GError **error)
{
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autofree char *folder = g_path_get_dirname(catalogue->path);
  g_autofree char *aside = NULL;
  catalogue_close_database(catalogue);
  if (!catalogue_set_aside(catalogue->path, &aside, error))
    return FALSE;
  if (ops->rename(ops, copy, catalogue->path) == 0 && ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write %s", catalogue->path);
  return FALSE;
}

gboolean
catalogue_ensure_file(Catalogue *catalogue, gboolean *was_gone, GError **error)
{
  int has_moved = 0;
  sqlite3_file_control(catalogue->db, "main", SQLITE_FCNTL_HAS_MOVED, &has_moved);
  *was_gone = has_moved != 0;
  if (!has_moved)
    return TRUE;
  g_autofree char *copy = g_strconcat(catalogue->path, ".new", NULL);
  if (!write_copy(catalogue, copy, error)) {
    g_unlink(copy);
    return FALSE;
  }
  return swap_files(catalogue, copy, error) && catalogue_open_database(catalogue, error);
}
