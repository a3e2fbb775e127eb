/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What images a disk is made of, qemu-img info says; the locks of each are looked at, and its times are kept.
 *
 * qemu-nbd listens when it has opened the image and found the bitmap, so that it takes a connection says that
 * all went well. Its socket has our process id in its name: whose process is gone, that socket is nobody's.
 */
#include <cbt/qemu/offline.h>

#include <cbt/block-mark.h>
#include <cbt/image-use.h>
#include <cbt/qemu/child.h>
#include <cbt/qemu/image-trust.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/layers.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define TOOL_TIMEOUT_MS  30000u
#define WRITE_TIMEOUT_MS 120000u /* of a change; it must not be killed half-way without need */
#define POLL_MS          2u
#define SOCKET_PREFIX    "offline-"
#define BUSY_HINT        "Back it up through QMP while its guest runs, or try again when the guest is off."

/* An image of a chain. */
typedef struct {
  char *path;
  int fd;
  struct stat st; /* as it was when we looked at its locks */
  gint64 mark;    /* of a block device */
} Image;

typedef struct {
  guint64 size_bytes;
  GPtrArray *bitmaps; /* QemuBitmap */
  GPtrArray *images;  /* Image; those that are files */
  GArray *layers;     /* QemuLayer, of these images */
  gboolean is_plain;  /* there is nothing else in it */
} Chain;

struct QemuOffline {
  QemuChild *server;
  char *socket;
  char *uri;
  Chain *chain;
};

/* What the tools say */

static const struct {
  const char *fragment;
  CbtErrorCode code;
  const char *hint;
} sayings[] = {
    {"another process using", CBT_ERROR_BUSY, BUSY_HINT},
    {"\" lock", CBT_ERROR_BUSY, BUSY_HINT},
    {"is inconsistent", CBT_ERROR_INCONSISTENT, "Remove the bitmap: it may miss changes."},
    {"already exists", CBT_ERROR_EXISTS, NULL},
    {"not found", CBT_ERROR_NOT_FOUND, NULL},
    {"No such file", CBT_ERROR_NOT_FOUND, NULL},
    {"Permission denied", CBT_ERROR_DENIED, NULL},
    {"not in qcow2 format", CBT_ERROR_INVALID, NULL},
    {"Can't store persistent bitmaps", CBT_ERROR_UNSUPPORTED, "Only qcow2 images hold bitmaps."},
    {"No space left", CBT_ERROR_NO_SPACE, NULL},
    {"Input/output error", CBT_ERROR_IO, NULL},
};

/* Sets ERROR to what CHILD, which has failed, said about PATH. */
static gboolean
set_tool_error(const QemuChild *child, const char *path, GError **error)
{
  g_autofree char *said = qemu_child_errors(child);
  CbtErrorCode code = CBT_ERROR_FAILED;
  const char *hint = NULL;
  for (guint i = 0; code == CBT_ERROR_FAILED && i < G_N_ELEMENTS(sayings); i++)
    if (strstr(said, sayings[i].fragment)) {
      code = sayings[i].code;
      hint = sayings[i].hint;
    }
  g_strdelimit(said, "\n", ' ');
  cbt_set_error(error, code, hint, "disk image %s: %s", path,
                *said ? said : "QEMU's tool failed without a word");
  return FALSE;
}

static gboolean
set_too_late(const char *path, GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See whether its storage answers.",
                "disk image %s: QEMU's tool does not come to an end", path);
  return FALSE;
}

/* Waits for the end of CHILD (nullable: with ERROR; transfer full). *output (nullable) is (transfer full). */
static gboolean
finish_tool(QemuChild *started, const char *path, guint timeout_ms, char **output, GError **error)
{
  g_autoptr(QemuChild) child = started;
  if (!child)
    return FALSE;
  if (!qemu_child_wait(child, timeout_ms))
    return set_too_late(path, error);
  if (!qemu_child_succeeded(child))
    return set_tool_error(child, path, error);
  if (output)
    *output = qemu_child_output(child);
  return TRUE;
}

/* The chain of images */

static void
image_free(gpointer data)
{
  Image *image = data;
  cbt_clear_fd(&image->fd);
  g_free(image->path);
  g_free(image);
}

