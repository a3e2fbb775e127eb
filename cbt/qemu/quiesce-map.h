/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which file systems of a guest are on the disks that are backed up, and so are to be frozen. Pure: decides on what the
 * agent answered and on what QEMU said, so that it can be tried on recorded answers.
 *
 * A disk of QEMU is found in the guest by its serial, if no other has it, else by its PCI address. Slots of QEMU's root
 * bus are the guest's; buses behind bridges are numbered by each in its own way, and say nothing. A file system leads
 * to its disks by their addresses or device names, and on through what LVM, LUKS and partitions are made of. Where this
 * is not sure for all disks, all file systems are frozen: too many cost the guest some seconds, too few the point its
 * worth.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <cbt/qemu/qga.h>

typedef struct {
  gboolean is_all;    /* the command without a list is meant */
  char **mountpoints; /* of those to be frozen; none: there is nothing to freeze */
  guint n_min, n_max; /* counts that the agent may give if it has frozen them: each once, however often it is mounted */
  char *note;         /* why all are frozen though not all disks are backed up, or NULL */
  char *unfrozen;     /* which ones are not frozen, for the guest cannot freeze such, or NULL */
} QemuQuiescePlan;

/* FILESYSTEMS and GUEST_DISKS (NULL if the agent cannot tell) are the agent's: qga_get_fsinfo(), qga_get_disks().
 * DISKS of QemuDisk are those backed up: name, serial and PCI address of them are looked at; NULL: all file systems
 * are meant. What is on other disks, on the network or in memory is left alone; what spans a disk of these and
 * another is not. */
QemuQuiescePlan *qemu_quiesce_plan_new(GPtrArray *filesystems, GPtrArray *guest_disks, GPtrArray *disks);
void qemu_quiesce_plan_free(QemuQuiescePlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuQuiescePlan, qemu_quiesce_plan_free)
