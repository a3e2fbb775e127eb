/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verify job: reads recovery points as a restore would, names what is damaged and where it is used, and notes the
 * verdict with each point. Each point is in use only while it is read, so that a long run keeps nothing from being
 * pruned.
 *
 * A run that is cancelled or cut off leaves a file of its progress; asked for again within a day, it goes on there.
 */
#pragma once

#include <daemon/daemon.h>
#include <daemon/job.h>

typedef struct {
  char *vm;         /* (nullable) of all points, if it is one */
  char *scope;      /* what was asked for, in words: a run of the same scope goes on where the last one was */
  GArray *points;   /* of CbtUuid, in the order in which they are verified */
  guint64 total;    /* bytes of their disks */
  guint64 speed;    /* bytes read a second; 0: no limit */
  gboolean restart; /* begins anew */
  gboolean repair;  /* what is damaged; from one of these, or without any from the store alone: */
  char *from_disk;  /* (nullable) that from_path is of; NULL: whichever it fits */
  char *from_path;  /* (nullable) an image */
  StorePoint *from_point;
} VerifyRequest;

/* Takes POINTS (of StorePoint) over as what is to be verified. */
VerifyRequest *verify_request_new(const char *scope, const GPtrArray *points);
/* TEXT is an image, DISK=IMAGE or a point. INVALID, NOT_FOUND. */
gboolean verify_request_set_from(VerifyRequest *request, Catalogue *catalogue, const char *text,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void verify_request_free(VerifyRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VerifyRequest, verify_request_free)

/* REQUEST is (transfer full). Damage ends the job with CORRUPT. */
Job *verify_job_new(VerifyRequest *request);
