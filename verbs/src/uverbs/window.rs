// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows: a part of a memory region that others may use, for as long as it is bound.

use zerocopy::{Immutable, IntoBytes};

use super::objects::{Access, Handle, MemoryRegion, ProtectionDomain};
use super::work::Operation;
use super::{Error, command};

/// Whose a window is (`enum ib_mw_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Its protection domain's.
    Domain = 1,
    /// The queue pair's by which it was bound, as long as it is. It is to be invalidated before it is bound again.
    QueuePair = 2,
}

/// A memory window.
///
/// rxe (as of Linux 6.12) sees to it that others do only what the window allows, but anywhere in the region: its bounds are not
/// looked at. Who counts on them gives such a device a region of its own.
#[derive(Debug)]
pub struct MemoryWindow {
    _handle: Handle,
    rkey: u32,
    _domain: ProtectionDomain,
}

/// What a window is bound to, as rxe has it in a send request.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Binding {
    address: u64,
    length: u64,
    lkey: u32,
    was: u32,
    rkey: u32,
    access: u32,
}

/// `struct ib_uverbs_alloc_mw`
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Allocate {
    response: u64,
    domain: u32,
    kind: u8,
    reserved: [u8; 3],
}

/// The same window with another key.
fn next(rkey: u32) -> u32 {
    rkey & !0xff | rkey.wrapping_add(1) & 0xff
}

impl MemoryWindow {
    /// What the other side needs to use it, once it is bound.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        self.rkey
    }

    /// What is to be posted to bind it to a part of a region with [`Access::MW_BIND`]; its key is another one from now on, whose
    /// last eight bits are the next. Without any bytes it is bound to nothing.
    ///
    /// # Panics
    /// Where the region does not have so many bytes.
    #[must_use]
    pub fn bind(
        &mut self,
        region: &MemoryRegion,
        offset: usize,
        length: u32,
        access: Access,
    ) -> Operation<'static> {
        let part = region.sge(offset, length);
        let was = self.rkey;
        self.rkey = next(was);
        Operation::Bind(Binding {
            address: part.address,
            length: length.into(),
            lkey: part.lkey,
            was,
            rkey: self.rkey,
            access: access.0,
        })
    }
}

impl ProtectionDomain {
    /// Makes a memory window, which is bound to nothing.
    ///
    /// # Errors
    /// See [`Error`]; `EOPNOTSUPP` where the driver has none.
    pub fn memory_window(&self, kind: WindowKind) -> Result<MemoryWindow, Error> {
        let open = &self.0.open;
        if open.maker.is_some() {
            return Err(Error::Unsupported("memory windows"));
        }
        let (domain, kind) = (self.0.number, kind as u8);
        let request = Allocate { response: 0, domain, kind, reserved: [0; 3] };
        let mut answer = [0_u32; 2];
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        open.command("make a memory window", command::ALLOC_MW, bytes, room, &mut [])?;
        let [number, rkey] = answer;
        let handle = Handle::new(open, number, command::DEALLOC_MW);
        Ok(MemoryWindow { _handle: handle, rkey, _domain: self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_words() {
        assert_eq!([0x17fe, 0x17ff].map(next), [0x17ff, 0x1700]);
        let binding = Binding {
            address: 1_u64.to_le(),
            length: 2_u64.to_le(),
            lkey: 3,
            was: 4,
            rkey: 5,
            access: 6,
        };
        let words = Operation::Bind(binding).remote();
        assert_eq!(words, [1_u32.to_le(), 0, 2_u32.to_le(), 0, 3, 4, 5, 6]);
    }
}
