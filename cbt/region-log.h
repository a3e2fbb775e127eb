/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write-ahead region log of one disk: which regions (16 MiB) may have been written since the last clean point.
 *
 * A region is opened, which makes its flag durable, before the first write into it; after that it costs one atomic
 * load. So when the host goes down and pages of bitmaps are lost, what the flags name is dirty and all the rest of
 * the bits is good. The log knows no bitmaps; they name it by its id (cbt/bitmap-file.h), the tracker owns it.
 *
 * Lifecycle: load or create; open ranges; trim at clean points; remove when the disk is closed clean.
 * Threads: open_range(), is_open(), is_broken() and finish_trim() from any at once; the rest needs that nobody else
 * calls, begin_trim() only that nobody is between is_open() and the end of his write.
 * Format: cbt/region-log-format.h and docs/formats/region-log.md.
 */
#pragma once

#include <cbt/bitmap.h>
#include <common/file-ops.h>
#include <common/uuid.h>

#define CBT_REGION_LOG_NAME "regions.log"

typedef struct CbtRegionLog CbtRegionLog;

/* A new log in DIRECTORY, durable, in the place of any other, with a new id. FLAG_ALL: nobody knows what was written
 * before the log began, so every region is flagged until the first trim. NO_SPACE, IO. All blocks are written, so that
 * a flag never fails for want of space. */
CbtRegionLog *cbt_region_log_create(const CbtFileOps *ops, const char *directory, const CbtUuid *disk_id,
                                    guint64 size, gboolean flag_all, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The log of DIRECTORY with the flags that it has; a damaged sector counts as flagged. NOT_FOUND; CORRUPT or
 * UNSUPPORTED: its header; INCONSISTENT: of another disk id or size; IO. */
CbtRegionLog *cbt_region_log_load(const CbtFileOps *ops, const char *directory, const CbtUuid *disk_id, guint64 size,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
void cbt_region_log_free(CbtRegionLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtRegionLog, cbt_region_log_free)
/* Frees LOG and deletes its file: no bitmap needs it any more. If that fails, nothing is lost. */
void cbt_region_log_remove(CbtRegionLog *log);

const CbtUuid *cbt_region_log_id(const CbtRegionLog *log);

/* Opens every region that the range touches; waits for the flush of just these, which is shared with others. Never
 * fails: see cbt_region_log_is_broken(). */
void cbt_region_log_open_range(CbtRegionLog *log, guint64 offset, guint64 length);
/* TRUE if all of them are open, or the log is broken and there is nothing to wait for. */
gboolean cbt_region_log_is_open(const CbtRegionLog *log, guint64 offset, guint64 length);
/* TRUE after a flag could not be made durable. The file was made invalid then, for what it says would be too little:
 * no bitmap is covered any more until there is a new log. *is_invalid (nullable): whether that is known to be
 * durable. */
gboolean cbt_region_log_is_broken(const CbtRegionLog *log, gboolean *is_invalid);

/* Sets every flagged region in BITMAP, which is of the same disk. */
void cbt_region_log_mark(CbtRegionLog *log, CbtBitmap *bitmap);
/* Flags every region, durably. IO: the log is broken. */
gboolean cbt_region_log_flag_all(CbtRegionLog *log, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Regions that are flagged in the file, or are just being. */
guint64 cbt_region_log_count(CbtRegionLog *log);

/*
 * A trim, in two steps. begin_trim() closes all regions in memory; their flags stay. Then the caller makes durable
 * what was written into them: the image and the arrays of all bitmaps. finish_trim() takes the flags away of those
 * that were not opened again meanwhile. Without a finish the flags stay for a later trim. IO, and the log is broken
 * then.
 */
void cbt_region_log_begin_trim(CbtRegionLog *log);
gboolean cbt_region_log_finish_trim(CbtRegionLog *log, GError **error) G_GNUC_WARN_UNUSED_RESULT;
