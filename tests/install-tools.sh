#!/usr/bin/env bash
# Installs the programs that the tests talk to, as Debian packages, when run by root. Does nothing,
# and needs no network, when all of them are there. With the argument torture or bench, what only
# that target needs comes too.
set -euo pipefail

declare -A package=(
  [gcc]=gcc [fio]=fio [qemu-img]=qemu-utils [qemu-io]=qemu-utils [qemu-nbd]=qemu-utils
  [nbdkit]=nbdkit [nbdinfo]=libnbd-bin [nbdcopy]=libnbd-bin [nbd-client]=nbd-client
  [mkfs.btrfs]=btrfs-progs [mkfs.ext4]=e2fsprogs [mkfs.xfs]=xfsprogs [losetup]=mount [git]=git
  [fusermount3]=fuse3 [setfacl]=acl [getfattr]=attr [rsync]=rsync [restic]=restic [borg]=borgbackup
  [sqlite3]=sqlite3 [stress-ng]=stress-ng [setpriv]=util-linux [tar]=tar [diff]=diffutils
)
case "${1:-}" in
torture) package+=([qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [cpio]=cpio) ;;
bench) package+=([mergerfs]=mergerfs [find]=findutils) ;;
esac
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# Debian's own python: another one first in PATH would not find Debian's modules. Any directory named
# nbd passes for a module of that name, the one here too, so something in it is asked for.
/usr/bin/python3 -c 'import nbd; nbd.NBD' 2>/dev/null || missing+=(python3-libnbd)
# go test -race needs the C library's headers, which gcc only recommends.
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" != 0 ]; then
  echo "tests/install-tools.sh: missing: ${missing[*]}" >&2
  echo "  try: sudo apt-get install ${missing[*]}" >&2
  exit 0 # the tests that need them say so themselves
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing ${missing[*]}" >&2
for attempt in 1 2 3; do
  if { apt-get -q update && apt-get -qy install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    exit 0
  fi
  echo "attempt $attempt: apt-get did not succeed" >&2
done
cat "$log" >&2
exit 1
