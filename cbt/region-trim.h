/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The slow part of a trim of the region log, in a thread of its own: sync what was written into the regions that were
 * closed, then take their flags away. Neither the guest nor whoever asked for the trim waits for it.
 */
#pragma once

#include <cbt/region-log.h>

typedef struct CbtRegionTrim CbtRegionTrim;

/*
 * Closes the regions of LOG and starts. FDS are the image and all bitmap files; they are opened anew, so that an error
 * of their write-back is still reported to whoever syncs the descriptors given. Nobody may be writing, or recording,
 * during this call. NULL if it cannot be started: then the flags stay. LOG must outlive the trim.
 */
CbtRegionTrim *cbt_region_trim_start(const CbtFileOps *ops, CbtRegionLog *log, const int *fds, guint n_fds);
gboolean cbt_region_trim_is_done(const CbtRegionTrim *trim);
/* Waits for the end, and frees. */
void cbt_region_trim_join(CbtRegionTrim *trim);
