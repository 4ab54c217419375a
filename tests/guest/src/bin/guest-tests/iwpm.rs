// SPDX-License-Identifier: MIT OR Apache-2.0
//! `iwpmd`: the TCP ports behind iWARP connections.
//!
//! siw has the host's own TCP and needs none; the lab has it also as an adapter with a TCP of its own would be
//! (`siw-mapped`). It still takes its ports of the host, so that its connections are made in network namespaces of their
//! own (`laba`, 10.9.0.1 and fd00:9::1, and `labb`, 10.9.0.2 and fd00:9::2), where nothing is reserved; the port mapper, in
//! the initial one, has all these addresses, and is asked by itself.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bed::{Bed, Boot, patience, plug, sh, unplug, wait_active, wait_for, wait_inactive};
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    better("port_mapper_comes_and_goes", "its rules take siw for no iWARP device", comes_and_goes),
    both("iwarp_connections_are_mapped", mapped),
    both("iwarp_connections_over_a_bad_wire", bad_wire),
    both("port_mapper_speaks_with_debians", debians),
    better("port_mapper_is_killed", "its unit has no Restart=", killed),
    better("a_host_without_a_port_mapper", "I7: it tells the kernel nothing", nobody),
    better("port_mapper_and_bad_datagrams", "it cannot be asked", hostile),
    both("port_mapper_sleeps_when_nothing_happens", idle),
];

const UNIT: &str = "iwpmd.service";
/// Who is connected to.
const THERE: &str = "10.9.0.2";

/// What `rdmactl iwpm` says.
fn now() -> Result<Value> {
    let text = sh("rdmactl iwpm --json")?;
    serde_json::from_str(&text).with_context(|| format!("rdmactl iwpm --json: {text}"))
}

fn figure(name: &str) -> Result<u64> {
    now()?["figures"][name].as_u64().with_context(|| format!("there is no figure '{name}'"))
}

/// A port mapper is there.
fn started(bed: &mut Bed) -> Result<()> {
    if bed.boot == Boot::RdmaCore {
        // Its rules do not know siw, and what no device wants is stopped at once.
        sh(&format!("systemd-run -q --unit=lab-wants -p Wants={UNIT} sleep 600"))?;
        bed.stop_later("lab-wants");
    }
    wait_active(UNIT)
}

