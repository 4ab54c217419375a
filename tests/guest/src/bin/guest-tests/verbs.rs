// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs crate on real devices, by its examples, beside libibverbs' own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::bed::{self, Bed, sh, wait_for, with_ours_alone};
use super::hca::{live, plug, subnet_manager};
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("devinfo_says_what_ibv_devinfo_says", devinfo),
    both("pingpong_with_theirs_at_either_end", pingpong),
    both("connections_with_theirs_at_either_end", connections),
    both("pulled_out_of_a_running_program", pulled),
    both("devices_and_ports_are_told_of", told),
];

/// What libibverbs' drivers make up in user space, or only say to be unknown: not the kernel's.
const THEIRS: [&str; 11] = [
    "tso_caps:",
    "max_tso:",
    "rss_caps:",
    "max_rwq_indirection_table",
    "rx_hash_",
    "packet_pacing_caps:",
    "qp_rate_limit_",
    "tag matching not supported",
    "Unknown flags:",
    "supported_qp",
    "cq moderation",
];

fn devinfo(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    plug("a", 2, &[])?;
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    bed::plug("siw", "siw0", &bed.nics[1])?;
    for options in ["", "-i 1", "-d rxe0", "-v", "-v -d siw0"] {
        let [ours, theirs] = ["/usr/lib/lab/rdma-devinfo", "ibv_devinfo"]
            .map(|program| sh(&format!("udevadm settle; {program} {options}")));
        let (ours, theirs) = (ours?, theirs?);
        ensure!(theirs.matches("hca_id:").count() >= 1, "theirs says {theirs}");
        let mut rest = ours.lines();
        for line in theirs.lines() {
            if THEIRS.iter().any(|word| line.trim_start().starts_with(word)) {
                continue;
            }
            let next = rest.next().with_context(|| format!("ours has no '{line}'"))?;
            // Ours has the kernel's text, theirs makes one of a number.
            let is_text = line.trim_start().starts_with("fw_ver:");
            ensure!(next == line || is_text, "{options}: ours says '{next}', theirs '{line}'");
        }
        ensure!(rest.next().is_none(), "ours says more: {ours}");
    }
    Ok(())
}

