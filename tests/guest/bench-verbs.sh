# SPDX-License-Identifier: MIT OR Apache-2.0
# A message back and forth on rxe, by rdma-pingpong and by libibverbs' ibv_rc_pingpong in turn: microseconds for one way
# and back, the median of nine runs each, and their ratio.
set -eu
modprobe rdma_rxe
ip link add bench type dummy
ip link set bench up
rdma link add rxe0 type rxe netdev bench
udevadm settle
sleep 2
# Both from memory, so that it makes no difference where they lie.
cp /usr/lib/lab/rdma-pingpong "$(command -v ibv_rc_pingpong)" /run/

# run PROGRAM OPTIONS: both ends, and what a round has taken.
run() {
    "$@" -d rxe0 -g 0 >/dev/null &
    server=$!
    until ss -tln | grep -q :18515; do sleep 0.02; done
    "$@" -d rxe0 -g 0 127.0.0.1 | sed -n 's/.* = \([0-9.]*\) usec\/iter/\1/p'
    wait $server
}
median() { sort -n | sed -n 5p; }

echo "                     ours, µs  theirs, µs   ratio"
for options in "-s 64 -n 1000" "-s 4096 -n 500" "-s 65536 -n 100" "-s 64 -n 500 -e"; do
    rm -f ours theirs
    for _ in 1 2 3 4 5 6 7 8 9; do
        # shellcheck disable=SC2086
        run /run/rdma-pingpong $options >>ours
        # shellcheck disable=SC2086
        run /run/ibv_rc_pingpong $options >>theirs
    done
    printf '%-20s %9s %11s   ' "$options" "$(median <ours)" "$(median <theirs)"
    awk "BEGIN { printf \"%.2f\\n\", $(median <ours) / $(median <theirs) }"
done
