#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the siw driver (iWARP in software), which Debian's kernels leave out, from Debian's kernel source:
# siw.sh VERSION WORK TO. Packages come through the apt state in WORK/apt; TO is the guest's module
# directory. Nothing is installed on the host.
set -euo pipefail
version=$1 work=$2 to=$3
apt=$work/apt
apt_get() {
    apt-get -qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State="$apt/state" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false "$@"
}
series=${version%%.*}.$(echo "$version" | cut -d. -f2)
mkdir -p "$work/siw"
cd "$work/siw"
arch=${version##*-}
common=${version%-"$arch"}-common
# Names in full: apt takes one it does not know for a pattern, and then brings every kbuild of the series.
apt_get download "linux-headers-$version" "linux-headers-$common" "linux-kbuild-${common%-common}" \
    "linux-source-$series"
for deb in *.deb; do dpkg-deb -x "$deb" tree; done
tar -xf "tree/usr/src/linux-source-$series.tar.xz" --strip-components=1 \
    "linux-source-$series/drivers/infiniband/sw/siw"

# The headers lead to each other by absolute paths; here they are below this directory.
tree=$PWD/tree
headers=$tree/usr/src/linux-headers-$version
sed -i "s|/usr/src/|$tree/usr/src/|g; s|/usr/lib/|$tree/usr/lib/|g" "$headers/Makefile"
find "$tree/usr/src" -type l -lname '/usr/*' | while read -r link; do
    ln -sfn "$tree$(readlink "$link")" "$link"
done
make -s -C "$headers" M="$PWD/drivers/infiniband/sw/siw" CONFIG_RDMA_SIW=m \
    CONFIG_DEBUG_INFO_BTF_MODULES= modules >log 2>&1 ||
    { tail -30 log >&2; exit 1; }
mkdir -p "$to/kernel/drivers/infiniband/sw/siw"
strip -g -o "$to/kernel/drivers/infiniband/sw/siw/siw.ko" drivers/infiniband/sw/siw/siw.ko
