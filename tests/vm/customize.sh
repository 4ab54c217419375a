#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# mmdebstrap's customize hook: turns a Debian tree ($1) into the guest's root and packs it as $OUT.
set -euo pipefail
root=$1
cp -a "$MODULES/lib/modules" "$root/usr/lib/"

echo rdma-guest >"$root/etc/hostname"
printf '127.0.0.1 localhost rdma-guest\n::1 localhost\n' >"$root/etc/hosts"
# Never resolved by anybody: nothing in the guest talks to the outside.
: >"$root/etc/fstab"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
chroot "$root" passwd -qd root

mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system.conf.d"
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToConsole=no\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
# The tests read how much CPU time udev has used.
printf '[Manager]\nDefaultCPUAccounting=yes\n' >"$root/etc/systemd/system.conf.d/lab.conf"

# Under emulation a boot costs what it runs. None of these has to do with devices.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    systemd-tmpfiles-clean.timer e2scrub_reap.service systemd-firstboot.service systemd-pstore.service \
    systemd-update-done.service ldconfig.service systemd-journal-catalog-update.service \
    systemd-hwdb-update.service systemd-random-seed.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-binfmt.service systemd-machine-id-commit.service \
    systemd-journal-flush.service systemd-timesyncd.service systemd-networkd.service \
    systemd-networkd-wait-online.service networking.service console-getty.service getty@tty1.service \
    systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-pcrmachine.service \
    opensm.service iscsid.service nvmefc-boot-connections.service nvmf-autoconnect.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# For `vm shell`: a root shell on the serial console.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/lab.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I linux
END
# Only devices that a test may look at are announced again at boot.
mkdir -p "$root/etc/systemd/system/systemd-udev-trigger.service.d"
cat >"$root/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf" <<'END'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --prioritized-subsystem=module,block,net \
    --subsystem-match=block --subsystem-match=net --subsystem-match=pci --subsystem-match=virtio \
    --subsystem-match=virtio-ports --subsystem-match=misc --subsystem-match=mem --subsystem-match=infiniband \
    --subsystem-match=infiniband_verbs --subsystem-match=infiniband_mad
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty --sysname-match=ttyS0
END
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log
# What is mounted while the tree is made is not part of it.
mkfs.erofs -T0 -x-1 --exclude-regex='^(proc|sys|dev|run)/.+' "$OUT" "$root" >/dev/null
