/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Three steps. The guest's disks are listed: those that are made of nothing else, from guest-get-disks, and
 * what guest-get-fsinfo knows besides. Each is compared with each disk of QEMU, to yes, no or unknown; every
 * disk of QEMU must be found just once, else nothing is sure. Then each file system is traced down to these
 * disks.
 */
#include <cbt/qemu/quiesce-map.h>

#include <string.h>

#define VIRTIO_SERIAL_BYTES 20   /* what virtio-blk and ATA have room for */
#define MAX_DEPTH           32   /* of disks that are made of disks */
#define MAX_LIST            4096 /* of what a guest is believed to have */

typedef enum { MATCH_NO, MATCH_UNKNOWN, MATCH_YES } Match;

typedef struct {
  const QgaDiskAddress *address; /* or NULL */
  const char *name;              /* of its device, or NULL */
  gboolean is_ours;              /* it is one of the disks backed up */
} Leaf;

typedef struct {
  GPtrArray *filesystems, *guest_disks, *disks;
  GArray *leaves; /* Leaf */
  char *doubt;    /* why the mapping is not sure, or NULL */
} Map;

/* Kinds that Linux cannot freeze; is_static: nor is there a need to. */
static const struct {
  const char *type;
  gboolean is_static;
} unfreezable[] = {{"vfat", FALSE},    {"msdos", FALSE},   {"exfat", FALSE},   {"ntfs3", FALSE},
                   {"fuseblk", FALSE}, {"hfs", FALSE},     {"hfsplus", FALSE}, {"udf", FALSE},
                   {"iso9660", TRUE},  {"squashfs", TRUE}, {"erofs", TRUE},    {"cramfs", TRUE},
                   {"romfs", TRUE},    {"ntfs", TRUE}};

/* Comparing one disk */

/* As udev writes it: other characters become underscores. */
static char *
plain_serial(const char *serial)
{
  char *plain = g_strstrip(g_strdup(serial ? serial : ""));
  for (char *c = plain; *c; c++)
    if (!g_ascii_isalnum(*c) && !strchr("#+-.:=@_", *c))
      *c = '_';
  return plain;
}

/* udev puts maker and model before the serial of a SCSI disk. */
static gboolean
is_same_serial(const char *guest, const char *host)
{
  gsize guest_length = strlen(guest), host_length = strlen(host);
  if (g_str_equal(guest, host))
    return TRUE;
  if (guest_length == VIRTIO_SERIAL_BYTES && host_length > VIRTIO_SERIAL_BYTES)
    return strncmp(guest, host, VIRTIO_SERIAL_BYTES) == 0;
  return guest_length > host_length && guest[guest_length - host_length - 1] == '_' &&
         g_str_has_suffix(guest, host);
}

/* Whether another disk of QEMU's, or of the guest's, has it. */
static gboolean
is_serial_shared(const Map *map, const QgaDiskAddress *address, const QemuDisk *disk)
{
  guint n_guest = 0, n_host = 0;
  for (guint i = 0; i < map->disks->len; i++)
    n_host += g_strcmp0(((const QemuDisk *) map->disks->pdata[i])->serial, disk->serial) == 0;
  for (guint i = 0; i < map->leaves->len; i++) {
    const QgaDiskAddress *other = g_array_index(map->leaves, Leaf, i).address;
    n_guest += other && g_strcmp0(other->serial, address->serial) == 0;
  }
  return n_host > 1 || n_guest > 1;
}

static Match
match_serial(const Map *map, const QgaDiskAddress *address, const QemuDisk *disk)
{
  g_autofree char *guest = plain_serial(address->serial), *host = plain_serial(disk->serial);
  if (!*guest || !*host || is_serial_shared(map, address, disk))
    return MATCH_UNKNOWN;
  if (is_same_serial(guest, host))
    return MATCH_YES;
  /* What a guest takes for the serial of other disks may be their world-wide name. */
  return g_strcmp0(address->bus_type, "virtio") == 0 ? MATCH_NO : MATCH_UNKNOWN;
}