fn comes_and_goes(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    sh(&format!("ip addr add 10.9.9.1/24 dev {nic}"))?;
    // systemd has another netlink socket of RDMA, as that of rdma-core's ibacm: the kernel takes the second one's number
    // for none.
    sh("systemd-run -q --unit=lab-other --socket-property='ListenNetlink=rdma 4' true")?;
    bed.stop_later("lab-other.socket");
    // Nobody else's device has one.
    plug("rxe", "rxe0", &bed.nics[1].clone())?;
    ensure!(super::bed::unit_state(UNIT) != "active", "RoCE needs no port mapper");
    plug("siw", "siw0", &nic)?;
    wait_active(UNIT)?;
    let said = sh("timeout 60 rping -s -a 10.9.9.1 -C 3 >/run/lab/server 2>&1 &
        timeout 60 sh -c 'until rdma res show cm_id | grep -q LISTEN; do sleep 0.05; done'
        timeout 60 rping -c -v -a 10.9.9.1 -C 3; wait $!")?;
    ensure!(said.matches("ping data").count() == 3, "{said}");
    let status = now()?;
    let (asked, accepted) = (figure("asked")?, figure("accepted")?);
    ensure!((asked, accepted) == (1, 1), "{status}");
    ensure!(status["mappings"].as_array().is_some_and(Vec::is_empty), "{status}");
    sh(&format!("ip addr del 10.9.9.1/24 dev {nic}"))?;
    unplug("siw0")?;
    wait_inactive(UNIT)?;
    wait_inactive("iwpmd.socket")
}

/// Does something with two devices that need a port mapper, in network namespaces of their own.
fn with_adapters(bed: &mut Bed, test: impl FnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    sh("modprobe -a rdma_ucm ib_uverbs; ! lsmod | grep -q '^siw ' || rmmod siw
        insmod /usr/lib/modules/$(uname -r)/extra/siw-mapped
        ip netns add laba; ip netns add labb
        ip link add laba0 netns laba type veth peer name labb0 netns labb
        ip -n laba addr add 10.9.0.1/24 dev laba0; ip -n labb addr add 10.9.0.2/24 dev labb0
        ip -n laba addr add fd00:9::1/64 dev laba0 nodad; ip -n labb addr add fd00:9::2/64 dev labb0 nodad
        ip -n laba link set laba0 up; ip -n labb link set labb0 up
        ip link add lab0 type dummy; ip link set lab0 up
        for a in 10.9.0.1/32 10.9.0.2/32 fd00:9::1/128 fd00:9::2/128; do ip addr add $a dev lab0; done
        ip netns exec laba rdma link add siwa type siw netdev laba0
        ip netns exec labb rdma link add siwb type siw netdev labb0
        udevadm settle")?;
    let outcome = started(bed).and_then(|()| test(bed));
    if outcome.is_err() {
        let said = sh("journalctl -q -o cat -b -u iwpmd | tail; dmesg | grep iwpm | tail
            rdmactl iwpm --json; true")?;
        println!("{said}");
    }
    sh("pkill rping; for d in siwa siwb; do rdma link delete $d; done; udevadm settle
        ip netns del laba; ip netns del labb; ip link del lab0
        timeout 20 sh -c 'until rmmod siw; do sleep 0.1; done' 2>/dev/null")?;
    outcome
}

/// Somebody who listens, until a connection is done, or (`-P`) for many.
fn listen(options: &str) -> Result<()> {
    listen_at(THERE, options)
}

fn listen_at(address: &str, options: &str) -> Result<()> {
    let before = listening()?.len();
    sh(&format!(
        "cd /run/lab; ip netns exec labb timeout 200 rping -s -a {address} -C 3 {options} >/dev/null 2>&1 &"
    ))?;
    wait_for("somebody listens", || Ok(listening()?.len() > before))
}

/// The TCP ports that somebody listens at in `labb`.
fn listening() -> Result<Vec<u16>> {
    let said = sh("ip netns exec labb ss -Hltn | awk '{ sub(/.*:/, \"\", $4); print $4 }'")?;
    Ok(said.lines().map(str::parse).collect::<Result<_, _>>()?)
}

fn connect() -> Result<u64> {
    connect_to(THERE)
}

/// What comes to siw while somebody has the lock of the queue pair's state it does not read (`siw_qp_llp_data_ready`): that
/// is left in the TCP socket until more comes, and rping waits for it. Such a connection is made once more.
/// How many were made.
fn connect_to(address: &str) -> Result<u64> {
    for made in 1..=3 {
        let said = sh(&format!(
            "ip netns exec laba rping -c -v -a {address} -C 3 >/run/lab/said 2>&1 & rping=$!
            for i in $(seq 250); do kill -0 $rping 2>/dev/null || break; sleep 0.1; done
            for end in laba labb; do
                ip netns exec $end ss -Htn state established | awk '$1 > 0 {{ print \"left unread\" }}'
            done
            kill $rping 2>/dev/null; cat /run/lab/said"
        ))?;
        if said.matches("ping data").count() == 3 {
            return Ok(made);
        }
        ensure!(said.contains("left unread"), "{said}");
        println!("siw has left unread what came: once more");
    }
    bail!("siw has left unread what came, three times")
}

/// The application's port is 7174, and what is listened at is another.
fn mapped(bed: &mut Bed) -> Result<()> {
    with_adapters(bed, |bed| {
        for (here, there) in [("10.9.0.1", THERE), ("fd00:9::1", "fd00:9::2")] {
            let (here, there): (IpAddr, IpAddr) = (here.parse()?, there.parse()?);
            listen_at(&there.to_string(), "")?;
            let [port] = listening()?[..] else { bail!("not one listens: {:?}", listening()?) };
            ensure!(port != 7174, "{there} is not mapped");
            // In the mapper's namespace the port is taken, and nobody listens.
            let taken = TcpListener::bind((there, port)).err().context("it is not reserved")?;
            ensure!(taken.kind() == std::io::ErrorKind::AddrInUse, "{taken}");
            if bed.boot == Boot::Ours {
                // I11: of this address alone.
                TcpListener::bind((here, port)).context("it is reserved at another address")?;
                let status = now()?;
                let mapping = &status["mappings"][0];
                let is_it = mapping["local"] == SocketAddr::from((there, 7174)).to_string();
                ensure!(is_it && mapping["reserved"] == true, "{status}");
            }
            connect_to(&there.to_string())?;
            wait_for("its port is free again", || Ok(TcpListener::bind((there, port)).is_ok()))?;
        }
        Ok(())
    })
}

/// Mappers' datagrams are lost, come twice, late, and in another order; the connections are on another wire.
fn bad_wire(bed: &mut Bed) -> Result<()> {
    with_adapters(bed, |bed| {
        sh("tc qdisc add dev lo root netem loss 20% duplicate 20% delay 20ms reorder 25%")?;
        let outcome = listen("-P").and_then(|()| (0..5).map(|_| connect()).sum::<Result<u64>>());
        sh("tc qdisc del dev lo root")?;
        let made = outcome?;
        if bed.boot == Boot::Ours {
            let status = now()?;
            println!("over a bad wire: {}", status["figures"]);
            ensure!(status["figures"]["accepted"] == made, "{made} connections: {status}");
        }
        Ok(())
    })
}

/// What speaks to a port mapper in `labb` for the kernel, which does not do so there.
const KERNEL: &str = r#"
import socket, struct, sys
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 20)
kernel.bind((0, 0))
kernel.settimeout(20)
own = kernel.getsockname()[0]

def address(ip, port):
    return struct.pack("=H", 2) + struct.pack(">H", port) + socket.inet_aton(ip) + bytes(120)

def ask(operation, *values):
    payload = b""
    for number, value in enumerate((struct.pack("=I", 0), *values), 1):
        payload += struct.pack("=HH", 4 + len(value), number) + value
    header = struct.pack("=IHHII", 16 + len(payload), 0x800 + operation, 1, 7, own)
    kernel.sendto(header + payload, (int(sys.argv[1]), 0))
    answer = kernel.recv(65536)
    kind, = struct.unpack_from("=H", answer, 4)
    assert kind == 0x800 + operation, (hex(kind), answer)
    values, at = {}, 16
    while at < len(answer):
        length, number = struct.unpack_from("=HH", answer, at)
        values[number] = answer[at + 4:at + length]
        at += length + 3 & ~3
    return values

def port(value):
    return struct.unpack_from(">H", value, 2)[0]

ask(0, b"labb0".ljust(16, b"\0"), b"siwb".ljust(32, b"\0"), b"iWarpPortMapperUser".ljust(32, b"\0"))
if sys.argv[2] == "listen":
    print(port(ask(1, address("10.9.0.2", 7174))[3]))
else:
    answer = ask(2, address("10.9.0.2", 50000), address("10.9.0.1", 7174))
    print(port(answer[5]), struct.unpack("=H", answer[6])[0])
"#;

/// What mappers send each other is what rdma-core's sends and understands: it is asked, and it asks.
fn debians(bed: &mut Bed) -> Result<()> {
    super::bed::with_ours_alone(bed)?;
    with_adapters(bed, |bed| {
        between()?;
        bed.file("/run/lab/kernel.py", KERNEL)?;
        // What it says of its configuration are warnings.
        let theirs = "-p LogLevelMax=err -p NetworkNamespacePath=/run/netns/labb /usr/lib/lab/peers/iwpmd --systemd";
        sh(&format!("systemd-run -q --collect --unit=lab-theirs --service-type=notify {theirs}"))?;
        bed.stop_later("lab-theirs");
        let by_theirs = |what: &str| {
            sh(&format!(
                "ip netns exec labb python3 /run/lab/kernel.py $(systemctl show -P MainPID lab-theirs) {what}"
            ))
        };
        // Somebody listens there, and it is asked where. It answers from another address of its host.
        let port = by_theirs("listen")?;
        let outcome = sh("ip netns exec laba timeout 15 rping -c -a 10.9.0.2 -C 1 2>&1");
        let said = bed.journal("-k")?;
        ensure!(outcome.is_err(), "nobody listens at port {port}, and it is connected to");
        ensure!(figure("accepted")? == 1 && !said.contains("Reject"), "{}, {said}", now()?);
        // Somebody listens here, and it asks where: by the same way.
        sh("ip -n labb route add 10.9.0.1/32 via 10.9.1.1
            ip netns exec laba timeout 60 rping -s -a 10.9.0.1 -C 1 >/dev/null 2>&1 &
            timeout 20 sh -c 'until rdmactl iwpm | grep -q 10.9.0.1:7174; do sleep 0.1; done'")?;
        let status = now()?;
        let mapped = status["mappings"][0]["mapped"].as_str().unwrap_or_default().to_owned();
        let told = by_theirs("connect")?;
        ensure!(format!("10.9.0.1:{told}") == format!("{mapped} 0"), "{told}, not {mapped}");
        ensure!(figure("granted")? == 1, "{}", now()?);
        // One that is not there.
        sh("pkill rping
            timeout 20 sh -c 'while rdmactl iwpm | grep -q 10.9.0.1:7174; do sleep 0.1; done'")?;
        let told = by_theirs("connect")?;
        ensure!(told == "7174 16", "{told}");
        Ok(())
    })
}

/// 10.9.0.2 is no address of the mapper's namespace any more, but that of `labb`, on a wire of their own.
fn between() -> Result<()> {
    sh("ip addr del 10.9.0.2/32 dev lab0
        ip link add lab1 type veth peer name labb1 netns labb
        ip addr add 10.9.1.1/24 dev lab1; ip link set lab1 up
        ip -n labb addr add 10.9.1.2/24 dev labb1; ip -n labb link set labb1 up
        ip route add 10.9.0.2/32 via 10.9.1.2")
    .map(drop)
}

/// A mapper that is killed has its mappings again, under the same ports, and connections come.
fn killed(bed: &mut Bed) -> Result<()> {
    bed.provokes("iwpmd.service: Main process exited");
    bed.provokes("iwpmd.service: Failed with result");
    // The kernel, where there are more than it tells of.
    bed.provokes("Insufficient skbs for map info");
    with_adapters(bed, |bed| {
        listen("")?;
        let ports = listening()?;
        sh(&format!("systemctl kill -s KILL {UNIT}"))?;
        if bed.boot == Boot::RdmaCore {
            wait_for("it is back", || Ok(super::bed::unit_state(UNIT) == "active"))?;
        }
        // What the kernel asks meanwhile it is told when there is one again.
        let made = connect()?;
        ensure!(figure("accepted")? == made, "{}", now()?);
        let said = bed.journal("-k")?;
        ensure!(!said.contains("Unable to send a nlmsg"), "{said}");
        listen("")?;
        let (first, second) = (ports, listening()?);
        sh(&format!("systemctl kill -s KILL {UNIT}"))?;
        wait_for("it is back", || Ok(now().is_ok()))?;
        let status = now()?;
        let mapping = &status["mappings"][0];
        let is_same = mapping["mapped"] == format!("10.9.0.2:{}", second[0]);
        ensure!(is_same && mapping["reserved"] == true, "{first:?}, {second:?}: {status}");
        connect()?;
        // A reload asks the kernel, too, and changes nothing.
        listen("")?;
        let before = now()?["mappings"].clone();
        sh(&format!("systemctl reload {UNIT}"))?;
        let after = now()?["mappings"].clone();
        ensure!(before == after && after[0]["users"] == 1, "{before}, {after}");
        // More than the kernel tells of.
        let mut many = Command::new("ip")
            .args(["netns", "exec", "labb", "/usr/lib/lab/listeners", "300", THERE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        wait_for("300 more listen", || Ok(listening()?.len() == 301))?;
        let before = now()?["mappings"].clone();
        sh(&format!("systemctl kill -s KILL {UNIT}"))?;
        wait_for("it is back", || Ok(now().is_ok()))?;
        let after = now()?["mappings"].clone();
        let is_reserved = |mapping: &Value| mapping["reserved"] == true;
        let all_reserved = after.as_array().is_some_and(|all| all.iter().all(is_reserved));
        ensure!(before == after && all_reserved, "{before}, {after}");
        drop(many.stdin.take());
        ensure!(many.wait()?.success(), "they do not end");
        wait_for("their ports are free", || {
            Ok(now()?["mappings"].as_array().map(Vec::len) == Some(1))
        })?;
        ensure!(!bed.journal("-u iwpmd -p warning")?.contains("TCP port"), "a port was lost");
        Ok(())
    })
}

/// What hears a port mapper ask, and does not answer.
const HEAR: &str = r#"
import socket
asked = socket.socket(type=socket.SOCK_DGRAM)
asked.bind(("", 3935))
asked.recv(64)
print("asked", flush=True)
"#;

/// The other side's mapper is asked, and its host says that there is none: the connection is made as without one.
fn nobody(bed: &mut Bed) -> Result<()> {
    if bed.boot == Boot::RdmaCore {
        patience(30);
    }
    with_adapters(bed, |bed| {
        // Who listens there has had no mapper; the address is not this host's.
        sh(&format!("systemctl stop {UNIT}"))?;
        listen("-P")?;
        ensure!(listening()? == [7174], "{:?}", listening()?);
        between()?;
        sh(&format!("systemctl start {UNIT}"))?;
        connect()?;
        let waited = bed.journal("-k")?.matches("Timeout 10 sec for netlink request").count();
        ensure!(waited == 0, "the kernel has waited for an answer");
        let silent = now()?["silent"].clone();
        ensure!(silent[0] == "10.9.0.2", "{silent}");
        let again = figure("again")?;
        connect()?;
        ensure!(figure("again")? == again, "a host that had none is asked more than once");
        ensure!(figure("silent")? == 2, "{}", now()?);
        // But asked it is, every time.
        sh(&format!(
            "ip netns exec labb timeout 60 python3 -c '{HEAR}' >/run/lab/heard 2>&1 &
            timeout 20 sh -c 'until ip netns exec labb ss -Hlun | grep -q :3935; do sleep 0.05; done'"
        ))?;
        connect()?;
        let heard = std::fs::read_to_string("/run/lab/heard")?;
        ensure!(heard.trim() == "asked", "a host that had none is not asked: '{heard}'");
        Ok(())
    })
}

/// Netlink from somebody who is not the kernel: an ADD_MAPPING, and what looks like one.
const ADD_MAPPING: &str = r#"
import random, socket, struct, sys
own = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 20)
own.bind((0, 0))
address = struct.pack("=H2s4s120x", 2, b"\0\x09", b"\x0a\x09\x09\x09")
add = struct.pack("=HHIHH", 8, 1, 0, 132, 2) + address + struct.pack("=HHI", 8, 3, 0)
sent = 0
for number in range(1000):
    payload = bytearray(add)
    for _ in range(number % 20):
        payload[random.randrange(len(payload))] = random.randrange(256)
    header = struct.pack("=IHHII", 16 + len(payload), 0x801, 1, number, 0)
    sent += own.sendto(header + payload, (int(sys.argv[1]), 0)) > 0
print(sent)
"#;

/// Whatever anybody sends: to its port, and to where the kernel asks.
fn hostile(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    plug("siw", "siw0", &nic)?;
    wait_active(UNIT)?;
    let rss = || {
        sh(&format!(
            "awk '/^VmRSS:/ {{ print $2 }}' /proc/$(systemctl show -P MainPID {UNIT})/status"
        ))
    };
    let before: u64 = rss()?.parse()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let mut seed = 1_u64;
    let mut sent = 0;
    for _ in 0..100_000 {
        let mut bytes = [0; 80];
        for byte in &mut bytes {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            *byte = seed.to_le_bytes()[3];
        }
        // Half of them look right at first.
        if seed & 1 == 0 {
            bytes[0] = if seed & 2 == 0 { 4 } else { 0x14 };
        }
        let length = if seed & 4 == 0 { 64 } else { usize::from(seed.to_le_bytes()[5]) % 80 };
        sent += usize::from(socket.send_to(&bytes[..length], "127.0.0.1:3935").is_ok());
    }
    ensure!(sent > 90_000, "only {sent} datagrams were sent");
    bed.file("/run/lab/add.py", ADD_MAPPING)?;
    let port = sh("awk '$2 == 20 && $4 == \"00000002\" { print $3 }' /proc/net/netlink")?;
    let heard = sh(&format!("python3 /run/lab/add.py {port}"))?;
    ensure!(heard == "1000", "only {heard} messages were sent");
    let status = now()?;
    ensure!(status["mappings"].as_array().is_some_and(Vec::is_empty), "{status}");
    let after: u64 = rss()?.parse()?;
    println!(
        "iwpmd and {sent} bad datagrams: RSS {before} KiB before, {after} KiB after, {status}"
    );
    ensure!(after < before + 4096, "it keeps what comes: {before} KiB, {after} KiB");
    Ok(())
}

fn idle(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    plug("siw", "siw0", &nic)?;
    started(bed)?;
    sh("sleep 3")?;
    sleeps(bed, UNIT)
}

/// It is not woken when nothing happens; how much memory it takes.
pub(crate) fn sleeps(bed: &Bed, unit: &str) -> Result<()> {
    let status = format!("/proc/$(systemctl show -P MainPID {unit})/task/*/status");
    let switches = || -> Result<u64> {
        let text = sh(&format!("grep -h ctxt_switches {status}"))?;
        Ok(text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum())
    };
    let seconds = std::env::var("LAB_IDLE").unwrap_or_else(|_| "10".into());
    let mut woke = u64::MAX;
    for _ in 0..3 {
        let before = switches()?;
        sh(&format!("sleep {seconds}"))?;
        woke = woke.min(switches()? - before);
        if woke == 0 || bed.boot == Boot::RdmaCore {
            break;
        }
    }
    let rss = sh(&format!("awk '/^VmRSS:/ {{ print $2; exit }}' {status}"))?;
    println!("{:?}, {unit}: RSS {rss} KiB, {woke} wakeups in {seconds} s", bed.boot);
    ensure!(woke == 0 || bed.boot == Boot::RdmaCore, "it wakes up for nothing");
    Ok(())
}
