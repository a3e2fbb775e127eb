/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of an export: export.c (I/O), export-control.c (socket and thread), export-requests.c (what is
 * asked). */
#pragma once

#include <cbt/export.h>
#include <cbt/gate.h>

typedef struct CbtControlServer CbtControlServer;

struct CbtExport {
  /* constant after creation */
  int image_fd;
  guint64 size; /* bytes */
  gboolean is_block;
  CbtTracker *tracker; /* changed by the control thread under a hold; changes record inside the gate */
  CbtGate *gate;
  CbtControlServer *control; /* NULL until it is served */
  /* Set by the control thread under a hold. It may go back to NULL at any time, but a session is freed only
   * after the changes that may still use it are over. */
  _Atomic(CbtSession *) session;
  char session_bitmap[CBT_NAME_MAX + 1]; /* what the session froze; owned by the control thread */
};

/* A peer of the control socket, and what belongs to it. Owned by the control thread. */
typedef struct {
  int fd;
  guint64 hold;        /* of the gate; 0: none asked for */
  CbtSession *session; /* (transfer none) the export's, if this peer began it */
} CbtControlPeer;

/* The descriptors that came with a request; those not taken (set to -1) are closed by the server. */
#define CBT_CONTROL_MAX_FDS 4
typedef struct {
  int fds[CBT_CONTROL_MAX_FDS];
  guint n_fds;
} CbtControlFds;

/* Sessions that are over, waiting until no change can use them any more. */
typedef struct {
  CbtExport *export;
  GPtrArray *sessions; /* of CbtSession, owned */
} CbtRetired;

/* Carries out REQUEST, whose size, magic and version are right, and fills REPLY. */
void cbt_control_peer_handle(CbtExport *export, CbtControlPeer *peer, CbtRetired *retired,
                             const CbtControlRequest *request, CbtControlFds *fds, CbtControlReply *reply);
/* What a release left to be done when it was answered. */
void cbt_control_peer_released(CbtExport *export, CbtControlPeer *peer);
/* Ends what belongs to PEER: its session, then its hold. */
void cbt_control_peer_drop(CbtExport *export, CbtControlPeer *peer, CbtRetired *retired);
/* Frees the retired sessions if the gate can be drained; TRUE if none is left. */
gboolean cbt_retired_free_drained(CbtRetired *retired);

/* A listening socket at PATH (a stale one is replaced, mode 0600), and a thread that answers. */
CbtControlServer *cbt_control_server_start(CbtExport *export, const char *path,
                                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Drops every peer and removes the socket. No change may be in flight. */
void cbt_control_server_stop(CbtControlServer *server);
