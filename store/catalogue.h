/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The catalogue: the SQLite database of vms, disks, bitmaps, recovery points, jobs, exports and policies. All SQL lives here.
 *
 * WAL, foreign keys on, synchronous=NORMAL; `user_version` is the schema's, older ones are migrated on open, newer refused.
 * Points, vms and policies are derived (store/point.h and store/vm.h have them too); jobs, leases and exports are kept here alone.
 *
 * Threads: one, the one that opened it, but for catalogue_sync(). Objects returned are copies (transfer full).
 */
#pragma once

#include <common/name.h>
#include <common/uuid.h>
#include <store/point.h>
#include <store/policy.h>

typedef struct Catalogue Catalogue;

typedef struct {
  CbtUuid id;
  char *name;
  char *path; /* absolute, of the image; of a live one whatever QEMU calls it */
  guint64 granularity;
  /* of a live vm (catalogue_vm_is_live()), as QEMU told last; NULL and 0 of others */
  char *qmp;    /* its vm's */
  char *node;   /* what to find it by: node name, drive, serial or device id */
  char *format; /* "qcow2", "raw", ... */
  guint64 size; /* bytes */
} CatalogueDisk;

typedef struct {
  char *name;
  gint64 created;     /* microseconds since 1970 */
  GPtrArray *disks;   /* of CatalogueDisk, in the order of registration */
  GPtrArray *configs; /* of char *, absolute paths */
  char *qmp;          /* (nullable) path of the monitor socket of the QEMU that has the disks */
  char *qga;          /* (nullable) path of the socket of the guest's agent */
  gboolean follows;   /* disks that QEMU gets or loses come and go: none were named */
} CatalogueVm;

typedef struct {
  gint64 id;       /* 0 for one that is not yet inserted */
  char *type;      /* "backup", "restore", ... */
  char *vm;
  char *status;    /* "queued", "active", "done", "error", "cancelled" */
  char *json;      /* the job as the API shows it; this module does not look inside */
} CatalogueJob;

typedef struct {
  char *vm;
  char *disk;
  gint64 pid;
  char *socket;  /* NBD */
  char *control;
} CatalogueExport;

/* Until when a freeze by hand may last. */
typedef struct {
  CbtUuid disk_id;
  char bitmap[CBT_NAME_MAX + 1];
  CbtUuid id;     /* nil: there is none */
  gint64 expires; /* microseconds since 1970 */
} CatalogueLease;

