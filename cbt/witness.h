/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A witness of one bitmap file that is in use: which file it is, its last header, and how many bits it has at
 * least. It stands outside of the bitmap's folder, in a place that lasts for one boot, so that a copy of the
 * folder that is put back over one whose process was killed is not taken for what the process left.
 *
 * Why a count is enough: between two headers bits are only ever set. So an older copy with the same header
 * has some of the bits, and if it has as many, it has all of them. A bit is set first and counted then: what
 * a process leaves that is killed between the two has more bits than its witness counts, never fewer.
 *
 * It holds for process deaths in one boot only: nothing of it is synced.
 * Threads: cbt_witness_add() from any number at once, and one beside them may expect and advance; everything else needs
 * that nobody adds meanwhile.
 */
#pragma once

#include <common/uuid.h>

typedef struct CbtWitness CbtWitness;

/* The witness of the bitmap file BITMAP_PATH of a disk, in DIRECTORY; both are made when missing, and a new
 * one vouches for nothing. NULL if it cannot be had, which is logged: the bitmap can be used without. */
CbtWitness *cbt_witness_open(const char *directory, const CbtUuid *disk_id, const char *bitmap_path);
/* Frees; the file stays for whoever comes after a crash. */
void cbt_witness_free(CbtWitness *witness);
/* Frees, and deletes the file: nobody needs it any more. NULL is allowed. */
void cbt_witness_remove(CbtWitness *witness);

/* The file FILE_ID is in use from now on: its header has SEQUENCE, N_DIRTY bits are set where it records. */
void cbt_witness_begin(CbtWitness *witness, const CbtUuid *file_id, guint64 sequence, guint64 n_dirty);
/* The same file has a new header, or other bits than were added. NULL is allowed. */
void cbt_witness_note(CbtWitness *witness, guint64 sequence, guint64 n_dirty);
/* A new header is about to be written; SAME_BITS: the array that records stays the same, as do its bits, but for what is
 * added meanwhile. NULL is allowed. */
void cbt_witness_expect(CbtWitness *witness, gboolean same_bits);
/* It was written, and expected so. NULL is allowed. */
void cbt_witness_advance(CbtWitness *witness, guint64 sequence);
/* N bits were set. */
void cbt_witness_add(CbtWitness *witness, guint64 n);

/* NULL if a file with this id, header and number of bits can be what a killed process left; else why not
 * (static). */
const char *cbt_witness_doubt(const CbtWitness *witness, const CbtUuid *file_id, guint64 sequence,
                              guint64 n_dirty);
