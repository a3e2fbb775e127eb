/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A limit of bytes a second that several threads keep together. */
#pragma once

#include <gio/gio.h>
#include <pthread.h>

typedef struct {
  guint64 speed; /* bytes a second; 0: no limit */
  pthread_mutex_t lock;
  gint64 next; /* monotonic time at which the next bytes may go; under lock */
} Throttle;

#define THROTTLE_SPEED_MIN 4096 /* bytes a second: less is a unit that was forgotten */

/* INVALID for a SPEED below the minimum that is not 0. */
gboolean throttle_check_speed(guint64 speed, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void throttle_init(Throttle *throttle, guint64 speed);
void throttle_clear(Throttle *throttle);
/* Counts BYTES that go now, and returns the monotonic time (microseconds) at which the next ones may; 0: at once. Any
 * thread. */
gint64 throttle_take(Throttle *throttle, guint64 bytes);
/* Sleeps until BYTES more may go, or CANCELLABLE is cancelled. Any thread. */
void throttle_wait(Throttle *throttle, guint64 bytes, GCancellable *cancellable);
