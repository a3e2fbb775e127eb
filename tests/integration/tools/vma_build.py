# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds VMA archives byte by byte, right or wrong in any way that a test asks for. Shares no code with the product."""
import hashlib
import os
import random
import struct

BLOCK, CLUSTER, FIXED, EXTENT = 4096, 65536, 12288, 512
NAMES, DATA, DEVICES = 2044, 3068, 4096
NO_BLOCK = bytes(BLOCK)


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def put(data, at, form, *values):
    struct.pack_into(form, data, at, *values)


def fix_md5(data, at):
    data[at:at + 16] = bytes(16)
    data[at:at + 16] = hashlib.md5(data).digest()


class Cluster:
    """A cluster of an extent: the bytes of a disk at its place, or what is set afterwards."""

    def __init__(self, device, number, content=b"", keep_zeros=False):
        self.device, self.number = device, number
        self.blocks, self.mask = [], 0
        content = content.ljust(CLUSTER, b"\0")
        for i in range(16):
            block = content[i * BLOCK:(i + 1) * BLOCK]
            if block != NO_BLOCK or keep_zeros:
                self.blocks.append(block)
                self.mask |= 1 << i

    def info(self):
        return self.mask << 48 | self.device << 32 | self.number


class Extent:
    def __init__(self, clusters):
        self.clusters = list(clusters)  # None: a gap
        self.count = self.uuid = self.before = self.after = None

    def build(self, uuid):
        head = bytearray(EXTENT)
        blocks = [block for cluster in self.clusters if cluster for block in cluster.blocks]
        put(head, 0, ">4sHH16s", b"VMAE", 0, len(blocks) if self.count is None else self.count, self.uuid or uuid)
        for i, cluster in enumerate(self.clusters):
            put(head, 40 + 8 * i, ">Q", cluster.info() if cluster else 0)
        if self.before:
            self.before(head)  # the MD5 fits nevertheless
        fix_md5(head, 24)
        if self.after:
            self.after(head)
        return bytes(head) + b"".join(blocks)


class Archive:
    def __init__(self):
        self.uuid = noise("uuid", 16)
        self.ctime = 1790000000
        self.configs = []  # (name with its NUL, data)
        self.devices = {}  # number: (name with its NUL, size)
        self.disks = {}  # number: content, shorter than the size if zeros follow
        self.extents = []
        self.blobs_at = FIXED
        self.unit = 512
        self.pad = 0
        self.before = self.after = None  # called with the header and the offsets of its blobs
        self.tail = b""

    def add_config(self, name, data):
        self.configs.append((name + b"\0", data))

    def add_disk(self, name, content, size=None, number=None):
        number = number or len(self.devices) + 1
        self.devices[number] = (name + b"\0", len(content) if size is None else size)
        self.disks[number] = content
        return number

    def cluster(self, device, number, **options):
        return Cluster(device, number, self.disks[device][number * CLUSTER:(number + 1) * CLUSTER], **options)

    def clusters(self):
        """All of them, in order."""
        return [self.cluster(device, number) for device, (_, size) in self.devices.items()
                for number in range(-(-size // CLUSTER))]

    def fill(self, n_each=4, clusters=None):
        clusters = self.clusters() if clusters is None else clusters
        self.extents = [Extent(clusters[i:i + n_each]) for i in range(0, len(clusters), n_each)]
        return self

    def header(self):
        blobs, at = bytearray(1), {}

        def blob(key, data):
            at[key] = len(blobs)
            blobs.extend(struct.pack("<H", len(data)) + data)
            return at[key]

        head = bytearray(FIXED)
        for i, (name, data) in enumerate(self.configs):
            put(head, NAMES + 4 * i, ">I", blob(f"config{i}", name))
            put(head, DATA + 4 * i, ">I", blob(f"data{i}", data))
        for number, (name, size) in self.devices.items():
            put(head, DEVICES + 32 * number, ">IIQ", blob(f"device{number}", name), 0, size)
        total = -(-(self.blobs_at + len(blobs) + self.pad) // self.unit) * self.unit
        put(head, 0, ">4sI16sq", b"VMA\0", 1, self.uuid, self.ctime)
        put(head, 48, ">III", self.blobs_at, len(blobs), total)
        head += bytes(self.blobs_at - FIXED) + blobs
        head += bytes(total - len(head))
        at["end"] = len(blobs)
        if self.before:
            self.before(head, at)
        fix_md5(head, 32)
        if self.after:
            self.after(head, at)
        return bytes(head)

    def build(self):
        return self.header() + b"".join(extent.build(self.uuid) for extent in self.extents) + self.tail

    def expected(self):
        """What an extraction gives: contents by the names of files."""
        files = {os.fsdecode(name[:-1]): data for name, data in self.configs}
        for number, (name, size) in self.devices.items():
            if name == b"vmstate\0":
                files["vmstate.bin"] = self.disks[number]
            else:
                files[f"disk-{os.fsdecode(name[:-1])}.raw"] = self.disks[number][:size].ljust(size, b"\0")
        return files


def base():
    """Two disks and a configuration file: full clusters, half ones, a last one that ends amid a block, zeros."""
    archive = Archive()
    archive.add_config(b"qemu-server.conf", b"cores: 1\nname: base\n")
    first = bytearray(noise("first", 3 * CLUSTER + 2 * BLOCK + 512))
    first[CLUSTER + 3 * BLOCK:CLUSTER + 9 * BLOCK] = bytes(6 * BLOCK)
    archive.add_disk(b"drive-a", bytes(first))
    archive.add_disk(b"drive-b", noise("second", CLUSTER).ljust(2 * CLUSTER, b"\0"))
    return archive
