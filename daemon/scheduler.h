/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scheduler: makes the runs that the policies in the catalogue ask for.
 *
 * A run is an incremental backup, then a prune by the policy's retention, then what daemon/policy-steps.h has. Never two
 * at once of one vm; while another job uses the vm, a run waits. When runs are due, and what follows a failure, is decided
 * in store/policy.h.
 *
 * Threads: main only.
 */
#pragma once

#include <daemon/daemon.h>

Scheduler *scheduler_new(Daemon *daemon);
/* Runs that a daemon left behind when it died count as failed; then begins to look for what is due. */
void scheduler_start(Scheduler *scheduler);
/* Begins no more runs; those whose backup the engine now cancels are owed again at the next start. */
void scheduler_stop(Scheduler *scheduler);
/* After the engine and the tasks have stopped. */
void scheduler_free(Scheduler *scheduler);

/* A policy is new or another. */
void scheduler_look_again(Scheduler *scheduler);
/* When POLICY's next run is due, in microseconds since 1970; 0: it is disabled. */
gint64 scheduler_due(const Scheduler *scheduler, const StorePolicy *policy);
