// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma_verbs::netlink` against the kernel itself.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdma_verbs::DevIndex;
use rdma_verbs::netlink::{Error, Event, Monitor, Notice, Reason, Socket};

use super::bed::{Bed, Boot, devices, sh, wait_for};
use super::hca::plug;
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("netlink_makes_renames_and_removes_devices", life),
    both("netlink_refusals_are_told_apart", refusals),
    both("netlink_moves_devices_between_namespaces", namespaces),
    both("netlink_monitor_tells_what_happens", monitor),
    both("netlink_monitor_lists_anew_when_events_are_lost", lost_events),
];

fn index(socket: &mut Socket, name: &str) -> Result<DevIndex> {
    let device = socket.devices()?.into_iter().find(|d| d.name == name);
    Ok(device.with_context(|| format!("there is no '{name}'"))?.index)
}

fn life(bed: &mut Bed) -> Result<()> {
    let mut socket = Socket::open()?;
    socket.new_link("made", "rxe", &bed.nics[0])?;
    let made = index(&mut socket, "made")?;
    ensure!(socket.device(made)?.is_some_and(|d| d.name == "made" && d.ports == 1), "GET");
    let ports = socket.ports(made)?;
    ensure!(
        ports.len() == 1 && ports[0].netdev.as_ref().is_some_and(|n| n.name == bed.nics[0]),
        "PORT_GET"
    );
    let uverbs = socket.chardev("uverbs", Some(made), None)?.context("no uverbs")?;
    ensure!(
        uverbs.driver.and_then(rdma_verbs::driver_name) == Some("rxe"),
        "driver {:?}",
        uverbs.driver
    );
    let number = sh(&format!("cat /sys/class/infiniband_verbs/{}/dev", uverbs.name))?;
    let told = uverbs.number.map(|(major, minor)| format!("{major}:{minor}"));
    ensure!(told.as_ref() == Some(&number), "device number {told:?}, not {number}");
    socket.set_adaptive_moderation(made, false)?;
    socket.rename(made, "renamed")?;
    ensure!(devices()? == "renamed", "SET");
    ensure!(socket.system()?.netns_shared == Some(true), "SYS_GET");
    if let Some(before) = socket.system()?.privileged_qkey {
        for on in [!before, before] {
            socket.set_privileged_qkey(on)?;
            ensure!(socket.system()?.privileged_qkey == Some(on), "SYS_SET of privileged-qkey");
        }
    }
    socket.delete_link(made)?;
    ensure!(socket.device(made)?.is_none(), "DELLINK");
    Ok(())
}

/// An HCA, as rxe goes with its netdev and cannot be moved.
fn namespaces(bed: &mut Bed) -> Result<()> {
    let mut socket = Socket::open()?;
    match share(&mut socket, false) {
        Err(error) if bed.boot == Boot::RdmaCore => {
            // D28: whichever of its daemons is running has a network namespace of its own.
            println!(
                "netlink_moves_devices_between_namespaces: left out beside rdma-core: {error}"
            );
            return Ok(());
        }
        outcome => outcome?,
    }
    let outcome = namespaces_with(&mut socket);
    sh("ip netns delete lab-ns 2>/dev/null || true")?;
    share(&mut socket, true)?;
    ensure!(socket.system()?.netns_shared == Some(true), "SYS_SET");
    outcome
}

