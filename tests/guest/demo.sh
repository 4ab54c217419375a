# SPDX-License-Identifier: MIT OR Apache-2.0
# The demonstration, run by `cargo xtask demo` in the guest.
set -u
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '  \033[36m$ %s\033[0m\n' "$*"; bash -c "$*" 2>&1 | sed 's/^/    /'; }
nic=$(for n in /sys/class/net/*; do case $(readlink "$n/device/driver") in *virtio_net) basename "$n" ;; esac; done)
first=$(echo "$nic" | head -n 1)
second=$(echo "$nic" | tail -n 1)
for n in $nic; do ip link set "$n" up; done

# Follows one device from the command that makes it until the target is active, and tells when what
# happened, counted from the command.
plug() { # NAME NETDEV
    local start events from=/run/lab/events
    udevadm monitor --kernel --udev --subsystem-match=infiniband --subsystem-match=infiniband_verbs \
        --subsystem-match=infiniband_mad >$from 2>/dev/null &
    local monitor=$!
    until grep -q 'UDEV  *-' $from; do :; done
    read -r start _ </proc/uptime
    printf '  \033[36m$ rdma link add %s type rxe netdev %s\033[0m\n' "$1" "$2"
    rdma link add "$1" type rxe netdev "$2"
    udevadm settle
    until systemctl -q is-active rdma-hw.target; do :; done
    kill $monitor
    {
        sed -n 's/^\(KERNEL\|UDEV  *\)\[\([0-9.]*\)\] *\([a-z]*\) *\([^ ]*\).*/\2 \1 \3 \4/p' $from |
            awk '{ n = split($4, p, "/"); what = ($2 == "UDEV") ? "udev is done with" : "kernel announces"
                   print $1, what, $3, p[n - 1] "/" p[n] }'
        for u in rdma-load-modules@rdma.service rdma-load-modules@roce.service rdma-hw.target; do
            us=$(systemctl show -P ActiveEnterTimestampMonotonic $u)
            [ "${us:-0}" = 0 ] || echo "$((us / 1000000)).$(printf %06d $((us % 1000000))) systemd reaches $u"
        done
    } | sort -n | awk -v s="$start" '{ t = $1; $1 = ""; if (t > s) printf "    %7.0f ms %s\n", (t - s) * 1000, $0 }'
}

say "A machine without RDMA devices. Nothing of RDMA is loaded, nothing is active."
run "rdma dev; systemctl is-active rdma-hw.target; ls /sys/module | grep -c '^ib_\|^rdma' || true"

say "An HCA is plugged: rxe, the kernel's software HCA for RoCE, on the network interface $first."
plug rxe0 "$first"

say "What the device is, as udev now knows it from RDMA netlink:"
run "udevadm info -q property /sys/class/infiniband/rxe0 | grep ID_RDMA"

say "Its nodes have names that stay with the port, and device units that a service can bind to:"
run "find /dev/infiniband/by-port-guid -type l -printf '%p -> %l\n'"
run "systemctl list-units --all --plain --no-legend --type=device | grep 'guid\|rdma-devices' | awk '{ print \$1, \$3 }'"
run "systemctl list-units --plain --no-legend 'rdma*' | awk '{ print \$1, \$3 }'"

say "It is unplugged. Links, device units and the target go; the network interface is an ordinary one again."
run "rdma link delete rxe0; udevadm settle"
until ! systemctl -q is-active rdma-hw.target; do :; done
run "find /dev/infiniband -path '*/by-port-guid/*' -type l | wc -l; systemctl is-active rdma-hw.target"

say "The administrator gives the device on $first a name, and asks for a name that is taken on $second:"
mkdir -p /etc/rdma/rdma.toml.d
cat >/etc/rdma/rdma.toml.d/50-rails.toml <<END
[[device]]
match = { netdev = "$first" }
name = "rail0"

[[device]]
match = { netdev = "$second" }
name = "rail0"
END
run "cat /etc/rdma/rdma.toml.d/50-rails.toml"
plug rxe0 "$first"
plug rxe1 "$second"
run "rdma link"
run "journalctl -q -o cat -t rdma-udev-helper"
for d in rail0 rxe1; do
    run "udevadm info -q property /sys/class/infiniband/$d | grep 'ID_RDMA_.*NAME'"
done

say "Everything carries the new name, and nothing the old one:"
run "systemctl list-units --plain --no-legend --type=device | grep 'rdma-devices' | awk '{ print \$1, \$3 }'"
run "udevadm info -q property /sys/class/net/$first | grep ID_RDMA"

say "Why is this module loaded?"
run "/usr/libexec/rdma/rdma-load-modules --explain rdma_ucm"
run "rdma link delete rail0; rdma link delete rxe1; udevadm settle"

say "InfiniBand. Two cards with two ports each, on a switch; a subnet manager, Debian's opensm, brings them up."
rm /etc/rdma/rdma.toml.d/50-rails.toml
cat >/etc/rdma/rdma.toml.d/50-rails.toml <<END
[[device]]
match = { path = "pci-0002:*" }
name = "storage"
END
modprobe vhca && { mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config; }
hcas=/sys/kernel/config/vhca/hcas
for function in 0001:a1:00.0 0002:41:00.0; do
    mkdir "$hcas/$function" && echo $function >"$hcas/$function/function" && echo 2 >"$hcas/$function/ports"
    echo 1 >"$hcas/$function/live"
done
udevadm settle
run "rdmactl; rdmactl names"
run "cat /etc/rdma/rdma.toml.d/50-rails.toml; for d in /sys/class/infiniband/*; do udevadm info -q property \$d | grep 'ID_RDMA_NAME\|KERNEL_NAME' | xargs; done"
opensm -B -s 1 -g "0x$(cat $hcas/0001:a1:00.0/port1/guid)" -f /run/opensm.log >/dev/null </dev/null
until [ "$(cat /sys/class/infiniband/*/ports/*/state | grep -c ACTIVE)" = 4 ]; do sleep 0.1; done
run "ibnetdiscover -l; ibstat -p; sminfo"
run "find /dev/infiniband/by-port-guid -type l -printf '%P -> %l\n' | sort"

say "The card with the name 'storage' is pulled out while a program has it open."
stdbuf -oL ibv_asyncwatch -d storage 2>&1 | sed -u 's/^/    ibv_asyncwatch: /' &
shown=$!
sleep 1
run "echo 1 >/sys/bus/pci/devices/0002:41:00.0/remove; udevadm settle"
run "rdma dev; systemctl list-units --plain --no-legend --type=device | grep -c storage || true"
run "echo 1 >/sys/bus/pci/rescan; udevadm settle; rdma dev"
# It waits for events of a device that is gone, for ever.
kill $shown
