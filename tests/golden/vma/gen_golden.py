#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Regenerates the raw source images + configs of the golden VMA archives (deterministic, SHAKE-128 based).
# usage: gen_golden.py OUTDIR
import hashlib, os, sys
K4 = 4096; CL = 65536
rnd = lambda seed, n: hashlib.shake_128(seed.encode()).digest(n)
def masked(seed, size, maskfn):
    d = bytearray(rnd(seed, size))
    for b in range((size + K4 - 1) // K4):            # b = 4 KiB block index
        if not maskfn(b // 16, b % 16):               # (cluster, block in cluster) -> keep?
            e = min(size, (b + 1) * K4); d[b*K4:e] = bytes(e - b*K4)
    return d
def m1(c, j):                                          # 97 clusters, the last one holds 512 bytes only
    if c == 96: return True
    return [True, False, j % 2 == 0, j >= 8, j == c % 16, j != c % 16][c % 6]
def m2(c, j): return (c * 7 + j * 3) % 5 != 0 and not 20 <= c < 30
def m3(c, j): return c % 3 != 1 and (c ^ j) & 4 == 0
out = sys.argv[1]; os.makedirs(out, exist_ok=True)
g1 = masked('golden1', 6 * 1048576 + 512, m1)
g1[1*CL + 3*K4] = 1                                    # cluster 1: block 3 has only its first byte set
g1[7*CL + 5*K4 + 4095] = 255                           # cluster 7: block 5 has only its last byte set
files = {
 'odd.raw': g1,
 'scsi0.raw': masked('golden2-scsi0', 4 * 1048576, m2),
 'virtio1.raw': masked('golden2-virtio1', 2 * 1048576 + 20 * K4 + 1536, m3),
 'zero.raw': bytes(1048576),
 'g1/qemu-server.conf': b'boot: order=scsi0\ncores: 2\nmemory: 512\nname: golden1\nscsi0: local:101/vm-101-disk-0.raw,size=6145K\n#qmdump#map:scsi0:drive-scsi0:local:raw:\n',
 'g2/qemu-server.conf': b'cores: 1\nmemory: 1024\nname: golden2\nscsi0: local:102/vm-102-disk-0.raw,size=4M\nvirtio1: local:102/vm-102-disk-1.raw,size=2130K\n#qmdump#map:scsi0:drive-scsi0:local:raw:\n#qmdump#map:virtio1:drive-virtio1:local:raw:\n',
 'g2/qemu-server.fw': b'[OPTIONS]\n\nenable: 1\n\n[RULES]\n\nIN SSH(ACCEPT) -log nolog\n',
}
for n, d in files.items():
    p = os.path.join(out, n); os.makedirs(os.path.dirname(p), exist_ok=True)
    open(p, 'wb').write(d); print(hashlib.sha256(d).hexdigest(), len(d), n)
