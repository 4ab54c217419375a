// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ibacm`: the paths that Debian's `ib_acme`, librdmacm and the kernel ask for.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bed::{Bed, Boot, sh, wait_active, wait_for, wait_inactive};
use super::rdmactl::status;
use super::{Test, better, both, hca};

pub(crate) const TESTS: &[Test] = &[
    both("paths_by_ib_acme", by_ib_acme),
    both("paths_for_the_kernel_and_librdmacm", for_the_kernel),
    better(
        "paths_to_neighbours_and_behind_routers",
        "it does not look, and has no IP_RESOLVE",
        neighbours,
    ),
    better("ibacm_without_infiniband", "D26: it ends where there is no InfiniBand port", without),
    better("ibacm_follows_hca_and_addresses", "A10, A16: it sees neither", follows),
    better(
        "paths_while_the_manager_is_gone",
        "6 s for an answer, one after the other",
        manager_gone,
    ),
    better("ibacm_and_bad_programs", "A1, A13: one of them is enough", bad_programs),
    better("connections_outlive_ibacm", "they end with it", outlive),
    both("ibacm_sleeps_when_nothing_happens", idle),
];

const UNIT: &str = "ibacm.service";
const SOCKET: &str = "/run/ibacm-unix.sock";

/// Two HCAs on one fabric with IPoIB addresses, 10.7.0.1 and 10.7.0.2, and ibacm.
fn started(bed: &mut Bed) -> Result<[String; 2]> {
    let devices = fabric(bed)?;
    for (number, device) in (1..).zip(&devices) {
        let interface = hca::netdev(device, 1)?;
        sh(&format!(
            "ip addr replace 10.7.0.{number}/24 dev {interface}; ip link set {interface} up"
        ))?;
    }
    sh("ping -c 1 -w 30 -I 10.7.0.1 10.7.0.2 >/dev/null || true; systemctl restart ibacm")?;
    bed.stop_later(UNIT);
    bed.stop_later("ibacm.socket");
    wait_active(UNIT)?;
    // rdma-core's joins its groups first.
    wait_for("a path is known", || {
        Ok(sh("timeout 20 ib_acme -f i -s 10.7.0.1 -d 10.7.0.2; true")?.contains("status 0x0"))
    })?;
    Ok(devices)
}

fn fabric(bed: &mut Bed) -> Result<[String; 2]> {
    let devices = [hca::plug("a", 1, &[])?, hca::plug("b", 1, &[])?];
    sh("modprobe ib_ipoib; udevadm settle")?;
    hca::subnet_manager(bed, "a")?;
    Ok(devices)
}

/// What is answered to a path: status 0, the fabric says the same, and these lines.
fn acme(arguments: &str, lines: &[String]) -> Result<()> {
    let (_, said) = status(&format!("timeout 30 ib_acme -v {arguments} 2>&1"))?;
    let is_there = |line: &String| said.lines().any(|l| l.trim() == line);
    let good = said.contains("SA verification: success") && said.contains("return status 0x0");
    ensure!(good && lines.iter().all(is_there), "ib_acme {arguments}: {lines:?}: {said}");
    Ok(())
}

fn lid(device: &str) -> Result<u32> {
    let lid = sh(&format!("cat /sys/class/infiniband/{device}/ports/1/lid"))?;
    Ok(u32::from_str_radix(lid.trim_start_matches("0x"), 16)?)
}

