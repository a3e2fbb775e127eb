/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What instant and leftovers share: commands that change something in QEMU, each told before it is sent, and the names of
 * what they make. All names are PREFIX-KIND or PREFIX-KINDn, n being the number of the disk: so an earlier process's
 * things are found by the prefix alone, and nothing else is taken for them.
 */
#pragma once

#include <cbt/qemu/qmp.h>

/* Called before each QMP command that changes something in QEMU, with the command and what it is about. FALSE (with
 * ERROR) stops there. Some calls are made while the guest stands still: be quick. */
typedef gboolean (*QemuStepFunc)(const char *step, gpointer user_data, GError **error);

typedef struct {
  Qmp *qmp;
  guint timeout_ms; /* of each command */
  QemuStepFunc func; /* or NULL */
  gpointer user_data;
  const GPtrArray *images; /* of char *: overlays of no others are removed; NULL: of those that QEMU names */
} QemuSteps;

/* Tells the step, then carries it out as qmp_call() does. SUBJECT is a name, or NULL. ARGUMENTS are (transfer full). */
gboolean qemu_step(const QemuSteps *steps, const char *command, const char *subject, JsonObject *arguments,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, with a duplicate of FD for QEMU. ANSWER may be NULL. */
gboolean qemu_step_with_fd(const QemuSteps *steps, const char *command, const char *subject, JsonObject *arguments,
                           int fd, JsonNode **answer, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The kinds of names. */
#define QEMU_NAME_SCRATCH "scr"      /* node: where old bytes go */
#define QEMU_NAME_FILE    "file"     /* node: the file below it */
#define QEMU_NAME_FILTER  "cbw"      /* node: the filter in front of a disk */
#define QEMU_NAME_SNAP    "snap"     /* node: what the disk held */
#define QEMU_NAME_TARGET  "tgt"      /* node: an NBD server of ours */
#define QEMU_NAME_JOBFILTER "flt" /* node: a job's own filter, which goes with the job */
#define QEMU_NAME_OVERLAY "ovl"      /* node: what the guest writes to while its image stands still */
#define QEMU_NAME_OVERLAY_FILE "ovf" /* node: the file below it */
#define QEMU_NAME_COMMIT "cmt"       /* job: commits the overlay. Not "job": it must not be cancelled */
#define QEMU_NAME_COMMITFILTER "flc" /* node: that job's own filter */
#define QEMU_NAME_STOPPED "stopped"  /* node: is there while the guest stands still because of us */
#define QEMU_NAME_NBD     "nbd"      /* node: is there while QEMU's NBD server is ours; also the listening descriptor */
#define QEMU_NAME_JOB     "job"
#define QEMU_NAME_EXPORT  "x"
#define QEMU_NAME_DIRTY   "dirty"    /* bitmap of a snap node: what is pushed */

/* Names of nodes have at most 31 bytes in QEMU. */
#define QEMU_PREFIX_MAX_BYTES 20

/* INVALID if QEMU would not take it as the begin of a name. */
gboolean qemu_prefix_check(const char *prefix, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* (transfer full); without a number if INDEX is below 0. */
char *qemu_name(const char *prefix, const char *kind, int index);
/* Whether NAME (or NULL) is of PREFIX and KIND. *index may be NULL; -1 if it has no number. */
gboolean qemu_name_is(const char *name, const char *prefix, const char *kind, int *index);

/* All nodes that QEMU has: JsonArray of query-named-block-nodes. */
JsonNode *qemu_nodes_query(const QemuSteps *steps, GError **error) G_GNUC_WARN_UNUSED_RESULT;
