/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/monitors.h>

#include <pthread.h>

struct Monitors {
  char *prefix; /* constant */
  pthread_mutex_t lock;
  pthread_cond_t freed;
  GHashTable *taken; /* of char *, the sockets that somebody speaks on; under lock */
};

Monitors *
monitors_new(const char *prefix)
{
  Monitors *monitors = g_new0(Monitors, 1);
  monitors->prefix = g_strdup(prefix);
  pthread_mutex_init(&monitors->lock, NULL);
  pthread_cond_init(&monitors->freed, NULL);
  monitors->taken = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  return monitors;
}

void
monitors_free(Monitors *monitors)
{
  g_hash_table_unref(monitors->taken);
  pthread_cond_destroy(&monitors->freed);
  pthread_mutex_destroy(&monitors->lock);
  g_free(monitors->prefix);
  g_free(monitors);
}

const char *
monitors_prefix(const Monitors *monitors)
{
  return monitors->prefix;
}

char *
monitors_bitmap_prefix(const Monitors *monitors, const CbtUuid *disk_id)
{
  char text[CBT_UUID_TEXT_SIZE];
  return g_strdup_printf("%s-%.8s", monitors->prefix, cbt_uuid_format(disk_id, text));
}

static void
give_up(Monitors *monitors, const char *socket_path)
{
  pthread_mutex_lock(&monitors->lock);
  g_hash_table_remove(monitors->taken, socket_path);
  pthread_cond_broadcast(&monitors->freed);
  pthread_mutex_unlock(&monitors->lock);
}

Qmp *
monitors_open(Monitors *monitors, const char *socket_path, GCancellable *cancellable, GError **error)
{
  pthread_mutex_lock(&monitors->lock);
  while (g_hash_table_contains(monitors->taken, socket_path))
    pthread_cond_wait(&monitors->freed, &monitors->lock);
  g_hash_table_add(monitors->taken, g_strdup(socket_path));
  pthread_mutex_unlock(&monitors->lock);
  Qmp *qmp = qmp_open(socket_path, MONITOR_TIMEOUT_MS, cancellable, error);
  if (!qmp)
    give_up(monitors, socket_path);
  return qmp;
}

void
monitors_close(Monitors *monitors, Qmp *qmp)
{
  g_autofree char *socket_path = g_strdup(qmp_socket_path(qmp));
  qmp_close(qmp);
  give_up(monitors, socket_path);
}