static void
chain_free(Chain *chain)
{
  g_ptr_array_unref(chain->bitmaps);
  g_ptr_array_unref(chain->images);
  g_array_unref(chain->layers);
  g_free(chain);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Chain, chain_free)

static gboolean
check_arguments(const char *path, const char *format, GError **error)
{
  if (g_path_is_absolute(path) && (g_str_equal(format, "qcow2") || g_str_equal(format, "raw")))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Give an absolute path, and qcow2 or raw as its format.",
                "cannot read disk image %s of format %s at rest", path, format);
  return FALSE;
}

/* FALSE if PATH is written by somebody, or not to be read; what is not a file is taken as it is, below root's
 * images: *found is -1 then, else the image's descriptor. */
static gboolean
add_image(Chain *chain, const char *path, int *found, GError **error)
{
  struct stat st;
  CBT_AUTO_FD int fd = -1;
  const Image *top = chain->images->len > 0 ? chain->images->pdata[0] : NULL;
  *found = -1;
  if (!top)
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  else if (!qemu_image_open_below(&top->st, path, &fd, error))
    return FALSE;
  if (fd < 0 || fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
    return TRUE;
  if ((!top && !qemu_image_check_name(fd, path, error)) ||
      !cbt_image_check_use(fd, path, CBT_IMAGE_READ, BUSY_HINT, error))
    return FALSE;
  Image *image = g_new0(Image, 1);
  image->path = g_strdup(path);
  image->st = st;
  image->mark = S_ISBLK(st.st_mode) ? cbt_block_mark_get(fd) : 0;
  *found = image->fd = cbt_steal_fd(&fd);
  g_ptr_array_add(chain->images, image);
  return TRUE;
}

/* INFO is what qemu-img told of an image of the chain. */
static gboolean
add_layer(Chain *chain, JsonObject *info, GError **error)
{
  QemuLayer layer = {NULL, -1, -1};
  JsonObject *data = qemu_json_object(qemu_json_object(info, "format-specific"), "data");
  const char *filename = qemu_json_string(info, "filename"), *format = qemu_json_string(info, "format");
  const char *data_file = filename ? qemu_json_string(data, "data-file") : NULL;
  g_autofree char *folder = filename ? g_path_get_dirname(filename) : NULL;
  g_autofree char *data_path = data_file ? g_canonicalize_filename(data_file, folder) : NULL;
  if ((filename && !add_image(chain, filename, &layer.fd, error)) ||
      (data_path && !add_image(chain, data_path, &layer.data_fd, error)))
    return FALSE;
  layer.format = g_strcmp0(format, "qcow2") == 0 ? "qcow2" : g_strcmp0(format, "raw") == 0 ? "raw" : NULL;
  chain->is_plain &= layer.format && layer.fd >= 0 && (!data_path || layer.data_fd >= 0);
  g_array_append_val(chain->layers, layer);
  return TRUE;
}

static gboolean
has_flag(JsonArray *flags, const char *name)
{
  for (guint i = 0; flags && i < json_array_get_length(flags); i++) {
    JsonNode *flag = json_array_get_element(flags, i);
    if (JSON_NODE_HOLDS_VALUE(flag) && g_strcmp0(json_node_get_string(flag), name) == 0)
      return TRUE;
  }
  return FALSE;
}

static void
parse_bitmaps(JsonArray *array, guint depth, GPtrArray *bitmaps)
{
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *object = qemu_json_item(array, i);
    const char *name = qemu_json_string(object, "name");
    if (!name)
      continue;
    QemuBitmap *bitmap = g_new0(QemuBitmap, 1);
    bitmap->name = g_strdup(name);
    bitmap->depth = depth;
    bitmap->is_persistent = TRUE;
    bitmap->is_recording = has_flag(qemu_json_array(object, "flags"), "auto");
    bitmap->is_inconsistent = has_flag(qemu_json_array(object, "flags"), "in-use");
    qemu_json_size(object, "granularity", &bitmap->granularity);
    g_ptr_array_add(bitmaps, bitmap);
  }
}

