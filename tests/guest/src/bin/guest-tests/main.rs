// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests that run as root inside the guest.
//!
//! `guest-tests [FILTER]` takes libtest's usual options. Which boot integration is installed is read
//! from `/run/lab/boot`; the same tests run against both. A test that rdma-core does not pass names
//! the reason, and must then really fail there: if it passes one day, the table is wrong and says so.
#![forbid(unsafe_code)]

mod acm;
mod bad_input;
mod bed;
mod bus;
mod conformance;
mod fabric;
mod hca;
mod hotplug;
mod iwpm;
mod manager;
mod many;
mod modules;
mod names;
mod ndd;
mod netlink;
mod online;
mod plug;
mod rdmactl;
mod reports;
mod shipped;
mod srp;
mod srp_service;
mod umad;
mod verbs;

use anyhow::Result;
use bed::{Bed, Boot, LeftOut};
use libtest_mimic::{Arguments, Failed, Trial};

/// One test: what it is called, what it does, and why rdma-core fails it, if it does.
struct Test {
    name: &'static str,
    run: fn(&mut Bed) -> Result<()>,
    /// The defect of rdma-core that this test shows, or the feature that it does not have.
    rdma_core_fails: Option<&'static str>,
}

const fn both(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> Test {
    Test { name, run, rdma_core_fails: None }
}

const fn better(
    name: &'static str,
    why_theirs_fails: &'static str,
    run: fn(&mut Bed) -> Result<()>,
) -> Test {
    Test { name, run, rdma_core_fails: Some(why_theirs_fails) }
}

fn main() {
    let mut arguments = Arguments::from_args();
    // They share one kernel, one udev and one set of devices.
    arguments.test_threads = Some(1);
    let boot = match Boot::installed() {
        Ok(boot) => boot,
        Err(error) => {
            eprintln!("guest-tests: {error:#}");
            std::process::exit(1);
        }
    };
    let tables: [&[Test]; 23] = [
        plug::TESTS,
        names::TESTS,
        hotplug::TESTS,
        hca::TESTS,
        fabric::TESTS,
        modules::TESTS,
        many::TESTS,
        netlink::TESTS,
        rdmactl::TESTS,
        reports::TESTS,
        ndd::TESTS,
        online::TESTS,
        manager::TESTS,
        bus::TESTS,
        srp::TESTS,
        srp_service::TESTS,
        iwpm::TESTS,
        acm::TESTS,
        umad::TESTS,
        verbs::TESTS,
        conformance::TESTS,
        bad_input::TESTS,
        shipped::TESTS,
    ];
    let trials = tables
        .into_iter()
        .flatten()
        .map(|test| Trial::test(test.name, move || run(test, boot)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn run(test: &Test, boot: Boot) -> Result<(), Failed> {
    let start = std::time::Instant::now();
    let known_to_fail = boot == Boot::RdmaCore && test.rdma_core_fails.is_some();
    bed::patience(if known_to_fail { 5 } else { 60 });
    let outcome = Bed::with(boot, test.run);
    print!("({:.1} s) ", start.elapsed().as_secs_f32());
    match (boot, test.rdma_core_fails, outcome) {
        (_, _, Err(error)) if error.is::<LeftOut>() => {
            println!("{} is left out: {error}", test.name);
            Ok(())
        }
        (Boot::RdmaCore, Some(why), Err(error)) => {
            println!("rdma-core fails {}: {why}: {error:#}", test.name);
            Ok(())
        }
        (Boot::RdmaCore, Some(why), Ok(())) => {
            Err(format!("passes on rdma-core, although the table says: {why}").into())
        }
        (_, _, Err(error)) => {
            println!("{error:#}");
            Err(format!("{error:#}").into())
        }
        (_, _, Ok(())) => Ok(()),
    }
}
