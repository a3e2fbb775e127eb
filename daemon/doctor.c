/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host and the store; doctor-vm.c has the vms. */
#include <daemon/doctor-private.h>

#include <common/fd.h>
#include <daemon/engine.h>
#include <daemon/exports.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNTIME_WANTED (G_GUINT64_CONSTANT(1) << 20)
#define STATE_WANTED   (G_GUINT64_CONSTANT(64) << 20)
#define FLEECE_WANTED  (G_GUINT64_CONSTANT(64) << 20)

static void
doctor_vm_free(gpointer data)
{
  DoctorVm *vm = data;
  catalogue_vm_free(vm->vm);
  g_free(vm);
}

Doctor *
doctor_new(Daemon *daemon, const char *vm_or_null, GError **error)
{
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, error);
  g_autoptr(GPtrArray) points = vms ? catalogue_list_points(daemon->catalogue, NULL, error) : NULL;
  GArray *leases = points ? catalogue_list_leases(daemon->catalogue, error) : NULL;
  if (!leases)
    return NULL;
  Doctor *doctor = g_new0(Doctor, 1);
  doctor->daemon = daemon;
  doctor->leases = leases;
  doctor->points = g_steal_pointer(&points);
  doctor->vms = g_ptr_array_new_with_free_func(doctor_vm_free);
  doctor->is_one = vm_or_null != NULL;
  while (vms->len > 0) {
    CatalogueVm *vm = g_ptr_array_steal_index(vms, 0);
    if (vm_or_null && strcmp(vm->name, vm_or_null) != 0) {
      catalogue_vm_free(vm);
      continue;
    }
    DoctorVm *noted = g_new0(DoctorVm, 1);
    *noted = (DoctorVm){vm, exports_has(daemon->exports, vm->name),
                        engine_user_of(daemon->engine, vm->name) != NULL};
    g_ptr_array_add(doctor->vms, noted);
  }
  if (!vm_or_null || doctor->vms->len > 0)
    return doctor;
  doctor_free(doctor);
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See: cbt-backup vm list", "there is no vm '%s'", vm_or_null);
  return NULL;
}

void
doctor_free(Doctor *doctor)
{
  g_array_unref(doctor->leases);
  g_ptr_array_unref(doctor->points);
  g_ptr_array_unref(doctor->vms);
  g_free(doctor);
}

/* ---- programs ---- */

static gboolean
has_live_vm(const Doctor *doctor)
{
  for (guint i = 0; i < doctor->vms->len; i++)
    if (catalogue_vm_is_live(((const DoctorVm *) doctor->vms->pdata[i])->vm))
      return TRUE;
  return FALSE;
}

static void
check_programs(const Doctor *doctor, GPtrArray *checks)
{
  const char *const nbdkit[] = {"nbdkit", "--version", NULL};
  const char *const nbd[] = {"qemu-nbd", "--version", NULL};
  g_autofree char *path = g_build_filename(doctor->daemon->config->plugin_dir, "nbdkit-cbt-plugin.so", NULL);
  /* The shell keeps what else nbdkit tells of the plugin out of the line. */
  const char *const plugin[] = {
      "sh", "-c", "out=$(nbdkit --dump-plugin \"$1\") && printf '%s can be loaded\\n' \"$1\"",
      "sh", path, NULL};
  cbt_check_program(checks, "nbdkit", nbdkit, "Install it; exports are served by it: apt-get install nbdkit");
  cbt_check_program(checks, "plugin", plugin,
                    "Is it installed with the programs? Its folder is the key 'plugin-dir' of [export].");
  if (has_live_vm(doctor))
    cbt_check_program(checks, "qemu-nbd", nbd,
                      "Install it; vms whose guests are off are read by it: apt-get install qemu-utils");
}

/* ---- folders and the socket ---- */

static void
check_folders(const Doctor *doctor, GPtrArray *checks)
{
  const DaemonConfig *config = doctor->daemon->config;
  g_autofree char *store = daemon_config_store_dir(config);
  cbt_check_folder(checks, "state", config->state_dir, STATE_WANTED);
  cbt_check_folder(checks, "store", store,
                   MAX(store_reserve_bytes(doctor->daemon->store_reserve), STATE_WANTED));
  cbt_check_folder(checks, "fleece", config->fleece_dir, FLEECE_WANTED);
  cbt_check_folder(checks, "runtime", config->runtime_dir, RUNTIME_WANTED);
}

