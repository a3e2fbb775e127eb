/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counts clusters without any of the product's code: the independent side of the oracle tests.
 *
 *   clusters diff A B       numbers of the 64 KiB clusters in which two disk images differ (a missing tail
 * differs) clusters log < LOG      numbers of the clusters that an nbdkit log filter saw written, trimmed or
 * zeroed clusters extents        the same for lines "OFFSET LENGTH" in decimal on standard input clusters
 * cover A B      do such extents cover what differs? "NEEDED MISSED EXCESS": how many clusters differ, how
 * many of these are in no extent, how many are in one and do not differ
 *
 * One number a line, ascending, each once; but for cover.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER_SIZE 65536u

typedef struct {
  uint64_t *numbers;
  size_t n;
  size_t room;
} Set;

static void
die(const char *what)
{
  fprintf(stderr, "clusters: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void
set_add_range(Set *set, uint64_t offset, uint64_t length)
{
  if (length == 0)
    return;
  for (uint64_t c = offset / CLUSTER_SIZE; c <= (offset + length - 1) / CLUSTER_SIZE; c++) {
    if (set->n == set->room) {
      set->room = set->room ? set->room * 2 : 1024;
      set->numbers = realloc(set->numbers, set->room * sizeof *set->numbers);
      if (!set->numbers)
        die("memory");
    }
    set->numbers[set->n++] = c;
  }
}

static int
compare(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;
  return x < y ? -1 : x > y;
}

/* Ascending, each once. */
static void
set_sort(Set *set)
{
  size_t n = 0;
  if (set->n)
    qsort(set->numbers, set->n, sizeof *set->numbers, compare);
  for (size_t i = 0; i < set->n; i++)
    if (n == 0 || set->numbers[i] != set->numbers[n - 1])
      set->numbers[n++] = set->numbers[i];
  set->n = n;
}

static void
set_print(Set *set)
{
  set_sort(set);
  for (size_t i = 0; i < set->n; i++)
    printf("%" PRIu64 "\n", set->numbers[i]);
}

static size_t
read_cluster(int fd, uint8_t *buffer)
{
  size_t n = 0;
  while (n < CLUSTER_SIZE) {
    ssize_t got = read(fd, buffer + n, CLUSTER_SIZE - n);
    if (got < 0)
      die("read");
    if (got == 0)
      break;
    n += (size_t) got;
  }
  return n;
}

static void
diff(Set *set, const char *path_a, const char *path_b)
{
  static uint8_t a[CLUSTER_SIZE], b[CLUSTER_SIZE];
  int fd_a = open(path_a, O_RDONLY), fd_b = open(path_b, O_RDONLY);
  if (fd_a < 0 || fd_b < 0)
    die(fd_a < 0 ? path_a : path_b);
  for (uint64_t offset = 0;; offset += CLUSTER_SIZE) {
    size_t n_a = read_cluster(fd_a, a), n_b = read_cluster(fd_b, b);
    if (n_a == 0 && n_b == 0)
      break;
    if (n_a != n_b || memcmp(a, b, n_a) != 0)
      set_add_range(set, offset, 1);
  }
  close(fd_a);
  close(fd_b);
}

/* Lines such as "... Write id=4 offset=0x10000 count=0x200 fua=0 ...". */
static void
read_log(Set *set)
{
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    const char *at = strstr(line, " offset=0x"), *count = strstr(line, " count=0x");
    if (!at || !count || !(strstr(line, " Write ") || strstr(line, " Trim ") || strstr(line, " Zero ")))
      continue;
    set_add_range(set, strtoull(at + 8, NULL, 16), strtoull(count + 7, NULL, 16));
  }
}

static void
read_extents(Set *set)
{
  uint64_t offset, length;
  while (scanf("%" SCNu64 " %" SCNu64, &offset, &length) == 2)
    set_add_range(set, offset, length);
}

/* How many of A are not in B; both sorted. */
static size_t
count_missing(const Set *a, const Set *b)
{
  size_t n = 0, j = 0;
  for (size_t i = 0; i < a->n; i++) {
    while (j < b->n && b->numbers[j] < a->numbers[i])
      j++;
    n += j == b->n || b->numbers[j] != a->numbers[i];
  }
  return n;
}

static void
cover(const char *path_a, const char *path_b)
{
  Set needed = {0}, found = {0};
  diff(&needed, path_a, path_b);
  read_extents(&found);
  set_sort(&needed);
  set_sort(&found);
  printf("%zu %zu %zu\n", needed.n, count_missing(&needed, &found), count_missing(&found, &needed));
  free(needed.numbers);
  free(found.numbers);
}

int
main(int argc, char **argv)
{
  Set set = {0};
  if (argc == 4 && strcmp(argv[1], "diff") == 0)
    diff(&set, argv[2], argv[3]);
  else if (argc == 4 && strcmp(argv[1], "cover") == 0)
    cover(argv[2], argv[3]);
  else if (argc == 2 && strcmp(argv[1], "log") == 0)
    read_log(&set);
  else if (argc == 2 && strcmp(argv[1], "extents") == 0)
    read_extents(&set);
  else {
    fprintf(stderr, "usage: clusters diff A B | log | extents | cover A B\n");
    return 2;
  }
  set_print(&set);
  free(set.numbers);
  return ferror(stdout) ? 1 : 0;
}