fn by_ib_acme(bed: &mut Bed) -> Result<()> {
    let devices = started(bed)?;
    let read = |device: &str, what: &str| {
        sh(&format!("cat /sys/class/infiniband/{device}/ports/1/{what}"))
    };
    let gid = |device| -> Result<rdma_verbs::Gid> { Ok(read(device, "gids/0")?.parse()?) };
    let [a, b] = &devices;
    let (lids, gids) = ([lid(a)?, lid(b)?], [gid(a)?, gid(b)?]);
    let lines = [
        format!("dgid: {}", gids[1]),
        format!("sgid: {}", gids[0]),
        format!("dlid: {}", lids[1]),
        format!("slid: {}", lids[0]),
    ];
    let other_way = [format!("dlid: {}", lids[0]), format!("slid: {}", lids[1])];
    acme("-f i -s 10.7.0.1 -d 10.7.0.2", &lines)?;
    acme("-f i -s 10.7.0.2 -d 10.7.0.1", &other_way)?;
    acme(&format!("-f l -s {} -d {}", lids[0], lids[1]), &lines[2..])?;
    let written = gids.map(|gid| gid.to_string());
    acme(&format!("-f g -s {} -d {}", written[0], written[1]), &lines)?;
    let (_, said) = status("timeout 30 ib_acme -f i -s 10.7.0.9 -d 10.7.0.2 2>&1")?;
    ensure!(said.contains("Cannot assign requested address"), "{said}");
    let endpoints = sh("ib_acme -e")?;
    for (device, address) in devices.iter().zip(["10.7.0.1", "10.7.0.2"]) {
        let guid = read(device, "../../node_guid")?.replace(':', "");
        let line = endpoints.lines().find(|line| line.contains(address)).context("no endpoint")?;
        ensure!(line.contains(&format!(",0x{guid},1,0xffff,")), "{endpoints}");
    }
    if bed.boot == Boot::Ours {
        let host = sh("hostname")?;
        acme(&format!("-f n -s {host} -d {host}-2"), &lines)?;
        bed.file("/etc/rdma/ibacm_addr.cfg", &format!("here {a} 1 default\nthere {b} 1 0xffff\n"))?;
        sh("systemctl reload ibacm")?;
        acme("-f n -s HERE -d there", &lines)?;
    }
    Ok(())
}

/// The second of the counters of `ib_acme -P`: how many paths were asked for.
fn asked() -> Result<u64> {
    let said = sh("ib_acme -P")?;
    let row = said.lines().find(|line| line.starts_with('/')).context("no counters")?;
    row.split(',').nth(2).context("no second counter")?.parse().with_context(|| said.clone())
}

/// Does something while the second HCA's IPoIB interface is in a network namespace of its own (`labacm`, 10.7.0.2).
fn with_namespace(bed: &mut Bed, test: impl FnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    started(bed)?;
    sh("ip netns add labacm; ip link set lo up")?;
    let done = || {
        let interface = hca::netdev(&hca::device("b")?, 1)?;
        sh(&format!(
            "ip link set {interface} netns labacm
             ip netns exec labacm sh -c 'ip link set lo up; ip addr add 10.7.0.2/24 dev {interface}
                ip addr add 10.8.0.1/32 dev {interface}; ip link set {interface} up'"
        ))?;
        wait_for("the namespaces reach each other", || {
            Ok(status("ping -c 1 -w 2 10.7.0.2 >/dev/null")?.0 == 0)
        })
    };
    let done = done().and_then(|()| test(bed));
    sh("ip netns del labacm")?;
    done
}

/// rping from here to an address in the namespace.
fn rping(address: &str) -> Result<()> {
    let said = sh(&format!(
        "ip netns exec labacm timeout 60 rping -s -a {address} -C 3 >/run/lab/server 2>&1 &
         timeout 60 sh -c 'until rdma res show cm_id | grep -q LISTEN; do sleep 0.05; done'
         timeout 60 rping -c -v -a {address} -C 3; status=$?; kill $!; wait $!; exit $status"
    ))?;
    ensure!(said.matches("ping data").count() == 3, "{said}");
    Ok(())
}

/// How often the kernel has asked ibacm, and was told something.
fn kernel() -> Result<[u64; 2]> {
    let said: serde_json::Value = serde_json::from_str(&sh("rdmactl acm --json")?)?;
    let figure = |name: &str| said["figures"][name].as_u64().with_context(|| said.to_string());
    Ok([figure("kernel_asked")?, figure("kernel_answered")?])
}

