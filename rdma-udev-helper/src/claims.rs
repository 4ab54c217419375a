// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which port has the links of a port GUID: `/run/rdma/port-guid/<guid>`, a link to `<index>:<port>`.
//!
//! Two ports can have one GUID (virtual functions, multi-plane devices). The first keeps it for as long
//! as it is there, so that the links never flap; the others leave a note that they wait.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use rdma_verbs::{DevIndex, Guid, PortNum};

use crate::state::Run;

/// Claims a GUID. Returns the owner, which is the claimer unless another port has it.
/// `is_live` tells whether an owner still is, and still has the GUID.
///
/// # Errors
/// What the file system reports.
pub fn claim(
    run: &Run,
    guid: Guid,
    claimer: (DevIndex, PortNum),
    is_live: impl Fn((DevIndex, PortNum)) -> bool,
) -> io::Result<(DevIndex, PortNum)> {
    let path = run.path(&format!("port-guid/{guid}"));
    let mine = format!("{}:{}", claimer.0, claimer.1);
    fs::create_dir_all(run.path("port-guid"))?;
    match symlink(&mine, &path) {
        Ok(()) => return Ok(claimer),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Rare from here on: it is there, be it our own from an earlier event, or of a device whose remove event is still
    // to be dealt with. A lock of its own: the caller holds the one over names, and would wait for itself.
    let _alone = run.lock_file("port-guid/.lock", true)?;
    let owner = fs::read_link(&path).ok().and_then(|target| parse(target.to_str()?));
    match owner {
        Some(owner) if owner == claimer => Ok(claimer),
        Some(owner) if is_live(owner) => {
            fs::write(waiting(run, guid), "")?;
            Ok(owner)
        }
        _ => {
            let new = run.path(&format!("port-guid/{guid}.{}", std::process::id()));
            symlink(&mine, &new)?;
            fs::rename(&new, &path)?;
            Ok(claimer)
        }
    }
}

/// Gives back what a device had; whether somebody waits for any of it.
pub fn release(run: &Run, device: DevIndex) -> bool {
    let mut somebody_waits = false;
    for entry in fs::read_dir(run.path("port-guid")).into_iter().flatten().flatten() {
        let owner = fs::read_link(entry.path()).ok().and_then(|target| parse(target.to_str()?));
        if owner.is_some_and(|(index, _)| index == device) {
            fs::remove_file(entry.path()).ok();
            let guid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            somebody_waits |= guid.is_some_and(|g| fs::remove_file(waiting(run, g)).is_ok());
        }
    }
    somebody_waits
}

fn waiting(run: &Run, guid: Guid) -> std::path::PathBuf {
    run.path(&format!("port-guid/{guid}.waiting"))
}

fn parse(target: &str) -> Option<(DevIndex, PortNum)> {
    let (index, port) = target.split_once(':')?;
    Some((DevIndex(index.parse().ok()?), PortNum(port.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use rdma_config::Root;

    use super::*;

    #[test]
    fn first_owner_keeps_it_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::of(&Root::at(dir.path()));
        let (first, second) = ((DevIndex(1), PortNum(1)), (DevIndex(2), PortNum(1)));
        let claim = |who, live: bool| claim(&run, Guid(7), who, |_| live).unwrap();
        assert_eq!(claim(first, true), first);
        assert_eq!(claim(first, true), first);
        assert_eq!(claim(second, true), first);
        assert!(release(&run, DevIndex(1)), "the second waits");
        assert_eq!(claim(second, true), second);
        assert!(!release(&run, DevIndex(9)));
        // An owner that went without a word.
        assert_eq!(claim(first, false), first);
    }

    /// As `device` and `node` do, who have the names locked while they claim.
    #[test]
    fn an_owner_that_is_gone_is_replaced_under_the_lock_over_names() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::of(&Root::at(dir.path()));
        let _names = run.lock(false).unwrap();
        let (gone, new) = ((DevIndex(1), PortNum(1)), (DevIndex(2), PortNum(1)));
        claim(&run, Guid(7), gone, |_| true).unwrap();
        let (done, when_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(claim(&run, Guid(7), new, |_| false).unwrap()));
        let owner = when_done.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(owner, Ok(new), "it waits for itself");
    }
}
