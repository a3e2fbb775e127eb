/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a vm is shown: what the main thread knows of it, and then what its images say, which may take long. */
#pragma once

#include <daemon/daemon.h>

typedef struct VmShown VmShown;

/* VM is (transfer full). Main thread. */
VmShown *vm_shown_new(Daemon *daemon, CatalogueVm *vm);
void vm_shown_free(VmShown *shown);
/* Opens the images of a vm at rest: for a task. */
void vm_shown_put(JsonBuilder *builder, const VmShown *shown);
