/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many clients of the API at once: some poll, some follow jobs or read archives, some start backups. It tells
 * how long GET /v1/status took, and which answers came. It shares no code with the product.
 *
 * Usage: api_load SOCKET SECONDS N-POLLERS N-STREAMERS N-STARTERS N-VMS
 *
 * The vms are vm1 to vmN, each with a point. Exit status 1 if some answer was none of 200, 202, 409 and 503,
 * or was cut off. Build: cc -O2 -pthread
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEAD_SIZE   65536
#define STATUS_MAX  600
#define SAMPLES_MAX 2000000

typedef struct {
  int status;     /* 0: no answer */
  bool complete;  /* the body came to its end */
  size_t n_bytes; /* of the whole answer */
  char start[HEAD_SIZE];
} Answer;

static const char *socket_path;
static int n_vms;
static double end_s;
static atomic_ulong counts[STATUS_MAX], n_cut_off, n_stream_bytes, n_samples;
static atomic_long last_job;
static float *samples_ms; /* of GET /v1/status */

static double
now_s(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
rest_ms(int ms)
{
  struct timespec time = {0, ms * 1000000L};
  nanosleep(&time, NULL);
}

static int
open_socket(void)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
  if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof address) == 0)
    return fd;
  close(fd);
  return -1;
}

/* Reads all of an answer, and keeps its start and its last bytes. */
static void
read_answer(int fd, Answer *answer)
{
  static const char last_chunk[] = "0\r\n\r\n";
  char block[65536], tail[5] = {0};
  ssize_t n;
  size_t kept = 0;
  while ((n = read(fd, block, sizeof block)) > 0) {
    size_t copy = (size_t) n < HEAD_SIZE - 1 - kept ? (size_t) n : HEAD_SIZE - 1 - kept;
    memcpy(answer->start + kept, block, copy);
    kept += copy;
    answer->n_bytes += (size_t) n;
    for (ssize_t i = n > 5 ? n - 5 : 0; i < n; i++) {
      memmove(tail, tail + 1, 4);
      tail[4] = block[i];
    }
  }
  answer->start[kept] = '\0';
  if (sscanf(answer->start, "HTTP/1.1 %d", &answer->status) != 1)
    answer->status = 0;
  bool chunked = strstr(answer->start, "Transfer-Encoding: chunked") != NULL;
  answer->complete = n == 0 && (!chunked || memcmp(tail, last_chunk, 5) == 0);
}

static void
ask(const char *method, const char *path, const char *body, Answer *answer)
{
  char request[1024];
  *answer = (Answer){.status = 0};
  int fd = open_socket();
  int length =
      snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
               method, path, strlen(body), body);
  if (fd >= 0 && write(fd, request, (size_t) length) == length)
    read_answer(fd, answer);
  if (fd >= 0)
    close(fd);
  counts[answer->status >= 0 && answer->status < STATUS_MAX ? answer->status : 0]++;
  if (answer->status != 503 && !answer->complete)
    n_cut_off++;
}

static void *
poll_status(void *data)
{
  (void) data;
  Answer *answer = malloc(sizeof *answer);
  while (now_s() < end_s) {
    double start_s = now_s();
    ask("GET", "/v1/status", "", answer);
    unsigned long i = atomic_fetch_add(&n_samples, 1);
    if (i < SAMPLES_MAX)
      samples_ms[i] = (float) ((now_s() - start_s) * 1000);
    rest_ms(100);
  }
  free(answer);
  return NULL;
}

/* Every other one follows jobs, and the rest read archives. */
static void *
stream(void *data)
{
  long number = (long) data;
  char path[256];
  Answer *answer = malloc(sizeof *answer);
  while (now_s() < end_s) {
    if (number % 2 == 0)
      snprintf(path, sizeof path, "/v1/jobs/%ld/events", atomic_load(&last_job));
    else
      snprintf(path, sizeof path, "/v1/points/vm%ld@0/archive?format=raw", number % n_vms + 1);
    ask("GET", path, "", answer);
    n_stream_bytes += answer->n_bytes;
    rest_ms(20);
  }
  free(answer);
  return NULL;
}

static void *
start_jobs(void *data)
{
  long number = (long) data;
  char path[256];
  Answer *answer = malloc(sizeof *answer);
  while (now_s() < end_s) {
    snprintf(path, sizeof path, "/v1/vms/vm%ld/backups", number % n_vms + 1);
    ask("POST", path, "{\"kind\":\"incremental\"}", answer);
    const char *id = answer->status == 202 ? strstr(answer->start, "\"id\":") : NULL;
    if (id) {
      long job = atol(id + 5);
      atomic_store(&last_job, job);
      snprintf(path, sizeof path, "/v1/jobs/%ld?wait-ms=10000", job);
      ask("GET", path, "", answer);
    }
    rest_ms(200);
  }
  free(answer);
  return NULL;
}

static int
compare(const void *a, const void *b)
{
  float x = *(const float *) a, y = *(const float *) b;
  return (x > y) - (x < y);
}

static int
report(void)
{
  unsigned long n = n_samples < SAMPLES_MAX ? n_samples : SAMPLES_MAX, n_wrong = n_cut_off;
  qsort(samples_ms, n, sizeof *samples_ms, compare);
  printf("{\"polls\":%lu,\"p50-ms\":%.2f,\"p99-ms\":%.2f,\"max-ms\":%.2f,\"stream-bytes\":%lu,\"cut-off\":%"
         "lu,\"answers\":{",
         n, n ? samples_ms[n / 2] : 0, n ? samples_ms[n * 99 / 100] : 0, n ? samples_ms[n - 1] : 0,
         (unsigned long) n_stream_bytes, (unsigned long) n_cut_off);
  const char *comma = "";
  for (int status = 0; status < STATUS_MAX; status++) {
    if (counts[status] == 0)
      continue;
    printf("%s\"%d\":%lu", comma, status, (unsigned long) counts[status]);
    comma = ",";
    if (status != 200 && status != 202 && status != 409 && status != 503)
      n_wrong += counts[status];
  }
  printf("}}\n");
  return n_wrong > 0;
}

int
main(int argc, char **argv)
{
  if (argc != 7)
    return 2;
  void *(*const kinds[])(void *) = {poll_status, stream, start_jobs};
  pthread_t threads[1024];
  size_t n_threads = 0;
  socket_path = argv[1];
  n_vms = atoi(argv[6]);
  end_s = now_s() + atof(argv[2]);
  samples_ms = malloc(SAMPLES_MAX * sizeof *samples_ms);
  last_job = 1;
  for (int kind = 0; kind < 3; kind++)
    for (long i = 0; i < atoi(argv[3 + kind]) && n_threads < 1024; i++)
      if (pthread_create(&threads[n_threads], NULL, kinds[kind], (void *) i) == 0)
        n_threads++;
  for (size_t i = 0; i < n_threads; i++)
    pthread_join(threads[i], NULL);
  return report();
}
