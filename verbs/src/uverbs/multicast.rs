// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast groups that queue pairs for datagrams receive from.

use std::sync::{MutexGuard, PoisonError};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::outstanding::Pair;
use super::qp::{Datagram, QueuePair};
use super::{Error, Open, command};
use crate::Gid;

/// `struct ib_uverbs_attach_mcast`, and of detaching
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(super) struct Attachment {
    gid: [u8; 16],
    pair: u32,
    mlid: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<Attachment>() == 24);

impl Pair {
    fn attachments(&self) -> MutexGuard<'_, Vec<Attachment>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The kernel does not destroy a queue pair as long as it is attached to a group.
    pub(super) fn leave_groups(&self, pair: &Pair) {
        for attachment in pair.attachments().drain(..) {
            let none = (&[][..], &mut [][..]);
            self.give(command::DETACH_MCAST, attachment.as_bytes(), &mut [], none).ok();
        }
    }

    /// Has nothing more happen to its queues.
    pub(super) fn destroy_pair(&self, pair: &Pair) {
        self.leave_groups(pair);
        self.destroy(command::DESTROY_QP, pair.handle);
    }
}

impl<State> QueuePair<Datagram, State> {
    fn give(
        &self,
        what: &'static str,
        command: u32,
        (group, mlid): (Gid, u16),
    ) -> Result<Attachment, Error> {
        let (gid, pair) = (group.0.to_be_bytes(), self.pair().handle);
        let attachment = Attachment { gid, pair, mlid, reserved: 0 };
        self.open().command(what, command, attachment.as_bytes(), &mut [], &mut [])?;
        Ok(attachment)
    }

    /// Has it receive what is sent to a group; `mlid` is 0 on Ethernet. The port has to be a member of the group for anything to
    /// come: a matter of the subnet manager, or of the network, that [`crate::cm`] sees to.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` for what is no group.
    pub fn attach(&mut self, group: Gid, mlid: u16) -> Result<(), Error> {
        let what = "attach to a multicast group";
        let attachment = self.give(what, command::ATTACH_MCAST, (group, mlid))?;
        self.pair().attachments().push(attachment);
        Ok(())
    }

    /// Has it receive nothing of the group any more; a queue pair that is dropped does not either.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` for a group that it is not attached to.
    pub fn detach(&mut self, group: Gid, mlid: u16) -> Result<(), Error> {
        let what = "detach from a multicast group";
        let attachment = self.give(what, command::DETACH_MCAST, (group, mlid))?;
        self.pair().attachments().retain(|other| *other != attachment);
        Ok(())
    }
}