static gboolean
is_same_controller(const QgaDiskAddress *a, const QgaDiskAddress *b)
{
  return a && b && a->has_pci && b->has_pci && a->pci_domain == b->pci_domain && a->pci_bus == b->pci_bus &&
         a->pci_slot == b->pci_slot && a->pci_function == b->pci_function;
}

/* Whether a controller has just this disk; never known without a list of all disks. */
static gboolean
is_alone(const Map *map, const QgaDiskAddress *address)
{
  guint n = 0;
  for (guint i = 0; i < map->leaves->len; i++)
    n += is_same_controller(g_array_index(map->leaves, Leaf, i).address, address);
  return map->guest_disks && n == 1;
}

static Match
match_pci(const Map *map, const QgaDiskAddress *address, const QemuDisk *disk)
{
  gboolean is_on_root =
      disk->has_pci && (g_strcmp0(disk->pci_bus, "pci.0") == 0 || g_strcmp0(disk->pci_bus, "pcie.0") == 0);
  if (!disk->has_pci || !address->has_pci)
    return MATCH_UNKNOWN;
  gboolean is_guest_root = address->pci_domain == 0 && address->pci_bus == 0;
  if (is_on_root != is_guest_root)
    return MATCH_NO;
  if (!is_on_root)
    return MATCH_UNKNOWN;
  if (address->pci_slot != disk->pci_slot || address->pci_function != disk->pci_function)
    return MATCH_NO;
  gboolean is_only = g_strcmp0(address->bus_type, "virtio") == 0 || is_alone(map, address);
  return is_only ? MATCH_YES : MATCH_UNKNOWN;
}

static Match
match_disk(const Map *map, const Leaf *leaf, const QemuDisk *disk)
{
  if (!leaf->address)
    return MATCH_UNKNOWN;
  Match by_serial = match_serial(map, leaf->address, disk);
  return by_serial == MATCH_UNKNOWN ? match_pci(map, leaf->address, disk) : by_serial;
}

/* The guest's disks */

/* Made of other disks, or of files on them. */
static gboolean
is_stacked(const char *device)
{
  static const char *const prefixes[] = {"/dev/loop", "/dev/dm-", "/dev/md", "/dev/bcache"};
  for (guint i = 0; i < G_N_ELEMENTS(prefixes); i++)
    if (g_str_has_prefix(device, prefixes[i]))
      return TRUE;
  return FALSE;
}

static const QgaDisk *
find_guest_disk(const Map *map, const char *device)
{
  for (guint i = 0; device && map->guest_disks && i < map->guest_disks->len; i++) {
    const QgaDisk *disk = map->guest_disks->pdata[i];
    if (g_str_equal(disk->name, device) || g_strcmp0(disk->alias, device) == 0)
      return disk;
  }
  return NULL;
}

static gboolean
is_leaf(const QgaDisk *disk)
{
  return !disk->is_partition && !disk->dependencies[0] && (disk->address || !is_stacked(disk->name));
}

static gboolean
is_same_address(const QgaDiskAddress *a, const QgaDiskAddress *b)
{
  return a && b && g_strcmp0(a->serial, b->serial) == 0 && a->has_pci == b->has_pci &&
         (!a->has_pci || is_same_controller(a, b)) && a->bus == b->bus && a->target == b->target &&
         a->unit == b->unit;
}

static void
add_leaf(Map *map, const QgaDiskAddress *address, const char *name)
{
  Leaf leaf = {.address = address, .name = name};
  g_array_append_val(map->leaves, leaf);
}

/* A file system may be on a disk that the list of disks lacks, or there is no list. */
static gboolean
is_listed(const Map *map, const QgaDiskAddress *address)
{
  if (find_guest_disk(map, address->device))
    return TRUE;
  for (guint i = 0; i < map->leaves->len; i++)
    if (is_same_address(g_array_index(map->leaves, Leaf, i).address, address))
      return TRUE;
  return FALSE;
}

