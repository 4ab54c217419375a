// SPDX-License-Identifier: MIT OR Apache-2.0
//! The umad device itself: what older kernels had, and that a port says that it has a subnet manager.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdma_verbs::mad::{NodeInfo, Smp, attribute, class};
use rdma_verbs::requests::{Request, Requests};
use rdma_verbs::umad::{Address, AgentRequest, Carrier as _, IsSm, Umad};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::bed::{Bed, node, sh};
use super::hca::plug;
use super::{Test, both};

pub(crate) const TESTS: &[Test] =
    &[both("umad_as_older_kernels_have_it", older), both("issm_is_held_by_one", is_sm)];

const ENABLE_PKEY: u64 = 0x1b03;
const REGISTER_AGENT2: u64 = 0xc028_1b04;

/// A port is asked for its node, where the kernel has all ioctls, has no REGISTER_AGENT2, and nothing of P_Keys.
fn older(bed: &mut Bed) -> Result<()> {
    // The kernel's own, of who does not say what place its P_Key has.
    bed.provokes("did not enable P_Key index support");
    bed.provokes("has info on the new ABI");
    sh("modprobe ib_umad")?;
    let device = plug("a", 1, &[])?;
    let path = PathBuf::from("/dev/infiniband").join(node("infiniband_mad", &device)?);
    let guid = sh(&format!("tr -d : </sys/class/infiniband/{device}/node_guid"))?;
    let guid = u64::from_str_radix(&guid, 16)?;
    for missing in [&[][..], &[REGISTER_AGENT2], &[REGISTER_AGENT2, ENABLE_PKEY]] {
        // A filter is its thread's, for ever.
        let asked = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                without(missing)?;
                own_node(&path)
            });
            thread.join()
        });
        let told = asked.map_err(|_| anyhow::anyhow!("it has panicked"))??;
        ensure!(told == guid, "without {missing:x?} it is told {told:016x}, not {guid:016x}");
    }
    Ok(())
}

fn own_node(path: &std::path::Path) -> Result<u64> {
    let mut umad = Umad::open(path)?;
    let request =
        AgentRequest { class: class::SUBN_DIRECTED, version: 1, methods: &[], rmpp: false };
    let agent = umad.register(&request)?;
    // A second one, after which the header can be no other.
    umad.register(&AgentRequest { class: class::SUBN_ADM, version: 2, ..request })?;
    let mut requests = Requests::new(umad, 1);
    let mad = Smp::directed(attribute::NODE_INFO, 0, &[]).context("no route")?;
    let (timeout, retries) = (Duration::from_secs(5), 1);
    let to = Address { lid: 0xffff, ..Address::default() };
    requests.ask(Request { agent, to, mad: mad.as_bytes().to_vec(), timeout, retries });
    let (_, answer) = requests.wait()?.context("no request")?;
    let answer = answer?;
    let (smp, _) = Smp::read_from_prefix(&answer).ok().context("too short")?;
    let (info, _) = NodeInfo::read_from_prefix(&smp.data).ok().context("too short")?;
    Ok(info.node_guid.get())
}

/// Has these ioctls be unknown to this thread.
fn without(ioctls: &[u64]) -> Result<()> {
    let unknown = |number: &u64| {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *number)?;
        SeccompRule::new(vec![is])
    };
    let rules = ioctls.iter().map(unknown).collect::<Result<Vec<_>, _>>()?;
    if rules.is_empty() {
        return Ok(());
    }
    // ioctl(2) of x86-64.
    let filter = SeccompFilter::new(
        BTreeMap::from([(16, rules)]),
        SeccompAction::Allow,
        // ENOTTY
        SeccompAction::Errno(25),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    apply_filter(&program)?;
    Ok(())
}

fn is_sm(_: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    let device = plug("a", 1, &[])?;
    let issm = sh(&format!("grep -lx {device} /sys/class/infiniband_mad/issm*/ibdev"))?;
    let name = issm.split('/').nth(4).context("no issm node")?;
    let path = PathBuf::from("/dev/infiniband").join(name);
    let says = || -> Result<bool> {
        let mask = sh(&format!("cat /sys/class/infiniband/{device}/ports/1/cap_mask"))?;
        Ok(u32::from_str_radix(mask.trim_start_matches("0x"), 16)? & 1 << 1 != 0)
    };
    ensure!(!says()?, "it says so already");
    let held = IsSm::hold(&path)?;
    ensure!(says()?, "it does not say so");
    let second = IsSm::hold(&path).err().context("two hold it")?;
    ensure!(second.kind() == std::io::ErrorKind::WouldBlock, "{second}");
    drop(held);
    ensure!(!says()?, "it still says so");
    Ok(())
}
