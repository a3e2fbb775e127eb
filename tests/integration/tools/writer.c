/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that writes without a pause and outlives its server: what is not acknowledged is sent again over a
 * new connection.
 *
 *   writer SOCKET MIB SEED STATUS-FILE
 *
 * Threads with a connection each write, zero and trim the first MIB MiB of an NBD export: mostly a small
 * window that moves, now and then anywhere. No content comes twice. SIGUSR1 pauses: when nothing is under way
 * any more, STATUS-FILE says "paused WRITES CONNECTIONS". SIGUSR2 goes on; it says "running" then. SIGTERM
 * ends it.
 */
#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_THREADS   4
#define SECTOR      512u
#define MAX_LENGTH  (32u << 10)
#define WINDOW      (1u << 20)
#define WINDOW_MS   500
#define MIB         ((uint64_t) 1 << 20)
#define NSEC_PER_MS 1000000

typedef struct {
  unsigned number;
  uint64_t random;
  uint64_t serial;
  struct nbd_handle *nbd;
} Thread;

static const char *socket_path;
static uint64_t disk_size;
static uint64_t seed;
static atomic_bool paused;
static atomic_uint n_parked;
static atomic_ullong n_writes;
static atomic_ullong n_connections;

static void
sleep_ms(long ms)
{
  struct timespec duration = {ms / 1000, ms % 1000 * NSEC_PER_MS};
  nanosleep(&duration, NULL);
}

static uint64_t
next_random(uint64_t *state) /* splitmix64 */
{
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static uint64_t
window_now(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t state = seed + (uint64_t) (now.tv_sec * 1000 + now.tv_nsec / NSEC_PER_MS) / WINDOW_MS;
  return next_random(&state) % (disk_size - WINDOW);
}

static void
park(void)
{
  if (!atomic_load(&paused))
    return;
  atomic_fetch_add(&n_parked, 1);
  while (atomic_load(&paused))
    sleep_ms(1);
  atomic_fetch_sub(&n_parked, 1);
}

static void
connect_again(Thread *thread)
{
  for (;;) {
    nbd_close(thread->nbd);
    thread->nbd = nbd_create();
    if (thread->nbd && nbd_connect_unix(thread->nbd, socket_path) == 0)
      break;
    sleep_ms(3);
  }
  atomic_fetch_add(&n_connections, 1);
}

static int
change(Thread *thread, unsigned kind, const void *buffer, uint64_t offset, uint32_t length)
{
  if (kind == 0)
    return nbd_zero(thread->nbd, length, offset, 0);
  if (kind == 1)
    return nbd_trim(thread->nbd, length, offset, 0);
  return nbd_pwrite(thread->nbd, buffer, length, offset, kind == 2 ? LIBNBD_CMD_FLAG_FUA : 0);
}

static void
write_once(Thread *thread, uint64_t *buffer)
{
  uint64_t random = next_random(&thread->random);
  uint32_t length = (uint32_t) (1 + random % 16 * (random >> 8) % (MAX_LENGTH / SECTOR)) * SECTOR;
  uint64_t offset = random >> 32 & 63 ? window_now() + next_random(&thread->random) % WINDOW
                                      : next_random(&thread->random) % disk_size;
  offset = (offset % (disk_size - length)) / SECTOR * SECTOR;
  thread->serial++;
  for (uint32_t i = 0; i < length / sizeof *buffer; i++)
    buffer[i] = thread->serial * N_THREADS + thread->number;
  while (!thread->nbd || change(thread, random >> 40 & 63, buffer, offset, length) != 0)
    connect_again(thread);
  atomic_fetch_add(&n_writes, 1);
}

static void *
run(void *data)
{
  Thread *thread = data;
  uint64_t *buffer = malloc(MAX_LENGTH + SECTOR);
  for (;;) {
    park();
    write_once(thread, buffer);
    sleep_ms(1);
  }
  return NULL;
}

/* The status as a whole or not at all. */
static void
say(const char *path, const char *word)
{
  char other[4096];
  snprintf(other, sizeof other, "%s.new", path);
  FILE *file = fopen(other, "w");
  if (!file ||
      fprintf(file, "%s %llu %llu\n", word, atomic_load(&n_writes), atomic_load(&n_connections)) < 0 ||
      fclose(file) != 0 || rename(other, path) != 0)
    exit(1);
}

int
main(int argc, char **argv)
{
  static Thread threads[N_THREADS];
  sigset_t signals;
  if (argc != 5) {
    fprintf(stderr, "usage: writer SOCKET MIB SEED STATUS-FILE\n");
    return 2;
  }
  socket_path = argv[1];
  disk_size = strtoull(argv[2], NULL, 10) * MIB;
  seed = strtoull(argv[3], NULL, 10);
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  sigdelset(&signals, SIGPIPE);
  for (unsigned i = 0; i < N_THREADS; i++) {
    pthread_t thread;
    threads[i] = (Thread){.number = i, .random = seed + i * 1000003};
    if (pthread_create(&thread, NULL, run, &threads[i]) != 0)
      return 1;
  }
  say(argv[4], "running");
  for (int number; sigwait(&signals, &number) == 0 && number != SIGTERM;) {
    atomic_store(&paused, number == SIGUSR1);
    while (atomic_load(&n_parked) != (number == SIGUSR1 ? N_THREADS : 0))
      sleep_ms(1);
    say(argv[4], number == SIGUSR1 ? "paused" : "running");
  }
  return 0;
}
