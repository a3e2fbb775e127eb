/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File operations that fail on demand: call n, once or from then on; half-written or short writes.
 *
 *   CbtFaultOps faults;
 *   cbt_fault_ops_init(&faults);
 *   ... set up with &faults.ops ...
 *   for (guint n = 1; ; n++) {
 *     cbt_fault_ops_arm(&faults, n, EIO, CBT_FAULT_ONCE);
 *     ... the operation under test ...
 *     if (!cbt_fault_ops_disarm(&faults))
 *       break;      // it took fewer than n calls: all are tested
 *   }
 *
 * Counted are all calls through the table. A failing close still closes. Threads: any.
 */
#pragma once

#include <common/file-ops.h>

typedef enum {
  CBT_FAULT_ONCE = 0,
  CBT_FAULT_FOR_EVER = 1, /* call n and all after it */
  CBT_FAULT_TORN = 2,     /* a failing pwrite has written the first half */
} CbtFaultFlags;

typedef struct {
  CbtFileOps ops; /* hand out &faults.ops */
  /* atomic */
  guint n_calls; /* since it was armed */
  guint n_failed;
  /* set while nobody calls */
  guint fail_at; /* 1 is the first call; 0: none fails */
  int errsv;
  CbtFaultFlags flags;
  gsize longest_write; /* pwrite takes at most so many bytes at once; 0: any number */
} CbtFaultOps;

/* A table that works like cbt_file_ops_default() until it is armed. */
void cbt_fault_ops_init(CbtFaultOps *faults);
/* From here on, call number N fails with ERRSV. */
void cbt_fault_ops_arm(CbtFaultOps *faults, guint n, int errsv, CbtFaultFlags flags);
/* Back to normal. TRUE if a call failed since it was armed. */
gboolean cbt_fault_ops_disarm(CbtFaultOps *faults);
