#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Makes the guest: image.sh SUITE OUT. Into the directory OUT go `vmlinux`, `initrd`, `root.erofs` and
# `smbios`; intermediate files go to OUT/work, which is removed at the end.
set -euo pipefail
suite=$1 out=$2
here=$(dirname "$(readlink -f "$0")")
work=$out/work
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
began=$SECONDS
step() { printf '  [%3d s] %s\n' $((SECONDS - began)) "$*"; }
list() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$here/$1"; }
mkdir -p "$work"

# The mirrors are those the host's own apt uses.
repository() { # PATTERN: first repository address whose suite matches
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v p="$1" '$2 ~ p { print $1; exit }'
}
main=$(repository '^(bookworm|trixie|forky|sid)$')
security=$(repository '.-security$')
if [ -z "$main" ] || [ -z "$security" ]; then
    echo "apt on this host has no Debian mirror and no security mirror set up: add both to its sources" >&2
    exit 1
fi

# Both guests run a kernel of Debian 12, so that modules can be built with Debian 12's compiler: the
# current one with Debian 13's user space, its own old one with Debian 12's.
case $suite in
trixie) kernel=linux-image-6.12-amd64 ;;
bookworm) kernel=linux-image-amd64 ;;
*) echo "no guest is described for the suite '$suite'" >&2; exit 1 ;;
esac

step "package lists for the kernel"
apt=$work/apt
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial}
for s in "$main bookworm" "$security bookworm-security"; do
    echo "deb [signed-by=$keyring] $s main"
done >"$apt/sources.list"
apt_get() {
    apt-get -qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State="$apt/state" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false "$@"
}
apt_get update
apt_cache() { apt-cache -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$apt/state" -o Dir::Cache="$apt/cache" "$@"; }
image=$(apt_cache depends "$kernel" | awk '/Depends: linux-image/ { print $2; exit }')
version=${image#linux-image-}

step "kernel $version"
(cd "$work" && apt_get download "$image" && dpkg-deb -x "$image"_*.deb kernel)

# The uncompressed kernel starts at once through its PVH entry. Where it is inside the boot image, and
# how long it is, stands in the image's header (Documentation/arch/x86/boot.rst).
bz=$work/kernel/boot/vmlinuz-$version
field() { od -An -t u"$2" -j "$1" -N "$2" "$bz" | tr -d ' '; }
start=$(( ($(field 0x1f1 1) + 1) * 512 + $(field 0x248 4) ))
length=$(field 0x24c 4)
dd if="$bz" of="$work/packed" bs=1M iflag=skip_bytes,count_bytes skip="$start" count="$length" status=none
case $(od -An -t x1 -N 4 "$work/packed" | tr -d ' ') in
28b52ffd) zstd -qdcf "$work/packed" >"$out/vmlinux" 2>/dev/null || [ -s "$out/vmlinux" ] ;;
fd377a58) xz -dcq --single-stream "$work/packed" >"$out/vmlinux" || [ -s "$out/vmlinux" ] ;;
*) echo "the kernel is compressed in a way this script does not know" >&2; exit 1 ;;
esac

step "kernel modules"
from=$work/kernel/lib/modules/$version
depmod -b "$work/kernel" "$version"
to=$work/modules/lib/modules/$version
mkdir -p "$to"
for m in $(list modules); do
    modprobe -d "$work/kernel" -S "$version" --show-depends "$m" 2>/dev/null |
        awk '/^insmod/ { print $2 }' || echo "    this kernel has no module '$m'" >&2
done | sort -u | while read -r file; do
    target=$to/${file#"$from"/}
    mkdir -p "$(dirname "$target")"
    case $file in
    *.xz) xz -dc "$file" >"${target%.xz}" ;; # reading xz under emulation is slow
    *) cp "$file" "$target" ;;
    esac
done
cp "$from"/modules.{builtin,builtin.modinfo,order} "$to"
step "vhca and siw, which Debian's kernels do not have"
"$here/extra-modules.sh" "$version" "$work" "$to"
depmod -b "$work/modules" "$version"

step "initrd"
initrd=$work/initrd
mkdir -p "$initrd"/{bin,lib,base,rw,new,proc,sys,dev}
cp /bin/busybox "$initrd/bin/busybox"
cp "$here/init" "$initrd/init"
chmod 755 "$initrd/init"
order=
for m in virtio_pci virtio_blk erofs overlay; do
    for file in $(modprobe -d "$work/modules" -S "$version" --show-depends "$m" | awk '/^insmod/ { print $2 }'); do
        cp "$file" "$initrd/lib/"
        case " $order " in *" ${file##*/} "*) ;; *) order="$order ${file##*/}" ;; esac
    done
done
echo $order >"$initrd/lib/order"
(cd "$initrd" && find . | cpio -o -H newc -R 0:0 --quiet) >"$out/initrd"

step "Debian $suite (mmdebstrap)"
include=$(list packages | paste -sd,)
cat >"$work/sources" <<END
deb [signed-by=$keyring] $main $suite main
deb [signed-by=$keyring] $security $suite-security main
END
MODULES=$work/modules OUT=$out/root.erofs mmdebstrap --quiet --variant=minbase --format=null \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --include="$include" --customize-hook="$here/customize.sh" "$suite" - "$work/sources"

# What the firmware says of onboard devices (SMBIOS type 41): PCI function 0004:44:00.0 is number 3, "HCA".
printf '\x29\x0b\x00\x29\x01\x81\x03\x04\x00\x44\x00HCA\0\0' >"$out/smbios"

rm -rf "$work"
step "done: $(du -sh "$out" | cut -f1)"
