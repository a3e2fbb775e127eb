/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File operations that fail on demand, and that know what a power cut would leave of each file.
 *
 * Calls that change or read files are counted; call number FAIL_AT fails with ERRSV, and all after it too if
 * FOR_EVER. ERRSV 0: it does not fail, but if it reads or writes, it does half of it, and says so. A write that
 * fails writes its first half; a sync that fails makes the disk forget what it should have written.
 *
 * store_fault_ops_power_cut() gives each file the content of its last sync; names count as durable only after
 * the folder was synced, until then the name has what it had before. Files that were removed are gone. Mapped
 * writes are not seen.
 */
#pragma once

#include <common/file-ops.h>

typedef struct StoreFaultOps StoreFaultOps;

StoreFaultOps *store_fault_ops_new(void);
void store_fault_ops_free(StoreFaultOps *faults);
const CbtFileOps *store_fault_ops_table(StoreFaultOps *faults);
/* Counts from 1 anew. FAIL_AT 0: nothing fails. */
void store_fault_ops_arm(StoreFaultOps *faults, guint64 fail_at, gboolean for_ever, int errsv);
/* From call CUT_AT on all fail as well: the power is gone. After store_fault_ops_arm(). */
void store_fault_ops_arm_cut(StoreFaultOps *faults, guint64 cut_at);
guint64 store_fault_ops_n_calls(StoreFaultOps *faults);
/* TRUE if a call was made to fail since it was armed. */
gboolean store_fault_ops_has_failed(StoreFaultOps *faults);
/* All files are closed. What was not made durable is lost; with RAND (nullable) it is drawn for each page that was written,
 * for each name and each removal whether it came to the disk all the same. */
void store_fault_ops_power_cut(StoreFaultOps *faults, GRand *rand);