Catalogue *catalogue_open(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void catalogue_close(Catalogue *catalogue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Catalogue, catalogue_close)

/* Makes durable all that was written before, and waits for the disk. Any thread; best another one than the catalogue's,
 * which does not wait: what is written survives the end of the process at once, and writes are never reordered. IO. */
gboolean catalogue_sync(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;
typedef void (*CatalogueCommitFunc)(gpointer data);
/* Calls FUNC (nullable) whenever something was written, in the catalogue's thread. */
void catalogue_on_commit(Catalogue *catalogue, CatalogueCommitFunc func, gpointer data);

CatalogueVm *catalogue_vm_new(const char *name);
CatalogueDisk *catalogue_vm_add_disk(CatalogueVm *vm, const char *name, const char *path, guint64 granularity);
CatalogueDisk *catalogue_disk_copy(const CatalogueDisk *disk);
void catalogue_disk_free(gpointer disk);
/* A disk of a QEMU that runs. */
CatalogueDisk *catalogue_vm_add_live_disk(CatalogueVm *vm, const char *name, const char *path, const char *node,
                                          const char *format, guint64 size, guint64 granularity);
/* Whether QEMU has the disks, and not an export of ours. */
gboolean catalogue_vm_is_live(const CatalogueVm *vm);
void catalogue_vm_free(CatalogueVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CatalogueVm, catalogue_vm_free)
void catalogue_job_free(CatalogueJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CatalogueJob, catalogue_job_free)
void catalogue_export_free(CatalogueExport *export);

/* vms. Insert: EXISTS names the vm, or the vm and disk that has the image already. Get and remove: NOT_FOUND. */
gboolean catalogue_insert_vm(Catalogue *catalogue, const CatalogueVm *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
CatalogueVm *catalogue_get_vm(Catalogue *catalogue, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_list_vms(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT; /* of CatalogueVm */
/* Points of the vm stay (they have its name). */
gboolean catalogue_remove_vm(Catalogue *catalogue, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Disks of a live vm: one more, or what QEMU says of one that is known (path, format, size). NOT_FOUND, EXISTS. */
gboolean catalogue_insert_disk(Catalogue *catalogue, const CatalogueVm *vm, const CatalogueDisk *disk, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_update_disk(Catalogue *catalogue, const CatalogueDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* (nullable) the vm and disk, "VM/DISK", that uses PATH (transfer full). */
char *catalogue_find_image(Catalogue *catalogue, const char *path);

/* points. Insert is one transaction (invariant 3, third step). Lists are newest first. */
gboolean catalogue_insert_point(Catalogue *catalogue, const StorePoint *point, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
StorePoint *catalogue_get_point(Catalogue *catalogue, const CbtUuid *uuid, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_list_points(Catalogue *catalogue, const char *vm_or_null, GError **error)
    G_GNUC_WARN_UNUSED_RESULT; /* of StorePoint */
/* The newest point of VM that has the disk of this name and id. NOT_FOUND. */
StorePoint *catalogue_latest_point_of_disk(Catalogue *catalogue, const char *vm, const char *disk, const CbtUuid *disk_id,
                                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What a glance at the points of a vm shows; nil and 0: there is none. Times are microseconds since 1970. */
typedef struct {
  guint64 n_points;
  guint64 n_damaged;    /* when they were last verified */
  guint64 n_unverified; /* neither found good nor damaged yet */
  CbtUuid latest;
  gint64 latest_time;
  CbtUuid good; /* the newest that is not known to be damaged */
  gint64 good_time;
  gint64 verified; /* the last time that one was found good */
  gint64 full_time; /* of the newest of which disks were read as a whole */
  char *full_reason; /* (nullable) why; NULL: it was asked for */
} CataloguePointSummary;
void catalogue_point_summary_clear(CataloguePointSummary *summary);
/* Does not read the points one by one. */
gboolean catalogue_summarize_points(Catalogue *catalogue, const char *vm, CataloguePointSummary *summary,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Another number each time that anything was written. */
guint64 catalogue_n_changes(const Catalogue *catalogue);
/* Finds by uuid, unique prefix of one (at least 4 characters), NAME@latest or NAME@N. NOT_FOUND; INVALID if a prefix fits
 * several. */
StorePoint *catalogue_resolve_point(Catalogue *catalogue, const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_remove_point(Catalogue *catalogue, const CbtUuid *uuid, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* note, protected, verified and damaged of POINT. */
gboolean catalogue_update_point(Catalogue *catalogue, const StorePoint *point, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;

/* bitmaps: the base that the daemon expects a bitmap to have (nil: none yet). */
gboolean catalogue_set_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, const CbtUuid *base,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_get_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, CbtUuid *base,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
typedef struct {
  CbtUuid point;
  guint64 audit_next;   /* the cluster that the next audit begins at */
  const char *instance; /* (nullable) which process had the disk */
} CatalogueBase;

/* After a backup: the base that BITMAP has from now on, and what goes with it, in one step that is durable. */
gboolean catalogue_note_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, const CatalogueBase *base,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The cluster that the next audit of a bitmap with a base begins at; 0 if none is noted. */
gboolean catalogue_get_audit(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, guint64 *next_cluster,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Which process had the disk when the base of a bitmap was noted; (transfer full), NULL if that is not known. */
gboolean catalogue_get_instance(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, char **instance,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* leases: at most one a bitmap; saving replaces the one before, NOT_FOUND for an unknown disk. Get: all zero if there is
 * none. The list is that of all bitmaps, the first to end first. Remove leaves a lease alone that is another than ID. */
gboolean catalogue_save_lease(Catalogue *catalogue, const CatalogueLease *lease, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_get_lease(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, CatalogueLease *lease,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
GArray *catalogue_list_leases(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT; /* of CatalogueLease */
gboolean catalogue_remove_lease(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, const CbtUuid *id,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* jobs. Save inserts (id 0; sets it) or updates. Finished jobs older than the newest CATALOGUE_JOBS_KEPT are dropped when
 * one is inserted; ids are never given twice. */
#define CATALOGUE_JOBS_KEPT 10000
gboolean catalogue_save_job(Catalogue *catalogue, CatalogueJob *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
CatalogueJob *catalogue_get_job(Catalogue *catalogue, gint64 id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_list_jobs(Catalogue *catalogue, guint limit, GError **error) G_GNUC_WARN_UNUSED_RESULT; /* newest first */
/* Those "queued" or "active": at start, jobs of a daemon that died. */
GPtrArray *catalogue_list_unfinished_jobs(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* exports that were started and not stopped. */
gboolean catalogue_save_export(Catalogue *catalogue, const CatalogueExport *export, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_list_exports(Catalogue *catalogue, const char *vm_or_null, GError **error)
    G_GNUC_WARN_UNUSED_RESULT; /* of CatalogueExport */
gboolean catalogue_remove_exports(Catalogue *catalogue, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The journal: what was last done to the QEMU of a vm while something of ours may be left in it. Note inserts or replaces;
 * clear forgets. Both leave an unknown vm alone. The list is of CatalogueJournalEntry, by vm. */
typedef struct {
  char *vm;
  gint64 job;
  char *step; /* a QMP command and what it is for */
  gint64 time; /* microseconds since 1970 */
} CatalogueJournalEntry;
gboolean catalogue_journal_note(Catalogue *catalogue, const char *vm, gint64 job, const char *step, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_journal_clear(Catalogue *catalogue, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_journal_list(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT; /* of CatalogueJournalEntry */

/* policies: at most one a vm, removed with it. Save inserts or replaces; NOT_FOUND for an unknown vm. Get and remove: NOT_FOUND
 * if it has none. Get: CORRUPT if it makes no sense. The list has all others; the names of the vms whose policies make no
 * sense, and why (both char *), go into DAMAGED (nullable). */
gboolean catalogue_save_policy(Catalogue *catalogue, const StorePolicy *policy, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
StorePolicy *catalogue_get_policy(Catalogue *catalogue, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *catalogue_list_policies(Catalogue *catalogue, GHashTable *damaged, GError **error)
    G_GNUC_WARN_UNUSED_RESULT; /* of StorePolicy, by vm */
gboolean catalogue_remove_policy(Catalogue *catalogue, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
