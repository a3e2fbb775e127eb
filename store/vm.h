/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Registered vms as files: `vms/NAME.vm`, one for each, holding all that the catalogue knows of it, so that
 * the catalogue can be made again. A checked key file (store/keyfile.h); docs/formats/vm.md.
 */
#pragma once

#include <common/file-ops.h>
#include <store/catalogue.h>

/* A vm and what goes with it. */
typedef struct {
  CatalogueVm *vm;
  char *policy; /* (nullable) text of the vm's policy; this module does not look inside */
} StoreVm;

StoreVm *store_vm_new(CatalogueVm *vm, const char *policy); /* VM: (transfer full) */
void store_vm_free(StoreVm *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVm, store_vm_free)
/* Whether their texts are equal. */
gboolean store_vm_equal(const StoreVm *a, const StoreVm *b);

/* Text of RECORD, and back. CORRUPT (checksum, a missing or wrong key, named), UNSUPPORTED (newer version).
 */
char *store_vm_encode(const StoreVm *record, gsize *length);
StoreVm *store_vm_decode(const char *text, gsize length, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* FOLDER is the store's vms folder. Save replaces durably and makes the folder if it is missing; INVALID,
 * TOO_LARGE: a vm that could not be read back is not written. */
gboolean store_vm_save(const CbtFileOps *ops, const char *folder, const StoreVm *record,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
StoreVm *store_vm_load(const CbtFileOps *ops, const char *folder, const char *name,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_vm_remove(const CbtFileOps *ops, const char *folder, const char *name,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Moves the file of NAME, which cannot be read, out of the way: NAME.vm.damaged-TIME. *to (transfer full) is
 * where it is. */
gboolean store_vm_set_aside(const CbtFileOps *ops, const char *folder, const char *name, char **to,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The names of all vms that have a file in FOLDER, in no order (of char *). None if there is no folder. */
GPtrArray *store_vm_list(const char *folder, GError **error) G_GNUC_WARN_UNUSED_RESULT;
