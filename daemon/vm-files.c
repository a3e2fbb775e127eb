/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/vm-files.h>

#include <common/error.h>

char *
vm_files_folder(const Daemon *daemon)
{
  return g_build_filename(store_directory(daemon->store), "vms", NULL);
}

static gboolean
save(Daemon *daemon, const CatalogueVm *vm, const char *policy, GError **error)
{
  g_autofree char *folder = vm_files_folder(daemon);
  const StoreVm record = {(CatalogueVm *) vm, (char *) policy};
  return store_vm_save(cbt_file_ops_default(), folder, &record, error);
}

gboolean
vm_files_add(Daemon *daemon, const CatalogueVm *vm, GError **error)
{
  g_autoptr(GError) undo = NULL;
  if (!store_check_in_place(daemon->store, error) || !catalogue_insert_vm(daemon->catalogue, vm, error))
    return FALSE;
  if (save(daemon, vm, NULL, error))
    return TRUE;
  /* A file that stands there all the same would bring the vm back. */
  g_autofree char *folder = vm_files_folder(daemon);
  if (!store_vm_remove(cbt_file_ops_default(), folder, vm->name, &undo))
    g_debug("%s", undo->message);
  g_clear_error(&undo);
  if (!catalogue_remove_vm(daemon->catalogue, vm->name, &undo))
    g_warning("%s", undo->message);
  return FALSE;
}

