/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An export in the making, as chain-plan.c plans it, chain-files.c writes its files, and chain.c ties them
 * together. */
#pragma once

#include <store/chain-index.h>
#include <store/chain.h>
#include <store/qcow2.h>

/* A point to be exported. */
typedef struct {
  const StorePoint *point;
  StoreChainPoint *entry; /* what the index is to say of it; NULL once the index has taken it over */
  gboolean is_new;        /* something of it is to be written */
} StoreChainLink;

typedef struct {
  /* constant after creation */
  Store *store;
  const GPtrArray *points; /* of StorePoint */
  const char *folder;
  const StoreChainOptions *options;
  const CbtFileOps *ops;
  StoreChainIndex *index;
  /* made by the plan */
  GArray *links;       /* of StoreChainLink, one for each point */
  GHashTable *names;   /* of all files and folders of the index, and of new ones */
  GHashTable *files;   /* while planning: name of a file of the index to its StoreChainDisk */
  GHashTable *usable;  /* names of files that are there, with all that they stand on */
  GHashTable *planned; /* names of images that are to be written */
} StoreChainExport;

static inline StoreChainLink *
store_chain_link(const StoreChainExport *export, guint i)
{
  return &g_array_index(export->links, StoreChainLink, i);
}

/* Decides what becomes of each point. STATE: a file is not as it was written. */
gboolean store_chain_plan(StoreChainExport *export, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Plans the image of disk K of link I. */
StoreQcow2 *store_chain_plan_image(const StoreChainExport *export, guint i, guint k,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* TRUE with *there unset if FILE is not in the folder. STATE: it is there, but not a regular file of LENGTH
 * bytes. */
gboolean store_chain_check_file(const StoreChainExport *export, const char *file, guint64 length,
                                gboolean *there, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes what is to be written of link I, durably; adds the length of its images to *bytes. */
gboolean store_chain_write_link(const StoreChainExport *export, guint i, guint64 *bytes,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
