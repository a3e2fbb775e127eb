#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads a VMA archive, sharing no code with the product: a second opinion on what the product writes.

usage: vma_reader.py [--as-written] ARCHIVE [FOLDER]

Prints the table of contents, as cbt-vma list does but for the time. With FOLDER it writes disk-NAME.raw, vmstate.bin
and the configuration files into it. Any breach of the format ends it with a message and status 1. With --as-written
the archive must also look as the original tool's writer makes it.
"""
import hashlib
import os
import struct
import sys

BLOCK, CLUSTER, FIXED, EXTENT = 4096, 65536, 12288, 512


class Damage(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damage(what)


def md5_fits(data, at):
    return hashlib.md5(data[:at] + bytes(16) + data[at + 16:]).digest() == data[at:at + 16]


class Header:
    def __init__(self, stream):
        fixed = stream.read(FIXED)
        need(len(fixed) == FIXED and fixed[:4] == b"VMA\0", "magic")
        version, self.uuid, self.ctime, _, blobs_at, blobs_size, self.size = struct.unpack_from(">I16sq16sIII", fixed, 4)
        need(self.size > FIXED, "header size")
        data = fixed + stream.read(self.size - FIXED)
        need(len(data) == self.size, "header is cut off")
        need(md5_fits(data, 32), "md5 of the header")
        need(version == 1, "version")
        need(blobs_at >= FIXED and blobs_at + blobs_size <= self.size, "blob table")
        self.blobs = data[blobs_at:blobs_at + blobs_size]
        names = struct.unpack_from(">256I", data, 2044)
        contents = struct.unpack_from(">256I", data, 3068)
        self.configs = [(self.name(n), self.blob(c)) for n, c in zip(names, contents) if n or c]
        self.devices = {}
        for number in range(1, 255):
            name, _, size = struct.unpack_from(">IIQ", data, 4096 + 32 * number)
            if size:
                self.devices[number] = (self.name(name), size)
        need(self.configs or self.devices, "nothing in it")
        self.reserved = data[60:2044] + b"".join(data[4096 + 32 * i + 16:4096 + 32 * i + 32] for i in range(256))

    def blob(self, offset):
        need(0 < offset and offset + 2 <= len(self.blobs), "blob offset")
        (length,) = struct.unpack_from("<H", self.blobs, offset)
        need(offset + 2 + length <= len(self.blobs), "blob length")
        return self.blobs[offset + 2:offset + 2 + length]

    def name(self, offset):
        blob = self.blob(offset)
        need(len(blob) > 1 and blob.find(b"\0") == len(blob) - 1, "name")
        return blob[:-1].decode()


class Disk:
    def __init__(self, name, size, folder):
        self.is_state = name == "vmstate"
        self.size, self.seen = size, set()
        file_name = "vmstate.bin" if self.is_state else f"disk-{name}.raw"
        self.file = open(os.path.join(folder, file_name), "xb") if folder else None
        if self.file and not self.is_state:
            self.file.truncate(size)

    def put(self, number, mask, blocks):
        start = number * CLUSTER
        need(start < self.size, "cluster behind the end")
        need(number not in self.seen, "cluster twice")
        need(not self.is_state or number == len(self.seen), "state out of order")
        self.seen.add(number)
        for i in range(16):
            at = start + i * BLOCK
            need(at < self.size or not mask >> i & 1, "data behind the end")
            if self.file and mask >> i & 1:
                data = blocks.pop(0)
                self.file.seek(at)
                self.file.write(data[:self.size - at])
        if self.file and self.is_state:
            self.file.truncate(min(start + CLUSTER, self.size))


def read_extent(stream, header, disks, as_written):
    head = stream.read(EXTENT)
    if not head:
        return False
    need(len(head) == EXTENT, "garbage at the end")
    magic, reserved, count, uuid = struct.unpack_from(">4sHH16s", head)
    need(magic == b"VMAE" and md5_fits(head, 24), "extent header")
    need(uuid == header.uuid and reserved == 0, "extent uuid, reserved")
    infos = struct.unpack_from(">59Q", head, 40)
    used = [(i >> 32 & 255, i & 0xffffffff, i >> 48) for i in infos if i >> 32 & 255]
    need(sum(bin(mask).count("1") for _, _, mask in used) == count, "block count")
    for device, number, mask in used:
        need(device in disks, "unknown device")
        blocks = [stream.read(BLOCK) for i in range(16) if mask >> i & 1]
        need(all(len(block) == BLOCK for block in blocks), "extent is cut off")
        if as_written:
            need(all(any(block) for block in blocks), "a block of zeros was written")
        disks[device].put(number, mask, blocks)
    if as_written:
        need(1 <= len(used) <= 58 and not any(infos[len(used):]), "clusters of an extent")
    return True


def check_as_written(header):
    need(header.size % 512 == 0 and header.size <= 512 << 10 and not any(header.reserved), "shape of the header")
    need(sorted(header.devices) == list(range(1, len(header.devices) + 1)), "numbers of the disks")
    need(all(size % 512 == 0 for _, size in header.devices.values()), "sizes of the disks")


def main(words):
    as_written = "--as-written" in words
    words = [word for word in words if word != "--as-written"]
    folder = words[1] if len(words) > 1 else None
    if folder:
        os.mkdir(folder)
    with open(words[0], "rb") as stream:
        header = Header(stream)
        for name, data in header.configs:
            print(f"CFG: size: {len(data)} name: {name}")
            if folder:
                with open(os.path.join(folder, name), "xb") as config:
                    config.write(data)
        for number, (name, size) in header.devices.items():
            print(f"VMSTATE: dev_id={number} memory: {size}" if name == "vmstate"
                  else f"DEV: dev_id={number} size: {size} devname: {name}")
        disks = {number: Disk(name, size, folder) for number, (name, size) in header.devices.items()}
        while read_extent(stream, header, disks, as_written):
            pass
    if as_written:
        check_as_written(header)
    for number, disk in disks.items():
        need(disk.is_state or len(disk.seen) == -(-disk.size // CLUSTER), f"clusters of disk {number} are missing")
        if disk.file:
            disk.file.close()


try:
    main(sys.argv[1:])
except Damage as damage:
    print(f"vma_reader.py: {damage}", file=sys.stderr)
    sys.exit(1)
