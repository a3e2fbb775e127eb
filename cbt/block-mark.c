/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From /sys/dev/block/MAJOR:MINOR/stat: the sectors of writes and discards. Above them stands the
 * device's sequence number, which changes when something else is attached under the same number.
 * Documentation/block/stat.rst of Linux has the fields.
 */
#include <cbt/block-mark.h>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define COUNT_BITS 40
#define COUNT_MASK ((G_GUINT64_CONSTANT(1) << COUNT_BITS) - 1)

static char *
read_attribute(dev_t device, const char *name)
{
  g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/%s", major(device), minor(device), name);
  char *text = NULL;
  return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

/* Counting can be switched off, for a device and so for its partitions. */
static gboolean
is_counted(dev_t device)
{
  g_autofree char *own = read_attribute(device, "queue/iostats");
  g_autofree char *whole = own ? NULL : read_attribute(device, "../queue/iostats");
  const char *text = own ? own : whole;
  return text && *text == '1';
}

static gboolean
read_count(dev_t device, guint64 *count)
{
  static const guint fields[] = {6, 13}; /* sectors written, sectors discarded; a flush is none */
  g_autofree char *text = read_attribute(device, "stat");
  guint64 values[14] = {0};
  char *at = text;
  for (guint i = 0; text && i < G_N_ELEMENTS(values); i++)
    values[i] = g_ascii_strtoull(at, &at, 10);
  *count = 0;
  for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
    *count += values[fields[i]];
  return text && is_counted(device);
}

static guint64
read_sequence(int fd)
{
  guint64 sequence = 0;
#ifdef BLKGETDISKSEQ
  if (ioctl(fd, BLKGETDISKSEQ, &sequence) != 0)
    sequence = 0;
#endif
  return sequence;
}

gint64
cbt_block_mark_get(int fd)
{
  struct stat st;
  guint64 count;
  if (fstat(fd, &st) != 0 || !read_count(st.st_rdev, &count))
    return g_get_monotonic_time();
  return (gint64) (read_sequence(fd) << COUNT_BITS | (count & COUNT_MASK));
}

gboolean
cbt_block_mark_is_unwritten(gint64 mark)
{
  return ((guint64) mark & COUNT_MASK) == 0;
}
