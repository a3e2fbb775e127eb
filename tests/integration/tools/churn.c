/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest changes between two backups: the same for the same numbers.
 *
 *   churn SEED STEP URI...
 *
 * Step 0 fills the disks; each further one writes some clusters of new contents, some of contents that were
 * written in an earlier step (on any of the disks, by any program with this seed), pieces of clusters, zeros,
 * and trims.
 */
#include <inttypes.h>
#include <libnbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CLUSTER    65536u
#define SECTOR     512u
#define N_CONTENTS 16u /* clusters of new contents that a step may write to a disk */
#define ERASE_MAX  (8 * CLUSTER)

static uint64_t seed;
static uint64_t random_state;

static uint64_t
mix(uint64_t *state) /* splitmix64 */
{
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static uint64_t
below(uint64_t limit)
{
  return mix(&random_state) % limit;
}

/* Content NUMBER of STEP; a third of them compress. */
static void
fill(uint64_t *cluster, uint64_t step, uint64_t number)
{
  uint64_t state = seed ^ (step << 32) ^ (number << 8);
  uint64_t mask = mix(&state) % 3 == 0 ? 0x0303030303030303u : UINT64_MAX;
  for (unsigned i = 0; i < CLUSTER / sizeof *cluster; i++)
    cluster[i] = mix(&state) & mask;
}

static int
fill_disk(struct nbd_handle *nbd, uint64_t disk, uint64_t size)
{
  static uint64_t cluster[CLUSTER / sizeof(uint64_t)];
  for (uint64_t at = 0; at < size; at += CLUSTER) {
    uint64_t length = size - at < CLUSTER ? size - at : CLUSTER;
    fill(cluster, 0, at / CLUSTER * 8 + disk);
    if (below(8) != 0 && nbd_pwrite(nbd, cluster, length, at, 0) != 0)
      return -1;
  }
  return 0;
}

static int
write_new(struct nbd_handle *nbd, uint64_t step, uint64_t *n_new, uint64_t n_clusters)
{
  static uint64_t clusters[4][CLUSTER / sizeof(uint64_t)];
  uint64_t n = 1 + below(4);
  for (uint64_t i = 0; i < n; i++)
    fill(clusters[i], step, (*n_new)++ % N_CONTENTS);
  return nbd_pwrite(nbd, clusters, n * CLUSTER, below(n_clusters - n) * CLUSTER, 0);
}

/* Recent steps more often: what points that were just removed alone had. */
static int
write_old(struct nbd_handle *nbd, uint64_t step, uint64_t n_clusters)
{
  static uint64_t cluster[CLUSTER / sizeof(uint64_t)];
  uint64_t ago = 1 + below(below(2) ? step : step < 12 ? step : 12);
  if (ago == step)
    fill(cluster, 0, below(n_clusters * 8));
  else
    fill(cluster, step - ago, below(N_CONTENTS));
  return nbd_pwrite(nbd, cluster, CLUSTER, below(n_clusters) * CLUSTER, 0);
}

static int
write_piece(struct nbd_handle *nbd, uint64_t size)
{
  static uint64_t cluster[CLUSTER / sizeof(uint64_t)];
  uint64_t length = (1 + below(CLUSTER / SECTOR / 2)) * SECTOR;
  fill(cluster, mix(&random_state), 0);
  return nbd_pwrite(nbd, cluster, length, below((size - length) / SECTOR) * SECTOR, 0);
}

static int
erase(struct nbd_handle *nbd, uint64_t size)
{
  uint64_t length = (1 + below(ERASE_MAX / SECTOR)) * SECTOR;
  uint64_t offset = below((size - length) / SECTOR) * SECTOR;
  return below(2) ? nbd_zero(nbd, length, offset, 0) : nbd_trim(nbd, length, offset, 0);
}

static int
change_disk(struct nbd_handle *nbd, uint64_t step, uint64_t size)
{
  uint64_t n_new = below(N_CONTENTS), n_clusters = size / CLUSTER;
  int result = 0;
  for (uint64_t n = 6 + below(20); n > 0 && result == 0; n--)
    switch (below(10)) {
    case 0:
    case 1:
    case 2:
      result = write_old(nbd, step, n_clusters);
      break;
    case 3:
    case 4:
      result = write_piece(nbd, size);
      break;
    case 5:
      result = erase(nbd, size);
      break;
    default:
      result = write_new(nbd, step, &n_new, n_clusters);
    }
  return result;
}

static int
churn(const char *uri, uint64_t disk, uint64_t step)
{
  struct nbd_handle *nbd = nbd_create();
  int64_t size = -1;
  int result = -1;
  if (nbd != NULL && nbd_connect_uri(nbd, uri) == 0 &&
      (size = nbd_get_size(nbd)) >= (int64_t) (2 * ERASE_MAX))
    result = step == 0 ? fill_disk(nbd, disk, (uint64_t) size) : change_disk(nbd, step, (uint64_t) size);
  if (result == 0)
    result = nbd_flush(nbd, 0);
  if (result != 0)
    fprintf(stderr, "%s: %s\n", uri,
            size >= 0 && size < (int64_t) (2 * ERASE_MAX) ? "too small" : nbd_get_error());
  nbd_close(nbd);
  return result;
}

int
main(int argc, char **argv)
{
  if (argc < 4) {
    fprintf(stderr, "usage: churn SEED STEP URI...\n");
    return 2;
  }
  seed = strtoull(argv[1], NULL, 10);
  uint64_t step = strtoull(argv[2], NULL, 10);
  random_state = seed * 1000003 + step;
  for (int i = 3; i < argc; i++)
    if (churn(argv[i], (uint64_t) i - 3, step) != 0)
      return 1;
  return 0;
}