static void
list_leaves(Map *map)
{
  for (guint i = 0; map->guest_disks && i < map->guest_disks->len; i++) {
    const QgaDisk *disk = map->guest_disks->pdata[i];
    if (is_leaf(disk))
      add_leaf(map, disk->address, disk->name);
  }
  for (guint i = 0; i < map->filesystems->len; i++) {
    const QgaFilesystem *filesystem = map->filesystems->pdata[i];
    for (guint k = 0; k < filesystem->disks->len; k++)
      if (!is_listed(map, filesystem->disks->pdata[k]))
        add_leaf(map, filesystem->disks->pdata[k], NULL);
  }
}

static void
doubt(Map *map, const char *what, const QemuDisk *disk)
{
  const char *name = qemu_disk_lasting_name(disk);
  if (!map->doubt)
    map->doubt = g_strdup_printf("the disk %s %s", name ? name : "without a name", what);
}

static void
match_leaves(Map *map)
{
  for (guint i = 0; i < map->disks->len; i++) {
    const QemuDisk *disk = map->disks->pdata[i];
    guint n_found = 0;
    for (guint k = 0; k < map->leaves->len; k++) {
      Leaf *leaf = &g_array_index(map->leaves, Leaf, k);
      if (match_disk(map, leaf, disk) != MATCH_YES)
        continue;
      if (leaf->is_ours)
        doubt(map, "looks in the guest like another one", disk);
      leaf->is_ours = TRUE;
      n_found++;
    }
    if (n_found != 1)
      doubt(map, n_found ? "is found in the guest more than once" : "is not found in the guest for sure",
            disk);
  }
}

/* From a file system down to disks */

typedef struct {
  GHashTable *visited; /* QgaDisk: what the guest says may go in circles */
  guint n_leaves;      /* reached */
  gboolean is_ours;    /* one of them is */
} Trace;

static void
reach(Trace *trace, const Leaf *leaf)
{
  trace->n_leaves++;
  trace->is_ours |= leaf->is_ours;
}

static void
trace_device(const Map *map, const char *device, guint depth, Trace *trace)
{
  const QgaDisk *disk = find_guest_disk(map, device);
  trace->is_ours |= depth > MAX_DEPTH; /* to be careful */
  if (depth > MAX_DEPTH)
    return;
  if (!disk || !g_hash_table_add(trace->visited, (gpointer) disk))
    return;
  for (guint i = 0; i < map->leaves->len; i++) {
    const Leaf *leaf = &g_array_index(map->leaves, Leaf, i);
    if (leaf->name == disk->name)
      reach(trace, leaf);
  }
  for (guint i = 0; disk->dependencies[i]; i++)
    trace_device(map, disk->dependencies[i], depth + 1, trace);
}

static void
trace_address(const Map *map, const QgaDiskAddress *address, Trace *trace)
{
  if (find_guest_disk(map, address->device)) {
    trace_device(map, address->device, 0, trace);
    return;
  }
  for (guint i = 0; i < map->leaves->len; i++) {
    const Leaf *leaf = &g_array_index(map->leaves, Leaf, i);
    if (is_same_address(leaf->address, address))
      reach(trace, leaf);
  }
}

static gboolean
is_to_be_frozen(const Map *map, const QgaFilesystem *filesystem)
{
  g_autoptr(GHashTable) visited = g_hash_table_new(NULL, NULL);
  g_autofree char *device = g_strconcat("/dev/", filesystem->name, NULL);
  Trace trace = {.visited = visited};
  trace_device(map, device, 0, &trace);
  for (guint i = 0; i < filesystem->disks->len; i++)
    trace_address(map, filesystem->disks->pdata[i], &trace);
  /* Or it is on something that the agent cannot see through: perhaps a file on a disk of ours. */
  return trace.is_ours || (trace.n_leaves == 0 && is_stacked(device));
}

/* The plan */