gboolean
vm_files_remove(Daemon *daemon, const char *name, GError **error)
{
  if (!store_check_in_place(daemon->store, error))
    return FALSE;
  g_autofree char *folder = vm_files_folder(daemon);
  g_autoptr(StoreVm) record = store_vm_load(cbt_file_ops_default(), folder, name, NULL);
  g_autoptr(GError) local = NULL;
  if (!store_vm_remove(cbt_file_ops_default(), folder, name, &local) &&
      !g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (catalogue_remove_vm(daemon->catalogue, name, error))
    return TRUE;
  g_clear_error(&local);
  if (record && !store_vm_save(cbt_file_ops_default(), folder, record, &local))
    g_warning("%s; the next start of the daemon writes it", local->message);
  return FALSE;
}

/* ---- policies ---- */

char *
vm_files_policy_text(Daemon *daemon, const char *name, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(daemon->catalogue, name, &local);
  if (policy)
    return store_policy_encode(policy);
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    g_propagate_error(error, g_steal_pointer(&local));
  return NULL;
}

/* A record that cannot be read is kept beside the one that takes its place. FALSE if none may. */
static gboolean
set_aside(const char *folder, const char *name, const GError *reason)
{
  g_autofree char *to = NULL;
  g_autoptr(GError) error = NULL;
  if (g_error_matches(reason, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    return TRUE;
  if (g_error_matches(reason, CBT_ERROR, CBT_ERROR_IO) ||
      g_error_matches(reason, CBT_ERROR, CBT_ERROR_DENIED)) {
    g_warning("%s", reason->message);
    return FALSE;
  }
  if (store_vm_set_aside(cbt_file_ops_default(), folder, name, &to, &error))
    g_warning("%s; it is kept as %s", reason->message, to);
  else
    g_warning("%s; %s", reason->message, error->message);
  return to != NULL;
}

/* Writes the file of a vm with POLICY (NULL: none), and all else as it is there. */
static gboolean
write_policy(Daemon *daemon, const char *name, const char *policy, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autofree char *folder = vm_files_folder(daemon);
  g_autoptr(StoreVm) found = store_vm_load(cbt_file_ops_default(), folder, name, &local);
  if (found && g_strcmp0(found->policy, policy) == 0)
    return TRUE;
  if (found)
    return save(daemon, found->vm, policy, error);
  g_autoptr(CatalogueVm) vm = catalogue_get_vm(daemon->catalogue, name, error);
  if (!vm)
    return FALSE;
  if (set_aside(folder, name, local))
    return save(daemon, vm, policy, error);
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

gboolean
vm_files_save(Daemon *daemon, const char *name, GError **error)
{
  if (!store_check_in_place(daemon->store, error))
    return FALSE;
  g_autoptr(GError) local = NULL;
  g_autoptr(CatalogueVm) vm = catalogue_get_vm(daemon->catalogue, name, error);
  g_autofree char *policy = vm ? vm_files_policy_text(daemon, name, &local) : NULL;
  if (local)
    g_propagate_error(error, g_steal_pointer(&local));
  else if (vm)
    return save(daemon, vm, policy, error);
  return FALSE;
}

/* The policy of a vm as it was BEFORE (NULL: none). An undo that fails is in the log. */
static void
undo_set(Daemon *daemon, const char *name, const StorePolicy *before)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *text = before ? store_policy_encode(before) : NULL;
  gboolean ok = before ? catalogue_save_policy(daemon->catalogue, before, &error)
                       : catalogue_remove_policy(daemon->catalogue, name, &error);
  /* A file that has it all the same would bring it back. */
  if (!ok || !write_policy(daemon, name, text, &error))
    g_warning("%s", error->message);
}

gboolean
vm_files_set_policy(Daemon *daemon, const StorePolicy *policy, GError **error)
{
  if (!store_check_in_place(daemon->store, error))
    return FALSE;
  g_autofree char *text = store_policy_encode(policy);
  g_autoptr(StorePolicy) before = catalogue_get_policy(daemon->catalogue, policy->vm, NULL);
  if (!catalogue_save_policy(daemon->catalogue, policy, error))
    return FALSE;
  if (write_policy(daemon, policy->vm, text, error))
    return TRUE;
  undo_set(daemon, policy->vm, before);
  return FALSE;
}

gboolean
vm_files_remove_policy(Daemon *daemon, const char *name, GError **error)
{
  if (!store_check_in_place(daemon->store, error))
    return FALSE;
  g_autofree char *folder = vm_files_folder(daemon);
  g_autoptr(StoreVm) record = store_vm_load(cbt_file_ops_default(), folder, name, NULL);
  g_autoptr(GError) local = NULL;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(daemon->catalogue, name, &local);
  if (!policy && !g_error_matches(local, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (!write_policy(daemon, name, NULL, error))
    return FALSE;
  if (catalogue_remove_policy(daemon->catalogue, name, error))
    return TRUE;
  g_clear_error(&local);
  if (record && !store_vm_save(cbt_file_ops_default(), folder, record, &local))
    g_warning("%s; the next start of the daemon writes it", local->message);
  return FALSE;
}

/* ---- at the start ---- */

/* Of the policy in the file of a vm, which the catalogue has none of. */
static void
adopt_policy(Daemon *daemon, const char *name, const char *text)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePolicy) policy = store_policy_decode(name, text, &error);
  if (!policy) {
    g_warning("vm '%s': %s; it stays in the vm's file until another one is set", name, error->message);
    return;
  }
  store_policy_restart(policy, g_get_real_time());
  if (catalogue_save_policy(daemon->catalogue, policy, &error))
    g_message("the policy of vm '%s' was taken into the catalogue", name);
  else
    g_warning("%s", error->message);
}

/* A policy of the catalogue's that cannot be read is the scheduler's to name; that of the file is left for a
 * rebuild. */
static void
sync_policy(Daemon *daemon, const char *name, const StoreVm *found)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *text = vm_files_policy_text(daemon, name, &error);
  if (error || g_strcmp0(text, found->policy) == 0)
    return;
  if (!text) {
    adopt_policy(daemon, name, found->policy);
    return;
  }
  g_autofree char *old = cbt_printable(found->policy ? found->policy : "none");
  g_message("the file of vm '%s' gets the policy that the catalogue has; in the file it was: %s", name, old);
  if (!save(daemon, found->vm, text, &error))
    g_warning("%s", error->message);
}

/* The record in the file of VM should be that of the catalogue. */
static void
sync_vm(Daemon *daemon, const char *folder, const CatalogueVm *vm)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) found = store_vm_load(cbt_file_ops_default(), folder, vm->name, &error);
  if (!found) {
    g_autofree char *text = vm_files_policy_text(daemon, vm->name, NULL);
    if (g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
      g_warning("vm '%s' is in the catalogue%s, but has no file in the store: it is written. If the vm was "
                "removed before (the catalogue is an older copy), remove it again: cbt-backup vm remove %s",
                vm->name, text ? " with a policy" : "", vm->name);
    if (set_aside(folder, vm->name, error)) {
      g_clear_error(&error);
      if (!save(daemon, vm, text, &error))
        g_warning("%s", error->message);
    }
    return;
  }
  const StoreVm expected = {(CatalogueVm *) vm, found->policy};
  if (!store_vm_equal(found, &expected))
    g_warning(
        "the file of vm '%s' says something else than the catalogue; 'cbt-backup rebuild-catalogue' takes "
        "what the file says",
        vm->name);
  sync_policy(daemon, vm->name, found);
}

static void
adopt(Daemon *daemon, const char *folder, const char *name)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreVm) record = store_vm_load(cbt_file_ops_default(), folder, name, &error);
  if (record && catalogue_insert_vm(daemon->catalogue, record->vm, &error))
    g_message("vm '%s' was taken into the catalogue", name);
  if (record && !error && record->policy)
    adopt_policy(daemon, name, record->policy);
  if (error)
    g_warning("vm '%s': %s", name, error->message);
}

gboolean
vm_files_sync(Daemon *daemon, GError **error)
{
  g_autofree char *folder = vm_files_folder(daemon);
  g_autoptr(GPtrArray) names = store_vm_list(folder, error);
  g_autoptr(GPtrArray) vms = names ? catalogue_list_vms(daemon->catalogue, error) : NULL;
  if (!vms)
    return FALSE;
  g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);
  for (guint i = 0; i < vms->len; i++) {
    const CatalogueVm *vm = g_ptr_array_index(vms, i);
    g_hash_table_add(known, vm->name);
    sync_vm(daemon, folder, vm);
  }
  for (guint i = 0; i < names->len; i++)
    if (!g_hash_table_contains(known, names->pdata[i]))
      adopt(daemon, folder, names->pdata[i]);
  return TRUE;
}
