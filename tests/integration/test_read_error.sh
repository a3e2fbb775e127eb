#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A block that fails to be read after later ones were read already: the job fails and names the place, the daemon lives,
# and the next backup is good.
. "$(dirname "$0")/lib.sh"
need nbdkit nbdfuse
need_root "FUSE"
[ -w /dev/fuse ] || skip "needs /dev/fuse"

random_image "$WORK/data" 32
bad=$((8 * MIB))
cat >"$WORK/disk.sh" <<'PLUGIN'
#!/bin/sh
case $1 in
  thread_model) echo parallel ;;
  get_size) stat -c %s "$DATA" ;;
  can_multi_conn) exit 0 ;;
  pread)
    if [ -e "$BROKEN" ] && [ "$4" -le "$BAD" ] && [ "$(($4 + $3))" -gt "$BAD" ]; then
      sleep 1 # until what lies behind has been read
      echo "EIO a bad sector" >&2
      exit 1
    fi
    dd if="$DATA" iflag=skip_bytes,count_bytes skip="$4" count="$3" bs=1M status=none
    ;;
  *) exit 2 ;;
esac
PLUGIN
chmod +x "$WORK/disk.sh"
touch "$WORK/broken"
DATA=$WORK/data BAD=$bad BROKEN=$WORK/broken nbdkit -U "$WORK/disk.sock" sh "$WORK/disk.sh"
mkdir "$WORK/fuse"
nbdfuse -r "$WORK/fuse/disk.img" "nbd+unix:///?socket=$WORK/disk.sock" 2>>"$WORK/nbdfuse.err" &
at_exit umount_hard "$WORK/fuse"
wait_until 10 test -s "$WORK/fuse/disk.img" || skip "nbdfuse does not work here"

start_daemon
vm_add vm1 "root=$WORK/fuse/disk.img"
expect_exit 1 "cannot read the disk image" cbt --full vm1
assert_eq "the bitmap after the error" "$(bitmap_state vm1/root)" active
assert_eq "points after the error" "$(points vm1)" ""
rm "$WORK/broken"
job=$(backup full vm1)
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/data"
stop_daemon
