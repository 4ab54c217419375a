#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Plugs an HCA in and pulls it out while programs have it open: stress.sh [CYCLES]. For a guest with
# slub_debug=FZPU on the kernel command line. What is wrong then: anything in the kernel's log at warning
# level (use after free, overrun, double free), a module or call site whose memory grows with the
# cycles, a module that cannot be removed.
set -euo pipefail
cycles=${1-500} first=10
vhca=/sys/kernel/config/vhca
modprobe -a ib_umad ib_ipoib rdma_ucm
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
/usr/lib/lab/fabric 1 2 sm
mkdir $vhca/hcas/stress
echo 2 >$vhca/hcas/stress/ports
journalctl --sync
cursor=$(journalctl -n 1 -q -o cat --show-cursor | sed -n 's/^-- cursor: //p')
mkdir -p /run/stress
cd /run/stress

cycle() {
    echo 1 >$vhca/hcas/stress/live
    device=$(cat $vhca/hcas/stress/ibdev)
    ibv_asyncwatch -d "$device" >/dev/null 2>&1 &
    ibv_rc_pingpong -d "$device" -p $((20000 + $1)) >/dev/null 2>&1 &
    for umad in /sys/class/infiniband_mad/umad*; do
        [ "$(cat "$umad/ibdev")" != "$device" ] || { timeout 60 cat <"/dev/infiniband/${umad##*/}" >/dev/null 2>&1 & }
    done
    for netdev in /sys/class/net/*; do
        # It may get another name just now.
        [ ! -e "$netdev/device/infiniband/$device" ] || ip link set "${netdev##*/}" up 2>/dev/null || true
    done
    # Sometimes at once, sometimes with its links up and multicast groups joined.
    [ $(($1 % 4)) != 0 ] || udevadm settle
    [ $(($1 % 8)) != 0 ] || sleep 0.5
    echo 0 >$vhca/hcas/stress/live
    kill $(jobs -p) 2>/dev/null || true
    wait
}

# How many objects of the kernel's general caches each module has, and each call site outside of modules:
# "NUMBER WHO".
held() {
    udevadm settle
    # What waits for an RCU grace period, or for work that is delayed, is not lost.
    sleep 5
    # Reading a file of debugfs for the first time takes memory, too.
    cat /sys/kernel/debug/slab/*/alloc_traces >/dev/null
    cat /sys/kernel/debug/slab/{kmalloc-*,kernfs_node_cache}/alloc_traces |
        awk '/^ *[0-9]+ / { n = $1; sub(/]? (waste|age)=.*/, ""); sub(/^ *[0-9]+ (.*\[)?/, ""); sum[$0] += n }
             END { for (who in sum) print sum[who], who }'
}

began=$(date +%s)
for n in $(seq "$cycles"); do
    cycle "$n"
    # The first ones make what stays for good.
    [ "$n" != "$first" ] || held >before
    [ $((n % 50)) != 0 ] || echo "$n cycles, $(($(date +%s) - began)) s"
done
held >after
# Outside of modules some come and go with what else runs.
awk -v most=$(((cycles - first) / 2)) '
    { who = substr($0, index($0, " ") + 1) }
    NR == FNR { was[who] = $1; next }
    $1 - was[who] > most + (who ~ /\+0x/ ? 50 : 0) { print $1 - was[who] " more of " who; bad = 1 }
    END { exit bad }' before after || { echo "memory is lost: one object in every second cycle, or more"; exit 1; }
[ -s before ] && [ -s after ] || { echo "the kernel tells nothing of its memory: slub_debug=U?"; exit 1; }

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
echo "$cycles cycles: nothing in the kernel's log, no memory lost, no device left, module removed"
