/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts are found out by doing the thing: a version says less than a call that works. */
#include <common/check.h>

#include <common/fd.h>
#include <common/size.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#define NOFILE_WANTED   4096u
#define MEMLOCK_WANTED  (G_GUINT64_CONSTANT(64) << 20)
#define PROBE_BYTES     (1024 * 1024)
#define BLOCK           65536
#define SLOW_SYNC_US    (100 * 1000)
#define PROGRAM_TIMEOUT "10"

static void
check_free(gpointer data)
{
  CbtCheck *check = data;
  g_free(check->subject);
  g_free(check->text);
  g_free(check->hint);
  g_free(check);
}

const char *
cbt_check_level_name(CbtCheckLevel level)
{
  static const char *const names[] = {"ok", "warn", "fail"};
  return names[level];
}

GPtrArray *
cbt_checks_new(void)
{
  return g_ptr_array_new_with_free_func(check_free);
}

void
cbt_checks_add(GPtrArray *checks, CbtCheckLevel level, const char *subject, const char *hint,
               const char *format, ...)
{
  CbtCheck *check = g_new0(CbtCheck, 1);
  va_list args;
  va_start(args, format);
  *check = (CbtCheck){level, g_strdup(subject), g_strdup_vprintf(format, args), g_strdup(hint)};
  va_end(args);
  g_ptr_array_add(checks, check);
}

/* ---- the kernel and its limits ---- */

void
cbt_check_kernel(GPtrArray *checks)
{
  struct utsname name;
  struct io_uring_params params = {0};
  if (uname(&name) == 0) {
    guint major = 0, minor = 0;
    gboolean known = sscanf(name.release, "%u.%u", &major, &minor) == 2;
    gboolean old = known && (major < 5 || (major == 5 && minor < 15));
    cbt_checks_add(checks, old ? CBT_CHECK_WARN : CBT_CHECK_OK, "kernel",
                   old ? "It is tried with Linux 5.15 and later." : NULL, "Linux %s", name.release);
  }
  int fd = (int) syscall(__NR_io_uring_setup, 4, &params);
  if (fd >= 0) {
    close(fd);
    cbt_checks_add(checks, CBT_CHECK_OK, "io_uring", NULL, "can be used");
  } else {
    cbt_checks_add(checks, CBT_CHECK_FAIL, "io_uring",
                   "Allow it: sysctl kernel.io_uring_disabled=0; in a container, its seccomp profile has to.",
                   "cannot be used, and disks are read by it: %s", g_strerror(errno));
  }
}

static void
check_limit(GPtrArray *checks, int resource, const char *subject, guint64 wanted, const char *hint)
{
  struct rlimit limit;
  if (getrlimit((__rlimit_resource_t) resource, &limit) != 0)
    return;
  if (limit.rlim_cur == RLIM_INFINITY)
    cbt_checks_add(checks, CBT_CHECK_OK, subject, NULL, "unlimited");
  else
    cbt_checks_add(checks, limit.rlim_cur >= wanted ? CBT_CHECK_OK : CBT_CHECK_WARN, subject,
                   limit.rlim_cur >= wanted ? NULL : hint, "%" G_GUINT64_FORMAT, (guint64) limit.rlim_cur);
}

void
cbt_check_limits(GPtrArray *checks)
{
  check_limit(
      checks, RLIMIT_NOFILE, "open files", NOFILE_WANTED,
      "Each export and each reader needs some: LimitNOFILE= in the unit of the service, or ulimit -n.");
  if (geteuid() != 0)
    check_limit(checks, RLIMIT_MEMLOCK, "locked memory", MEMLOCK_WANTED,
                "Reading is slower without registered buffers: LimitMEMLOCK= in the unit, or ulimit -l.");
}

void
cbt_check_clock(GPtrArray *checks, gint64 newest)
{
  struct timex state = {0};
  if (newest > g_get_real_time()) {
    cbt_checks_add(checks, CBT_CHECK_FAIL, "clock", "Set it right: schedules and retention go by it.",
                   "it is before the newest recovery point");
    return;
  }
  gboolean kept = adjtimex(&state) >= 0 && !(state.status & STA_UNSYNC);
  cbt_checks_add(checks, kept ? CBT_CHECK_OK : CBT_CHECK_WARN, "clock",
                 kept ? NULL : "Have it kept right, by chrony or systemd-timesyncd.", "%s",
                 kept ? "is synchronised" : "the kernel does not know it to be synchronised");
}

/* ---- folders ---- */

typedef struct {
  GPtrArray *checks;
  const char *subject;
  const char *path;
  guint8 *block; /* BLOCK bytes, aligned, not zero */
} Folder;