/// Ours with ours, and with libibverbs' as server and as client; reliable and not, datagrams, and sixteen connections with one
/// receive queue; by the C library as well; asleep and awake; messages of several packets, and of one byte. On rxe, whose queues are mapped, and on an HCA that takes system calls.
fn pingpong(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    // The first GID is that of the interface's own address.
    let (rxe, a, b) = ("-d rxe0 -g 0".to_owned(), format!("-d {a}"), format!("-d {b}"));
    let short = "-n 600 -s 1 -e";
    for (transport, all) in [
        ("rc", &["-n 50 -s 100000", short][..]),
        ("uc", &["-n 50 -s 100000 -e"]),
        ("ud", &["-n 600 -s 1000 -e"]),
        ("srq", &["-n 600 -s 4000 -e"]),
    ] {
        let ours = format!("/usr/lib/lab/rdma-pingpong -t {transport}");
        let theirs = format!("ibv_{transport}_pingpong");
        // By the C library, which knows nothing of vhca.
        let by_c = format!("/usr/lib/lab/dynamic/rdma-pingpong --libibverbs -t {transport}");
        let (on_rxe, on_vhca) = ((&rxe, &rxe), (&a, &b));
        for (server, client, at) in [
            (&ours, &ours, &[on_rxe, on_vhca][..]),
            (&ours, &theirs, &[on_rxe, on_vhca]),
            (&theirs, &ours, &[on_rxe, on_vhca]),
            (&by_c, &ours, &[on_rxe]),
            (&theirs, &by_c, &[on_rxe]),
        ] {
            for (at, from) in at {
                for options in all {
                    let said = sh(&format!(
                        "timeout 150 {server} {at} {options} >/run/lab/server 2>&1 &
                         timeout 60 sh -c 'until ss -tln | grep -q :18515; do sleep 0.05; done'
                         timeout 60 {client} {from} {options} 127.0.0.1 || {{ cat /run/lab/server; exit 1; }}
                         wait $! || {{ cat /run/lab/server; exit 1; }}"
                    ));
                    let said =
                        said.with_context(|| format!("{server} {at}, {client} {options}"))?;
                    ensure!(
                        said.contains("usec/iter"),
                        "{server} {at}, {client} {options}: {said}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// The same for connections by IP address, with `rping`: over RoCE and iWARP, IPv4 and IPv6; and where nobody listens, and where
/// nobody is.
fn connections(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    const OURS: &str = "/usr/lib/lab/rdma-ping";
    const THEIRS: &str = "rping";
    for (number, kind) in ["rxe", "siw"].into_iter().enumerate() {
        let nic = bed.nics[number].clone();
        let addresses = [format!("10.9.{number}.1"), format!("fd00:9:{number}::1")];
        let [four, six] = &addresses;
        sh(&format!("ip addr add {four}/24 dev {nic}; ip addr add {six}/64 dev {nic} nodad"))?;
        bed::plug(kind, &format!("{kind}0"), &nic)?;
        for (server, client) in [(OURS, OURS), (OURS, THEIRS), (THEIRS, OURS)] {
            for address in &addresses {
                let options = format!("-a {address} -C 20 -S 4000");
                let said = sh(&format!(
                    "timeout 150 {server} -s {options} >/run/lab/server 2>&1 &
                     timeout 60 sh -c 'until rdma res show cm_id | grep -q LISTEN; do sleep 0.05; done'
                     timeout 60 {client} -c -v {options} || {{ cat /run/lab/server; exit 1; }}
                     wait $! || {{ cat /run/lab/server; exit 1; }}"
                ));
                let said = said.with_context(|| format!("{kind}: {server}, {client} {options}"))?;
                let pings = said.lines().filter(|line| line.contains("ping data: rdma-ping-"));
                ensure!(pings.count() == 20, "{kind}: {server}, {client} {options}: {said}");
            }
        }
        for (address, why) in [(four.clone(), "refused"), (format!("10.9.{number}.9"), "resolved")]
        {
            let outcome = sh(&format!("timeout 20 {OURS} -c -a {address} 2>&1"));
            let said = outcome.err().context("it has connected to nobody")?.to_string();
            ensure!(said.contains(why), "{kind}, {address}: {said}");
        }
        // One that listens, and one in the middle of it, are told that the device goes, and nobody waits for them.
        let said = sh(&format!(
            "cd /run/lab; start() {{ timeout 60 {OURS} $2 -C 1000000 -S 100 >$1 2>&1 & }}
             wait_for() {{ timeout 20 sh -c \"until rdma res show $1; do sleep 0.05; done\"; }}
             start server '-s -a {four}'; wait_for 'cm_id | grep -q LISTEN'
             start client '-c -a {four}'; wait_for 'qp | grep -q RTS'
             start listener '-s -a {six}'; wait_for 'cm_id | grep -q fd00:'
             timeout 10 rdma link delete {kind}0; echo deleted with $?
             wait; grep . server client listener"
        ))?;
        let lines: Vec<&str> = said.lines().collect();
        let [deleted, server, client, listener] = lines[..] else { bail!("{kind}: {said}") };
        // Whoever is told first ends the connection, and the other may hear of that first.
        let reasons = ["the device", "flushed", "the other side has ended the connection"];
        let is_told = |said: &str| reasons.iter().any(|reason| said.contains(reason));
        ensure!(is_told(server) && is_told(client), "{kind}: {said}");
        let is_right = deleted.ends_with(" 0") && listener.contains("the device goes");
        ensure!(is_right, "{kind}: {said}");
        sh(&format!("ip addr del {four}/24 dev {nic}; ip addr del {six}/64 dev {nic}"))?;
    }
    Ok(())
}

/// A program with 64 queue pairs, whose threads poll, sleep and listen, has its device pulled out: everything comes back, nothing
/// is left, and nobody waits for it. Beside it what becomes of libibverbs' `ibv_rc_pingpong -e`, which sleeps.
fn pulled(bed: &mut Bed) -> Result<()> {
    const OURS: &str = "/usr/lib/lab/rdma-unplug";
    const THEIRS: &str = "ibv_rc_pingpong -e";
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    let (a, _) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    // The one that is not pulled out.
    subnet_manager(bed, "b")?;
    bed::plug("siw", "siw0", &bed.nics[1])?;
    let devices = [
        ("rxe0", "-g 0", "rdma link delete rxe0"),
        ("siw0", "-r", "rdma link delete siw0"),
        (&*a, "", LIVE),
    ];
    for (device, options, pull) in devices {
        let mut program = Held::start(&format!("{OURS} -d {device} {options}"), "ready")?;
        let took = program.pull(pull, 20)?.context("nobody lets go of it")?;
        wait_for("the program has given up everything", || {
            Ok(program.said()?.contains("allocations") || program.child.try_wait()?.is_some())
        })?;
        let said = program.said()?;
        println!("{device} pulled out of {OURS} in {took} ms: {said}");
        let numbers = |line: &str| -> Result<Vec<u32>> {
            let line = said.lines().find_map(|said| said.strip_prefix(line)?.strip_prefix(": "));
            let words = line.with_context(|| format!("nothing of {said}"))?.split(' ');
            Ok(words.filter_map(|word| word.parse().ok()).collect())
        };
        let [by_polling, after_sleep, once] = numbers("flushed")?[..] else {
            bail!("it says {said}")
        };
        let all = if options == "-r" { 1000 } else { 1010 };
        let is_each_once = by_polling + after_sleep == all && once == all;
        ensure!(is_each_once, "of {all} requests not each came back once");
        for what in ["files", "allocations"] {
            let [before, after] = numbers(what)?[..] else { bail!("it says {said}") };
            ensure!(before == after, "it leaves {what}");
        }
        for part in ["told: DEVICE_FATAL, then cannot take an event", "posting: cannot send"] {
            let is_told = said.contains(&format!("{part}: the device has gone"));
            ensure!(is_told || options == "-r" && part.starts_with("posting"), "not '{part}'");
        }
        // The program is still there.
        ensure!(program.child.try_wait()?.is_none(), "it has ended");
        match device {
            "rxe0" => sh("rmmod rdma_rxe && modprobe rdma_rxe")?,
            "siw0" => sh("rmmod siw && modprobe siw")?,
            _ => String::new(),
        };
    }

    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    live("a", true)?;
    // It speaks no iWARP.
    for (device, options, pull) in devices.into_iter().filter(|(device, ..)| *device != "siw0") {
        let mut program = Held::start(&format!("{THEIRS} -d {device} {options}"), "local address")?;
        match program.pull(pull, 3)? {
            Some(took) => println!("{device} pulled out of {THEIRS} in {took} ms"),
            None => println!("{device} pulled out of {THEIRS}: not in 3 s, nor before it ended"),
        }
    }
    Ok(())
}

/// A program without any device hears of all: those that are there, new ones, names, ports, and those that go, also when a program
/// of libibverbs keeps the kernel from taking one away. So does a C program.
fn told(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    let a = plug("a", 2, &[])?;
    let programs = ["/usr/lib/lab/rdma-events", "/usr/lib/lab/c-events"]
        .map(|program| Held::start(program, "port 2: "));
    let [rust, c] = programs;
    let programs = [rust?, c?];
    let hear = |line: String, times: usize| {
        for program in &programs {
            let line = format!("{line}\n");
            wait_for("it is told", || Ok(program.said()?.matches(&line).count() == times))
                .with_context(|| format!("'{line}': {}", program.said().unwrap_or_default()))?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let index = |device: &str| sh(&format!("rdma dev show {device} | cut -d: -f1"));
    let first = index(&a)?;
    hear(format!("{first} added: {a}\n{first} port 1: INIT\n{first} port 2: INIT"), 1)?;
    sh(&format!("rdma dev set {a} name lab_a"))?;
    hear(format!("{first} renamed: {a} lab_a"), 1)?;
    let nic = bed.nics[0].clone();
    bed::plug("rxe", "rxe0", &nic)?;
    let second = index("rxe0")?;
    hear(format!("{second} added: rxe0\n{second} port 1: ACTIVE"), 1)?;
    sh(&format!("ip link set {nic} down"))?;
    hear(format!("{second} port 1: DOWN"), 1)?;
    sh(&format!("ip link set {nic} up"))?;
    hear(format!("{second} port 1: ACTIVE"), 2)?;
    let mut holder = Held::start("ibv_rc_pingpong -d rxe0 -g 0", "local address")?;
    let mut pull = Command::new("rdma").args(["link", "delete", "rxe0"]).spawn()?;
    let heard = hear(format!("{second} removed: rxe0"), 1);
    let is_still_going = pull.try_wait()?.is_none();
    holder.child.kill()?;
    pull.wait()?;
    heard?;
    ensure!(is_still_going, "nobody has held it up");
    live("a", false)?;
    hear(format!("{first} removed: lab_a"), 1)
}

const LIVE: &str = "echo 0 >/sys/kernel/config/vhca/hcas/a/live";

/// A program that has a device open, until it is dropped.
struct Held {
    child: Child,
    said: PathBuf,
}

impl Held {
    fn start(command: &str, ready: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/run/lab/held-{count}"));
        let said = fs::File::create(&path)?;
        let child = Command::new("stdbuf")
            .args(["-oL", "bash", "-c", &format!("exec {command}")])
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let held = Self { child, said: path };
        wait_for("the program has the device", || Ok(held.said()?.contains(ready)))
            .with_context(|| format!("{command}: {}", held.said().unwrap_or_default()))?;
        Ok(held)
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.said)?)
    }

    /// Milliseconds until the device is gone; None when that does not come in so many seconds, and the program was killed.
    fn pull(&mut self, command: &str, seconds: u64) -> Result<Option<u128>> {
        let start = Instant::now();
        let mut pull = Command::new("bash").args(["-c", command]).spawn()?;
        wait_for("the device is gone, or waits for too long", || {
            Ok(pull.try_wait()?.is_some() || start.elapsed().as_secs() >= seconds)
        })?;
        let took = pull.try_wait()?.map(|_| start.elapsed().as_millis());
        if took.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        let status = pull.wait()?;
        ensure!(status.success(), "`{command}`: {status}");
        Ok(took)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.said).ok();
    }
}
