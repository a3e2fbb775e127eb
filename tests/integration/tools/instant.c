/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shows whether two disk images are of one instant, without any of the product's code.
 *
 *   instant write SEED LANES SIZE PROGRESS URI-A URI-B    writes until SIGTERM
 *   instant progress issued|acked PROGRESS                how far the writer is, as lines "LANE A B"
 *   instant check SEED LANES SIZE A B [least FILE]... [most FILE]...
 *       prints lines "LANE A B" of two raw images; ends with 1 and says why if they are of no instant
 *   instant slot LANES SIZE LANE DISK COUNTER             the offset of a counter's slot; DISK is 0 or 1
 *
 * A lane is a thread with a connection to each disk and a counter. It puts counter 1 on disk A, waits for the
 * answer, then 1 on disk B, then 2 on A, and so on: if A has counters up to a and B up to b, then b <= a <= b
 * + 1 at every instant, none is missing, and no two disks of different instants pass for long. A counter
 * stands in a slot of 4 KiB, all of which depends on it, so that a torn slot shows. Slots form a ring:
 * counter c overwrites c - N. Once round the ring, two counters of eight are written as zeros, one of these
 * as a hole.
 *
 * The lines of FILE are bounds: each lane must have come at least, or at most, so far.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SLOT_SIZE     4096u
#define SLOT_WORDS    (SLOT_SIZE / sizeof(uint64_t))
#define CLUSTER_SIZE  65536u
#define LANE_CLUSTERS 96u /* of disk that a lane needs */
#define MAX_LANES     16u
#define N_DISKS       2u
#define MAGIC         UINT64_C(0x31746e6174736e69)

/* Where the slots of a lane are; lane l has layout l % N_LAYOUTS. */
typedef enum {
  LAYOUT_HOT,       /* all in one cluster */
  LAYOUT_DENSE,     /* filling many clusters */
  LAYOUT_STRADDLE,  /* each half in one cluster, half in the next */
  LAYOUT_UNALIGNED, /* one a cluster, at any sector */
  N_LAYOUTS
} Layout;

/* Seven more than a multiple of 8: what a ring's round before wrote as zeros is then written as data. */
static const uint64_t ring_sizes[N_LAYOUTS] = {15, LANE_CLUSTERS * 16 - 1, LANE_CLUSTERS - 1,
                                               LANE_CLUSTERS - 1};

typedef struct {
  uint64_t seed;
  unsigned n_lanes;
  uint64_t size; /* of a disk; the lanes stand in its first half */
} Plan;

typedef struct {
  _Atomic uint64_t issued[N_DISKS]; /* last counter that was sent */
  _Atomic uint64_t acked[N_DISKS];  /* last counter that was answered */
} LaneProgress;

/* The progress file, mapped. */
typedef struct {
  uint64_t n_lanes;
  LaneProgress lanes[MAX_LANES];
} Progress;

typedef struct {
  const Plan *plan;
  LaneProgress *progress;
  struct nbd_handle *nbd[N_DISKS];
  unsigned lane;
  uint64_t longest_us; /* write of this lane */
} Lane;

static atomic_bool stopped;