static void
check_socket(const Doctor *doctor, GPtrArray *checks)
{
  const DaemonConfig *config = doctor->daemon->config;
  g_autofree char *path = g_build_filename(config->runtime_dir, "api.sock", NULL);
  struct stat st;
  if (stat(path, &st) != 0) {
    cbt_checks_add(checks, CBT_CHECK_FAIL, "socket", "Start the daemon again: somebody removed it.", "%s: %s",
                   path, g_strerror(errno));
    return;
  }
  guint wanted = config->group ? 0660 : 0600, mode = st.st_mode & 0777;
  gboolean ok = mode == wanted && st.st_uid == geteuid();
  cbt_checks_add(checks, ok ? CBT_CHECK_OK : CBT_CHECK_WARN, "socket",
                 ok ? NULL : "Start the daemon again: somebody changed its owner or mode.",
                 "%s: mode %04o; root, user %u%s%s may use it", path, mode, (guint) geteuid(),
                 config->group ? " and group " : "", config->group ? config->group : "");
}

/* ---- the store against the catalogue ---- */

static gboolean
has_point(const GArray *files, const CbtUuid *uuid)
{
  for (guint i = 0; i < files->len; i++)
    if (cbt_uuid_equal(&g_array_index(files, CbtUuid, i), uuid))
      return TRUE;
  return FALSE;
}

/* A point may come or go while it is looked: one that is missing is looked for once more, by its file. */
static guint
count_missing(const Doctor *doctor, const char *folder, const GArray *files)
{
  guint n = 0;
  for (guint i = 0; i < doctor->points->len; i++) {
    char text[CBT_UUID_TEXT_SIZE];
    const StorePoint *point = g_ptr_array_index(doctor->points, i);
    g_autofree char *name = g_strconcat(cbt_uuid_format(&point->uuid, text), ".point", NULL);
    g_autofree char *path = g_build_filename(folder, name, NULL);
    n += !has_point(files, &point->uuid) && access(path, F_OK) != 0;
  }
  return n;
}

static void
check_points(const Doctor *doctor, GPtrArray *checks)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *folder = g_build_filename(store_directory(doctor->daemon->store), "points", NULL);
  g_autoptr(GArray) files = store_point_list(folder, &error);
  if (!files) {
    cbt_checks_add(checks, CBT_CHECK_FAIL, "points", "See the kernel's log: dmesg", "%s", error->message);
    return;
  }
  guint n_missing = count_missing(doctor, folder, files), n_damaged = 0;
  for (guint i = 0; i < doctor->points->len; i++)
    n_damaged += ((const StorePoint *) doctor->points->pdata[i])->damaged != 0;
  if (n_missing > 0)
    cbt_checks_add(checks, CBT_CHECK_FAIL, "points", "cbt-backup rebuild-catalogue",
                   "%u of %u points of the catalogue have no file in the store", n_missing,
                   doctor->points->len);
  else if (n_damaged > 0)
    cbt_checks_add(checks, CBT_CHECK_FAIL, "points", "cbt-backup verify --all", "%u of %u are damaged",
                   n_damaged, doctor->points->len);
  else
    cbt_checks_add(checks, CBT_CHECK_OK, "points", NULL, "%u, each with its file in the store",
                   doctor->points->len);
}

GPtrArray *
doctor_run(Doctor *doctor)
{
  GPtrArray *checks = cbt_checks_new();
  gint64 newest = 0;
  for (guint i = 0; i < doctor->points->len; i++)
    newest = MAX(newest, ((const StorePoint *) doctor->points->pdata[i])->time);
  if (!doctor->is_one) {
    cbt_check_kernel(checks);
    cbt_check_limits(checks);
    cbt_check_clock(checks, newest);
    check_programs(doctor, checks);
    check_folders(doctor, checks);
    check_socket(doctor, checks);
    check_points(doctor, checks);
  }
  for (guint i = 0; i < doctor->vms->len; i++)
    doctor_check_vm(doctor, g_ptr_array_index(doctor->vms, i), checks);
  return checks;
}