static gboolean
check_room(const Folder *folder, guint64 wanted)
{
  struct statvfs vfs;
  if (statvfs(folder->path, &vfs) != 0) {
    cbt_checks_add(folder->checks, CBT_CHECK_FAIL, folder->subject,
                   "The daemon makes it when it starts as a user who may.", "%s: %s", folder->path,
                   g_strerror(errno));
    return FALSE;
  }
  guint64 bytes = (guint64) vfs.f_bavail * vfs.f_frsize;
  g_autofree char *free_text = cbt_size_format(bytes), *wanted_text = cbt_size_format(wanted);
  if (bytes >= wanted)
    cbt_checks_add(folder->checks, CBT_CHECK_OK, folder->subject, NULL, "%s: %s free", folder->path,
                   free_text);
  else
    cbt_checks_add(folder->checks, CBT_CHECK_FAIL, folder->subject,
                   "Make room: cbt-backup prune, then cbt-backup gc; or extend the file system.",
                   "%s: %s free, %s are needed", folder->path, free_text, wanted_text);
  return TRUE;
}

/* A file of two blocks, the first and the last, with a hole between; -1 if it could not be written. */
static int
make_probe(const Folder *folder)
{
  CBT_AUTO_FD int fd = open(folder->path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    g_autofree char *name = g_build_filename(folder->path, ".doctor-XXXXXX", NULL);
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
      unlink(name);
  }
  if (fd >= 0 && pwrite(fd, folder->block, BLOCK, 0) == BLOCK &&
      pwrite(fd, folder->block, BLOCK, PROBE_BYTES - BLOCK) == BLOCK)
    return cbt_steal_fd(&fd);
  cbt_checks_add(folder->checks, CBT_CHECK_FAIL, folder->subject,
                 "See its owner, its mode, and what is free.", "%s: no file can be written: %s", folder->path,
                 g_strerror(errno));
  return -1;
}

static void
check_sync(const Folder *folder, int fd)
{
  gint64 begun = g_get_monotonic_time();
  if (fsync(fd) != 0) {
    cbt_checks_add(folder->checks, CBT_CHECK_FAIL, folder->subject, "See the kernel's log: dmesg",
                   "%s: a file cannot be synced: %s", folder->path, g_strerror(errno));
    return;
  }
  gint64 took = g_get_monotonic_time() - begun;
  cbt_checks_add(folder->checks, took > SLOW_SYNC_US ? CBT_CHECK_WARN : CBT_CHECK_OK, folder->subject,
                 took > SLOW_SYNC_US ? "Backups wait for syncs. Is the disk slow, or busy?" : NULL,
                 "a sync takes %.1f ms", (double) took / 1000);
}

static void
check_direct(const Folder *folder, int fd)
{
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
  CBT_AUTO_FD int direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  gboolean works = direct >= 0 && pread(direct, folder->block, BLOCK, 0) == BLOCK;
  cbt_checks_add(folder->checks, works ? CBT_CHECK_OK : CBT_CHECK_WARN, folder->subject,
                 works ? NULL
                       : "Reads go through the page cache there: more memory and processor, no wrong data.",
                 "direct I/O (O_DIRECT) %s", works ? "works" : "is not to be had");
}

static void
check_holes(const Folder *folder, int fd)
{
  off_t data = lseek(fd, BLOCK, SEEK_DATA);
  gboolean sees = data > BLOCK && data <= PROBE_BYTES - BLOCK;
  gboolean punches = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK) == 0;
  gboolean ok = sees && punches;
  cbt_checks_add(folder->checks, ok ? CBT_CHECK_OK : CBT_CHECK_WARN, folder->subject,
                 ok ? NULL : "Sparse files take their full size there, and full backups read them whole.",
                 "holes %s seen (SEEK_DATA), and %s punched", sees ? "are" : "are not",
                 punches ? "can be" : "cannot be");
}

void
cbt_check_folder(GPtrArray *checks, const char *subject, const char *path, guint64 wanted)
{
  Folder folder = {checks, subject, path, NULL};
  if (!check_room(&folder, wanted) || posix_memalign((void **) &folder.block, BLOCK, BLOCK) != 0)
    return;
  memset(folder.block, 0x5a, BLOCK);
  CBT_AUTO_FD int fd = make_probe(&folder);
  if (fd >= 0) {
    check_sync(&folder, fd);
    check_direct(&folder, fd);
    check_holes(&folder, fd);
  }
  free(folder.block);
}

/* ---- programs ---- */

void
cbt_check_program(GPtrArray *checks, const char *subject, const char *const *argv, const char *hint)
{
  g_autoptr(GPtrArray) words = g_ptr_array_new();
  g_autofree char *out = NULL, *messages = NULL;
  g_autoptr(GError) error = NULL;
  int status = 0;
  g_ptr_array_add(words, (char *) "timeout");
  g_ptr_array_add(words, (char *) PROGRAM_TIMEOUT);
  for (; *argv; argv++)
    g_ptr_array_add(words, (char *) *argv);
  g_ptr_array_add(words, NULL);
  gboolean ok = g_spawn_sync("/", (char **) words->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                             &messages, &status, &error) &&
                g_spawn_check_wait_status(status, &error);
  const char *text = ok ? out : messages && *messages ? messages : error ? error->message : "";
  g_autofree char *line = g_strndup(text, strcspn(text, "\n"));
  cbt_checks_add(checks, ok ? CBT_CHECK_OK : CBT_CHECK_FAIL, subject, ok ? NULL : hint, "%s", line);
}
