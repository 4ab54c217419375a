// SPDX-License-Identifier: MIT OR Apache-2.0
//! `RDMA_VERBS_IOCTL`: a method of an object of the kernel, and what it is given and gives back.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct ib_uverbs_ioctl_hdr`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Header {
    length: u16,
    object: u16,
    method: u16,
    attributes: u16,
    reserved: u64,
    driver: u32,
    reserved_2: u32,
}

/// `struct ib_uverbs_attr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
struct Attribute {
    id: u16,
    length: u16,
    flags: u16,
    enumerator: u16,
    data: u64,
}

const NUMBER: Opcode = opcode::read_write::<Header>(0x1b, 1);
/// `UVERBS_ATTR_F_MANDATORY`: it is an error when the kernel does not know it.
const MANDATORY: u16 = 1;
/// What the driver is given, and gives back.
pub(crate) const DRIVER_IN: u16 = 0x1000;
pub(crate) const DRIVER_OUT: u16 = 0x1001;

/// One call, as it is put together. What it refers to must live until it is [made](Call::make).
pub(crate) struct Call<'a> {
    header: Header,
    attributes: Vec<Attribute>,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(driver: u32, object: u16, method: u16) -> Self {
        let header =
            Header { length: 0, object, method, attributes: 0, reserved: 0, driver, reserved_2: 0 };
        Self { header, attributes: Vec::new(), memory: PhantomData }
    }

    fn with(mut self, id: u16, length: usize, flags: u16, data: u64) -> Self {
        // The longest thing here is a GID table.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.attributes.push(Attribute { id, length, flags, enumerator: 0, data });
        self
    }

    /// A value or structure that the kernel reads.
    pub(crate) fn input(self, id: u16, value: &'a [u8]) -> Self {
        let mut word = [0; 8];
        // What fits stands in the attribute itself.
        let data = match word.get_mut(..value.len()) {
            Some(place) => {
                place.copy_from_slice(value);
                u64::from_ne_bytes(word)
            }
            None => value.as_ptr().expose_provenance() as u64,
        };
        self.with(id, value.len(), MANDATORY, data)
    }

    /// Room that the kernel writes to.
    pub(crate) fn output(self, id: u16, room: &'a mut [u8]) -> Self {
        let address = room.as_mut_ptr().expose_provenance() as u64;
        self.with(id, room.len(), MANDATORY, address)
    }

    /// The same for what older kernels do not have.
    pub(crate) fn optional_output(self, id: u16, room: &'a mut [u8]) -> Self {
        let address = room.as_mut_ptr().expose_provenance() as u64;
        self.with(id, room.len(), 0, address)
    }

    /// A constant or flags.
    pub(crate) fn constant(self, id: u16, value: u64) -> Self {
        self.with(id, 8, MANDATORY, value)
    }

    /// Makes the call, which makes an object: its number.
    pub(crate) fn make_object(self, id: u16, file: BorrowedFd<'a>) -> io::Result<u64> {
        let place = size_of::<Header>() + self.attributes.len() * size_of::<Attribute>();
        let bytes = self.with(id, 0, MANDATORY, 0).bytes(file)?;
        let object = bytes.get(place..).and_then(|rest| Attribute::read_from_prefix(rest).ok());
        object.map(|(object, _)| object.data).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Makes the call.
    pub(crate) fn make(self, file: BorrowedFd<'a>) -> io::Result<()> {
        self.bytes(file).map(drop)
    }

    /// What the kernel has left of the call's own bytes.
    fn bytes(mut self, file: BorrowedFd<'a>) -> io::Result<Vec<u8>> {
        let length = size_of::<Header>() + self.attributes.len() * size_of::<Attribute>();
        self.header.length = u16::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.header.attributes =
            u16::try_from(self.attributes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = [self.header.as_bytes(), self.attributes.as_bytes()].concat();
        #[expect(unsafe_code, reason = "an ioctl of the uverbs device")]
        // SAFETY: the addresses in it are those of memory that is borrowed for as long as this call is, with their lengths.
        unsafe { ioctl(file, Buffer(&mut bytes)) }?;
        Ok(bytes)
    }
}

/// The bytes of a call, which the number says only the header's length of.
struct Buffer<'a>(&'a mut [u8]);

#[expect(unsafe_code, reason = "an ioctl of a length that its number does not say")]
// SAFETY: the kernel reads and writes as much as the header says, which is as long as the buffer is.
unsafe impl Ioctl for Buffer<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        NUMBER
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_way_to_the_kernel() {
        assert_eq!(NUMBER, 0xc018_1b01);
        assert_eq!((size_of::<Header>(), size_of::<Attribute>()), (24, 16));
        let (short, long, mut room) = ([1, 2, 3, 4], [0; 9], [0; 48]);
        let addresses = [long.as_ptr() as u64, room.as_mut_ptr() as u64];
        let call = Call::new(14, 0, 2)
            .input(7, &short)
            .input(8, &long)
            .constant(0, 1)
            .output(1, &mut room);
        let of = |place: usize| {
            let Attribute { id, length, flags, data, .. } = call.attributes[place];
            (id, length, flags, data)
        };
        assert_eq!(of(0), (7, 4, 1, u64::from_le_bytes([1, 2, 3, 4, 0, 0, 0, 0]).to_le()));
        assert_eq!(of(1), (8, 9, 1, addresses[0]));
        assert_eq!(of(2), (0, 8, 1, 1));
        assert_eq!(of(3), (1, 48, 1, addresses[1]));
    }

    #[test]
    fn a_file_that_is_no_device() {
        let file = tempfile::tempfile().unwrap();
        let error = Call::new(0, 0, 2).make(std::os::fd::AsFd::as_fd(&file)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
