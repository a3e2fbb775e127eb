/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What has to be asked of exports, files and the store's file system, each of which may hang: asked in
 * tasks, and kept, so that whoever shows it waits a moment at most.
 *
 * Of each vm, and of the store, one question is under way at a time; those who want to know meanwhile share
 * the next one, so that what they get is never older than their request. In the long run there are a hundred
 * rounds a second; who asks as one of more than that gets what was told up to 0.1 s before. Asking does not
 * disturb a guest: an export only looks at its bitmaps. The disks of a running QEMU are not asked about, as
 * its monitor serves one at a time.
 *
 * Lifecycle: new; free when the tasks have stopped. Threads: main only.
 */
#pragma once

#include <cbt/bitmap-file.h>
#include <daemon/daemon.h>

typedef struct Gauges Gauges;

typedef struct {
  char *name;
  gboolean exported;    /* when it was asked */
  gboolean answers;     /* of an exported one: whether its process did */
  gint64 round_trip_us; /* of an exported one that answers: connecting, and two requests */
  gboolean image_is_missing; /* its path leads nowhere; not asked of a disk that QEMU has */
  GArray *bitmaps; /* of CbtBitmapInfo; of a disk that is not exported only `default`, as its file says */
} GaugeDisk;

typedef struct {
  StoreStatistics statistics;
  gboolean is_known; /* whether its file system ever told */
  gboolean answers;  /* whether it did the last time */
  guint64 free;      /* bytes, as the next */
  guint64 total;
  guint64 unwritten;    /* bytes of FREE that are taken by what is to be written */
  gboolean is_replaced; /* what stands in its place is not what was opened */
} GaugeStore;

Gauges *gauges_new(Daemon *daemon);
/* Tells all who wait what is known; when the tasks have stopped. */
void gauges_stop(Gauges *gauges);
void gauges_free(Gauges *gauges);

typedef void (*GaugesFunc)(gpointer data);
/* Asks about the store and all vms, and calls FUNC as soon as all have answered, or have had a moment to do
 * so. Who did not answer before is not waited for. An error is the catalogue's; then FUNC is not called. */
gboolean gauges_ask(Gauges *gauges, GaugesFunc func, gpointer data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether so many ask that they get what was told up to GAUGES_FRESH_US before. */
#define GAUGES_FRESH_US 100000
gboolean gauges_many_ask(const Gauges *gauges);
/* Goes up when all have answered anew. */
guint64 gauges_round(const Gauges *gauges);

/* The last answer; NULL: there is none yet. (transfer none), until the main loop goes on. */
const GaugeDisk *gauges_disk(const Gauges *gauges, const char *vm, const char *disk);
/* Whether the question about VM has waited for an answer for longer than that moment. */
gboolean gauges_is_late(const Gauges *gauges, const char *vm);
/* All zero before the first answer. */
const GaugeStore *gauges_store(const Gauges *gauges);
/* The bitmap `default` of DISK (nullable), or NULL. */
const CbtBitmapInfo *gauge_disk_default(const GaugeDisk *disk);