/// Sets the system's mode. The kernel refuses while there is any other network namespace, and takes one down
/// some time after its last user has gone: a unit with PrivateNetwork, or `ip netns delete`.
fn share(socket: &mut Socket, shared: bool) -> Result<()> {
    wait_for("no other network namespace keeps the mode as it is", || {
        match socket.set_netns_shared(shared) {
            Ok(()) => Ok(true),
            Err(Error { reason: Reason::Errno(error, _), .. })
                if error.kind() == ErrorKind::ResourceBusy =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    })
}

fn namespaces_with(socket: &mut Socket) -> Result<()> {
    let name = plug("a", 1, &[])?;
    let hca = index(socket, &name)?;
    sh("ip netns add lab-ns")?;
    let busy = socket.set_netns_shared(true).expect_err("there is another namespace");
    ensure!(!busy.to_string().is_empty(), "no reason");
    socket.set_netns(hca, File::open("/run/netns/lab-ns")?.as_fd())?;
    ensure!(socket.device(hca)?.is_none(), "it is still here");
    let there = sh("ip netns exec lab-ns rdma dev")?;
    ensure!(there.contains(&name), "it is not there: {there}");
    // It comes back when the namespace goes.
    sh("ip netns delete lab-ns")?;
    wait_for("the device is back", || Ok(socket.device(hca)?.is_some()))
}

fn refusals(bed: &mut Bed) -> Result<()> {
    let mut socket = Socket::open()?;
    socket.new_link("a", "rxe", &bed.nics[0])?;
    socket.new_link("b", "rxe", &bed.nics[1])?;
    let a = index(&mut socket, "a")?;
    let error = socket.rename(a, "b").expect_err("the name is taken");
    ensure!(matches!(error.reason, Reason::Exists(_)), "{error}");
    ensure!(
        error.to_string() == format!("cannot rename RDMA device {a} to 'b': the name is taken"),
        "{error}"
    );
    let gone = DevIndex(0x7fff_0000);
    let error = socket.ports(gone).expect_err("there is no such device");
    ensure!(matches!(error.reason, Reason::Gone(_)), "{error}");
    ensure!(socket.chardev("uverbs", Some(gone), None)?.is_none(), "a node of no device");
    Ok(())
}

fn monitor(bed: &mut Bed) -> Result<()> {
    let Some(mut monitor) = Monitor::open()? else {
        println!("netlink_monitor_tells_what_happens: this kernel announces no RDMA events");
        return Ok(());
    };
    ensure!(matches!(next(&mut monitor)?, Notice::Snapshot(_)), "the snapshot comes first");
    let mut socket = Socket::open()?;
    socket.new_link("seen", "rxe", &bed.nics[0])?;
    let seen = index(&mut socket, "seen")?;
    expect(&mut monitor, &Event::Register(seen, "seen".into()))?;
    socket.rename(seen, "other")?;
    socket.delete_link(seen)?;
    expect(&mut monitor, &Event::Unregister(seen, "other".into()))
}

fn lost_events(bed: &mut Bed) -> Result<()> {
    // A socket that holds next to nothing.
    let setting = "/proc/sys/net/core/rmem_default";
    let usual = std::fs::read_to_string(setting)?;
    std::fs::write(setting, "4096")?;
    let opened = Monitor::open();
    std::fs::write(setting, usual)?;
    let Some(mut monitor) = opened? else {
        println!(
            "netlink_monitor_lists_anew_when_events_are_lost: this kernel announces no RDMA events"
        );
        return Ok(());
    };
    next(&mut monitor)?;
    let mut socket = Socket::open()?;
    socket.new_link("gone", "rxe", &bed.nics[0])?;
    let gone = index(&mut socket, "gone")?;
    socket.delete_link(gone)?;
    socket.new_link("last", "rxe", &bed.nics[0])?;
    loop {
        if let Notice::Snapshot(devices) = next(&mut monitor)? {
            let there = |name| devices.iter().any(|d| d.name == name);
            ensure!(there("last") && !there("gone"), "{devices:?}");
            return Ok(());
        }
    }
}

fn next(monitor: &mut Monitor) -> Result<Notice> {
    let deadline = Instant::now() + Duration::from_secs(10);
    monitor.next(Some(deadline))?.context("nothing within 10 s")
}

/// Events of netdevs may come between, and renames, which 6.12 does not announce.
fn expect(monitor: &mut Monitor, event: &Event) -> Result<()> {
    loop {
        match next(monitor)? {
            Notice::Event(found) if found == *event => return Ok(()),
            Notice::Event(
                Event::NetdevAttach(..) | Event::NetdevDetach(..) | Event::Rename(..),
            ) => {}
            other => bail!("{other:?} instead of {event:?}"),
        }
    }
}
