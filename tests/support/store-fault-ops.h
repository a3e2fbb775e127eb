/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File operations that fail on demand, and that know what a power cut would leave of each file.
 *
 * Calls that change or read files are counted; call number FAIL_AT fails with ERRSV, and all after it too if
 * FOR_EVER. A write that fails writes its first half; a sync that fails makes the disk forget what it should
 * have written. store_fault_ops_power_cut() gives each file the content of its last sync; names count as
 * durable only after the folder was synced. Mapped writes are not seen.
 */
#pragma once

#include <common/file-ops.h>

typedef struct StoreFaultOps StoreFaultOps;

StoreFaultOps *store_fault_ops_new(void);
void store_fault_ops_free(StoreFaultOps *faults);
const CbtFileOps *store_fault_ops_table(StoreFaultOps *faults);
/* Counts from 1 anew. FAIL_AT 0: nothing fails. */
void store_fault_ops_arm(StoreFaultOps *faults, guint64 fail_at, gboolean for_ever, int errsv);
/* TRUE if a call was made to fail since it was armed. */
gboolean store_fault_ops_has_failed(StoreFaultOps *faults);
/* What is lost is lost: also the names that were never made durable. */
void store_fault_ops_power_cut(StoreFaultOps *faults);
