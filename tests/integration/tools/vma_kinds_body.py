# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of VMA archives with something wrong in the extents, or cut off, or with more than there should be."""
from vma_build import BLOCK, EXTENT, FIXED, Cluster, base, noise, put
from vma_kinds import KINDS, kind, kinds

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
