/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Feeds files, and all files of folders, to a fuzz target: for compilers without libFuzzer. */
#include "fuzz.h"

#include <stdio.h>

static gsize
feed_file(const char *path)
{
  g_autofree char *data = NULL;
  gsize length;
  if (!g_file_get_contents(path, &data, &length, NULL)) {
    fprintf(stderr, "cannot read %s\n", path);
    return 0;
  }
  printf("%s\n", path);
  fflush(stdout); /* so that it is known which one did it */
  LLVMFuzzerTestOneInput((const guint8 *) data, length);
  return 1;
}

static gsize
feed(const char *path)
{
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  const char *name;
  gsize n = 0;
  if (!dir)
    return feed_file(path);
  while ((name = g_dir_read_name(dir))) {
    g_autofree char *inner = g_build_filename(path, name, NULL);
    n += feed_file(inner);
  }
  return n;
}

/* Never called: nothing mutates here. */
gsize
LLVMFuzzerMutate(guint8 *data G_GNUC_UNUSED, gsize size, gsize size_max_bytes G_GNUC_UNUSED)
{
  return size;
}

int
main(int argc, char **argv)
{
  gsize n = 0;
  for (int i = 1; i < argc; i++)
    n += feed(argv[i]);
  printf("%zu inputs\n", n);
  return n > 0 ? 0 : 1;
}
