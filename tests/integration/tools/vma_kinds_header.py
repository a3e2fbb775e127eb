# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of VMA archives with something wrong in the header."""
import struct

from vma_build import BLOCK, CLUSTER, DATA, DEVICES, FIXED, NAMES, Archive, base, noise, put
from vma_kinds import KINDS, kind, kinds, set_header, with_blobs

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
