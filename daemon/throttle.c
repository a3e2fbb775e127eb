/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/throttle.h>

#include <common/error.h>

#define SLEEP_SLICE_US 50000 /* how soon a cancel is seen */

gboolean
throttle_check_speed(guint64 speed, GError **error)
{
  if (speed == 0 || speed >= THROTTLE_SPEED_MIN)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Name at least 4K, or 0 for no limit.",
                "speed: %" G_GUINT64_FORMAT " bytes a second is less than 4096", speed);
  return FALSE;
}

void
throttle_init(Throttle *throttle, guint64 speed)
{
  throttle->speed = speed;
  throttle->next = 0;
  pthread_mutex_init(&throttle->lock, NULL);
}

void
throttle_clear(Throttle *throttle)
{
  pthread_mutex_destroy(&throttle->lock);
}

gint64
throttle_take(Throttle *throttle, guint64 bytes)
{
  if (throttle->speed == 0)
    return 0;
  pthread_mutex_lock(&throttle->lock);
  throttle->next =
      MAX(throttle->next, g_get_monotonic_time()) + (gint64) (bytes * G_USEC_PER_SEC / throttle->speed);
  gint64 until = throttle->next;
  pthread_mutex_unlock(&throttle->lock);
  return until;
}

void
throttle_wait(Throttle *throttle, guint64 bytes, GCancellable *cancellable)
{
  gint64 until = throttle_take(throttle, bytes);
  gint64 left;
  while ((left = until - g_get_monotonic_time()) > 0 && !g_cancellable_is_cancelled(cancellable))
    g_usleep((gulong) MIN(left, SLEEP_SLICE_US));
}
