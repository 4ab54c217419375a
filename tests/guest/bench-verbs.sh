# SPDX-License-Identifier: MIT OR Apache-2.0
# What verbs cost on rxe, by examples of the crate and by libibverbs' programs in turn: the median of nine runs each, and
# their ratio. A message back and forth (rdma-pingpong, ibv_rc_pingpong): microseconds, so that less is better. Messages one
# way, many at a time (rdma-rate, perftest's ib_send_bw and ib_write_bw): how many a second, so that more is better. What one
# call costs (rdma-cost, and the same in C): instructions, without the kernel's.
set -eu
modprobe rdma_rxe
ip link add bench type dummy
ip link set bench up
rdma link add rxe0 type rxe netdev bench
udevadm settle
sleep 2
# All from memory, so that it makes no difference where they lie.
cp /usr/lib/lab/rdma-pingpong /usr/lib/lab/rdma-rate /run/
cp "$(command -v ibv_rc_pingpong)" "$(command -v ib_send_bw)" "$(command -v ib_write_bw)" /run/
cd /run

# both PROGRAM OPTIONS: two ends, of which the second says something.
both() {
    "$@" >/dev/null 2>&1 &
    server=$!
    until ss -tln | grep -q :18515; do sleep 0.02; done
    "$@" 127.0.0.1
    wait $server
}
pingpong() { both "$@" -d rxe0 -g 0 | sed -n 's/.* = \([0-9.]*\) usec\/iter/\1/p'; }
# Millions a second, in the fifth column.
perftest() { both "$@" -d rxe0 -x 0 -F | awk '/^ *[0-9]+ +[0-9]+ / { printf "%d\n", $5 * 1000000 }'; }
rate() { ./rdma-rate -d rxe0 -g 0 "$@" | cut -d ' ' -f 1; }

median() { sort -n | sed -n 5p; }
# compare NAME OURS THEIRS: commands that each say a number.
compare() {
    rm -f ours theirs
    for _ in 1 2 3 4 5 6 7 8 9; do
        $2 >>ours
        $3 >>theirs
    done
    printf '%-42s %9s %9s   ' "$1" "$(median <ours)" "$(median <theirs)"
    awk "BEGIN { printf \"%.2f\\n\", $(median <ours) / $(median <theirs) }"
}

echo "                                                ours    theirs   ratio"
for options in "-s 64 -n 1000" "-s 4096 -n 500" "-s 65536 -n 100" "-s 64 -n 500 -e"; do
    compare "back and forth $options, µs" "pingpong ./rdma-pingpong $options" \
        "pingpong ./ibv_rc_pingpong $options"
done
for options in "-s 64 -n 9984 -l 32" "-s 64 -n 9984"; do
    compare "send $options, 1/s" "rate -o send $options" "perftest ./ib_send_bw $options"
done
compare "write -s 65536 -n 1000, 1/s" "rate -o write -s 65536 -n 1000" \
    "perftest ./ib_write_bw -s 65536 -n 1000"
compare "datagrams -s 64 -n 9984 -l 32, 1/s" "rate -o datagram -s 64 -n 9984 -l 32" \
    "perftest ./ib_send_bw -c UD -s 64 -n 9984 -l 32"

# instructions PROGRAM WHAT COUNT
instructions() {
    valgrind --tool=lackey --basic-counts=yes "$1" rxe0 "$2" "$3" 2>&1 |
        sed -n 's/.*guest instrs: *\([0-9,]*\).*/\1/p' | tr -d ,
}
# Of a hundred calls, of which the first may be another.
call() { echo $((($(instructions "$1" "$2" 101) - $(instructions "$1" "$2" 1)) / 100)); }
for what in poll receive send; do
    ours=$(call /usr/lib/lab/rdma-cost $what) theirs=$(call /usr/lib/lab/cost $what)
    case $what in
    poll) name="poll an empty queue" ;;
    receive) name="post a receive request" ;;
    send) name="post 32 datagrams" ;;
    esac
    printf '%-42s %9s %9s   ' "$name, instructions" "$ours" "$theirs"
    awk "BEGIN { printf \"%.2f\\n\", $ours / $theirs }"
done
