/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asks an export for integration scripts: cbt_export_probe add|count|state SOCKET BITMAP. */
#include <cbt/disk.h>
#include <stdio.h>
#include <string.h>

static gboolean
add(CbtDisk *disk, const char *bitmap, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_ADD, bitmap);
  request.granularity = CBT_GRANULARITY_DEFAULT;
  return cbt_disk_call(disk, &request, NULL, NULL, error);
}

static gboolean
show(CbtDisk *disk, const char *bitmap, gboolean count, GError **error)
{
  CbtBitmapInfo info;
  if (!cbt_disk_info(disk, bitmap, &info, error))
    return FALSE;
  if (count)
    printf("%" G_GUINT64_FORMAT "\n", info.count);
  else
    printf("%s\n", cbt_bitmap_state_name((CbtBitmapState) info.state));
  return TRUE;
}

int
main(int argc, char **argv)
{
  g_autoptr(GError) error = NULL;
  if (argc != 4) {
    fprintf(stderr, "usage: %s add|count|state SOCKET BITMAP\n", argv[0]);
    return 2;
  }
  g_autoptr(CbtDisk) disk = cbt_disk_connect(argv[2], 10000, &error);
  gboolean ok = disk != NULL &&
                (strcmp(argv[1], "add") == 0 ? add(disk, argv[3], &error)
                                             : show(disk, argv[3], strcmp(argv[1], "count") == 0, &error));
  if (!ok)
    fprintf(stderr, "%s\n", error->message);
  return ok ? 0 : 1;
}