/* TEXT is what qemu-img info said of the chain of PATH. */
static Chain *
parse_chain(const char *text, const char *path, GError **error)
{
  g_autoptr(JsonNode) node = json_from_string(text, NULL);
  JsonArray *array = qemu_json_node_array(node);
  g_autoptr(Chain) chain = g_new0(Chain, 1);
  chain->bitmaps = g_ptr_array_new_with_free_func(qemu_bitmap_free);
  chain->images = g_ptr_array_new_with_free_func(image_free);
  chain->layers = g_array_new(FALSE, FALSE, sizeof(QemuLayer));
  chain->is_plain = TRUE;
  if (!array || !qemu_json_size(qemu_json_item(array, 0), "virtual-size", &chain->size_bytes)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "what qemu-img tells of %s cannot be understood", path);
    return NULL;
  }
  for (guint i = 0; i < json_array_get_length(array); i++) {
    JsonObject *image = qemu_json_item(array, i);
    JsonObject *data = qemu_json_object(qemu_json_object(image, "format-specific"), "data");
    parse_bitmaps(qemu_json_array(data, "bitmaps"), i, chain->bitmaps);
    if (!add_layer(chain, image, error))
      return NULL;
  }
  return g_steal_pointer(&chain);
}

static Chain *
read_chain(const char *path, const char *format, GError **error)
{
  const char *const argv[] = {"qemu-img", "info", "--output=json", "--backing-chain", "-f", format, "--",
                              path,       NULL};
  g_autofree char *output = NULL;
  if (!check_arguments(path, format, error) ||
      !finish_tool(qemu_child_start(argv, TRUE, error), path, TOOL_TIMEOUT_MS, &output, error))
    return NULL;
  return parse_chain(output, path, error);
}

/* Bitmaps */

GPtrArray *
qemu_offline_bitmaps(const char *path, const char *format, guint64 *size_bytes, GError **error)
{
  g_autoptr(Chain) chain = read_chain(path, format, error);
  if (!chain)
    return NULL;
  *size_bytes = chain->size_bytes;
  return g_ptr_array_ref(chain->bitmaps);
}

/* The image that is changed, without those below it. */
static gboolean
open_for_change(const char *path, QemuLayer *layer, GError **error)
{
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open disk image %s", path);
    return FALSE;
  }
  if (!qemu_image_check_name(fd, path, error))
    return FALSE;
  *layer = (QemuLayer){"qcow2", cbt_steal_fd(&fd), -1};
  return TRUE;
}

gboolean
qemu_offline_bitmap_change(const char *path, const char *format, const char *bitmap,
                           const char *const *options, GError **error)
{
  QemuLayer layer;
  g_autoptr(GPtrArray) argv = g_ptr_array_new();
  if (!check_arguments(path, format, error))
    return FALSE;
  if (!g_str_equal(format, "qcow2")) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Only qcow2 images hold bitmaps.",
                  "disk image %s of format %s has no bitmaps", path, format);
    return FALSE;
  }
  if (!open_for_change(path, &layer, error))
    return FALSE;
  CBT_AUTO_FD int fd = layer.fd;
  g_autofree char *name = qemu_layers_name(&layer, 1);
  const char *const first[] = {"qemu-img", "bitmap"}, *const last[] = {"--", name, bitmap, NULL};
  for (guint i = 0; i < G_N_ELEMENTS(first); i++)
    g_ptr_array_add(argv, (char *) first[i]);
  for (; *options; options++)
    g_ptr_array_add(argv, (char *) *options);
  for (guint i = 0; i < G_N_ELEMENTS(last); i++)
    g_ptr_array_add(argv, (char *) last[i]);
  QemuChild *child = qemu_layers_start((const char *const *) argv->pdata, FALSE, &layer, 1, error);
  return fd >= 0 && finish_tool(child, path, WRITE_TIMEOUT_MS, NULL, error);
}

/* Serving */

/* Removes the sockets of processes that are gone. */
static void
sweep(const char *runtime_dir)
{
  g_autoptr(GDir) dir = g_dir_open(runtime_dir, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name(dir)) != NULL) {
    int pid = g_str_has_prefix(name, SOCKET_PREFIX) ? atoi(name + strlen(SOCKET_PREFIX)) : 0;
    if (pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH)
      continue;
    g_autofree char *path = g_build_filename(runtime_dir, name, NULL);
    unlink(path);
  }
}

