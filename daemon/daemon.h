/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's objects, made by main and handed down. The only place that knows all folders of the house.
 *
 * Threads: the main loop owns the catalogue, the engine and the server. Job threads and tasks (daemon/task.h)
 * use the store, the exports and the disks, which lock for themselves, and reach the rest through the main
 * queue. Stop order: the scheduler, the timers of leases and of retries, engine (takes no more, cancels jobs, waits for
 * their threads), tasks, followers of jobs, server, disks, exports' watch, queue, store, catalogue. Exports themselves live on.
 */
#pragma once

#include <api/openapi.h>
#include <daemon/config.h>
#include <daemon/free-space.h>
#include <daemon/main-queue.h>
#include <daemon/store-reserve.h>
#include <store/catalogue.h>
#include <store/store.h>

typedef struct Engine Engine;
typedef struct JobEvents JobEvents;
typedef struct Exports Exports;
typedef struct Gauges Gauges;
typedef struct Metrics Metrics;
typedef struct StatusCache StatusCache;
typedef struct Disks Disks;
typedef struct Durable Durable;
typedef struct Monitors Monitors;
typedef struct Tasks Tasks;
typedef struct Threads Threads;
typedef struct Leases Leases;
typedef struct LiveRetry LiveRetry;
typedef struct Scheduler Scheduler;

typedef struct {
  const DaemonConfig *config;
  Catalogue *catalogue; /* main thread */
  Durable *durable;     /* main thread, as the catalogue */
  Store *store;
  FreeSpace *store_space; /* of the store's file system */
  StoreReserve *store_reserve;
  MainQueue *queue;
  Threads *threads;
  Tasks *tasks;
  Exports *exports;
  Monitors *monitors;
  Disks *disks;
  Leases *leases;
  LiveRetry *live_retry; /* main thread */
  JobEvents *job_events; /* main thread */
  Engine *engine;        /* main thread */
  Scheduler *scheduler;  /* main thread */
  Gauges *gauges;             /* main thread, as the next two */
  Metrics *metrics;
  StatusCache *status_cache;
  ApiRoutes *routes;
  ApiServer *server;
  gint64 started; /* microseconds since 1970 */
} Daemon;
