/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/layers.h>

#include <cbt/qemu/qmp-args.h>
#include <common/json-text.h>
#include <sys/stat.h>

#define FIRST_FD 10 /* in the tool: of each layer its image and its data */

static JsonNode *
file_node(int fd, guint number)
{
  struct stat st;
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%u", FIRST_FD + number);
  gboolean is_device = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode);
  return qmp_dict("driver", qmp_str(is_device ? "host_device" : "file"), "filename", qmp_str(path), NULL);
}

static JsonNode *
layer_node(const QemuLayer *layers, guint i, guint n)
{
  JsonNode *below = NULL;
  if (g_str_equal(layers[i].format, "qcow2"))
    below = i + 1 < n ? layer_node(layers, i + 1, n) : json_node_new(JSON_NODE_NULL);
  return qmp_dict("driver", qmp_str(layers[i].format), "file", file_node(layers[i].fd, 2 * i), "data-file",
                  layers[i].data_fd >= 0 ? file_node(layers[i].data_fd, 2 * i + 1) : NULL, "backing", below,
                  NULL);
}

char *
qemu_layers_name(const QemuLayer *layers, guint n)
{
  g_autoptr(JsonNode) node = layer_node(layers, 0, n);
  g_autofree char *text = cbt_json_escape(json_to_string(node, FALSE));
  return g_strconcat("json:", text, NULL);
}

QemuChild *
qemu_layers_start(const char *const *argv, gboolean dies_with_us, const QemuLayer *layers, guint n,
                  GError **error)
{
  g_autofree int *sources = g_new(int, 2 * n), *targets = g_new(int, 2 * n);
  QemuChildFds fds = {sources, targets, 0};
  for (guint i = 0; i < n; i++)
    for (guint k = 0; k < 2; k++) {
      int fd = k == 0 ? layers[i].fd : layers[i].data_fd;
      if (fd < 0)
        continue;
      sources[fds.n] = fd;
      targets[fds.n++] = (int) (FIRST_FD + 2 * i + k);
    }
  return qemu_child_start_with_fds(argv, dies_with_us, &fds, error);
}
