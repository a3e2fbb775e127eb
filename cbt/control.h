/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control channel: what the daemon asks of whoever owns a disk's tracker.
 *
 * One request, one reply, each one SOCK_SEQPACKET message of fixed layout in host byte order (both ends are on this
 * host; `version` guards against a daemon that was upgraded under a running export). The owner is an export process
 * behind a Unix socket, or the daemon itself while the disk is not exported; cbt_disk_call() hides which.
 *
 * A hold belongs to the connection that asked for it and ends by itself after its time-out; a session belongs to its
 * connection too and ends when that closes. Bitmap states outlive both: who froze a bitmap, settles it.
 *
 * What a connection has, and what comes of each request (codes are errors, which change nothing):
 *
 *   hold session   HOLD   BEGIN            RELEASE   END          deadline       close
 *   no   no        hold   STATE            STATE     STATE        -              -
 *   yes  no        BUSY   hold + session   none      STATE        none           none
 *   yes  yes       BUSY   BUSY             session   hold         session        none
 *   no   yes       hold   BUSY             STATE     none         -              none
 *
 * HOLD and BEGIN are BUSY, too, when another connection has the hold or the session. While a session is on, APPLY on the
 * bitmap that it froze is BUSY for every other connection.
 */
#pragma once

#include <cbt/session.h>
#include <cbt/tracker.h>

#define CBT_CONTROL_MAGIC   0x43425443u /* "CBTC" */
#define CBT_CONTROL_VERSION 2u

typedef enum {
  CBT_CONTROL_HELLO,   /* who are you: fills identity, pid */
  CBT_CONTROL_LIST,    /* fills bitmaps */
  CBT_CONTROL_ADD,     /* name, granularity */
  CBT_CONTROL_REMOVE,  /* name */
  CBT_CONTROL_APPLY,   /* name, event, pending, reason */
  CBT_CONTROL_MERGE,   /* name |= source */
  CBT_CONTROL_HOLD,    /* timeout_ms: hold new writes and drain those in flight */
  CBT_CONTROL_BEGIN,   /* under a hold: create-successor on name with pending; 2 descriptors (memory, fleece) start the
                          session. whole: all clusters are wanted, else the frozen bitmap's. STATE if the hold ended */
  CBT_CONTROL_RELEASE, /* let held writes go; value: microseconds that the hold lasted; STATE if it had ended itself */
  CBT_CONTROL_END,     /* the session is over */
  CBT_N_CONTROL_OPS
} CbtControlOp;

typedef struct {
  guint32 magic;
  guint32 version;
  guint32 op;    /* CbtControlOp */
  guint32 event; /* CbtBitmapEvent */
  char name[CBT_NAME_MAX + 1];
  char source[CBT_NAME_MAX + 1];
  char reason[CBT_REASON_MAX + 1];
  CbtUuid pending;
  guint64 granularity;
  guint32 timeout_ms;
  guint32 whole;
} CbtControlRequest;

typedef struct {
  guint32 magic;
  guint32 version;
  gint32 code; /* -1: done, else CbtErrorCode */
  guint32 n_bitmaps;
  char message[512];
  CbtDiskIdentity identity;
  gint64 pid;
  guint64 value;
  CbtBitmapInfo bitmaps[CBT_TRACKER_MAX_BITMAPS];
} CbtControlReply;

/* A request of OP with the rest zero; NAME may be NULL. INVALID names are refused at the other end. */
void cbt_control_request_init(CbtControlRequest *request, CbtControlOp op, const char *name);
/*
 * Carries out the bitmap requests (LIST to MERGE, and HELLO) on TRACKER; every other op is answered with UNSUPPORTED.
 * The one place that turns requests into tracker calls, for the export and for the daemon alike. Nobody may record
 * meanwhile.
 */
void cbt_control_execute(CbtTracker *tracker, const CbtControlRequest *request, CbtControlReply *reply);
/* Fills REPLY with ERROR. */
void cbt_control_reply_error(CbtControlReply *reply, const GError *error);
