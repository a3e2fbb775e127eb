#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads a store by docs/formats alone: `store_reader.py STORE` walks down from every point file, checks each record and
each digest that is met, and prints as JSON the bytes of packs and of the distinct records that points use."""

import configparser
import ctypes
import json
import os
import struct
import sys

CLUSTER = 65536
PACK_HEADER = 64
RECORD_HEADER = 48
FAN_OUT = 128
DATA, PAGE, BLOB = 1, 2, 3
ZSTD, GROUP = 1, 2
ZERO = bytes(16)

_zstd = ctypes.CDLL("libzstd.so.1")
_zstd.ZSTD_decompress.restype = ctypes.c_size_t
_zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
_xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


class _Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxhash.XXH3_128bits_withSecret.restype = _Hash128
_xxhash.XXH3_128bits_withSecret.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


class Damage(Exception):
    pass


def _check(condition, *what):
    if not condition:
        raise Damage(" ".join(str(word) for word in what))


def _decompress(payload, length, where):
    buffer = ctypes.create_string_buffer(length)
    _check(_zstd.ZSTD_decompress(buffer, length, payload, len(payload)) == length, where, "does not decompress")
    return buffer.raw


class Pack:
    """Its chunks by a walk over the records; the last one of an id counts. What is kept of each: the record, its payload's
    length, encoding and type, the chunk's own length, its number in a group, and the bytes that it takes of the pack."""

    def __init__(self, store, name):
        self.name = name
        with open(os.path.join(store.folder, "packs", name), "rb") as file:
            self.data = file.read()
        number = int(name[:8], 16)
        _check(self.data[:8] == b"CBTPACK\0", name, "is no pack")
        _check(self.data[16:32] == store.uuid, name, "is of another store")
        _check(struct.unpack_from("<I", self.data, 8)[0] in (1, 2), name, "is of an unknown version")
        self.records = {}
        at = PACK_HEADER
        while self.data[at : at + 4] == b"CBTR":
            header = struct.unpack_from("<4sBBHII16sII", self.data, at)
            _, kind, encoding, _, length, payload, chunk, in_pack, place = header
            _check((in_pack, place) == (number, at // 16), name, at, "names another place")
            span = (RECORD_HEADER + payload + 15) // 16 * 16
            if encoding == GROUP:
                self.add_group(at, length, payload, span)
            else:
                self.records[chunk] = (at, payload, encoding, kind, length, 0, span)
            at += span

    def add_group(self, at, length, payload, span):
        _check(length % CLUSTER == 0 and 2 <= length // CLUSTER <= 64, self.name, at, "is a group of a wrong length")
        n = length // CLUSTER
        for i in range(n):
            start = at + RECORD_HEADER + 16 * i
            share = (span // 16 // n + (i < span // 16 % n)) * 16
            self.records[self.data[start : start + 16]] = (at, payload, GROUP, DATA, CLUSTER, i, share)


class Store:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "format"), "rb") as file:
            data = file.read()
        _check(data[:8] == b"CBTSTORE", "format is none")
        self.uuid, self.secret = data[16:32], data[56:248]
        low, high = struct.unpack("<QQ", self.uuid)
        self.seed = low ^ high
        self.places = {}  # chunk id to its pack; in the order of packs, so the last one wins
        self.pack_bytes = 0
        for name in sorted(os.listdir(os.path.join(folder, "packs"))):
            pack = Pack(self, name)
            self.pack_bytes += len(pack.data)
            self.places.update(dict.fromkeys(pack.records, pack))
        self.groups = {}
        self.live = {}  # chunk id to the bytes of its record
        self.seen = set()  # (page, level)

    def read(self, chunk, kind):
        """The checked content of a chunk, which counts as live from here on."""
        pack = self.places.get(chunk)
        _check(pack, "chunk", chunk.hex(), "is in no pack")
        at, payload_length, encoding, found, length, number, span = pack.records[chunk]
        where = f"{pack.name} at {at}"
        payload = pack.data[at + RECORD_HEADER : at + RECORD_HEADER + payload_length]
        seed = _xxhash.XXH3_64bits_withSeed(pack.data[at : at + 40], 40, self.seed)
        checksum = _xxhash.XXH3_64bits_withSeed(payload, len(payload), seed)
        _check(checksum == struct.unpack_from("<Q", pack.data, at + 40)[0], where, "has a wrong checksum")
        _check(found == kind, where, "is of type", found, "and not", kind)
        content = payload
        if encoding == ZSTD:
            content = _decompress(payload, length, where)
        elif encoding == GROUP:
            content = self.group(pack, at, payload, where)[number * CLUSTER :][:CLUSTER]
        _check(len(content) == length, where, "has another length")
        value = _xxhash.XXH3_128bits_withSecret(content, length, self.secret, len(self.secret))
        _check(struct.pack(">QQ", value.high, value.low)[:15] == chunk[:15], where, "has another digest")
        self.live[chunk] = span
        return content

    def group(self, pack, at, payload, where):
        """The contents of a group; those of the last few are kept."""
        key = (pack.name, at)
        if key not in self.groups:
            n = struct.unpack_from("<I", pack.data, at + 8)[0] // CLUSTER
            if len(self.groups) == 8:
                del self.groups[next(iter(self.groups))]
            self.groups[key] = _decompress(payload[16 * n :], n * CLUSTER, where)
        return self.groups[key]

    def walk(self, page, level):
        if page == ZERO or (page, level) in self.seen:
            return
        self.seen.add((page, level))
        content = self.read(page, PAGE)
        magic, version, found, n = struct.unpack_from("<4sBBH", content)
        _check((magic, version, found) == (b"CBPG", 1, level), "page", page.hex(), "is not of level", level)
        for entry in range(n):
            child = content[8 + 16 * entry : 24 + 16 * entry]
            if level > 0:
                self.walk(child, level - 1)
            elif child != ZERO and child not in self.live:
                self.read(child, DATA)

    def walk_point(self, name):
        with open(os.path.join(self.folder, "points", name), "rb") as file:
            data = file.read()
        body, _, last = data[:-1].rpartition(b"\n")
        value = _xxhash.XXH3_64bits_withSeed(body + b"\n", len(body) + 1, 0)
        _check(last.decode() == f"# xxh3-64: {value:016x}", name, "has a wrong checksum")
        parser = configparser.RawConfigParser()
        parser.read_string(body.decode())
        for group in parser.sections():
            if group.startswith("disk "):
                clusters = (parser.getint(group, "size") + CLUSTER - 1) // CLUSTER
                levels = 1
                while FAN_OUT**levels < clusters:
                    levels += 1
                self.walk(bytes.fromhex(parser.get(group, "root")), levels - 1)
            elif group.startswith("config "):
                self.read(bytes.fromhex(parser.get(group, "chunk")), BLOB)


def report(folder):
    store = Store(folder)
    points = [name for name in os.listdir(os.path.join(folder, "points")) if name.endswith(".point")]
    for name in points:
        store.walk_point(name)
    return {
        "points": len(points),
        "chunks": len(store.live),
        "live-bytes": sum(store.live.values()),
        "pack-bytes": store.pack_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1])))
