# SPDX-License-Identifier: MIT OR Apache-2.0
# How fast ibacm answers, this suite's and rdma-core's in turn: many programs that ask for a path that is known; paths that are
# not, of a subnet administration that takes 2 ms for each answer, however many it is asked. For each: answers a second, how
# many microseconds 99 of 100 take at most, questions without a path, the CPU time of an answer in microseconds, memory in
# KiB. CLIENTS, QUESTIONS and COLD have it do others.
set -eu
clients=${CLIENTS:-1000}
questions=${QUESTIONS:-200000}
cold=${COLD:-2000}
modprobe -a vhca ib_umad
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
for hca in a b; do
    mkdir /sys/kernel/config/vhca/hcas/$hca
    echo 1 >/sys/kernel/config/vhca/hcas/$hca/ports
    echo 1 >/sys/kernel/config/vhca/hcas/$hca/live
done
modprobe ib_ipoib
udevadm settle
guid=$(cat /sys/kernel/config/vhca/hcas/a/port1/guid)
umad=/dev/infiniband/by-port-guid/$guid/umad
n=1
for hca in a b; do
    device=$(cat /sys/kernel/config/vhca/hcas/$hca/ibdev)
    for dir in /sys/class/net/*; do
        [ -e "$dir/device/infiniband/$device" ] || continue
        ip addr add 10.7.0.$n/24 dev "${dir##*/}"
        ip link set "${dir##*/}" up
    done
    n=$((n + 1))
done
cd /run
ulimit -n 65536

manager() {
    systemd-run -q --unit=bench-sm opensm -s 1 -g 0x$guid -f /run/opensm.log
    timeout 60 sh -c 'while cat /sys/class/infiniband/*/ports/*/state | grep -qv ACTIVE; do sleep 0.1; done'
}

start() {
    if [ $1 = ours ]; then
        systemctl start ibacm
        unit=ibacm
    else
        systemd-run -q --unit=bench-acm --service-type=notify -p LimitNOFILE=65536 /usr/lib/lab/peers/ibacm --systemd
        unit=bench-acm
    fi
    timeout 60 sh -c 'until ib_acme -f i -s 10.7.0.1 -d 10.7.0.2 | grep -q "status 0x0"; do sleep 0.2; done'
    pid=$(systemctl show -P MainPID $unit)
}

ticks() { awk '{ print $14 + $15 }' /proc/$pid/stat; }

# measure WHAT ARGUMENTS: a row
measure() {
    before=$(ticks)
    result=$(/usr/lib/lab/path-load /run/ibacm-unix.sock $2)
    cpu=$(($(ticks) - before))
    rss=$(awk '/^VmRSS:/ { print $2 }' /proc/$pid/status)
    set -- "$1" $2
    echo "$result $cpu $rss $3" | awk -v what="$1" '{
        printf "%-30s %9d %9d %9d %9.1f %9d\n", what, $1, $2, $3, $4 * 10000 / $6, $5 }'
}

echo "                               a second   99 in us      none    CPU us    memory"
for round in 1 2 3; do
    for who in ours rdma-core; do
        systemctl stop ibacm.service ibacm.socket bench-acm 2>/dev/null || true
        manager
        start $who
        measure "known, $who" "$clients $questions"
        systemctl kill -s KILL bench-sm
        while systemctl is-active -q bench-sm; do sleep 0.1; done
        systemctl reset-failed
        systemd-run -q --unit=bench-responder --service-type=notify /usr/lib/lab/path-responder $umad 2000
        measure "unknown, $who" "100 $cold cold"
        systemctl stop bench-responder
    done
done
