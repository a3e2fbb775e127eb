/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a repair takes clusters from: an image, of a disk or of whichever it fits, or another point. Nothing
 * of it is trusted: the store takes what has the digest of the chunk that is damaged.
 *
 * A page that was repaired shows what is below it, which may be damaged as well: so it is repaired and
 * verified in turns, until nothing more comes of it.
 */
#include <daemon/verify-private.h>

#include <common/fd.h>
#include <common/file-ops.h>
#include <common/name.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define ROUNDS_MAX 8 /* more than a tree has levels */

/* ---- what is asked for ---- */

static gboolean
parse_image(const char *text, VerifyRequest *request, GError **error)
{
  const char *equals = *text == '/' ? NULL : strchr(text, '=');
  if (equals)
    request->from_disk = g_strndup(text, (gsize) (equals - text));
  request->from_path = g_strdup(equals ? equals + 1 : text);
  if (request->from_disk && !cbt_name_check("disk", request->from_disk, error))
    return FALSE;
  if (*request->from_path == '/')
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "key 'from': path '%s' is not absolute", request->from_path);
  return FALSE;
}

gboolean
verify_request_set_from(VerifyRequest *request, Catalogue *catalogue, const char *text, GError **error)
{
  if (strchr(text, '/') || strchr(text, '='))
    return parse_image(text, request, error);
  request->from_point = catalogue_resolve_point(catalogue, text, error);
  return request->from_point != NULL;
}

/* ---- sources ---- */

typedef struct {
  const VerifyRequest *request;
  StoreWorker *worker; /* of a point */
  int fd;              /* of an image */
} Source;

static gboolean
read_image(const Source *source, guint64 offset, guint8 *cluster)
{
  gssize n = cbt_pread_full(source->fd, cluster, CBT_CLUSTER_SIZE, offset);
  if (n <= 0)
    return FALSE;
  memset(cluster + n, 0, CBT_CLUSTER_SIZE - (gsize) n);
  return TRUE;
}

static gboolean
read_other_point(const Source *source, const char *name, guint64 offset, guint8 *cluster)
{
  const StorePointDisk *disk = store_point_find_disk(source->request->from_point, name);
  StoreChunkId id;
  gsize length;
  return disk && offset < disk->manifest.size &&
         store_manifest_get(source->worker, &disk->manifest, offset / CBT_CLUSTER_SIZE, &id, NULL) &&
         store_get(source->worker, &id, cluster, &length, NULL) && length == CBT_CLUSTER_SIZE;
}

static gboolean
read_cluster(const char *disk, guint64 offset, guint8 *cluster, gpointer user_data)
{
  const Source *source = user_data;
  if (source->request->from_point)
    return read_other_point(source, disk, offset, cluster);
  return (!source->request->from_disk || strcmp(source->request->from_disk, disk) == 0) &&
         read_image(source, offset, cluster);
}

/* Bytes of another format never have the digest; to say so helps more than to find nothing. */
static gboolean
check_image(const Source *source, GError **error)
{
  const char *path = source->request->from_path;
  struct stat st;
  char magic[4];
  if (fstat(source->fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%s is no image file and no block device", path);
  else if (cbt_pread_full(source->fd, magic, sizeof magic, 0) == (gssize) sizeof magic &&
           memcmp(magic, "QFI\xfb", sizeof magic) == 0)
    cbt_set_error(error, CBT_ERROR_INVALID, "Convert it with: qemu-img convert -O raw",
                  "%s is a qcow2 image, and a raw one is needed", path);
  else
    return TRUE;
  return FALSE;
}

static gboolean
open_image(Source *source, GError **error)
{
  const char *path = source->request->from_path;
  source->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (source->fd >= 0)
    return check_image(source, error);
  cbt_set_error_errno(error, errno, "cannot open %s", path);
  return FALSE;
}

/* ---- repair and verify in turns ---- */

static gboolean
take_turns(Verify *verify, const StoreVerifySource *source, GError **error)
{
  guint64 n_repaired = 1;
  for (guint i = 0; i < ROUNDS_MAX && n_repaired > 0; i++)
    if (!store_verify_repair(verify->store, source, &n_repaired, error) ||
        (n_repaired > 0 && !verify_damaged_again(verify, error)))
      return FALSE;
  return TRUE;
}

gboolean
verify_repair_open(const VerifyRequest *request, GError **error)
{
  Source source = {.request = request, .fd = -1};
  gboolean ok = !request->from_path || open_image(&source, error);
  cbt_clear_fd(&source.fd);
  return ok;
}

gboolean
verify_repair(Verify *verify, GError **error)
{
  const VerifyRequest *request = verify->request;
  Source source = {.request = request, .fd = -1};
  StoreVerifySource reader = {read_cluster, &source};
  if (request->from_path && !open_image(&source, error)) {
    cbt_clear_fd(&source.fd);
    return FALSE;
  }
  if (request->from_point)
    source.worker = store_worker_new(verify->daemon->store);
  gboolean ok = take_turns(verify, request->from_path || request->from_point ? &reader : NULL, error);
  store_worker_free(source.worker);
  cbt_clear_fd(&source.fd);
  return ok;
}
