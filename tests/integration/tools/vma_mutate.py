#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes damaged, hostile and odd VMA archives, and holds a program to what it must do with each.

usage: vma_mutate.py CBT-VMA FOLDER [--memory MIB] [--address-space MIB] [--only PART-OF-A-NAME] [--write | --table]

Each kind says which commands refuse it, and a part of the message; else the disks and files that come out. Never may
there be a signal, more memory than allowed, a file outside the folder, an error without a message, output that a
terminal would obey, or a disk under its own name after an error. With --write the archives are only written into
FOLDER; with --table the kinds are only listed.
"""
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading

from vma_build import BLOCK, CLUSTER, DATA, DEVICES, EXTENT, FIXED, NAMES, Archive, Cluster, Extent, base, fix_md5, noise, put

KINDS = {}  # name: (function, what, part of the message)


def kind(what, text=""):
    """WHAT: 'ok'; 'header': nothing can be done with it; 'body': only list; 'names': all but extract."""

    def register(function):
        KINDS[function.__name__.replace("_", "-")] = (function, what, text)
        return function

    return register


def kinds(what, text, variants):
    """One kind for each of VARIANTS, a name and an argument."""

    def register(function):
        for name, argument in variants.items():
            KINDS[f"{function.__name__}-{name}".replace("_", "-")] = (lambda a=argument: function(a), what, text)
        return function

    return register


def set_header(form, at, value, fixed=True):
    """The base archive with one field of its header changed; FIXED: its MD5 fits nevertheless."""
    archive = base().fill()
    setattr(archive, "before" if fixed else "after", lambda head, _: put(head, at, form, value))
    return archive


def with_blobs(change):
    archive = base().fill()
    archive.before = change
    return archive


# ---- sound ones

@kind("ok")
def base_itself():
    return base().fill()


@kinds("ok", "", {"%d" % n: n for n in (1, 2, 57, 58, 59)})
def clusters_each(n):
    archive = base()
    archive.add_disk(b"many", noise("many", CLUSTER).ljust(70 * CLUSTER, b"\0"))
    return archive.fill(n)


@kinds("ok", "", {"reversed": lambda c: c[::-1], "mixed": lambda c: c[1::2] + c[0::2]})
def order_of_clusters(order):
    archive = base()
    return archive.fill(clusters=order(archive.clusters()))


@kinds("ok", "", {"first": 0, "between": 1, "last": 2})
def empty_extent(where):
    archive = base().fill(3)
    archive.extents.insert(where, Extent([]))
    return archive


@kind("ok")
def thousand_empty_extents():
    archive = base().fill()
    archive.extents += [Extent([]) for _ in range(1000)]
    return archive


@kind("ok")
def gaps_between_block_infos():
    archive = base()
    archive.extents = [Extent([None, c, None, None]) for c in archive.clusters()]
    archive.extents[0].clusters = [None] * 58 + archive.extents[0].clusters[1:2]
    return archive


@kind("ok")
def gap_with_a_number_and_a_mask():
    archive = base().fill()
    archive.extents[0].before = lambda head: put(head, 40 + 8 * 58, ">Q", 0xffff << 48 | 77)
    return archive


@kind("ok")
def zeros_under_a_set_mask():
    archive = base()
    return archive.fill(clusters=[archive.cluster(1, n, keep_zeros=n < 3) for n in range(4)] +
                        [archive.cluster(2, n, keep_zeros=True) for n in range(2)])


@kinds("ok", "", {"%d" % n: n for n in (1, 77, 3000)})
def unaligned_header(n):
    archive = base().fill()
    archive.unit, archive.pad = 1, n
    return archive


@kind("ok")
def header_above_512_kib():
    archive = base().fill()
    archive.pad = 1 << 20
    return archive


@kind("ok")
def blob_table_further_on():
    archive = base().fill()
    archive.blobs_at = FIXED + 1001
    return archive


@kind("ok")
def blobs_that_overlap():
    archive = base()
    archive.configs = [(b"both\0", b"both\0")]
    archive.before = lambda head, at: put(head, DATA, ">I", at["config0"])
    return archive.fill()


@kind("ok")
def blob_that_ends_with_the_table():
    archive = base().fill()
    archive.unit = 1  # the last name is the last of the header
    return archive


@kind("ok")
def configuration_without_bytes():
    archive = base().fill()
    archive.add_config(b"empty", b"")
    return archive


@kind("ok")
def only_configurations():
    archive = Archive()
    archive.add_config(b"a", b"b")
    return archive


@kind("ok")
def configurations_256_of_65535_bytes_in_one_blob():
    archive = base().fill()
    archive.configs = [(b"c%d\0" % i, b"") for i in range(256)]
    archive.add_config(b"large", noise("large", 65535))
    large = archive.configs.pop()
    archive.configs[0] = (b"c0\0", large[1])

    def share(head, at):
        for i in range(256):
            put(head, DATA + 4 * i, ">I", at["data0"])

    archive.before = share
    data = archive.build()
    return data, dict(archive.expected(), **{f"c{i}": large[1] for i in range(256)})


@kind("ok")
def reserved_bytes_of_the_header():
    archive = base().fill()

    def fill(head, _):
        head[60:2044] = noise("reserved", 1984)
        put(head, DEVICES + 32 + 4, ">I", 7)
        head[DEVICES + 32 + 16:DEVICES + 64] = noise("device", 16)

    archive.before = fill
    return archive


@kinds("ok", "", {"0": 0, "before-1970": -1, "largest": (1 << 63) - 1, "smallest": -(1 << 63)})
def time(seconds):
    archive = base().fill()
    archive.ctime = seconds
    return archive


@kinds("ok", "", {"2": 2, "77": 77, "254": 254})
def number_of_a_disk(number):
    archive = base()
    archive.add_disk(b"drive-z", noise("z", 5000), number=number if number > 2 else 3)
    return archive.fill()


@kinds("ok", "", {"0": 0, "255": 255})
def number_that_no_disk_has(number):
    archive = base().fill()
    archive.before = lambda head, at: put(head, DEVICES + 32 * number, ">IIQ", at["device1"], 0, 65536)
    return archive


@kinds("ok", "", {"%d" % n: n for n in (1, 511, 1000, 65535, 65537)})
def odd_size_of_a_disk(size):
    archive = base()
    archive.add_disk(b"odd", noise("odd", size))
    return archive.fill()


@kind("ok")
def name_of_a_disk_without_size():
    archive = base().fill()
    archive.before = lambda head, at: put(head, DEVICES + 32 * 9, ">IIQ", at["device1"], 0, 0)
    return archive


@kind("ok")
def bytes_behind_the_disk_in_its_last_block():
    archive = base()
    clusters = archive.clusters()
    clusters[3].blocks[2] = clusters[3].blocks[2][:512] + noise("behind", BLOCK - 512)
    return archive.fill(clusters=clusters)


@kind("ok")
def flipped_data_without_checksums():
    archive = base().fill()
    data = archive.build()
    files = archive.expected()
    first = bytearray(files["disk-drive-a.raw"])
    first[77] ^= 1
    at = len(archive.header()) + EXTENT + 77
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:], dict(files, **{"disk-drive-a.raw": bytes(first)})


@kind("ok")
def names_of_200_bytes():
    archive = base()
    archive.add_disk(b"d" * 200, noise("long", 512))
    archive.add_config(b"c" * 200, b"x")
    return archive.fill()


@kind("ok")
def names_in_no_utf_8():
    archive = base()
    archive.add_disk(b"pl\xe4tte", noise("latin1", 512))
    archive.add_config(b"\xff\xfe", b"x")
    return archive.fill()


@kinds("ok", "", {"csi": b"a\xc2\x9b2Jb", "right-to-left": b"a\xe2\x80\xaeb", "bell-of-8-bits": b"a\x9cb"})
def names_that_a_terminal_would_obey(text):
    archive = base()
    archive.add_disk(text, noise("terminal", 512))
    archive.add_config(text, b"x")
    return archive.fill()


@kinds("ok", "", {"spaces": b" ", "dash": b"-rf", "dot": b".x", "dots": b"...", "shell": b"$(touch evil);*", "backslash": b"..\\x",
                  "percent": b"%s%n", "own-suffix": b"x.partial"})
def odd_name_with(text):
    archive = base()
    archive.add_disk(text, noise("odd", 512))
    archive.add_config(text, b"x")
    return archive.fill()


@kind("ok")
def name_in_utf_8():
    archive = base()
    archive.add_disk("plätte".encode(), noise("utf8", 512))
    archive.add_config("größe".encode(), b"x")
    return archive.fill()


# ---- the state of a machine

def with_state(numbers, size=CLUSTER * 100, n_bytes=5 * CLUSTER):
    archive = base()
    state = archive.add_disk(b"vmstate", noise("state", n_bytes - CLUSTER).ljust(n_bytes, b"\0"), size=size)
    disks = [archive.cluster(d, n) for d, n in ((1, 0), (1, 1), (2, 1), (1, 3), (1, 2), (2, 0))]
    states = [archive.cluster(state, n) for n in numbers]
    mixed = [c for pair in zip(disks, states) for c in pair] + disks[len(states):] + states[len(disks):]
    return archive.fill(3, mixed)


@kind("ok")
def state_between_disks():
    return with_state(range(5))


@kind("ok")
def state_of_size_2_to_the_48():
    return with_state(range(5), size=1 << 48)


@kind("ok")
def state_of_no_cluster():
    archive = with_state([], n_bytes=CLUSTER)
    archive.disks[3] = b""
    return archive


@kinds("body", "out of order", {"swapped": (0, 2, 1, 3), "gap": (0, 1, 3), "late": (1, 2), "twice": (0, 1, 1, 2)})
def state(numbers):
    return with_state(numbers)


@kind("body", "behind the end")
def state_longer_than_its_bound():
    return with_state(range(5), size=3 * CLUSTER)


# ---- the header, field by field

for _name, (_form, _at, _value, _what, _text) in {
        "magic": (">4s", 0, b"VMB\0", "header", "no VMA archive"),
        "magic-without-nul": (">4s", 0, b"VMA1", "header", "no VMA archive"),
        "version-0": (">I", 4, 0, "header", "version 0"),
        "version-2": (">I", 4, 2, "header", "version 2"),
        "uuid": (">Q", 8, 1, "body", "another archive"),
        "blob-table-at-0": (">I", 48, 0, "header", "blob table"),
        "blob-table-too-early": (">I", 48, FIXED - 1, "header", "blob table"),
        "blob-table-behind": (">I", 48, FIXED + 10000, "header", "blob table"),
        "blob-table-at-4-gib": (">I", 48, 0xffffffff, "header", "blob table"),
        "blob-table-shifted": (">I", 48, FIXED + 1, "header", "not there"),
        "blob-table-of-0": (">I", 52, 0, "header", "not there"),
        "blob-table-too-short": (">I", 52, 40, "header", "not there"),
        "blob-table-too-long": (">I", 52, 513, "header", "blob table"),
        "blob-table-of-4-gib": (">I", 52, 0xffffffff, "header", "blob table"),
        "header-size-0": (">I", 56, 0, "header", "size of the archive's header"),
        "header-size-12288": (">I", 56, FIXED, "header", "size of the archive's header"),
        "header-size-12289": (">I", 56, FIXED + 1, "header", ""),
        "header-size-512-more": (">I", 56, FIXED + 1024, "header", "checksum"),
        "header-size-16-mib": (">I", 56, 16 << 20, "header", "cut off"),
        "header-size-above-16-mib": (">I", 56, (16 << 20) + 1, "header", "size of the archive's header"),
        "header-size-4-gib": (">I", 56, 0xffffffff, "header", "size of the archive's header"),
        "config-name-at-0": (">I", NAMES, 0, "header", "not there"),
        "config-data-at-0": (">I", DATA, 0, "header", "not there"),
        "config-name-outside": (">I", NAMES, 0x10000, "header", "not there"),
        "config-data-at-4-gib": (">I", DATA, 0xffffffff, "header", "not there"),
        "config-data-alone": (">I", DATA + 4 * 255, 1, "header", "not there"),
        "disk-name-at-0": (">I", DEVICES + 32, 0, "header", "without a name"),
        "disk-name-outside": (">I", DEVICES + 32, 0x7fffffff, "header", "without a name"),
        "disk-size-0": (">Q", DEVICES + 40, 0, "body", "disk number 1"),
        "disk-size-larger": (">Q", DEVICES + 40, 4 * CLUSTER + 1, "body", "missing"),
        "disk-size-smaller": (">Q", DEVICES + 40, 3 * CLUSTER, "body", "behind the end"),
        "disk-size-a-block-smaller": (">Q", DEVICES + 40, 3 * CLUSTER + BLOCK, "body", "data behind the end"),
        "disk-size-1-tib": (">Q", DEVICES + 40, 1 << 40, "body", ""),
        "disk-size-2-to-the-48": (">Q", DEVICES + 40, 1 << 48, "body", ""),
        "disk-size-above-2-to-the-48": (">Q", DEVICES + 40, (1 << 48) + 1, "header", "impossible size"),
        "disk-size-2-to-the-63": (">Q", DEVICES + 40, 1 << 63, "header", "impossible size"),
        "disk-size-2-to-the-64": (">Q", DEVICES + 40, (1 << 64) - 1, "header", "impossible size")}.items():
    KINDS["field-" + _name] = (lambda f=_form, a=_at, v=_value: set_header(f, a, v), _what, _text)
    if "size-" not in _name or _name.startswith("disk"):
        KINDS[f"field-{_name}-md5-as-it-was"] = (lambda f=_form, a=_at, v=_value: set_header(f, a, v, False), "header",
                                                 "no VMA" if _name.startswith("magic") else "checksum")


@kind("header", "checksum")
def md5_of_the_header():
    return set_header(">B", 40, 0x55, False)


@kinds("header", "checksum", {"%d" % at: at for at in (60, 2000, 3000, 4095, 8000, FIXED - 1, FIXED, FIXED + 300)})
def header_byte(at):
    return set_header(">B", at, 0xa5, False)


@kind("header", "neither a disk nor")
def nothing_in_it():
    return Archive()


@kinds("header", "not there", {"1": 1, "2": 2, "3": 3})
def config_name_at_the_end_of_the_table(back):
    return with_blobs(lambda head, at: put(head, NAMES, ">I", at["end"] - back))


@kind("header", "not there")
def config_longer_than_the_table():
    return with_blobs(lambda head, at: put(head, FIXED + at["data0"], "<H", 0xffff))


@kind("header", "not there")
def config_name_longer_than_the_table():
    return with_blobs(lambda head, at: put(head, FIXED + at["config0"], "<H", at["end"]))


@kinds("header", "", {"config": "config0", "disk": "device1"})
def name_without_nul(which):
    def change(head, at):
        (length,) = struct.unpack_from("<H", head, FIXED + at[which])
        head[FIXED + at[which] + 1 + length] = ord("x")

    return with_blobs(change)


@kinds("header", "", {"config": "config0", "disk": "device1"})
def name_with_two_nuls(which):
    return with_blobs(lambda head, at: put(head, FIXED + at[which] + 3, "B", 0))


@kinds("header", "", {"config-of-0-bytes": ("config0", 0), "disk-of-0-bytes": ("device1", 0)})
def name(which_length):
    which, length = which_length
    return with_blobs(lambda head, at: put(head, FIXED + at[which], "<H", length))


@kinds("header", "", {"config": b"", "disk": None})
def name_of_only_a_nul(config):
    archive = base()
    if config is None:
        archive.add_disk(b"", b"x")
    else:
        archive.add_config(config, b"x")
    return archive.fill()


@kind("header", "two disks of one name")
def two_disks_of_one_name():
    archive = base()
    archive.add_disk(b"drive-a", noise("again", 512))
    return archive.fill()


@kind("header", "two disks of one name")
def two_states():
    archive = base()
    archive.add_disk(b"vmstate", noise("again", 512))
    archive.add_disk(b"vmstate", noise("again", 512))
    return archive.fill()


BAD_NAMES = {"up": b"../evil", "up-far": b"../../../../../../tmp/evil", "absolute": b"/tmp/cbt-evil", "dot": b".", "dots": b"..",
             "folder": b"a/b", "newline": b"a\nb", "escape": b"\x1b[2Ja", "201-bytes": b"x" * 201, "255-bytes": b"x" * 255, "256-bytes": b"x" * 256,
             "65534-bytes": b"x" * 65534, "slash": b"/", "end-slash": b"a/", "dots-inside": b"a/../../b", "tab": b"a\tb",
             "delete": b"\x7f"}


@kinds("names", "plain file name", BAD_NAMES)
def config_named(text):
    archive = base()
    archive.add_config(text, b"evil")
    return archive.fill()


@kinds("names", "plain file name", BAD_NAMES)
def disk_named(text):
    archive = base()
    archive.add_disk(text, b"evil")
    return archive.fill()


@kind("names", "would be named")
def two_configurations_of_one_name():
    archive = base()
    archive.add_config(b"qemu-server.conf", b"other")
    return archive.fill()


@kinds("names", "would be named", {"disk": b"disk-drive-a.raw", "state": b"vmstate.bin"})
def configuration_named_as_the_file_of_a(text):
    archive = base()
    archive.add_disk(b"vmstate", noise("state", CLUSTER))
    archive.add_config(text, b"other")
    return archive.fill()


@kind("body", "\\033[2J")
def missing_cluster_of_a_disk_whose_name_clears_the_screen():
    archive = base()
    archive.add_disk(b"a\x1b[2Jb", b"x")
    archive.fill(clusters=archive.clusters()[:-1])
    return archive


@kinds("header", "", {"disk": b"", "config": None})
def empty_name_of_a(disk):
    archive = base()
    if disk is None:
        archive.add_config(b"", b"x")
    else:
        archive.add_disk(disk, b"x")
    return archive.fill()


@kind("ok")
def disks_254():
    archive = base()
    for i in range(3, 255):
        archive.add_disk(b"d%d" % i, b"%d" % i)
    return archive.fill(59)


@kind("body", "missing")
def disks_254_of_2_to_the_40_without_a_cluster():
    archive = base().fill()
    for i in range(3, 255):
        archive.add_disk(b"d%d" % i, b"", size=1 << 40)
    return archive


# ---- extents

def with_extent(change, fixed=True, which=0):
    archive = base().fill(3)
    setattr(archive.extents[which], "before" if fixed else "after", change)
    return archive


for _name, (_form, _at, _value, _text) in {
        "magic": (">4s", 0, b"VMAF", "no extent"), "reserved": (">H", 4, 1, "reserved"),
        "uuid": (">Q", 8, 7, "another archive")}.items():
    for _which in (0, 1):
        KINDS[f"extent-{_which}-{_name}"] = (lambda f=_form, a=_at, v=_value, w=_which: with_extent(
            lambda head: put(head, a, f, v), which=w), "body", _text)


@kinds("body", "", {"0": 0, "1-less": -1, "1-more": 1, "944": 944, "945": 945, "65535": 65535})
def block_count(n):
    archive = base().fill(3)
    has = sum(len(c.blocks) for c in archive.extents[0].clusters)
    archive.extents[0].count = has + n if abs(n) == 1 else n
    return archive


@kind("body", "number of blocks")
def mask_with_one_more_block():
    return with_extent(lambda head: put(head, 40 + 8, ">H", 0xffff))


@kind("body", "number of blocks")
def count_of_the_blocks_of_a_gap():
    archive = base().fill(3)
    archive.extents[0].clusters[1].device = 0
    return archive


@kinds("body", "", {"%d" % at: at for at in range(3, EXTENT, 41)})
def extent_byte(at):
    def flip(head):
        head[at] ^= 0x10

    return with_extent(flip, fixed=False, which=1)


@kinds("body", "disk number", {"3": 3, "254": 254, "255": 255})
def unknown_disk(number):
    archive = base().fill(3)
    archive.extents[1].clusters[0].device = number
    return archive


@kinds("body", "comes twice", {"in-one-extent": 59, "in-two": 1, "without-data": 2})
def cluster_twice(n_each):
    archive = base()
    again = archive.cluster(2, 1) if n_each == 2 else archive.cluster(1, 1)
    return archive.fill(n_each, archive.clusters() + [again])


@kinds("body", "behind the end of the disk", {"by-1": 4, "by-many": 100000, "at-the-last-number": 0xffffffff})
def cluster_behind_the_end(number):
    archive = base()
    return archive.fill(clusters=archive.clusters() + [Cluster(1, number, b"x")])


@kind("body", "data behind the end")
def block_behind_the_end():
    archive = base()
    archive.disks[1] += bytes(BLOCK) + b"x"
    return archive.fill()


@kind("body", "data behind the end")
def block_of_zeros_behind_the_end():
    archive = base()
    clusters = archive.clusters()
    clusters[3] = archive.cluster(1, 3, keep_zeros=True)
    return archive.fill(clusters=clusters)


@kinds("body", "missing", {"first": [0], "middle": [1], "last-of-a-disk": [3], "of-zeros": [5], "disk": [4, 5],
                           "all": [0, 1, 2, 3, 4, 5]})
def missing(which):
    archive = base()
    return archive.fill(clusters=[c for i, c in enumerate(archive.clusters()) if i not in which])


@kind("body", "another archive")
def extent_of_another_archive():
    archive = base().fill(3)
    archive.extents[1].uuid = noise("other", 16)
    return archive


@kind("body", "another archive")
def body_of_another_archive():
    archive, other = base().fill(), base().fill()
    other.uuid = noise("other", 16)
    return archive.header() + other.build()[len(other.header()):]


@kind("body", "missing")
def clusters_far_apart_on_a_huge_disk():
    archive = base()
    huge = archive.add_disk(b"huge", b"")
    del archive.devices[huge]
    far = [Cluster(huge, n * 2654435761 % (1 << 27)) for n in range(100000)]  # no number twice
    archive.fill(59, archive.clusters() + far)
    archive.devices[huge] = (b"huge\0", 1 << 43)
    return archive


# ---- cut off, and more than there should be

def cut(at):
    """AT: an offset, a negative one from the end; from the end of the header if it is a text."""
    archive = base().fill(3)
    data = archive.build()
    return data[:len(archive.header()) + int(at) if isinstance(at, str) else at]


for _at in (0, 1, 3, 4, 60, 511, 4096, FIXED - 1, FIXED, FIXED + 1, FIXED + 511):
    KINDS[f"cut-at-{_at}"] = (lambda at=_at: cut(at), "header", "cut off")
for _at in ("0", "1", "23", "40", "511", "512", "513", "4607", "4608", "70000"):
    KINDS[f"cut-behind-the-header-by-{_at}"] = (lambda at=_at: cut(at), "body", "missing" if _at == "0" else "")
for _at in (-1, -511, -4096, -4097):
    KINDS[f"cut-{-_at}-before-the-end"] = (lambda at=_at: cut(at), "body", "cut off")


@kinds("body", "", {"1-byte": b"\0", "a-newline": b"\n", "511-bytes": bytes(511), "512-zeros": bytes(512),
                    "noise": noise("tail", 512), "a-block": bytes(BLOCK), "VMAE": b"VMAE" + bytes(508)})
def garbage_at_the_end(tail):
    archive = base().fill()
    archive.tail = tail
    return archive


@kind("body", "no extent")
def archive_twice():
    return base().fill().build() * 2


@kinds("header", "no VMA", {"zeros": bytes(20000), "noise": noise("none", 20000), "text": b"PVE DUMP\n" * 3000,
                            "gzip": b"\x1f\x8b\x08" + bytes(20000), "lzop": b"\x89LZO\0\r\n\x1a\n" + bytes(20000)})
def no_archive_but(data):
    return data


# ---- checksums beside the archive

def xxh3_lines(archive, xxhsum):
    pieces = [archive.header()] + [extent.build(archive.uuid) for extent in archive.extents]
    lines = ["# cbt-backup: XXH3-128 of the header and each extent of a VMA archive\n"]
    lines += [f"{len(piece)} {xxhsum(piece)}\n" for piece in pieces]
    return lines + [f"# pieces: {len(pieces)}\n"]


def xxhsum(data):
    words = subprocess.run(["xxhsum", "-H2"], input=data, stdout=subprocess.PIPE, check=True).stdout.split()
    return words[0].decode()


class Sums:
    """An archive and its checksums, each changed."""

    def __init__(self, lines=None, data=None):
        self.archive = base().fill(3)
        text = xxh3_lines(self.archive, xxhsum)
        self.text = "".join(lines(text) if lines else text).encode()
        self.hole = 0  # bytes that are not there, before the last line
        self.data = data(self.archive.build()) if data else self.archive.build()


@kind("ok")
def sums():
    return Sums()


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1:]


@kinds("sums", "at offset 12800 ", {"first-block": 512, "middle": 100000, "last-byte-of-the-extent": 512 + 42 * BLOCK - 1})
def sums_find_flipped_data(at):
    return Sums(data=lambda data: flip(data, 12800 + at))


@kind("sums", "at offset %d " % (12800 + 512 + 42 * BLOCK))
def sums_find_a_flipped_last_block():
    return Sums(data=lambda data: flip(data, len(data) - 1))


def change_line(number, change):
    def do(lines):
        lines[number] = change(lines[number])
        return lines

    return do


for _name, (_lines, _text) in {
        "first-line": (change_line(0, lambda line: line.replace("XXH3", "XXH4")), "checksums is none"),
        "digit-of-the-header": (change_line(1, lambda line: line[:-2] + "g\n"), "at offset 0 "),
        "digit-of-an-extent": (change_line(3, lambda line: line[:-2] + "g\n"), "at offset"),
        "length": (change_line(2, lambda line: "1" + line), "at offset 12800"),
        "count-too-large": (change_line(-1, lambda line: "# pieces: 30\n"), "last line"),
        "count-too-small": (change_line(-1, lambda line: "# pieces: 2\n"), "last line"),
        "count-is-none": (change_line(-1, lambda line: "# pieces: \n"), "last line"),
        "last-line-gone": (lambda lines: lines[:-1], "cut off"),
        "last-line-cut": (change_line(-1, lambda line: line[:-1]), "cut off"),
        "line-gone": (lambda lines: lines[:2] + lines[3:], "at offset"),
        "line-too-much": (lambda lines: lines[:-1] + [lines[2]] + lines[-1:], "checksums do"),
        "lines-swapped": (lambda lines: lines[:2] + [lines[3], lines[2]] + lines[4:], "at offset"),
        "nothing": (lambda lines: [], "checksums is none"),
        "only-the-ends": (lambda lines: [lines[0], lines[-1]], "at offset 0 "),
        "ends-run-together": (lambda lines: [lines[0][:-1], lines[-1]], "checksums is none"),
        "rubbish-behind": (lambda lines: lines + ["rubbish\n"], "cut off"),
        "nul": (change_line(2, lambda line: "\0" + line), "at offset 12800"),
        "nul-and-last-line-behind": (lambda lines: lines + ["\0\n", lines[-1]], "last line"),
        "last-line-twice": (lambda lines: lines + lines[-1:], "last line"),
        "a-very-long-last-line": (lambda lines: lines[:-1] + ["# pieces: " + "0" * 100000 + "\n"], "cut off"),
        "a-very-long-line": (change_line(2, lambda line: "9" * 1000000 + "\n"), "at offset 12800")}.items():
    KINDS["sums-with-" + _name] = (lambda lines=_lines: Sums(lines), "sums", _text)


@kind("sums", "at offset 0 ")
def sums_of_another_archive():
    result = Sums()
    other = base().fill(3)
    other.uuid = noise("other", 16)
    result.text = "".join(xxh3_lines(other, xxhsum)).encode()
    return result


@kinds("sums", "at offset 0 ", {"3-gib": 3 << 30, "1-tib": 1 << 40})
def sums_with_a_hole_of(n_bytes):
    result = Sums(lambda lines: [lines[0], "\n", lines[-1]])
    result.hole = n_bytes
    return result


@kind("sums", "cut off")
def sums_find_a_missing_extent_of_no_clusters():
    result = Sums()
    result.archive.extents.append(Extent([]))
    result.text = "".join(xxh3_lines(result.archive, xxhsum)).encode()
    return result


@kind("sums", "at offset")
def sums_find_an_added_extent():
    result = Sums()
    result.data += Extent([]).build(result.archive.uuid)
    return result


# ---- compressed

def zstd(data, *options):
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def compressed(change=lambda data: data, *options):
    archive = base().fill()
    return change(zstd(archive.build(), *options)), archive.expected()


@kinds("ok", "", {"1": "-1", "9": "-9", "no-check": "--no-check", "long-27": "--long=27"})
def zstd_option(option):
    return compressed(lambda data: data, option)


@kind("ok")
def zstd_frames():
    archive = base().fill()
    data = archive.build()
    return b"".join(zstd(data[i:i + 9999]) for i in range(0, len(data), 9999)), archive.expected()


@kind("ok")
def zstd_with_empty_frames():
    return compressed(lambda data: zstd(b"") + data + zstd(b"") * 3)


@kind("ok")
def zstd_with_skippable_frames():
    skip = struct.pack("<II", 0x184d2a50, 5) + b"12345"
    return compressed(lambda data: data + skip)


for _name, (_change, _what, _text) in {
        "cut-in-the-magic": (lambda data: data[:3], "header", "cut off"),
        "cut-in-the-header": (lambda data: data[:9], "header", "cut off"),
        "cut-early": (lambda data: data[:30], "header", "cut off"),
        "cut-in-the-middle": (lambda data: data[:len(data) // 2], "body", "cut off"),
        "cut-by-1": (lambda data: data[:-1], "body", "cut off"),
        "cut-by-its-checksum": (lambda data: data[:-4], "body", "cut off"),
        "damaged-checksum": (lambda data: flip(data, len(data) - 1), "body", "damaged"),
        "damaged-header": (lambda data: flip(data, 4), "header", ""),
        "damaged-data": (lambda data: flip(data, len(data) // 2), "body", ""),
        "garbage-behind": (lambda data: data + b"garbage", "body", "damaged"),
        "another-frame-behind": (lambda data: data + zstd(b"garbage"), "body", "no extent"),
        "twice": (lambda data: zstd(data), "header", "no VMA")}.items():
    KINDS["zstd-" + _name] = (lambda change=_change: compressed(change)[0], _what, _text)


@kinds("header", "no VMA", {"gib": 1 << 30})
def zstd_of_zeros_by_the(size):
    process = subprocess.run(f"head -c {size} /dev/zero | zstd -q -c", shell=True, stdout=subprocess.PIPE, check=True)
    return process.stdout


@kind("body", "no extent")
def zstd_of_a_header_and_zeros_by_the_gib():
    return zstd(base().header()) + zstd_of_zeros_by_the(1 << 30)


@kind("header", "damaged")
def zstd_window_of_2_gib():
    # A frame header that asks for the window: magic, descriptor without size, window descriptor 2^31.
    return bytes([0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3]) + bytes(100)


# ---- holding the program to it

class Failure(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Failure(what)


def material(made):
    """Bytes of the archive, its checksums or None, expected files or None."""
    if isinstance(made, Archive):
        return made.build(), None, made.expected
    if isinstance(made, Sums):
        return made.data, made, made.archive.expected
    if isinstance(made, tuple):
        return made[0], None, lambda: made[1]
    return made, None, None


class Run:
    """One command: its status, output, message and peak memory."""

    def __init__(self, words, folder):
        with open(os.path.join(folder, "message"), "wb+") as message, open(os.path.join(folder, "output"), "wb+") as output:
            process = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=message)
            timer = threading.Timer(120, process.kill)
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)  # at least the memory of this program, from before exec
            timer.cancel()
            process.returncode = self.status = os.waitstatus_to_exitcode(status)
            self.peak_mib = usage.ru_maxrss >> 10
            message.seek(0)
            self.message = message.read().decode(errors="replace")
            output.seek(0)
            self.output = output.read()


def hold(run, command, refused, text, memory_mib):
    need(run.status >= 0, f"{command}: signal {-run.status}: {run.message[-2000:]}")
    need(run.status == (1 if refused else 0), f"{command}: status {run.status}: {run.message}")
    need(run.peak_mib <= memory_mib, f"{command}: took {run.peak_mib} MiB")
    need(not refused or run.message.startswith("cbt-vma: "), f"{command}: says nothing")
    need(not refused or text in run.message, f"{command}: should say '{text}', but says: {run.message}")
    need(all(c.isprintable() or c == "\n" for c in run.message), f"{command}: unprintable: {run.message!r}")
    if command in ("list", "verify"):
        shown = run.output.decode(errors="replace")
        need(all(c.isprintable() and c != "\ufffd" or c == "\n" for c in shown), f"{command}: unprintable: {shown!r}")


def check_files(folder, files):
    names = sorted(os.listdir(folder))
    need(names == sorted(files), f"there came out {names}")
    for name, content in files.items():
        with open(os.path.join(folder, name), "rb") as file:
            need(file.read() == content, f"{name} has other bytes")


def check_refused(folder, what):
    """What a refused extraction left: nothing that looks like a whole disk."""
    if what in ("header", "names"):
        need(not os.path.exists(folder), "there is a folder")
    elif os.path.exists(folder):
        disks = [name for name in os.listdir(folder) if name.startswith("disk-") or name.startswith("vmstate")]
        need(all(name.endswith(".partial") for name in disks), f"there came out {disks}")


def check_outside(folder, before):
    need(sorted(os.listdir(folder)) == before, f"files outside: {sorted(os.listdir(folder))}")
    out = os.path.join(folder, "out")
    for path, folders, names in os.walk(out):
        need(path == out and not folders, f"folders in the target: {folders}")
        need(not any(os.path.islink(os.path.join(path, name)) for name in names), "a link")


def write_material(path, made):
    """Returns a function that makes the expected files, or None."""
    data, sums, files = material(made)
    with open(path, "wb") as file:
        file.write(data)
    if sums is not None:
        with open(path + ".xxh3", "wb") as file:
            last = sums.text.rfind(b"\n", 0, len(sums.text) - 1) + 1 if sums.hole else len(sums.text)
            file.write(sums.text[:last])
            file.seek(sums.hole, os.SEEK_CUR)
            file.write((b"\n" if sums.hole else b"") + sums.text[last:])
    return files


def check_config(run, refused):
    need(run.status in ((1,) if refused else (0, 1)), f"config: status {run.status}: {run.message}")
    need(refused or run.status == 0 or "has no configuration file" in run.message, f"config: says: {run.message}")


def check_kind(program, folder, made, what, text, memory_mib):
    files = write_material(os.path.join(folder, "a.vma"), made)
    del made
    refused = {"ok": (), "names": ("extract",), "body": ("verify", "extract"), "sums": ("verify", "extract"),
               "header": ("list", "config", "verify", "extract")}[what]
    before = sorted(os.listdir(folder) + ["message", "out", "output"])
    peak = 0
    for command, words in {"list": [], "verify": [], "extract": ["out"]}.items():
        run = Run([program, command, "a.vma", *words], folder)
        hold(run, command, command in refused, text, memory_mib)
        peak = max(peak, run.peak_mib)
    check_config(Run([program, "config", "a.vma"], folder), "config" in refused)
    run = Run([program, "verify", "a.vma", "-v"], folder)
    need(run.status == (1 if "verify" in refused else 0), f"verify -v: status {run.status}: {run.message}")
    if not os.path.exists(os.path.join(folder, "out")):
        before.remove("out")
    check_outside(folder, before)
    if what == "ok":
        check_files(os.path.join(folder, "out"), files())
    else:
        check_refused(os.path.join(folder, "out"), what)
    return peak


def write_all(folder, only):
    os.makedirs(folder, exist_ok=True)
    for name, (function, _, _) in KINDS.items():
        if only in name:
            write_material(os.path.join(folder, name + ".vma"), function())


def print_table():
    verdicts = {"ok": "accepted", "names": "extract refuses", "body": "verify and extract refuse",
                "sums": "verify and extract refuse", "header": "refused"}
    for name, (_, what, text) in KINDS.items():
        print(f"{name:60} {verdicts[what]:26} {text}")


def option(words, name, default):
    return words[words.index(name) + 1] if name in words else default


def main(words):
    program, top = os.path.abspath(words[0]), words[1]
    memory_mib, address_space = int(option(words, "--memory", "150")), int(option(words, "--address-space", "0"))
    if address_space:  # of this program too
        resource.setrlimit(resource.RLIMIT_AS, (address_space << 20, address_space << 20))
    only = option(words, "--only", "")
    if "--write" in words:
        write_all(top, only)
        return
    if "--table" in words:
        print_table()
        return
    failed = peak = n = 0
    n_accepted = 0
    for name, (function, what, text) in KINDS.items():
        if only not in name:
            continue
        folder = os.path.join(top, name, "inner", "inner")
        os.makedirs(folder)
        try:
            peak = max(peak, check_kind(program, folder, function(), what, text, memory_mib))
            need(os.listdir(os.path.join(top, name)) == ["inner"], "files outside")
            need(os.listdir(os.path.join(top, name, "inner")) == ["inner"], "files outside")
        except Failure as failure:
            failed += 1
            print(f"FAILED: {name}: {failure}")
        n += 1
        n_accepted += what == "ok"
        shutil.rmtree(os.path.join(top, name))
    need(not os.path.exists("/tmp/cbt-evil") and not os.path.exists("/tmp/evil"), "a file in /tmp")
    print(f"{n} kinds of archives, {n_accepted} to accept and {n - n_accepted} to refuse: {failed} failed; at most {peak} MiB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
