# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of VMA archives with checksums beside them, and of compressed ones."""
import struct
import subprocess

from vma_build import BLOCK, Extent, base, noise
from vma_kinds import KINDS, kind, kinds

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


@kinds("header", "no VMA", {"256-mib": 1 << 28})
def zstd_of_zeros(size):
    process = subprocess.run(f"head -c {size} /dev/zero | zstd -q -c", shell=True, stdout=subprocess.PIPE, check=True)
    return process.stdout


@kind("body", "no extent")
def zstd_of_a_header_and_256_mib_of_zeros():
    return zstd(base().header()) + zstd_of_zeros(1 << 28)


@kind("header", "damaged")
def zstd_window_of_2_gib():
    # A frame header that asks for the window: magic, descriptor without size, window descriptor 2^31.
    return bytes([0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3]) + bytes(100)
