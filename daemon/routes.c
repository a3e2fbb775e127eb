/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* By the operationId of api/openapi.json, which has the paths, the keys and the parameters. */
#include <daemon/handlers.h>

const ApiOperation daemon_operations[] = {
    {"showStatus", handle_status},
    {"showOpenapi", handle_openapi},
    {"showMetrics", handle_metrics},
    {"runDoctor", handle_doctor},

    {"listVms", handle_vm_list},
    {"addVm", handle_vm_add},
    {"showVm", handle_vm_show},
    {"removeVm", handle_vm_remove},

    {"startBackup", handle_backup},
    {"startImport", handle_import},

    {"listPolicies", handle_policy_list},
    {"showPolicy", handle_policy_show},
    {"setPolicy", handle_policy_set},
    {"removePolicy", handle_policy_remove},

    {"listJobs", handle_job_list},
    {"showJob", handle_job_show},
    {"cancelJob", handle_job_cancel},
    {"followJob", handle_job_events},

    {"listPoints", handle_point_list},
    {"showPoint", handle_point_show},
    {"changePoint", handle_point_change},
    {"removePoint", handle_point_forget},
    {"streamArchive", handle_point_stream},
    {"startArchive", handle_point_archive},
    {"startRestore", handle_point_restore},

    {"prune", handle_prune},
    {"startGc", handle_gc},
    {"startVerify", handle_verify},
    {"rebuildCatalogue", handle_rebuild_catalogue},

    {"listChanges", handle_changes},

    {"listBitmaps", handle_bitmap_list},
    {"addBitmap", handle_bitmap_add},
    {"showBitmap", handle_bitmap_show},
    {"removeBitmap", handle_bitmap_remove},
    {"freezeBitmap", handle_bitmap_freeze},
    {"renewLease", handle_bitmap_renew},
    {"abdicateBitmap", handle_bitmap_abdicate},
    {"reclaimBitmap", handle_bitmap_reclaim},
    {"clearBitmap", handle_bitmap_clear},
    {"enableBitmap", handle_bitmap_enable},
    {"disableBitmap", handle_bitmap_disable},
    {"mergeBitmap", handle_bitmap_merge},

    {"listExports", handle_export_list},
    {"showExports", handle_export_list},
    {"startExports", handle_export_start},
    {"stopExports", handle_export_stop},

    {NULL, NULL},
};