fn for_the_kernel(bed: &mut Bed) -> Result<()> {
    with_namespace(bed, |bed| {
        if bed.boot == Boot::Ours {
            // IPoIB has asked for the way to the other end.
            let [asked, answered] = kernel()?;
            ensure!(asked > 0 && answered > 0, "{answered} of {asked} questions of the kernel");
            println!("the kernel has asked {asked} times, and was told {answered} times");
        }
        let before = asked()?;
        let start = Instant::now();
        rping("10.7.0.2")?;
        let first = asked()? - before;
        ensure!(first > 0, "ibacm was not asked");
        println!(
            "{:?}: rping asks {first} times, {:.1} s",
            bed.boot,
            start.elapsed().as_secs_f32()
        );
        Ok(())
    })
}

/// Whom the kernel has spoken with it need not ask anybody for; and it asks for the GID behind a router.
fn neighbours(bed: &mut Bed) -> Result<()> {
    with_namespace(bed, |bed| {
        acme("-f i -s 10.7.0.1 -d 10.7.0.2", &[])?;
        sh("ip route add 10.8.0.0/24 via 10.7.0.2")?;
        let guid = hca::guid("b", 1)?;
        let (high, low) = guid.split_at(8);
        let gid = u128::from_str_radix(&format!("fe80000000000000{high}{low}"), 16)?;
        let gid = rdma_verbs::Gid(gid);
        bed.file("/run/lab/hosts.data", &format!("10.8.0.1 {gid}\n"))?;
        let options = "addr_preload acm_hosts\naddr_data_file /run/lab/hosts.data\n";
        bed.file("/etc/rdma/ibacm_opts.cfg", options)?;
        ensure!(rping("10.8.0.1").is_err(), "the kernel knows who is behind the router");
        sh("systemctl reload ibacm")?;
        rping("10.8.0.1")
    })
}

fn without(bed: &mut Bed) -> Result<()> {
    bed.stop_later(UNIT);
    bed.stop_later("ibacm.socket");
    if bed.boot == Boot::Ours {
        for unit in [UNIT, "ibacm.socket"] {
            bed.remove_later(&format!("/etc/systemd/system/rdma-hw.target.wants/{unit}"));
        }
        sh("systemctl enable ibacm 2>/dev/null")?;
    }
    // Where it is enabled it comes with the first RDMA device, and goes with the last.
    let nic = bed.nics[0].clone();
    super::bed::plug("rxe", "rxe0", &nic)?;
    wait_active(UNIT)?;
    let (_, said) = status("timeout 30 ib_acme -f i -s 10.7.0.1 -d 10.7.0.2 2>&1")?;
    ensure!(said.contains("Cannot assign requested address"), "{said}");
    wait_active(UNIT)?;
    super::bed::unplug("rxe0")?;
    wait_inactive(UNIT)?;
    wait_inactive("ibacm.socket")
}

fn follows(bed: &mut Bed) -> Result<()> {
    let [_, b] = started(bed)?;
    let names = || sh("ib_acme -e");
    // An address comes and goes, also of IPv6.
    let interface = hca::netdev(&b, 1)?;
    for address in ["10.7.1.2/24", "fd00:7::2/64"] {
        let bare = address.split('/').next().unwrap_or_default();
        sh(&format!("ip addr add {address} dev {interface}"))?;
        wait_for("it has the address", || Ok(names()?.contains(bare)))?;
        sh(&format!("ip addr del {address} dev {interface}"))?;
        wait_for("it has the address no more", || Ok(!names()?.contains(bare)))?;
    }
    // An HCA goes while it is in use, comes again, and another with it.
    hca::live("b", false)?;
    wait_for("it has gone", || Ok(!names()?.contains("10.7.0.2")))?;
    let (_, said) = status("timeout 30 ib_acme -f i -s 10.7.0.2 -d 10.7.0.1 2>&1")?;
    ensure!(said.contains("Cannot assign requested address"), "{said}");
    hca::live("b", true)?;
    hca::plug("c", 2, &[])?;
    let interface = hca::netdev(&hca::device("b")?, 1)?;
    sh(&format!("ip addr replace 10.7.0.2/24 dev {interface}; ip link set {interface} up"))?;
    wait_for("there are paths again", || {
        Ok(sh("timeout 30 ib_acme -v -f i -s 10.7.0.2 -d 10.7.0.1; true")?.contains("success"))
    })?;
    // Debian's ib_acme asks for as many ports as the first HCA has.
    let host = sh("hostname")?;
    wait_for("every port has a name", || {
        let table = sh("rdmactl acm")?;
        Ok((1..=4).all(|number| table.contains(&format!("{host}-{number}"))))
    })?;
    let table = sh("rdmactl acm")?;
    ensure!(table.contains("10.7.0.2") && table.contains(" paths known"), "{table}");
    let restarts = sh("systemctl show -P NRestarts ibacm")?;
    ensure!(restarts == "0", "it was started again {restarts} times");
    Ok(())
}

