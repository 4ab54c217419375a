# SPDX-License-Identifier: MIT OR Apache-2.0
# What TCP ports for many iWARP listeners cost, with this suite's port mapper and with rdma-core's in turn, for each of them in
# microseconds: until it is there and gone again, the kernel's part included; the mapper's CPU time for its coming, in its own
# code and in the kernel's. Its memory with all of them, in KiB. siw is one that needs a port mapper, in a network namespace
# of its own, so that the ports it takes are not those that are reserved. The last row is this suite's alone: rdma-core's takes
# each port of all addresses, and there are 28000. COUNTS and MANY have it do others.
set -eu
counts=${COUNTS:-"1000 4000 16000"}
many=${MANY:-32000}
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

# round PROGRAM COUNT: coming, going, CPU time in its own code and in the kernel's, memory
round() {
    systemd-run -q --unit=bench-iwpmd --service-type=notify -p LimitNOFILE=1048576 -p RuntimeDirectory=bench-iwpmd "$1" --systemd 2>/dev/null
    ip netns exec bench /usr/lib/lab/listeners "$2" $addresses <hold >said &
    exec 7>hold 8<said
    read -r coming <&8
    pid=$(systemctl show -P MainPID bench-iwpmd)
    rss=$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status")
    # In hundredths of a second.
    cpu=$(awk '{ print $14, $15 }' "/proc/$pid/stat")
    exec 7>&-
    read -r going <&8
    wait $!
    systemctl stop bench-iwpmd
    echo "$coming $going $cpu $rss $2" | awk '{
        printf "%d %d %d %d %d\n", $1 * 1000 / $6, $2 * 1000 / $6, $3 * 10000 / $6, $4 * 10000 / $6, $5 }'
}

show() { awk -v what="$1" '{ printf "%-26s %8d %8d %8d %8d %8d\n", what, $1, $2, $3, $4, $5 }'; }
# The middle one of three rounds, by its own CPU time.
middle() { sort -n -k 3 "$1" | sed -n 2p; }

echo "                              coming    going  CPU own   kernel   memory"
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
