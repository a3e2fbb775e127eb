/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which extents of a disk a backup reads: the allocated ones of the whole disk, or of what a frozen bitmap
 * marks, cut at cluster boundaries. Holes are not read; but in a session a hole may have been written since
 * the instant, and what was preserved of it is handed out to be read like data (the session then gives its
 * old bytes).
 */
#pragma once

#include <cbt/reader.h>
#include <cbt/session.h>

typedef struct BackupExtents BackupExtents;

/* CHANGES (nullable: the whole disk) and SESSION (nullable) must outlive it. */
BackupExtents *backup_extents_new(CbtSource *source, const CbtBitmap *changes, CbtSession *session);
void backup_extents_free(BackupExtents *extents);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BackupExtents, backup_extents_free)

/* The next extent to read; a CbtNextExtentFunc. One thread. */
gboolean backup_extents_next(gpointer extents, CbtExtent *extent, GError **error);
/* Takes the first run of zeros that the walk has passed below OFFSET; FALSE if there is none. Any thread. */
gboolean backup_extents_take_zero(BackupExtents *extents, guint64 offset, CbtExtent *zero);
