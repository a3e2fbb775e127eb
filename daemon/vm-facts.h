/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon knows of each vm at once: from the catalogue, the engine and the gauges, without asking
 * anything that may block. For status and metrics. Threads: main only.
 */
#pragma once

#include <daemon/gauges.h>
#include <daemon/job.h>

typedef struct {
  CatalogueVm *vm;
  CataloguePointSummary points;
  StorePolicy *policy; /* NULL: it has none, or it is damaged */
  char *policy_damage; /* (nullable) why it cannot be read */
  gint64 wanted;       /* by when the policy wanted a point newer than the last good one; 0: it wants none */
  gint64 job;          /* that uses its images; 0: none */
  gboolean exported;
  gboolean knows_dirty; /* all disks are exported and answered */
  guint64 dirty;        /* bytes of the `default` bitmaps */
} VmFacts;

/* Of all vms, by name. */
GPtrArray *vm_facts_list(Daemon *daemon, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Something that somebody should do something about. */
typedef struct {
  gboolean is_failure; /* of what protects the vm; else a warning */
  const char *vm;      /* (nullable) its name, of the facts */
  char *text;
  char *hint; /* (nullable) what to do */
} Attention;

/* Of the store and of FACTS, which outlive it; failures first. */
GPtrArray *attention_list(Daemon *daemon, const GPtrArray *facts);
