// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order in which devices can be given their names.

use std::collections::BTreeMap;

use rdma_config::{BadName, check_device_name};
use rdma_verbs::DevIndex;

use crate::decide::Decision;

/// One rename.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which device.
    pub device: DevIndex,
    /// What it is called then.
    pub name: String,
    /// Who says so, as in [`crate::decide::Decision`].
    pub policy: &'static str,
}

/// Why a device cannot have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No device can.
    #[error(transparent)]
    BadName(BadName),
    /// Another device has it and keeps it, or has as much right to it.
    #[error("it is, or is to be, the name of device {0}")]
    Taken(DevIndex),
}

impl Refusal {
    /// The word in `ID_RDMA_NAME_STATUS`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::BadName(_) => "bad-name",
            Self::Taken(_) => "taken",
        }
    }
}

/// Why a device does not get the name that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The device that has the name and keeps it, or has as much right to it.
    pub by: DevIndex,
}

/// The renames that give `device` the name `target`, one after the other.
///
/// `names` are all devices and what they are called. `wants` tells what a device should be called; it
/// is only asked of those that are in the way. One that is in the way and should have another name is
/// moved there, or, when it wants a name of this very chain, by way of a name that nobody else has.
///
/// # Errors
/// A device that is in the way and stays.
pub fn plan(
    names: &BTreeMap<DevIndex, String>,
    device: DevIndex,
    target: &str,
    mut wants: impl FnMut(DevIndex) -> Option<String>,
) -> Result<Vec<(DevIndex, String)>, Taken> {
    // The devices in the order in which each wants the name of the next.
    let mut chain: Vec<(DevIndex, String)> = vec![(device, target.to_owned())];
    let mut steps = Vec::new();
    while let Some((last, wanted)) = chain.last() {
        let holder = names.iter().find(|(_, name)| *name == wanted).map(|(index, _)| *index);
        let Some(holder) = holder.filter(|holder| holder != last) else { break };
        if holder == device {
            // A circle: the device steps aside, so that the last can have its name.
            steps.push((device, format!("rdma-tmp{device}")));
            break;
        }
        if chain.iter().any(|(index, _)| *index == holder) {
            // Two want the name of one: the last of the chain and one before it.
            return Err(Taken { by: *last });
        }
        match wants(holder).filter(|want| Some(want) != names.get(&holder)) {
            Some(want) => chain.push((holder, want)),
            None => return Err(Taken { by: holder }),
        }
    }
    steps.extend(chain.into_iter().rev());
    Ok(steps)
}

