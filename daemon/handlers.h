/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the API's routes do. Each handler gets the Daemon as user data; docs/api.md says what goes in and out.
 */
#pragma once

#include <api/openapi.h>
#include <daemon/daemon.h>
#include <daemon/job.h>
#include <store/retention.h>

/* What does each operation of the API's document. */
extern const ApiOperation daemon_operations[];

void handle_status(ApiRequest *request, gpointer daemon);
void handle_metrics(ApiRequest *request, gpointer daemon);
void handle_doctor(ApiRequest *request, gpointer daemon);
void handle_openapi(ApiRequest *request, gpointer daemon);

void handle_vm_list(ApiRequest *request, gpointer daemon);
void handle_vm_add(ApiRequest *request, gpointer daemon);
void handle_vm_show(ApiRequest *request, gpointer daemon);
void handle_vm_remove(ApiRequest *request, gpointer daemon);

void handle_backup(ApiRequest *request, gpointer daemon);
void handle_import(ApiRequest *request, gpointer daemon);
void handle_job_list(ApiRequest *request, gpointer daemon);
void handle_job_show(ApiRequest *request, gpointer daemon);
void handle_job_events(ApiRequest *request, gpointer daemon);
void handle_job_cancel(ApiRequest *request, gpointer daemon);

void handle_point_list(ApiRequest *request, gpointer daemon);
void handle_point_show(ApiRequest *request, gpointer daemon);
void handle_point_change(ApiRequest *request, gpointer daemon);
void handle_point_forget(ApiRequest *request, gpointer daemon);
void handle_point_archive(ApiRequest *request, gpointer daemon);
void handle_point_stream(ApiRequest *request, gpointer daemon);
void handle_point_restore(ApiRequest *request, gpointer daemon);

void handle_prune(ApiRequest *request, gpointer daemon);

void handle_gc(ApiRequest *request, gpointer daemon);
void handle_verify(ApiRequest *request, gpointer daemon);
void handle_rebuild_catalogue(ApiRequest *request, gpointer daemon);
void handle_policy_list(ApiRequest *request, gpointer daemon);
void handle_policy_show(ApiRequest *request, gpointer daemon);
void handle_policy_set(ApiRequest *request, gpointer daemon);
void handle_policy_remove(ApiRequest *request, gpointer daemon);

void handle_changes(ApiRequest *request, gpointer daemon);

void handle_bitmap_list(ApiRequest *request, gpointer daemon);
void handle_bitmap_add(ApiRequest *request, gpointer daemon);
void handle_bitmap_show(ApiRequest *request, gpointer daemon);
void handle_bitmap_remove(ApiRequest *request, gpointer daemon);
void handle_bitmap_clear(ApiRequest *request, gpointer daemon);
void handle_bitmap_enable(ApiRequest *request, gpointer daemon);
void handle_bitmap_disable(ApiRequest *request, gpointer daemon);
void handle_bitmap_freeze(ApiRequest *request, gpointer daemon);
void handle_bitmap_abdicate(ApiRequest *request, gpointer daemon);
void handle_bitmap_reclaim(ApiRequest *request, gpointer daemon);
void handle_bitmap_renew(ApiRequest *request, gpointer daemon);
void handle_bitmap_merge(ApiRequest *request, gpointer daemon);

void handle_export_list(ApiRequest *request, gpointer daemon);
void handle_export_start(ApiRequest *request, gpointer daemon);
void handle_export_stop(ApiRequest *request, gpointer daemon);

/* ---- what they keep ---- */

StatusCache *status_cache_new(void);
void status_cache_free(StatusCache *cache);

/* ---- shared by them ---- */

/* The vm, or the point, that the request's path names; on NULL the request has been answered. (transfer full)
 */
CatalogueVm *handler_get_vm(ApiRequest *request, Daemon *daemon);
StorePoint *handler_get_point(ApiRequest *request, Daemon *daemon);
/* The disk that the path names; on NULL the request has been answered. (transfer none) */
const CatalogueDisk *handler_get_disk(ApiRequest *request, const CatalogueVm *vm);
/* The id of a lease, TEXT of the key or parameter `lease`; NULL: *id stays. INVALID. */
gboolean handler_parse_lease(const char *text, CbtUuid *id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* STATE if POINT is protected; BUSY if a job that has not ended reads it. */
gboolean handler_check_removable(Daemon *daemon, const StorePoint *point,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Removes POINT from the store and the catalogue, if that check allows it. */
gboolean handler_forget_point(Daemon *daemon, const StorePoint *point,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What to open for PATH, which REQUEST names (transfer full); see daemon/paths.h. INVALID, DENIED. */
char *handler_take_path(ApiRequest *request, Daemon *daemon, const char *path,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What the next incremental will cost without POINT (transfer full); NULL if none builds on it. */
char *handler_cost_of_forgetting(Daemon *daemon, const StorePoint *point);
/* The keys keep-last to keep-yearly; those that are missing stay. INVALID. */
gboolean handler_read_retention(JsonObject *body, StoreRetention *retention,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
JsonNode *policy_to_json(Daemon *daemon, const StorePolicy *policy);
/* In place of one that cannot be read. */
JsonNode *policy_damaged_to_json(const char *vm, const char *why);
JsonNode *point_to_json(const StorePoint *point);