static gboolean
is_listening(const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  g_strlcpy(address.sun_path, path, sizeof address.sun_path);
  return fd >= 0 && connect(fd, (const struct sockaddr *) &address, sizeof address) == 0;
}

static gboolean
make_names(QemuOffline *offline, const char *runtime_dir, GError **error)
{
  struct sockaddr_un address;
  g_autofree char *name = g_strdup_printf(SOCKET_PREFIX "%d-%08x", (int) getpid(), g_random_int());
  offline->socket = g_build_filename(runtime_dir, name, NULL);
  g_autofree char *escaped = g_uri_escape_string(offline->socket, "/", FALSE);
  offline->uri = g_strdup_printf("nbd+unix:///?socket=%s", escaped);
  if (strlen(offline->socket) < sizeof address.sun_path)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Choose a shorter runtime directory.",
                "the path of the socket %s is too long", offline->socket);
  return FALSE;
}

/* A chain that is opened by its names, as this process, must be of its user: an image of another format says
 * by its header what else is opened. */
static gboolean
check_names_are_ours(const Chain *chain, const char *path, GError **error)
{
  const Image *top = chain->images->len > 0 ? chain->images->pdata[0] : NULL;
  if (geteuid() != 0 || !top || top->st.st_uid == 0)
    return TRUE;
  cbt_set_error(
      error, CBT_ERROR_DENIED, "Convert what is below it (qemu-img rebase), or give the image to root.",
      "disk image %s is not root's, and an image below it is neither raw nor qcow2, or no file", path);
  return FALSE;
}

/* What is no file here, or of another format, cannot be given by a descriptor: such a chain is opened by its
 * names. */
static gboolean
start_server(QemuOffline *offline, const char *path, const char *format, const char *bitmap, GError **error)
{
  const QemuLayer *layers = (const QemuLayer *) offline->chain->layers->data;
  guint n_layers = offline->chain->layers->len, n = 0;
  gboolean is_plain = offline->chain->is_plain;
  if (!is_plain && !check_names_are_ours(offline->chain, path, error))
    return FALSE;
  g_autofree char *socket = g_strconcat("--socket=", offline->socket, NULL);
  g_autofree char *bitmap_option = g_strconcat("--bitmap=", bitmap, NULL);
  g_autofree char *name = is_plain ? qemu_layers_name(layers, n_layers) : g_strdup(path);
  /* Connections of a reader, of two maps, and one that asks whether it listens. */
  const char *argv[11] = {"qemu-nbd", "--read-only", "--persistent", "--shared=16", socket};
  n = 5;
  if (bitmap)
    argv[n++] = bitmap_option;
  if (!is_plain) {
    argv[n++] = "-f";
    argv[n++] = format;
  }
  argv[n++] = "--";
  argv[n] = name;
  offline->server = qemu_layers_start(argv, TRUE, layers, is_plain ? n_layers : 0, error);
  return offline->server != NULL;
}

static gboolean
wait_until_listening(QemuOffline *offline, const char *path, GCancellable *cancellable, GError **error)
{
  gint64 deadline_us = g_get_monotonic_time() + (gint64) TOOL_TIMEOUT_MS * 1000;
  while (!is_listening(offline->socket)) {
    if (g_cancellable_is_cancelled(cancellable)) {
      cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled");
      return FALSE;
    }
    if (qemu_child_wait(offline->server, POLL_MS))
      return set_tool_error(offline->server, path, error);
    if (g_get_monotonic_time() > deadline_us)
      return set_too_late(path, error);
  }
  return TRUE;
}

/* "a,b" would be two options. */
static char *
shared_options(const char *path)
{
  g_auto(GStrv) parts = g_strsplit(path, ",", -1);
  g_autofree char *escaped = g_strjoinv(",,", parts);
  return g_strconcat("driver=qcow2,force-share=on,file.driver=file,file.filename=", escaped, NULL);
}