static gboolean
is_windows(GPtrArray *filesystems)
{
  for (guint i = 0; i < filesystems->len; i++) {
    const char *mountpoint = ((const QgaFilesystem *) filesystems->pdata[i])->mountpoint;
    if (g_ascii_isalpha(mountpoint[0]) && mountpoint[1] == ':')
      return TRUE;
  }
  return FALSE;
}

static gboolean
can_freeze(const QgaFilesystem *filesystem, gboolean *is_static)
{
  for (guint i = 0; i < G_N_ELEMENTS(unfreezable); i++)
    if (g_ascii_strcasecmp(filesystem->type, unfreezable[i].type) == 0) {
      *is_static = unfreezable[i].is_static;
      return FALSE;
    }
  return TRUE;
}

static void
count_filesystem(QemuQuiescePlan *plan, const QgaFilesystem *filesystem, GHashTable *counted)
{
  gboolean is_static = FALSE;
  const char *id = *filesystem->name ? filesystem->name : filesystem->mountpoint;
  if (!g_hash_table_add(counted, (gpointer) id))
    return;
  plan->n_max++;
  if (can_freeze(filesystem, &is_static))
    plan->n_min++;
  else if (!is_static) {
    g_autofree char *before = plan->unfrozen;
    plan->unfrozen = g_strdup_printf("%s%s%s (%s)", before ? before : "", before ? ", " : "",
                                     filesystem->mountpoint, filesystem->type);
  }
}

static QemuQuiescePlan *
make_plan(GPtrArray *filesystems, GPtrArray *chosen)
{
  QemuQuiescePlan *plan = g_new0(QemuQuiescePlan, 1);
  g_autoptr(GHashTable) counted = g_hash_table_new(g_str_hash, g_str_equal);
  g_autoptr(GStrvBuilder) mountpoints = g_strv_builder_new();
  for (guint i = 0; i < chosen->len; i++) {
    const QgaFilesystem *filesystem = chosen->pdata[i];
    g_strv_builder_add(mountpoints, filesystem->mountpoint);
    count_filesystem(plan, filesystem, counted);
  }
  plan->mountpoints = g_strv_builder_end(mountpoints);
  plan->is_all = chosen->len == filesystems->len;
  if (is_windows(filesystems)) { /* which volumes VSS takes cannot be told from here */
    plan->n_min = MIN(1, chosen->len);
    plan->n_max = G_MAXUINT;
    g_clear_pointer(&plan->unfrozen, g_free);
  }
  return plan;
}

static GPtrArray *
choose(const Map *map)
{
  GPtrArray *chosen = g_ptr_array_new();
  for (guint i = 0; i < map->filesystems->len; i++) {
    gpointer filesystem = map->filesystems->pdata[i];
    if (!map->disks || map->doubt || is_to_be_frozen(map, filesystem))
      g_ptr_array_add(chosen, filesystem);
  }
  return chosen;
}

QemuQuiescePlan *
qemu_quiesce_plan_new(GPtrArray *filesystems, GPtrArray *guest_disks, GPtrArray *disks)
{
  Map map = {.filesystems = filesystems, .guest_disks = guest_disks, .disks = disks};
  g_autoptr(GArray) leaves = map.leaves = g_array_new(FALSE, TRUE, sizeof(Leaf));
  guint n = MAX(filesystems->len, guest_disks ? guest_disks->len : 0);
  if (disks && n > MAX_LIST)
    map.doubt = g_strdup_printf("the guest says that it has %u disks or file systems", n);
  else if (disks) {
    list_leaves(&map);
    match_leaves(&map);
  }
  g_autoptr(GPtrArray) chosen = choose(&map);
  QemuQuiescePlan *plan = make_plan(filesystems, chosen);
  plan->note = map.doubt;
  return plan;
}

void
qemu_quiesce_plan_free(QemuQuiescePlan *plan)
{
  if (!plan)
    return;
  g_strfreev(plan->mountpoints);
  g_free(plan->note);
  g_free(plan->unfrozen);
  g_free(plan);
}
