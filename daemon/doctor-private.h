/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of doctor share. Constant after doctor_new(). */
#pragma once

#include <daemon/doctor.h>

typedef struct {
  CatalogueVm *vm;
  gboolean exported;
  gboolean in_use; /* a job uses its images */
} DoctorVm;

struct Doctor {
  Daemon *daemon;
  GPtrArray *vms;    /* of DoctorVm */
  GPtrArray *points; /* of StorePoint, of all vms, newest first */
  GArray *leases;    /* of CatalogueLease */
  gboolean is_one;   /* just one vm was asked for: the host is not looked at */
};

void doctor_check_vm(const Doctor *doctor, const DoctorVm *vm, GPtrArray *checks);
