#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Plugs an HCA in and pulls it out while programs have it open: stress.sh [CYCLES]. For a guest with
# slub_debug=FZPU on the kernel command line; then a use after free, an overrun or a double free is in
# the kernel's log, and whatever is there at warning level fails this.
set -euo pipefail
cycles=${1-500}
vhca=/sys/kernel/config/vhca
modprobe -a ib_umad ib_ipoib rdma_ucm
/usr/lib/lab/fabric 1 2 sm
began=$(date +%s)
mkdir $vhca/hcas/stress
echo 2 >$vhca/hcas/stress/ports
journalctl --sync
cursor=$(journalctl -n 1 -q -o cat --show-cursor | sed -n 's/^-- cursor: //p')
for n in $(seq "$cycles"); do
    echo 1 >$vhca/hcas/stress/live
    device=$(cat $vhca/hcas/stress/ibdev 2>/dev/null) || continue
    guid=$(cat $vhca/hcas/stress/port1/guid)
    ibv_asyncwatch -d "$device" >/dev/null 2>&1 &
    ibv_rc_pingpong -d "$device" -p $((20000 + n)) >/dev/null 2>&1 &
    for umad in /sys/class/infiniband_mad/umad*; do
        [ "$(cat "$umad/ibdev")" != "$device" ] || { timeout 60 cat <"/dev/infiniband/${umad##*/}" >/dev/null 2>&1 & }
    done
    for netdev in /sys/class/net/*; do
        [ ! -e "$netdev/device/infiniband/$device" ] || ip link set "${netdev##*/}" up
    done
    # Sometimes at once, sometimes with its links up and multicast groups joined.
    [ $((n % 4)) != 0 ] || udevadm settle
    [ $((n % 8)) != 0 ] || [ -z "$guid" ] || sleep 0.5
    echo 0 >$vhca/hcas/stress/live
    kill $(jobs -p) 2>/dev/null || true
    wait
    [ $((n % 50)) != 0 ] || echo "$n cycles, $(($(date +%s) - began)) s"
done
udevadm settle
rmdir $vhca/hcas/stress
pkill -KILL opensm || true
rmdir $vhca/hcas/hca1
systemctl stop rdma-hw.target 'rdma-load-modules@*' 2>/dev/null || true
ls /sys/class/infiniband | grep . && { echo "devices are left"; exit 1; }
rmmod vhca || { grep vhca /proc/modules; exit 1; }
journalctl --sync
if journalctl -k -q -o cat -p warning --cursor="$cursor" | grep -v "mtu > 2044\|connected mode"; then
    echo "the kernel has warned"
    exit 1
fi
echo "$cycles cycles: nothing in the kernel's log, no device left, module removed"
