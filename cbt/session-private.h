/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two halves of a session share: session.c (making, attaching) and session-copy.c (the protocol). */
#pragma once

#include <cbt/fleece.h>
#include <cbt/session.h>
#include <pthread.h>
#include <stdatomic.h>

#define CBT_SESSION_HEADER_SIZE       4096u
#define CBT_SESSION_N_STRIPES         64u
#define CBT_SESSION_CLUSTERS_PER_WORD 64u
/* In `broken`: the fleece has no free slot. No file operation gives this errno. */
#define CBT_SESSION_LIMIT_REACHED EXFULL

typedef _Atomic guint32 CbtSharedSlot;

typedef struct {
  /* constant once the memory is passed on */
  guint64 magic;
  guint32 version;
  guint32 cluster_size;
  guint64 size; /* bytes of the disk */
  guint64 n_clusters;
  guint64 fleece_limit; /* bytes; 0: none */
  guint64 preserved_offset;
  guint64 done_offset;
  guint64 used_offset;
  guint64 slots_offset;
  guint64 memory_size;
  /* shared */
  _Atomic gint32 broken;    /* errno of the first failure */
  _Atomic guint32 reserved; /* 0 */
  _Atomic guint64 fleeced;  /* bytes copied so far */
  _Atomic guint64 hint;     /* see cbt/fleece.h */
} CbtSessionHeader;

G_STATIC_ASSERT(sizeof(CbtSessionHeader) <= CBT_SESSION_HEADER_SIZE);
G_STATIC_ASSERT(sizeof(CbtSharedWord) == 8 && ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2);

struct CbtSession {
  /* constant after creation */
  guint64 size; /* bytes of the disk */
  guint64 n_clusters;
  gsize n_words;        /* of each bit array */
  guint64 fleece_limit; /* bytes; 0: none */
  int memory_fd;
  int fleece_fd;
  gpointer memory;
  gsize memory_size;
  /* inside memory, shared with the other process */
  CbtSessionHeader *header;
  CbtSharedWord *preserved;
  CbtSharedWord *done;
  CbtSharedWord *used;  /* slots of the fleece */
  CbtSharedSlot *slots; /* of each cluster that is preserved, plus one; 0: it is all zeros, and in no slot */

  CbtFleece *fleece;

  pthread_mutex_t stripes[CBT_SESSION_N_STRIPES]; /* export: cluster c is being preserved under stripe c %
                                                     CBT_SESSION_N_STRIPES */
};
