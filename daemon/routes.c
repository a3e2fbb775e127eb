/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#define VM     "/v1/vms/{vm}"
#define DISK   VM "/disks/{disk}"
#define BITMAP DISK "/bitmaps/{bitmap}"
#define POINT  "/v1/points/{uuid}"

const ApiRoute daemon_routes[] = {
    {"GET", "/v1/status", handle_status, NULL, NULL},
    {"GET", "/metrics", handle_metrics, NULL, NULL},
    {"GET", "/v1/doctor", handle_doctor, NULL, "vm"},

    {"GET", "/v1/vms", handle_vm_list, NULL, NULL},
    {"POST", "/v1/vms", handle_vm_add, "name disks configs granularity qmp qga", NULL},
    {"GET", VM, handle_vm_show, NULL, NULL},
    {"DELETE", VM, handle_vm_remove, NULL, "forget-points"},

    {"POST", VM "/backups", handle_backup, "kind bitmap speed audit disks note archive quiesce snapshot",
     NULL},
    {"GET", "/v1/policies", handle_policy_list, NULL, NULL},
    {"GET", VM "/policy", handle_policy_show, NULL, NULL},
    {"PUT", VM "/policy", handle_policy_set,
     "schedule bitmap speed verify-share gc enabled keep-last keep-hourly keep-daily keep-weekly "
     "keep-monthly keep-yearly",
     NULL},
    {"DELETE", VM "/policy", handle_policy_remove, NULL, NULL},

    {"POST", VM "/import", handle_import, "path note", NULL},
    {"GET", "/v1/jobs", handle_job_list, NULL, "vm limit"},
    {"GET", "/v1/jobs/{id}", handle_job_show, NULL, "wait-ms"},
    {"DELETE", "/v1/jobs/{id}", handle_job_cancel, NULL, NULL},
    {"GET", "/v1/jobs/{id}/events", handle_job_events, NULL, NULL},

    {"GET", "/v1/points", handle_point_list, NULL, "vm"},
    {"GET", POINT, handle_point_show, NULL, NULL},
    {"PATCH", POINT, handle_point_change, "note protected", NULL},
    {"DELETE", POINT, handle_point_forget, NULL, NULL},
    {"GET", POINT "/archive", handle_point_stream, NULL, "format disk speed"},
    {"POST", POINT "/archive", handle_point_archive, "format path disk speed", NULL},
    {"POST", POINT "/restore", handle_point_restore, "to targets in-place", NULL},

    {"POST", "/v1/prune", handle_prune,
     "vm keep-last keep-hourly keep-daily keep-weekly keep-monthly keep-yearly dry-run", NULL},

    {"POST", "/v1/gc", handle_gc, NULL, NULL},
    {"POST", "/v1/verify", handle_verify, "point vm all speed restart repair from", NULL},
    {"POST", "/v1/rebuild-catalogue", handle_rebuild_catalogue, NULL, NULL},

    {"GET", DISK "/changes", handle_changes, NULL, "from to bitmap lease offset limit"},

    {"GET", DISK "/bitmaps", handle_bitmap_list, NULL, NULL},
    {"POST", DISK "/bitmaps", handle_bitmap_add, "name granularity", NULL},
    {"GET", BITMAP, handle_bitmap_show, NULL, NULL},
    {"DELETE", BITMAP, handle_bitmap_remove, NULL, NULL},
    {"POST", BITMAP "/merge", handle_bitmap_merge, "from", NULL},
    {"POST", BITMAP "/create-successor", handle_bitmap_freeze, "?lease", NULL},
    {"POST", BITMAP "/abdicate", handle_bitmap_abdicate, "?lease", NULL},
    {"POST", BITMAP "/reclaim", handle_bitmap_reclaim, "?lease", NULL},
    {"POST", BITMAP "/renew", handle_bitmap_renew, "lease seconds", NULL},
    {"POST", BITMAP "/{event}", handle_bitmap_event, NULL, NULL},

    {"GET", "/v1/exports", handle_export_list, NULL, NULL},
    {"GET", "/v1/exports/{vm}", handle_export_list, NULL, NULL},
    {"POST", "/v1/exports/{vm}", handle_export_start, NULL, NULL},
    {"DELETE", "/v1/exports/{vm}", handle_export_stop, NULL, NULL},

    {NULL, NULL, NULL, NULL, NULL},
};
