/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The import job: a VMA archive, Proxmox's or ours, as a full recovery point. */
#pragma once

#include <daemon/job.h>

/* VM need not be registered. NOTE may be NULL. */
Job *import_job_new(const char *vm, const char *path, const char *note);
