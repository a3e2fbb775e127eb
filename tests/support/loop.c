/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/loop.h>

#include <unistd.h>

char *
test_loop_attach(const char *path)
{
  const char *argv[] = {"losetup", "--show", "-r", "-f", path, NULL};
  g_autofree char *device = NULL;
  int status = -1;
  if (geteuid() != 0 ||
      !g_spawn_sync(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                    &device, NULL, &status, NULL) ||
      status != 0)
    return NULL;
  return g_strdup(g_strstrip(device));
}

void
test_loop_detach(char *device)
{
  const char *argv[] = {"losetup", "-d", device, NULL};
  g_spawn_sync(NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  g_free(device);
}
