/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the daemon was told: command line and configuration file (GKeyFile; unknown keys are refused by name).
 */
#pragma once

#include <glib.h>

#define BACKUP_AUDIT_MAX 1048576

typedef struct {
  char *state_dir;
  char *runtime_dir;
  char *config_file;         /* (nullable) */
  gint log_level;            /* GLogLevelFlags, the least that is logged; atomic, any thread */
  char *group;               /* (nullable) who may connect besides root and the daemon's own user */
  char **allowed_paths;      /* (nullable) folders below which members of the group may name paths */
  char *fleece_dir;          /* where sessions put old clusters */
  guint64 fleece_limit;      /* bytes a disk; 0: none */
  char *qemu_way;            /* how old bytes are kept: "auto", "filter", "fleece", "push" */
  char *quiesce_program;     /* path of cbt-quiesce */
  char *quiesce_pre_script;  /* (nullable) paths in a guest; NULL: as in docs/quiescing.md */
  char *quiesce_post_script; /* (nullable) */
  guint64 quiesce_budget;    /* seconds that a guest may be frozen */
  char *plugin_dir;          /* where nbdkit-cbt-plugin.so stands */
  guint workers;             /* threads that hash and compress, a job */
  guint max_jobs;            /* at once */
  guint audit;               /* clusters that an incremental compares though they are called clean; a disk */
  guint nice;                /* how much the threads that read and store give way to guests */
  guint64 store_reserve;     /* bytes that backups leave free; STORE_RESERVE_DEFAULT */
  guint64 jitter;            /* seconds: how much later than its schedule a policy's run may begin */
  gboolean dedup_verify;
  gboolean rebuild_catalogue; /* set the catalogue's file aside first */
  guint64 given;              /* a bit for each key that the command line has, which wins over the file */
  GKeyFile *file;             /* (nullable) as it was at the start */
} DaemonConfig;

/* Reads the command line and the file that it names. On --help or --version it prints and sets *done. INVALID
 * names the option or key. */
DaemonConfig *daemon_config_new(int *argc, char ***argv, gboolean *done,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Reads the file again. Keys that can change while the daemon runs (log-level, max-jobs, audit, jitter: all
 * but the first are read on the main thread only) take effect. Returns the names of those that differ from
 * the start and do not (transfer full;
 * "[GROUP] KEY"). INVALID changes nothing. Main thread. */
GPtrArray *daemon_config_reload(DaemonConfig *config, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void daemon_config_free(DaemonConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DaemonConfig, daemon_config_free)

/* Paths below the two folders (transfer full). */
char *daemon_config_store_dir(const DaemonConfig *config);
char *daemon_config_bitmap_dir(const DaemonConfig *config, const char *vm, const char *disk);
char *daemon_config_export_dir(const DaemonConfig *config, const char *vm);
char *daemon_config_witness_dir(const DaemonConfig *config);
