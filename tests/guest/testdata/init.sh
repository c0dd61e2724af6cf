#!/bin/busybox sh
# The guest's only process: uses exports as block devices of the kernel. Every step that goes wrong
# ends the machine without the line that the test waits for.
export PATH=/bin
/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=1500m tmp /tmp
exec </dev/console >/dev/console 2>&1

end() { echo "GUEST $*"; sync; poweroff -f; sleep 60; }
step() { echo "step: $*"; "$@" || end "FAILED: $*"; }
await() { # a condition that comes true
  n=0
  until eval "$1"; do n=$((n+1)); [ $n -lt 600 ] || end "FAILED: waited for $1"; sleep 0.1; done
}

for m in $(cat /modules/list); do insmod "$m" || echo "module $m: not loaded"; done
export BALLAST_STATE_DIR=/tmp/state BALLAST_RUN_DIR=/tmp/run HOME=/tmp
ip link set lo up

step ballast create v /tmp/a:300MiB /tmp/b:300MiB /tmp/c:300MiB --copies 2
step ballast export create v/fs 192MiB
step ballast export create v/raw 64MiB
serve() { ballast serve v >>/tmp/serve.log 2>&1 & daemon=$!; await 'ballast status v >/dev/null 2>&1'; }
serve

step ballast attach v/fs /dev/nbd0 --connections 2
[ "$(cat /sys/block/nbd0/size)" = 393216 ] || end "FAILED: size $(cat /sys/block/nbd0/size)"
ballast attach v/raw /dev/nbd0 2>/tmp/refusal && end "FAILED: a device that is bound was bound again"
grep -q E_BUSY /tmp/refusal || end "FAILED: $(cat /tmp/refusal)"

step /tools/mke2fs -q -t ext4 /dev/nbd0
step mount -t ext4 -o discard /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/one bs=1M count=24 2>/dev/null
dd if=/dev/urandom of=/mnt/two bs=4k count=3000 2>/dev/null
sync
/tools/sha256sum /mnt/one /mnt/two >/tmp/sums
step /tools/fio --name=v --filename=/mnt/fio --size=16M --rw=randwrite --bs=4k --ioengine=psync --end_fsync=1 --verify=crc32c --verify_state_save=0 --eta=never --output=/tmp/fio.log

# The daemon dies under a mounted file system that writes; the same attach again gives the device
# its new connections, and the writer notices nothing but the time.
(dd if=/dev/zero of=/mnt/three bs=64k count=600 conv=fsync 2>/tmp/dd.log; echo $? >/tmp/dd.rc) &
sleep 1
kill -9 $daemon
wait $daemon 2>/dev/null
serve
step ballast attach v/fs /dev/nbd0 --connections 2
await '[ -e /tmp/dd.rc ]'
[ "$(cat /tmp/dd.rc)" = 0 ] || end "FAILED: the writer saw an error: $(cat /tmp/dd.log)"
echo 3 >/proc/sys/vm/drop_caches
step /tools/sha256sum -c /tmp/sums
[ "$(stat -c %s /mnt/three)" = 39321600 ] || end "FAILED: length $(stat -c %s /mnt/three)"
rm /mnt/one
step umount /mnt
step /tools/e2fsck -f -n /dev/nbd0
step ballast detach /dev/nbd0
ballast detach /dev/nbd0 2>/tmp/refusal && end "FAILED: detached twice"
grep -q 'not attached' /tmp/refusal || end "FAILED: $(cat /tmp/refusal)"

# nbd-client, as people have it.
step /tools/nbd-client -unix /tmp/run/v-nbd.sock /dev/nbd1 -N raw -C 2
step /tools/fio --name=v --filename=/dev/nbd1 --size=64M --rw=randwrite --bsrange=512-64k --bs_unaligned=0 --blockalign=512 --direct=1 --ioengine=psync --io_size=24M --verify=crc32c --verify_state_save=0 --eta=never --output=/tmp/fio.log
step /tools/nbd-client -d /dev/nbd1

step ballast stop v
step ballast check v
dmesg | grep -iE 'i/o error|ext4-fs error|call trace' && end "FAILED: the kernel complains"
end OK
