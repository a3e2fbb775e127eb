/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/images.h>

#include <string.h>
#include <sys/stat.h>

gboolean
images_are_same(const char *a, const char *b)
{
  struct stat x, y;
  if (strcmp(a, b) == 0)
    return TRUE;
  if (stat(a, &x) != 0 || stat(b, &y) != 0)
    return FALSE;
  if (S_ISBLK(x.st_mode) || S_ISBLK(y.st_mode))
    return S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode) && x.st_rdev == y.st_rdev;
  return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

CatalogueVm *
images_find_owner(Catalogue *catalogue, const char *path, const CatalogueDisk **disk, GError **error)
{
  g_autoptr(GPtrArray) vms = catalogue_list_vms(catalogue, error);
  for (guint i = 0; vms && i < vms->len; i++) {
    const CatalogueVm *vm = g_ptr_array_index(vms, i);
    for (guint j = 0; j < vm->disks->len; j++) {
      *disk = g_ptr_array_index(vm->disks, j);
      if (images_are_same((*disk)->path, path))
        return g_ptr_array_steal_index(vms, i);
    }
  }
  *disk = NULL;
  return NULL;
}
