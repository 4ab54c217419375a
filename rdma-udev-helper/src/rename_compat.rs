// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma_rename`: the command line of rdma-core's program, for rules that administrators have.
//!
//! Exit status as there: 0 done or nothing to do, 1 anything else. Unlike there the kernel's answer is
//! read, and a name is checked before the kernel is asked.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rdma_config::{Policy, Root};
use rdma_udev_helper::decide::Decision;
use rdma_udev_helper::naming::{Choice, choose};

use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, World, config};

/// Who gives the name.
enum Asked {
    Kernel,
    Policies(&'static [Policy]),
    Fixed(String),
}

pub(crate) fn main(root: &Root, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = parse(arguments).and_then(|(device, asked)| run(root, &device, &asked));
    match outcome {
        Ok(Some(name)) => {
            println!("{name}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format!("rdma_rename: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(String, Asked)> {
    let words: Vec<String> = arguments
        .map(|word| word.into_string().ok().context("an argument is not text"))
        .filter(|word| !matches!(word, Ok(w) if w == "-v"))
        .collect::<Result<_>>()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (device, asked) = match words[..] {
        [device, "NAME_KERNEL", ..] => (device, Asked::Kernel),
        [device, "NAME_FALLBACK", ..] => {
            (device, Asked::Policies(&[Policy::Onboard, Policy::Path]))
        }
        [device, "NAME_ONBOARD", ..] => (device, Asked::Policies(&[Policy::Onboard])),
        [device, "NAME_PCI", ..] => (device, Asked::Policies(&[Policy::Path])),
        [device, "NAME_GUID", ..] => (device, Asked::Policies(&[Policy::Guid])),
        [device, "NAME_FIXED", name, ..] => (device, Asked::Fixed(name.to_owned())),
        [_, "NAME_FIXED"] => bail!("NAME_FIXED needs a name"),
        [_, policy, ..] => bail!("'{policy}' is no naming policy"),
        _ => bail!("usage: rdma_rename [-v] NAME POLICY [FIXED-NAME]"),
    };
    Ok((device.to_owned(), asked))
}

/// The name that the device has now; None when it is left alone without looking.
fn run(root: &Root, name: &str, asked: &Asked) -> Result<Option<String>> {
    if matches!(asked, Asked::Kernel) {
        return Ok(None);
    }
    let mut world = World::now(root, Lock::Alone)?;
    let device = world.by_name(name).cloned();
    let device = device.with_context(|| format!("there is no RDMA device '{name}'"))?;
    let (target, policy) = match asked {
        Asked::Fixed(target) => (target.clone(), "fixed"),
        Asked::Policies(policies) => {
            let look = world.look(&device);
            // A person has named it.
            if look.state.policy == "user" {
                return Ok(None);
            }
            match choose(policies, &world.identity(&look, false).0) {
                Choice::Name(target, policy) => (target, policy.as_str()),
                Choice::Keep => bail!("no name for RDMA device '{name}' by this policy"),
            }
        }
        Asked::Kernel => return Ok(None),
    };
    if target == device.name {
        return Ok(Some(target));
    }
    let context = || format!("RDMA device '{name}' keeps its name: it cannot be called '{target}'");
    let decision = Decision { name: target.clone(), policy, source: None };
    let steps = world.plan(&config(root), device.index, &decision).with_context(context)?;
    world.rename(&steps).with_context(context)?;
    Ok(Some(target))
}
