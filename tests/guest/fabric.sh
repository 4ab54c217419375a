#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# fabric HCAS PORTS [sm]: plugs in virtual InfiniBand HCAs, hca1 to hcaN, and with "sm" has opensm bring
# all of their ports up. They are in /sys/kernel/config/vhca/hcas.
set -euo pipefail
hcas=$1 ports=$2 sm=${3-}
vhca=/sys/kernel/config/vhca
modprobe vhca
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
for n in $(seq "$hcas"); do
    mkdir "$vhca/hcas/hca$n"
    echo "$ports" >"$vhca/hcas/hca$n/ports"
    echo 1 >"$vhca/hcas/hca$n/live"
done
udevadm settle
[ -n "$sm" ] || exit 0
modprobe ib_umad
began=$(date +%s%N)
# It acts on about ten traps in a row and then waits for its next sweep: let that be soon.
opensm -B -s 1 -g "0x$(cat $vhca/hcas/hca1/port1/guid)" -f /run/opensm.log >/dev/null </dev/null
for n in $(seq 300); do
    active=$(cat /sys/class/infiniband/*/ports/*/state | grep -c ACTIVE || true)
    if [ "$active" -ge $((hcas * ports)) ]; then
        echo "$active InfiniBand ports ACTIVE after $((($(date +%s%N) - began) / 1000000)) ms of opensm" >&2
        exit 0
    fi
    sleep 0.1
done
echo "only $active of $((hcas * ports)) ports are ACTIVE; opensm says:" >&2
tail -20 /run/opensm.log >&2
exit 1
