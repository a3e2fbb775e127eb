# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of VMA archives that are sound, however odd, and what all kinds are registered with."""
from vma_build import BLOCK, CLUSTER, DATA, DEVICES, EXTENT, FIXED, Archive, Extent, base, noise, put

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
