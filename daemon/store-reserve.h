/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The room that backups and imports leave free on the store's file system. It is what pruning, collecting
 * garbage, the catalogue and the index need to go on when the store is full: these do not ask here.
 *
 * Threads: any.
 */
#pragma once

#include <daemon/free-space.h>
#include <store/store.h>

typedef struct StoreReserve StoreReserve;

/* As the value of the reserve: the smaller of 1 GiB and a hundredth of the file system. */
#define STORE_RESERVE_DEFAULT G_MAXUINT64

/* Of the file system of STORE, which SPACE asks; both outlive it. BYTES 0: none. */
StoreReserve *store_reserve_new(FreeSpace *space, Store *store, guint64 bytes);
void store_reserve_free(StoreReserve *reserve);
/* Bytes; a default that depends on a file system which has not told its size yet is 0. */
guint64 store_reserve_bytes(StoreReserve *reserve);

/* NO_SPACE, with the numbers, if less than the reserve is free, or will be when what was put is written. A file
 * system that does not tell is not full. */
gboolean store_reserve_check(StoreReserve *reserve, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* After BYTES were put that the store had not: does that once for every sixteenth of the reserve, 1 to 64 MiB. */
gboolean store_reserve_note(StoreReserve *reserve, guint64 bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Adds to an error NO_SPACE what the user can do about a store that is full, if that is what it is. */
void store_reserve_explain(StoreReserve *reserve, GError **error);
