/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that can tell at which instant an image was taken.
 *
 *   ticker write URI OFFSET LENGTH RATE   one 4 KiB write at a time, number n to the place that only n
 * decides; RATE a second (0: as fast as it goes). Ends on SIGTERM, and prints what it saw ticker check FILE
 * OFFSET LENGTH       FILE must be as it was between two of these writes; prints their number
 *
 * LENGTH / 4096 is a power of two, so that the places are hit in turn, scattered. Each block is filled with
 * its number.
 */
#include <inttypes.h>
#include <libnbd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK  4096u
#define WORDS  (BLOCK / 8)
#define FACTOR UINT64_C(2654435761)

static volatile sig_atomic_t stopped;

static void
on_signal(int number)
{
  (void) number;
  stopped = 1;
}

static uint64_t
number_at(const char *text)
{
  return strtoull(text, NULL, 10);
}

static double
now_ms(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double) now.tv_sec * 1e3 + (double) now.tv_nsec / 1e6;
}

static void
sleep_until(double at_ms)
{
  double left = at_ms - now_ms();
  if (left <= 0)
    return;
  struct timespec time = {(time_t) (left / 1e3),
                          (long) ((left - (double) (time_t) (left / 1e3) * 1e3) * 1e6)};
  nanosleep(&time, NULL);
}

static void
fill(uint64_t *block, uint64_t number)
{
  for (unsigned i = 0; i < WORDS; i++)
    block[i] = number;
}

/* Writes from 1 on; before that, all places are filled with 0. */
static int
write_ticks(const char *uri, uint64_t offset, uint64_t n_places, uint64_t rate)
{
  uint64_t block[WORDS], n = 0;
  double longest = 0, total = 0, start = now_ms();
  struct nbd_handle *nbd = nbd_create();
  if (nbd == NULL || nbd_connect_uri(nbd, uri) != 0) {
    fprintf(stderr, "%s\n", nbd_get_error());
    return 1;
  }
  const char *failure = NULL;
  while (!stopped && failure == NULL) {
    fill(block, ++n);
    double before = now_ms();
    if (nbd_pwrite(nbd, block, BLOCK, offset + n * FACTOR % n_places * BLOCK, 0) != 0)
      failure = nbd_get_error();
    double took = now_ms() - before;
    total += took;
    longest = took > longest ? took : longest;
    if (n % 64 == 0) { /* how far it is, for who watches */
      rewind(stdout);
      printf("%20" PRIu64 "\n", n);
      fflush(stdout);
    }
    if (rate != 0)
      sleep_until(start + (double) n * 1e3 / (double) rate);
  }
  fprintf(stderr, "{\"writes\":%" PRIu64 ",\"max-ms\":%.0f,\"mean-us\":%.0f,\"error\":%d}\n", n, longest,
          total * 1e3 / (double) n, failure != NULL);
  if (failure != NULL)
    fprintf(stderr, "%s\n", failure);
  nbd_close(nbd);
  return failure != NULL;
}

static int
check_places(const uint64_t *found, uint64_t n_places)
{
  uint64_t last = 0;
  for (uint64_t place = 0; place < n_places; place++)
    last = found[place] > last ? found[place] : last;
  /* The last n_places numbers up to `last` are each in its place. */
  for (uint64_t n = last; n > 0 && last - n < n_places; n--)
    if (found[n * FACTOR % n_places] != n) {
      printf("of no instant: write %" PRIu64 " is there, but not %" PRIu64 ": its place has %" PRIu64 "\n",
             last, n, found[n * FACTOR % n_places]);
      return 1;
    }
  for (uint64_t n = last + 1; n < n_places; n++)
    if (found[n * FACTOR % n_places] != 0) {
      printf("of no instant: a place that was not yet written is not zero\n");
      return 1;
    }
  printf("%" PRIu64 "\n", last);
  return 0;
}

static int
check(const char *path, uint64_t offset, uint64_t n_places)
{
  uint64_t *found = calloc(n_places, sizeof *found), block[WORDS], whole[WORDS];
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, (long) offset, SEEK_SET) != 0) {
    perror(path);
    return 1;
  }
  for (uint64_t place = 0; place < n_places; place++) {
    if (fread(block, BLOCK, 1, file) != 1) {
      perror(path);
      return 1;
    }
    fill(whole, block[0]);
    if (memcmp(block, whole, BLOCK) != 0) {
      printf("torn: the block at place %" PRIu64 " is of two writes\n", place);
      return 1;
    }
    found[place] = block[0];
  }
  fclose(file);
  return check_places(found, n_places);
}

int
main(int argc, char **argv)
{
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  if (argc == 6 && strcmp(argv[1], "write") == 0)
    return write_ticks(argv[2], number_at(argv[3]), number_at(argv[4]) / BLOCK, number_at(argv[5]));
  if (argc == 5 && strcmp(argv[1], "check") == 0)
    return check(argv[2], number_at(argv[3]), number_at(argv[4]) / BLOCK);
  fprintf(stderr, "usage: ticker write URI OFFSET LENGTH RATE | check FILE OFFSET LENGTH\n");
  return 2;
}
