/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/nbd-link.h>

#include <errno.h>

#define POLL_SLICE_MS 100 /* how long a cancel may wait */

static gboolean
set_not_connected(const char *uri, const char *why, GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "NBD export %s, connecting: %s", uri, why);
  return FALSE;
}

/* One step of the handshake. */
static gboolean
shake_hands(struct nbd_handle *nbd, const char *uri, guint timeout_ms, gint64 *deadline_us,
            GCancellable *cancellable, GError **error)
{
  if (g_cancellable_is_cancelled(cancellable)) {
    cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled");
    return FALSE;
  }
  int result = nbd_poll(nbd, POLL_SLICE_MS);
  if (result < 0)
    return set_not_connected(uri, nbd_get_error(), error);
  if (result > 0)
    *deadline_us = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  return g_get_monotonic_time() <= *deadline_us || set_not_connected(uri, "it does not answer", error);
}

static gboolean
connect_handle(struct nbd_handle *nbd, const char *uri, const char *context, guint timeout_ms,
               GCancellable *cancellable, GError **error)
{
  gint64 deadline_us = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  if ((context && nbd_add_meta_context(nbd, context) != 0) || nbd_aio_connect_uri(nbd, uri) != 0)
    return set_not_connected(uri, nbd_get_error(), error);
  while (nbd_aio_is_connecting(nbd) > 0)
    if (!shake_hands(nbd, uri, timeout_ms, &deadline_us, cancellable, error))
      return FALSE;
  return nbd_aio_is_ready(nbd) > 0 || set_not_connected(uri, "it closed the connection", error);
}

struct nbd_handle *
qemu_nbd_connect(const char *uri, const char *context, guint timeout_ms, GCancellable *cancellable,
                 GError **error)
{
  struct nbd_handle *nbd = nbd_create();
  if (!nbd)
    set_not_connected(uri, nbd_get_error(), error);
  else if (!connect_handle(nbd, uri, context, timeout_ms, cancellable, error))
    qemu_nbd_disconnect(&nbd);
  return nbd;
}

void
qemu_nbd_disconnect(struct nbd_handle **nbd)
{
  if (*nbd && nbd_aio_is_ready(*nbd) > 0)
    nbd_aio_disconnect(*nbd, 0);
  g_clear_pointer(nbd, nbd_close);
}

/* EINVAL is also what a server says of an errno that NBD has no number for. */
void
qemu_nbd_set_answer_error(GError **error, const char *uri, const char *doing, guint64 offset, int errsv)
{
  const char *hint = NULL;
  if (errsv == EINVAL)
    hint =
        "A snapshot of QEMU answers so when it broke (its scratch space ran full, or could not be written), "
        "and of ranges that are not in its bitmap.";
  cbt_set_error(error, errsv == ESHUTDOWN ? CBT_ERROR_UNREACHABLE : CBT_ERROR_IO, hint,
                "NBD export %s, %s at offset %" G_GUINT64_FORMAT ": %s (errno %d)", uri, doing, offset,
                g_strerror(errsv), errsv);
}
