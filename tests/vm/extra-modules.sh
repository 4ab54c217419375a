#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Builds the modules that Debian's kernels do not have: vhca (virtual InfiniBand HCAs, tests/vhca) and
# siw (iWARP in software, out of Debian's kernel source): extra-modules.sh VERSION WORK TO. Packages come
# through the apt state in WORK/apt; TO is the guest's module directory. Nothing is installed on the host.
set -euo pipefail
version=$1 work=$2 to=$3
here=$(dirname "$(readlink -f "$0")")
apt=$work/apt
options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$apt/state"
    -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
    -o Acquire::Check-Valid-Until=false)
mkdir -p "$work/extra"
cd "$work/extra"
headers=linux-headers-$version
needed=$(apt-cache "${options[@]}" depends "$headers" |
    awk '$1 == "Depends:" && $2 ~ /^linux-(headers-.*-common|kbuild-.*)$/ { print $2 }')
source=linux-source-$(echo "$version" | cut -d. -f1,2)
# Names in full: apt takes one it does not know for a pattern.
apt-get -qq "${options[@]}" download "$headers" $needed "$source"
for deb in *.deb; do dpkg-deb -x "$deb" tree; done

# The headers lead to each other by absolute paths; here they are below this directory.
tree=$PWD/tree
headers=$tree/usr/src/$headers
sed -i "s|/usr/src/|$tree/usr/src/|g; s|/usr/lib/|$tree/usr/lib/|g" "$headers/Makefile"
find "$tree/usr/src" -type l -lname '/usr/*' | while read -r link; do
    ln -sfn "$tree$(readlink "$link")" "$link"
done

build() { # NAME DIRECTORY SETTING...
    make -s -C "$headers" M="$PWD/$2" CONFIG_DEBUG_INFO_BTF_MODULES= "${@:3}" modules >log 2>&1 ||
        { tail -30 log >&2; exit 1; }
    mkdir -p "$to/extra"
    strip -g -o "$to/extra/$1.ko" "$2/$1.ko"
}
cp -r "$here/../vhca" vhca
build vhca vhca
siw=drivers/infiniband/sw/siw
tar -xf "tree/usr/src/$source.tar.xz" --strip-components=1 "$source/$siw"
build siw $siw CONFIG_RDMA_SIW=m
# The same as an adapter with a TCP of its own is, whose ports are those that a port mapper has reserved. Not under a
# module's name: it is loaded by hand, instead of the other.
sed -i '/IW_F_NO_PORT_MAP/d' $siw/siw_main.c
sed -i 's/id->local_addr/id->m_local_addr/' $siw/siw_cm.c
mv "$to/extra/siw.ko" siw.ko
build siw $siw CONFIG_RDMA_SIW=m
mv "$to/extra/siw.ko" "$to/extra/siw-mapped"
mv siw.ko "$to/extra/siw.ko"