__attribute__((format(printf, 1, 2))) _Noreturn static void
die(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  fputs("instant: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

/* --- counters, slots and their content --- */

static uint64_t
ring_size(unsigned lane)
{
  return ring_sizes[lane % N_LAYOUTS];
}

/* Neighbouring counters stand in clusters far apart, and elsewhere on disk B than on disk A. */
static uint64_t
slot_offset(const Plan *plan, unsigned lane, unsigned disk, uint64_t counter)
{
  uint64_t base = plan->size / 2 / plan->n_lanes * lane / CLUSTER_SIZE * CLUSTER_SIZE;
  uint64_t n = ring_size(lane);
  uint64_t i = (counter - 1) % n;
  if (disk == 1)
    i = n - 1 - i;
  switch ((Layout) (lane % N_LAYOUTS)) {
  case LAYOUT_HOT:
    return base + i * SLOT_SIZE;
  case LAYOUT_DENSE:
    return base + i * 37 % LANE_CLUSTERS * CLUSTER_SIZE + i / LANE_CLUSTERS * SLOT_SIZE;
  case LAYOUT_STRADDLE:
    return base + i * 37 % n * CLUSTER_SIZE + CLUSTER_SIZE - SLOT_SIZE / 2;
  default:
    return base + i * 37 % n * CLUSTER_SIZE + (1 + i * 29 % 119) * 512;
  }
}

static bool
is_zeros(unsigned lane, uint64_t counter)
{
  return counter == 0 || (counter > ring_size(lane) && (counter % 8 == 3 || counter % 8 == 6));
}

static uint64_t
mix(uint64_t x)
{
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

/* Counter 0 is a slot that was never written. */
static void
slot_fill(const Plan *plan, unsigned lane, unsigned disk, uint64_t counter, uint64_t words[SLOT_WORDS])
{
  memset(words, 0, SLOT_SIZE);
  if (is_zeros(lane, counter))
    return;
  words[0] = MAGIC;
  words[1] = counter;
  uint64_t state = mix(mix(plan->seed + counter) + lane * N_DISKS + disk);
  for (size_t i = 2; i < SLOT_WORDS; i++)
    words[i] = mix(state += UINT64_C(0x9e3779b97f4a7c15));
}

/* --- the writer --- */

static uint64_t
now_us(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

static void
put(Lane *lane, unsigned disk, uint64_t counter)
{
  uint64_t words[SLOT_WORDS];
  uint64_t offset = slot_offset(lane->plan, lane->lane, disk, counter);
  uint64_t start = now_us();
  int result;
  atomic_store(&lane->progress->issued[disk], counter);
  slot_fill(lane->plan, lane->lane, disk, counter, words);
  if (!is_zeros(lane->lane, counter))
    result = nbd_pwrite(lane->nbd[disk], words, SLOT_SIZE, offset, 0);
  else
    result = nbd_zero(lane->nbd[disk], SLOT_SIZE, offset, counter % 8 == 3 ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
  if (result != 0)
    die("disk %u: counter %" PRIu64 " at offset %" PRIu64 ": %s", disk, counter, offset, nbd_get_error());
  atomic_store(&lane->progress->acked[disk], counter);
  uint64_t took = now_us() - start;
  if (took > lane->longest_us)
    lane->longest_us = took;
}

static void *
lane_run(void *data)
{
  Lane *lane = data;
  for (uint64_t step = 0; !atomic_load(&stopped); step++)
    put(lane, step % N_DISKS, step / N_DISKS + 1);
  return NULL;
}

static struct nbd_handle *
connect_to(const char *uri)
{
  struct nbd_handle *nbd = nbd_create();
  if (!nbd || nbd_connect_uri(nbd, uri) != 0)
    die("%s: %s", uri, nbd_get_error());
  return nbd;
}

static Progress *
progress_map(const char *path, bool create)
{
  int fd = open(path, create ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY, 0644);
  if (fd < 0 || (create && ftruncate(fd, sizeof(Progress)) != 0))
    die("%s: %s", path, strerror(errno));
  Progress *progress =
      mmap(NULL, sizeof *progress, create ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (progress == MAP_FAILED)
    die("%s: %s", path, strerror(errno));
  close(fd);
  return progress;
}

static int
write_until_stopped(const Plan *plan, const char *path, char *const uris[N_DISKS])
{
  static Lane lanes[MAX_LANES];
  pthread_t threads[MAX_LANES];
  sigset_t signals;
  int signal_number;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  Progress *progress = progress_map(path, true);
  progress->n_lanes = plan->n_lanes;
  for (unsigned l = 0; l < plan->n_lanes; l++) {
    lanes[l] = (Lane){.plan = plan, .progress = &progress->lanes[l], .lane = l};
    for (unsigned disk = 0; disk < N_DISKS; disk++)
      lanes[l].nbd[disk] = connect_to(uris[disk]);
    if (pthread_create(&threads[l], NULL, lane_run, &lanes[l]) != 0)
      die("cannot make a thread");
  }
  sigwait(&signals, &signal_number);
  atomic_store(&stopped, true);
  uint64_t longest_us = 0, n = 0;
  for (unsigned l = 0; l < plan->n_lanes; l++) {
    pthread_join(threads[l], NULL);
    longest_us = lanes[l].longest_us > longest_us ? lanes[l].longest_us : longest_us;
    n += atomic_load(&progress->lanes[l].acked[0]);
    for (unsigned disk = 0; disk < N_DISKS; disk++)
      nbd_close(lanes[l].nbd[disk]);
  }
  printf("%" PRIu64 " counters on each disk, longest write %" PRIu64 " ms\n", n, longest_us / 1000);
  return 0;
}

static int
print_progress(const char *path, bool acked)
{
  Progress *progress = progress_map(path, false);
  for (unsigned l = 0; l < progress->n_lanes; l++) {
    LaneProgress *lane = &progress->lanes[l];
    printf("%u", l);
    for (unsigned disk = 0; disk < N_DISKS; disk++)
      printf(" %" PRIu64, atomic_load(acked ? &lane->acked[disk] : &lane->issued[disk]));
    putchar('\n');
  }
  return 0;
}

/* --- the checker --- */

typedef struct {
  const Plan *plan;
  const char *path;
  int fd;
  unsigned disk;
} Image;

static void
slot_read(const Image *image, uint64_t offset, uint64_t words[SLOT_WORDS])
{
  ssize_t n = pread(image->fd, words, SLOT_SIZE, (off_t) offset);
  if (n != (ssize_t) SLOT_SIZE)
    die("%s: cannot read at %" PRIu64 ": %s", image->path, offset, n < 0 ? strerror(errno) : "too short");
}

static bool
all_zero(const uint64_t words[SLOT_WORDS])
{
  for (size_t i = 0; i < SLOT_WORDS; i++)
    if (words[i] != 0)
      return false;
  return true;
}

/* The highest counter of the lane that stands in a slot. A slot that is neither whole nor zeros ends the
 * check. */
static uint64_t
highest_counter(const Image *image, unsigned lane)
{
  uint64_t highest = 0, words[SLOT_WORDS], whole[SLOT_WORDS];
  for (uint64_t i = 1; i <= ring_size(lane); i++) {
    uint64_t offset = slot_offset(image->plan, lane, image->disk, i);
    slot_read(image, offset, words);
    if (all_zero(words))
      continue;
    slot_fill(image->plan, lane, image->disk, words[1], whole);
    if (words[1] == 0 || memcmp(words, whole, SLOT_SIZE) != 0)
      die("lane %u: %s: the slot at %" PRIu64 " is torn", lane, image->path, offset);
    highest = words[1] > highest ? words[1] : highest;
  }
  return highest;
}

/* Whether the ring stands as it was after COUNTER. If not, WRONG is the counter that should be there. */
static bool
ring_is_at(const Image *image, unsigned lane, uint64_t counter, uint64_t *wrong)
{
  uint64_t n = ring_size(lane), words[SLOT_WORDS], expected[SLOT_WORDS];
  for (uint64_t i = 1; i <= n; i++) {
    uint64_t last = counter < i ? 0 : counter - (counter - i) % n;
    slot_read(image, slot_offset(image->plan, lane, image->disk, i), words);
    slot_fill(image->plan, lane, image->disk, last, expected);
    *wrong = last ? last : i;
    if (memcmp(words, expected, SLOT_SIZE) != 0)
      return false;
  }
  return true;
}

/* How far the lane had come on this disk; what comes after the highest counter may have been zeros. */
static uint64_t
lane_counter(const Image *image, unsigned lane)
{
  uint64_t wrong, other, counter = highest_counter(image, lane);
  if (ring_is_at(image, lane, counter, &wrong))
    return counter;
  if (is_zeros(lane, counter + 1) && ring_is_at(image, lane, counter + 1, &other))
    return counter + 1;
  die("lane %u: %s: has counter %" PRIu64 ", but %" PRIu64 " is missing (offset %" PRIu64 ")", lane,
      image->path, counter, wrong, slot_offset(image->plan, lane, image->disk, wrong));
}

typedef uint64_t Counters[MAX_LANES][N_DISKS];

static void
check_bound(const Plan *plan, Counters counters, const char *kind, const char *path)
{
  bool least = strcmp(kind, "least") == 0;
  unsigned l, n = 0;
  uint64_t bound[N_DISKS];
  FILE *file = fopen(path, "r");
  if (!file || (!least && strcmp(kind, "most") != 0))
    die("%s %s: %s", kind, path, strerror(errno));
  while (fscanf(file, "%u %" SCNu64 " %" SCNu64, &l, &bound[0], &bound[1]) == 3 && l < plan->n_lanes) {
    n++;
    for (unsigned disk = 0; disk < N_DISKS; disk++)
      if (least ? counters[l][disk] < bound[disk] : counters[l][disk] > bound[disk])
        die("lane %u: disk %u has counter %" PRIu64 ", should be at %s %" PRIu64 " (%s)", l, disk,
            counters[l][disk], kind, bound[disk], path);
  }
  fclose(file);
  if (n != plan->n_lanes)
    die("%s: has %u lanes, not %u", path, n, plan->n_lanes);
}

static int
check(const Plan *plan, char *const paths[N_DISKS], char *const *bounds)
{
  static Counters counters;
  for (unsigned disk = 0; disk < N_DISKS; disk++) {
    Image image = {plan, paths[disk], open(paths[disk], O_RDONLY), disk};
    if (image.fd < 0)
      die("%s: %s", paths[disk], strerror(errno));
    for (unsigned l = 0; l < plan->n_lanes; l++)
      counters[l][disk] = lane_counter(&image, l);
    close(image.fd);
  }
  for (unsigned l = 0; l < plan->n_lanes; l++) {
    uint64_t a = counters[l][0], b = counters[l][1];
    if (a != b && a != b + 1)
      die("lane %u: %" PRIu64 " on disk A and %" PRIu64 " on disk B are of no one instant", l, a, b);
    printf("%u %" PRIu64 " %" PRIu64 "\n", l, a, b);
  }
  for (; bounds[0] && bounds[1]; bounds += 2)
    check_bound(plan, counters, bounds[0], bounds[1]);
  return 0;
}

/* --- main --- */

static uint64_t
number(const char *text, uint64_t least, uint64_t most)
{
  char *end;
  errno = 0;
  uint64_t value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < least || value > most)
    die("'%s' should be a number from %" PRIu64 " to %" PRIu64, text, least, most);
  return value;
}

static Plan
plan_parse(const char *seed, const char *lanes, const char *size)
{
  Plan plan = {.seed = number(seed, 0, UINT64_MAX), .n_lanes = (unsigned) number(lanes, 1, MAX_LANES)};
  plan.size = number(size, (uint64_t) plan.n_lanes * 2 * (LANE_CLUSTERS + 1) * CLUSTER_SIZE, INT64_MAX);
  return plan;
}

int
main(int argc, char **argv)
{
  if (argc == 8 && strcmp(argv[1], "write") == 0) {
    Plan plan = plan_parse(argv[2], argv[3], argv[4]);
    return write_until_stopped(&plan, argv[5], argv + 6);
  }
  if (argc == 4 && strcmp(argv[1], "progress") == 0)
    return print_progress(argv[3], strcmp(argv[2], "acked") == 0);
  if (argc >= 7 && argc % 2 == 1 && strcmp(argv[1], "check") == 0) {
    Plan plan = plan_parse(argv[2], argv[3], argv[4]);
    return check(&plan, argv + 5, argv + 7);
  }
  if (argc == 7 && strcmp(argv[1], "slot") == 0) {
    Plan plan = plan_parse("0", argv[2], argv[3]);
    unsigned lane = (unsigned) number(argv[4], 0, plan.n_lanes - 1), disk = (unsigned) number(argv[5], 0, 1);
    printf("%" PRIu64 "\n", slot_offset(&plan, lane, disk, number(argv[6], 1, INT64_MAX)));
    return 0;
  }
  fprintf(stderr,
          "usage: instant write SEED LANES SIZE PROGRESS URI-A URI-B | progress issued|acked PROGRESS |\n"
          "       check SEED LANES SIZE A B [least|most FILE]... | slot LANES SIZE LANE DISK COUNTER\n");
  return 2;
}