fn manager_gone(bed: &mut Bed) -> Result<()> {
    let [a, b] = started(bed)?;
    bed.provokes("lab-opensm.service: ");
    let from = lid(&a)?;
    // It is there, and says nothing.
    sh("systemctl kill -s STOP lab-opensm")?;
    let start = Instant::now();
    // Paths that nobody has asked for yet: to LIDs that there may be.
    let ask = |first: u32| {
        sh(&format!(
            "for lid in $(seq {first} $(({first} + 19))); do timeout 60 ib_acme -f l -s {from} -d $lid 2>&1 & done; wait"
        ))
    };
    let answers = ask(100)?;
    let took = start.elapsed();
    ensure!(answers.matches("Connection timed out").count() == 20, "{answers}");
    println!("{:?}: 20 questions without an answer: {:.1} s", bed.boot, took.as_secs_f32());
    // One after the other they would take 20 times as long as one.
    ensure!(took < Duration::from_secs(30), "they wait for each other: {took:?}");
    // The kernel of its host says that nobody is there.
    sh(
        "systemctl kill -s KILL lab-opensm; until ! systemctl is-active -q lab-opensm; do sleep 0.05; done",
    )?;
    let answers = ask(200)?;
    ensure!(answers.matches("not connected").count() == 20, "{answers}");
    // What is known is still told.
    ensure!(sh("timeout 30 ib_acme -f i -s 10.7.0.1 -d 10.7.0.2")?.contains("status 0x0"));
    // Another manager, elsewhere, with other LIDs.
    sh(&format!(
        "systemd-run -q --unit=lab-opensm --collect -p KillSignal=SIGKILL opensm -r -s 1 -g 0x{} -f /run/opensm.log",
        hca::guid("b", 1)?
    ))?;
    wait_for("the paths are those of now", || {
        let said = sh("timeout 30 ib_acme -v -f i -s 10.7.0.1 -d 10.7.0.2; true")?;
        let dlid = format!("dlid: {}\n", lid(&b)?);
        Ok(said.contains("SA verification: success") && said.contains(&dlid))
    })
}

fn question() -> Vec<u8> {
    guest::path_question([7; 8])
}

/// Asks with these pieces, and reads so many answers of 88 bytes.
fn answered(pieces: &[&[u8]], answers: usize) -> Result<()> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    for (number, piece) in (1..).zip(pieces) {
        stream.write_all(piece)?;
        if number < pieces.len() {
            // Another's answer comes after ibacm has read that.
            answered(&[&question()], 1)?;
        }
    }
    let mut bytes = vec![0; 88 * answers];
    stream.read_exact(&mut bytes)?;
    for answer in bytes.chunks(88) {
        ensure!(answer[2] == 0 && answer[8..16] == [7; 8], "{answer:?}");
    }
    Ok(())
}

