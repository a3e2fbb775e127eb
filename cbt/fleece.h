/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that takes the old bytes of a session: slots of one cluster each, in any order.
 *
 * A guest's write waits for the copy, and a page that a file has never had takes a file system ten times as
 * long as one that it has. So the lowest free slot is taken, which most often was used before, and a thread
 * of the export's writes zeros to slots ahead of those in use. Far from the beginning, 4 MiB of which all is
 * dropped are punched out at once. Slot by slot, each of them would keep the guest's next copy waiting.
 *
 * Which slots are used is said by bits in memory that both processes share. It is not trusted: wrong bits
 * make a backup wrong, and never touch what lies outside of the file.
 */
#pragma once

#include <glib.h>

typedef _Atomic guint64 CbtSharedWord;
typedef struct CbtFleece CbtFleece;

/* Slots are those of FD (transfer none); USED has a bit for each of N_SLOTS, HINT is a number, both shared.
 */
CbtFleece *cbt_fleece_new(int fd, guint64 n_slots, CbtSharedWord *used, CbtSharedWord *hint);
/* No call of this process may be under way. */
void cbt_fleece_free(CbtFleece *fleece);

/* Keeps slots ready from now on, in a thread that ends with the fleece. Without one all works, too. */
void cbt_fleece_prepare(CbtFleece *fleece);

/* Ends the thread; FALSE if it has not ended within a tenth of a second, since the storage hangs. */
gboolean cbt_fleece_end(CbtFleece *fleece) G_GNUC_WARN_UNUSED_RESULT;

/* Writes LENGTH bytes, a cluster at most, to a free slot. 0, or an errno: EXFULL if there is none. Any
 * thread. */
int cbt_fleece_put(CbtFleece *fleece, const guint8 *data, guint64 length, guint64 *slot);
/* Reads them back. 0, or an errno: ERANGE if there is no such slot. Any thread. */
int cbt_fleece_get(const CbtFleece *fleece, guint64 slot, guint8 *data, guint64 length);
/* Nobody wants SLOT any more. Any thread. */
void cbt_fleece_drop(CbtFleece *fleece, guint64 slot);
