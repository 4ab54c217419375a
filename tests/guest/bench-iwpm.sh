# SPDX-License-Identifier: MIT OR Apache-2.0
# What TCP ports for many iWARP listeners cost, with this suite's port mapper and with rdma-core's in turn: the kernel's
# and the mapper's time for each that comes and goes, and the mapper's CPU time for both, in microseconds; its memory in KiB.
# siw is one that needs a port mapper, in a network namespace of its own, so that the ports it takes are not those that
# are reserved. MANY has this suite's alone do more: rdma-core's takes a port of all addresses, of which there are 28000.
set -eu
counts=${COUNTS:-"500 2000 8000"}
many=${MANY:-100000}
modprobe -a rdma_ucm ib_uverbs
systemctl mask --runtime -q iwpmd.service iwpmd.socket
insmod /usr/lib/modules/$(uname -r)/extra/siw-mapped
ip netns add bench
ip link add bench0 netns bench type dummy
ip -n bench link set bench0 up
ip -n bench link set lo up
addresses=
for n in 1 2 3 4 5 6 7 8; do
    ip -n bench addr add 10.9.0.$n/24 dev bench0
    addresses="$addresses 10.9.0.$n"
done
ip netns exec bench rdma link add siw0 type siw netdev bench0
udevadm settle
cd /run
mkfifo hold said
mapper=/usr/sbin/iwpmd
peer=/usr/lib/lab/peers/iwpmd

# round PROGRAM COUNT: coming, going, CPU time, memory
round() {
    systemd-run -q --unit=bench-iwpmd --service-type=notify -p LimitNOFILE=1048576 -p RuntimeDirectory=bench-iwpmd "$1" --systemd 2>/dev/null
    ip netns exec bench /usr/lib/lab/listeners "$2" $addresses <hold >said &
    exec 7>hold 8<said
    read -r coming <&8
    rss=$(awk '/^VmRSS:/ { print $2 }' "/proc/$(systemctl show -P MainPID bench-iwpmd)/status")
    exec 7>&-
    read -r going <&8
    wait $!
    cpu=$(systemctl show -P CPUUsageNSec bench-iwpmd)
    systemctl stop bench-iwpmd
    echo "$coming $going $cpu $rss $2" |
        awk '{ printf "%d %d %d %d\n", $1 * 1000 / $5, $2 * 1000 / $5, $3 / 1000 / $5, $4 }'
}

show() { awk -v what="$1" '{ printf "%-26s %8d %8d %8d %10d\n", what, $1, $2, $3, $4 }'; }
# The middle one of three rounds, by CPU time.
middle() { sort -n -k 3 "$1" | sed -n 2p; }

echo "                              coming    going      CPU     memory"
for count in $counts; do
    rm -f ours theirs
    for _ in 1 2 3; do
        round $mapper "$count" >>ours
        round $peer "$count" >>theirs
    done
    middle ours | show "$count, ours"
    middle theirs | show "$count, rdma-core"
done
[ "$many" = 0 ] || round $mapper "$many" | show "$many, ours"