/// The renames that give every device the name it should have, in an order in which no two ever have one name;
/// and those that cannot have theirs.
#[must_use]
pub fn plan_all(
    names: &BTreeMap<DevIndex, String>,
    wants: &BTreeMap<DevIndex, &Decision>,
) -> (Vec<Step>, BTreeMap<DevIndex, Refusal>) {
    let mut names = names.clone();
    let (mut steps, mut refusals) = (Vec::new(), BTreeMap::new());
    for (device, decision) in wants {
        if let Err(why) = check_device_name(&decision.name) {
            refusals.insert(*device, Refusal::BadName(why));
            continue;
        }
        let good = |holder| {
            let want = &wants.get(&holder)?.name;
            check_device_name(want).is_ok().then(|| want.clone())
        };
        match plan(&names, *device, &decision.name, good) {
            Ok(chain) => {
                for (device, name) in chain {
                    if names.insert(device, name.clone()).as_ref() != Some(&name) {
                        let policy = wants.get(&device).map_or("", |d| d.policy);
                        steps.push(Step { device, name, policy });
                    }
                }
            }
            Err(taken) => {
                refusals.insert(*device, Refusal::Taken(taken.by));
            }
        }
    }
    (steps, refusals)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Devices = &'static [(u32, &'static str, &'static str)];

    fn run(devices: Devices, device: u32, target: &str) -> Result<Vec<(u32, String)>, u32> {
        let names = devices.iter().map(|(i, name, _)| (DevIndex(*i), (*name).to_owned())).collect();
        let wants = |index: DevIndex| {
            devices.iter().find(|(i, ..)| *i == index.0).map(|(.., want)| (*want).to_owned())
        };
        plan(&names, DevIndex(device), target, wants)
            .map(|steps| steps.into_iter().map(|(i, name)| (i.0, name)).collect())
            .map_err(|taken| taken.by.0)
    }

    #[test]
    fn free_names_and_equal_names() {
        assert_eq!(run(&[(1, "mlx5_0", "")], 1, "rail0"), Ok(vec![(1, "rail0".into())]));
        assert_eq!(run(&[(1, "rail0", "")], 1, "rail0"), Ok(vec![(1, "rail0".into())]));
    }

    #[test]
    fn taken_by_one_that_stays() {
        assert_eq!(run(&[(1, "a", "b"), (2, "b", "b")], 1, "b"), Err(2));
    }

    #[test]
    fn one_in_the_way_moves_on_first() {
        let steps = run(&[(1, "a", "b"), (2, "b", "c"), (3, "x", "x")], 1, "b");
        assert_eq!(steps, Ok(vec![(2, "c".into()), (1, "b".into())]));
    }

    #[test]
    fn swap() {
        let steps = run(&[(1, "a", "b"), (2, "b", "a")], 1, "b");
        assert_eq!(steps, Ok(vec![(1, "rdma-tmp1".into()), (2, "a".into()), (1, "b".into())]));
    }

    type Outcome = (Vec<(u32, String)>, Vec<(u32, &'static str)>);

    fn run_all(devices: Devices) -> Outcome {
        let names = devices.iter().map(|(i, name, _)| (DevIndex(*i), (*name).to_owned())).collect();
        let decisions: Vec<(DevIndex, Decision)> = devices
            .iter()
            .map(|(i, _, want)| {
                let name = (*want).to_owned();
                (DevIndex(*i), Decision { name, policy: "fixed", source: None })
            })
            .collect();
        let wants = decisions.iter().map(|(i, d)| (*i, d)).collect();
        let (steps, refusals) = plan_all(&names, &wants);
        (
            steps.into_iter().map(|s| (s.device.0, s.name)).collect(),
            refusals.into_iter().map(|(i, r)| (i.0, r.word())).collect(),
        )
    }

    #[test]
    fn all_at_once() {
        let steps = |list: &[(u32, &str)]| -> Vec<(u32, String)> {
            list.iter().map(|(i, n)| (*i, (*n).to_owned())).collect()
        };
        assert_eq!(run_all(&[(1, "a", "a"), (2, "b", "c")]), (steps(&[(2, "c")]), vec![]));
        assert_eq!(
            run_all(&[(1, "a", "b"), (2, "b", "a")]),
            (steps(&[(1, "rdma-tmp1"), (2, "a"), (1, "b")]), vec![])
        );
        // Two want one name: the first has it, which the kernel's own order alone would not show.
        assert_eq!(
            run_all(&[(1, "a", "rail0"), (2, "b", "rail0"), (3, "c", "x/y")]),
            (steps(&[(1, "rail0")]), vec![(2, "taken"), (3, "bad-name")])
        );
    }

    proptest::proptest! {
        /// Whatever devices want, no two ever have one name, and the device at hand ends with its own.
        #[test]
        fn no_two_have_one_name(wants in proptest::collection::vec(0usize..8, 1..8), first in 0usize..8) {
            let name = |n: usize| format!("n{n}");
            let mut names: BTreeMap<DevIndex, String> =
                (0..wants.len()).map(|i| (DevIndex(u32::try_from(i).unwrap()), name(i))).collect();
            let first = first % wants.len();
            let device = DevIndex(u32::try_from(first).unwrap());
            let target = name(wants[first]);
            let want = |i: DevIndex| Some(name(wants[usize::try_from(i.0).unwrap()]));
            if let Ok(steps) = plan(&names.clone(), device, &target, want) {
                for (index, new) in steps {
                    names.insert(index, new);
                    let distinct: BTreeSet<&String> = names.values().collect();
                    proptest::prop_assert_eq!(distinct.len(), names.len());
                }
                proptest::prop_assert_eq!(&names[&device], &target);
                proptest::prop_assert!(!names.values().any(|n| n.starts_with("rdma-tmp")));
            }
        }
    }
}