QemuOffline *
qemu_offline_serve_shared(const char *path, const char *runtime_dir, GCancellable *cancellable,
                          GError **error)
{
  g_autoptr(QemuOffline) offline = g_new0(QemuOffline, 1);
  g_autofree char *options = shared_options(path);
  sweep(runtime_dir);
  if (!check_arguments(path, "qcow2", error) || !make_names(offline, runtime_dir, error))
    return NULL;
  g_autofree char *socket = g_strconcat("--socket=", offline->socket, NULL);
  const char *const argv[] = {"qemu-nbd", "--read-only", "--persistent", "--shared=16", "--image-opts",
                              socket,     "--",          options,        NULL};
  offline->server = qemu_child_start(argv, TRUE, error);
  if (!offline->server || !wait_until_listening(offline, path, cancellable, error))
    return NULL;
  return g_steal_pointer(&offline);
}

/* qemu-nbd would say it as well, but may listen before it does. */
static gboolean
check_bitmap(const QemuOffline *offline, const char *path, const char *bitmap, GError **error)
{
  for (guint i = 0; bitmap && i < offline->chain->bitmaps->len; i++) {
    const QemuBitmap *found = offline->chain->bitmaps->pdata[i];
    if (strcmp(found->name, bitmap) != 0)
      continue;
    if (!found->is_inconsistent)
      return TRUE;
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, "Remove the bitmap: it may miss changes.",
                  "disk image %s: bitmap '%s' is inconsistent", path, bitmap);
    return FALSE;
  }
  if (bitmap)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "disk image %s: bitmap '%s' is not found", path, bitmap);
  return bitmap == NULL;
}

QemuOffline *
qemu_offline_serve(const char *path, const char *format, const char *bitmap, const char *runtime_dir,
                   GCancellable *cancellable, GError **error)
{
  g_autoptr(QemuOffline) offline = g_new0(QemuOffline, 1);
  sweep(runtime_dir);
  offline->chain = read_chain(path, format, error);
  if (!offline->chain || !check_bitmap(offline, path, bitmap, error) ||
      !make_names(offline, runtime_dir, error) || !start_server(offline, path, format, bitmap, error) ||
      !wait_until_listening(offline, path, cancellable, error))
    return NULL;
  return g_steal_pointer(&offline);
}

const char *
qemu_offline_uri(const QemuOffline *offline)
{
  return offline->uri;
}

/* Not the change time, as for other images (cbt/source-file.c): libvirt gives those of a guest that ended to
 * their owner again, which is no write. */
static gboolean
is_same(const Image *image, const struct stat *now)
{
  const struct stat *was = &image->st;
  if (S_ISBLK(was->st_mode))
    return S_ISBLK(now->st_mode) && now->st_rdev == was->st_rdev &&
           cbt_block_mark_get(image->fd) == image->mark;
  return now->st_dev == was->st_dev && now->st_ino == was->st_ino && now->st_size == was->st_size &&
         now->st_mtim.tv_sec == was->st_mtim.tv_sec && now->st_mtim.tv_nsec == was->st_mtim.tv_nsec;
}

gboolean
qemu_offline_check_changed(const QemuOffline *offline, gboolean *changed, GError **error)
{
  *changed = FALSE;
  for (guint i = 0; offline->chain && i < offline->chain->images->len && !*changed; i++) {
    const Image *image = offline->chain->images->pdata[i];
    struct stat now;
    if (fsync(image->fd) != 0)
      g_debug("%s: cannot sync: %s", image->path, g_strerror(errno));
    gboolean is_there = stat(image->path, &now) == 0;
    if (!is_there && errno != ENOENT) {
      cbt_set_error_errno(error, errno, "cannot examine disk image %s", image->path);
      return FALSE;
    }
    *changed = !is_there || !is_same(image, &now);
  }
  return TRUE;
}

void
qemu_offline_stop(QemuOffline *offline)
{
  if (!offline)
    return;
  qemu_child_free(offline->server);
  if (offline->socket)
    unlink(offline->socket);
  g_clear_pointer(&offline->chain, chain_free);
  g_free(offline->socket);
  g_free(offline->uri);
  g_free(offline);
}
