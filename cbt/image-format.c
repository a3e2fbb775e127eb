/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The magics of QEMU's block drivers (block/qcow2.h, vmdk.c, vdi.c, vhdx.h, vpc.c, qed.h, parallels.c there).
 * Encrypted disks (LUKS) are not among them: as raw images they are in order.
 */
#include <cbt/image-format.h>

#include <common/file-ops.h>
#include <string.h>

#define PROBE_LENGTH 512

#define FORMAT(name, offset, magic)                                                                          \
  {                                                                                                          \
    name, offset, magic, sizeof(magic) - 1                                                                   \
  }

static const struct {
  const char *name;
  guint offset;
  const char *magic;
  guint length;
} formats[] = {
    FORMAT("qcow2", 0, "QFI\xfb"),
    FORMAT("vmdk", 0, "KDMV"),
    FORMAT("vmdk", 0, "COWD"),
    FORMAT("vmdk", 0, "# Disk DescriptorFile"),
    FORMAT("vhdx", 0, "vhdxfile"),
    FORMAT("vpc", 0, "conectix"),
    FORMAT("vdi", 64, "\x7f\x10\xda\xbe"),
    FORMAT("qed", 0, "QED\0"),
    FORMAT("parallels", 0, "WithoutFreeSpace"),
    FORMAT("parallels", 0, "WithouFreSpacExt"),
};

const char *
cbt_image_format_probe(int fd)
{
  char head[PROBE_LENGTH];
  gssize length = cbt_pread_full(fd, head, sizeof head, 0);
  for (guint i = 0; i < G_N_ELEMENTS(formats); i++)
    if (length >= (gssize) (formats[i].offset + formats[i].length) &&
        memcmp(head + formats[i].offset, formats[i].magic, formats[i].length) == 0)
      return formats[i].name;
  return NULL;
}