fn bad_programs(bed: &mut Bed) -> Result<()> {
    started(bed)?;
    let memory = || -> Result<u64> {
        let pid = sh("systemctl show -P MainPID ibacm")?;
        Ok(sh(&format!("awk '/^VmRSS/ {{ print $2 }}' /proc/{pid}/status"))?.parse()?)
    };
    let one = question();
    let before = memory()?;
    // Some that ask without end, and never read.
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let stream = UnixStream::connect(SOCKET)?;
        stream.set_nonblocking(true)?;
        let many = one.repeat(1000);
        let mut sent = 0;
        while let Ok(length @ 1..) = (&stream).write(&many[sent % 160..]) {
            sent += length;
        }
        greedy.push(stream);
    }
    // In pieces, and three at once.
    answered(&[&one[..5], &one[5..100], &one[100..]], 1)?;
    answered(&[&one.repeat(3)], 3)?;
    // A1: eight records of which none is a source: an answer of 160 bytes.
    let mut eight = vec![1, 1, 0, 0, 0, 0];
    eight.extend(592_u16.to_ne_bytes());
    eight.extend([7; 8]);
    eight.extend(&one[88..]);
    eight.resize(592, 0);
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&eight)?;
    let mut said = [0; 160];
    stream.read_exact(&mut said)?;
    ensure!(said[2] == 0 && said[88..92] == 1_u32.to_ne_bytes(), "{said:?}");
    // Too long, too short, of another version: their connection ends, and nothing else does.
    for header in [[1, 1, 0xff, 0xff], [1, 2, 0, 15], [9, 1, 16, 0]] {
        let [version, opcode, low, high] = header;
        let mut bytes = vec![version, opcode, 0, 0, 0, 0, low, high];
        bytes.resize(16, 0);
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&bytes)?;
        ensure!(stream.read(&mut [0; 16])? == 0, "{header:?} is answered");
    }
    // A3: it goes before it is answered.
    for _ in 0..1000 {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.write_all(&one[..160])?;
        stream.shutdown(Shutdown::Both)?;
    }
    answered(&[&one], 1)?;
    let after = memory()?;
    println!("ibacm: RSS {before} KiB, {after} KiB after all that");
    ensure!(after < before + 4096, "it has kept something");
    let restarts = sh("systemctl show -P NRestarts ibacm")?;
    if restarts != "0" {
        bail!("it was started again {restarts} times");
    }
    drop(greedy);
    Ok(())
}

/// librdmacm connects once in the life of its program, and waits for an answer without end.
fn outlive(bed: &mut Bed) -> Result<()> {
    started(bed)?;
    let ask = |stream: &mut UnixStream, length| -> Result<Vec<u8>> {
        stream.write_all(&question())?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    let mut programs = Vec::new();
    for number in 0..300 {
        let path = if number % 2 == 0 { SOCKET } else { "/run/ibacm.sock" };
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        ask(&mut stream, 88)?;
        programs.push(stream);
    }
    // One has asked, and is not answered, as the subnet manager says nothing.
    sh("systemctl kill -s STOP lab-opensm")?;
    let mut waits = UnixStream::connect(SOCKET)?;
    waits.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut bytes = question()[..16].to_vec();
    bytes[6..8].copy_from_slice(&88_u16.to_ne_bytes());
    bytes.extend([0, 0, 0, 0, 0x10, 0, 0, 0]);
    bytes.extend([0; 8]);
    bytes.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    bytes.resize(88, 0);
    waits.write_all(&bytes)?;
    let before = sh("systemctl show -P MainPID ibacm")?;
    sh("systemctl restart ibacm; systemctl kill -s CONT lab-opensm")?;
    ensure!(sh("systemctl show -P MainPID ibacm")? != before, "it is the same");
    let mut answer = [0; 16];
    waits.read_exact(&mut answer)?;
    ensure!(answer[2] == 6, "not timed out: {answer:?}");
    for stream in &mut programs {
        ask(stream, 88)?;
    }
    ask(&mut waits, 88)?;
    // acme_plus_kernel_only: librdmacm is told nothing, and goes on without it.
    bed.file("/etc/rdma/ibacm_opts.cfg", "acme_plus_kernel_only yes\n")?;
    sh("systemctl reload ibacm")?;
    for (number, stream) in (0..).zip(&mut programs) {
        let length = if number % 2 == 0 { 88 } else { 16 };
        let answer = ask(stream, length)?;
        ensure!(answer[2] == if length == 88 { 0 } else { 3 }, "{number}: {answer:?}");
    }
    Ok(())
}

fn idle(bed: &mut Bed) -> Result<()> {
    started(bed)?;
    sh("sleep 12")?;
    super::iwpm::sleeps(bed, UNIT)
}
