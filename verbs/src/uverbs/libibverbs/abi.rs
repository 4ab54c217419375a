// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs' binary interface (`libibverbs.so.1`, IBVERBS_1.1 and later): the functions that are called, and of its structures
//! what is read and written here, which is their beginning.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

use super::super::work::{Completion, Sge};

/// `struct ibv_device`, whose name is asked for.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Device {
    _any: [u8; 0],
}

/// `int (*)(struct ibv_cq *, int, struct ibv_wc *)`
pub(super) type Poll = unsafe extern "C" fn(*mut Queue, c_int, *mut Completion) -> c_int;
/// `int (*)(struct ibv_cq *, int)`
pub(super) type Notify = unsafe extern "C" fn(*mut Queue, c_int) -> c_int;
/// `int (*)(struct ibv_qp *, struct ibv_send_wr *, struct ibv_send_wr **)`, and the same of receive requests. Of a shared queue
/// it takes that one.
pub(super) type Post<Request> =
    unsafe extern "C" fn(*mut c_void, *mut Request, *mut *mut Request) -> c_int;

/// `struct ibv_context`, with `struct ibv_context_ops` in it.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Context {
    device: *mut Device,
    not_called: [*mut c_void; 11],
    pub(super) poll: Option<Poll>,
    pub(super) notify: Option<Notify>,
    not_called_2: [*mut c_void; 7],
    pub(super) post_shared: Option<Post<Receive>>,
    not_called_3: [*mut c_void; 4],
    pub(super) post_send: Option<Post<Send>>,
    pub(super) post_receive: Option<Post<Receive>>,
    not_called_4: [*mut c_void; 5],
    pub(super) file: c_int,
    events: c_int,
    pub(super) vectors: c_int,
}

/// `struct ibv_pd`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Domain {
    context: *mut Context,
    pub(super) handle: u32,
}

/// `struct ibv_mr`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Region {
    context: *mut Context,
    domain: *mut Domain,
    address: *mut c_void,
    length: usize,
    pub(super) handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// `struct ibv_comp_channel`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) context: *mut Context,
    pub(super) file: c_int,
    pub(super) users: c_int,
}

/// `struct ibv_cq`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Queue {
    context: *mut Context,
    channel: *mut Channel,
    of_user: *mut c_void,
    pub(super) handle: u32,
    pub(super) entries: c_int,
}

/// `struct ibv_srq`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Shared {
    context: *mut Context,
    of_user: *mut c_void,
    domain: *mut Domain,
    pub(super) handle: u32,
}

/// `struct ibv_qp`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Pair {
    context: *mut Context,
    of_user: *mut c_void,
    domain: *mut Domain,
    send_to: *mut Queue,
    receive_to: *mut Queue,
    shared: *mut Shared,
    pub(super) handle: u32,
    pub(super) number: u32,
}

/// `struct ibv_ah`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Path {
    context: *mut Context,
    domain: *mut Domain,
    pub(super) handle: u32,
}

/// `struct ibv_qp_cap`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Room {
    pub(super) send_requests: u32,
    pub(super) receive_requests: u32,
    pub(super) send_sge: u32,
    pub(super) receive_sge: u32,
    pub(super) inline: u32,
}

/// `struct ibv_qp_init_attr`
#[repr(C)]
pub(super) struct PairWanted {
    pub(super) of_user: *mut c_void,
    pub(super) send_to: *mut Queue,
    pub(super) receive_to: *mut Queue,
    pub(super) shared: *mut Shared,
    pub(super) room: Room,
    pub(super) kind: u32,
    pub(super) all_signaled: c_int,
}

/// `struct ibv_ah_attr`
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct PathWanted {
    pub(super) gid: [u8; 16],
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) padding: u8,
    pub(super) lid: u16,
    pub(super) sl: u8,
    pub(super) path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port: u8,
}

/// `struct ibv_qp_attr`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct PairChange {
    pub(super) state: u32,
    pub(super) current_state: u32,
    pub(super) mtu: u32,
    pub(super) migration: u32,
    pub(super) qkey: u32,
    pub(super) receive_psn: u32,
    pub(super) send_psn: u32,
    pub(super) destination_qpn: u32,
    pub(super) access: c_uint,
    pub(super) room: Room,
    pub(super) destination: PathWanted,
    pub(super) alternate: PathWanted,
    pub(super) pkey_index: u16,
    pub(super) alternate_pkey_index: u16,
    pub(super) notify_drained: u8,
    pub(super) draining: u8,
    pub(super) reads: u8,
    pub(super) destination_reads: u8,
    pub(super) rnr_timer: u8,
    pub(super) port: u8,
    pub(super) timeout: u8,
    pub(super) retries: u8,
    pub(super) rnr_retries: u8,
    pub(super) alternate_port: u8,
    pub(super) alternate_timeout: u8,
    pub(super) rate_limit: u32,
}

/// `struct ibv_srq_attr`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct SharedChange {
    pub(super) requests: u32,
    pub(super) sge: u32,
    pub(super) limit: u32,
}

/// `struct ibv_srq_init_attr`
#[repr(C)]
pub(super) struct SharedWanted {
    pub(super) of_user: *mut c_void,
    pub(super) room: SharedChange,
}

/// `struct ibv_send_wr`; operations, flags and the union are numbered and laid out as the kernel's.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Send {
    pub(super) id: u64,
    pub(super) next: *mut Self,
    pub(super) elements: *const Sge,
    pub(super) count: c_int,
    pub(super) opcode: u32,
    pub(super) flags: c_uint,
    pub(super) beside: [u8; 4],
    pub(super) remote: Remote,
    pub(super) rest: [u64; 7],
}

/// Where on the other side: words, or for datagrams who that is.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Remote {
    pub(super) words: [u32; 8],
    pub(super) to: Receiver,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// The `ud` of the union.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Receiver {
    pub(super) path: *mut c_void,
    pub(super) qpn: u32,
    pub(super) qkey: u32,
    pub(super) rest: [u32; 4],
}

/// `struct ibv_recv_wr`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) id: u64,
    pub(super) next: *mut Self,
    pub(super) elements: *const Sge,
    pub(super) count: c_int,
}

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        /// The library's functions, as long as it is loaded.
        #[derive(Debug)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)*
            _library: Library,
        }

        impl Functions {
            fn load() -> Result<Self, libloading::Error> {
                #[expect(unsafe_code, reason = "dlopen")]
                // SAFETY: what the library does when it is loaded it does for every program that is linked with it.
                let library = unsafe { Library::new("libibverbs.so.1") }?;
                Ok(Self {
                    $($name: {
                        #[expect(unsafe_code, reason = "dlsym")]
                        // SAFETY: the function has had these parameters since it is there; it is kept with its library.
                        *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    ibv_get_device_list(*mut c_int) -> *mut *mut Device;
    ibv_free_device_list(*mut *mut Device);
    ibv_get_device_name(*mut Device) -> *const c_char;
    ibv_open_device(*mut Device) -> *mut Context;
    ibv_close_device(*mut Context) -> c_int;
    ibv_alloc_pd(*mut Context) -> *mut Domain;
    ibv_dealloc_pd(*mut Domain) -> c_int;
    ibv_reg_mr_iova2(*mut Domain, *mut c_void, usize, u64, c_uint) -> *mut Region;
    ibv_rereg_mr(*mut Region, c_int, *mut Domain, *mut c_void, usize, c_int) -> c_int;
    ibv_dereg_mr(*mut Region) -> c_int;
    ibv_create_cq(*mut Context, c_int, *mut c_void, *mut Channel, c_int) -> *mut Queue;
    ibv_resize_cq(*mut Queue, c_int) -> c_int;
    ibv_ack_cq_events(*mut Queue, c_uint);
    ibv_destroy_cq(*mut Queue) -> c_int;
    ibv_create_srq(*mut Domain, *mut SharedWanted) -> *mut Shared;
    ibv_modify_srq(*mut Shared, *mut SharedChange, c_int) -> c_int;
    ibv_destroy_srq(*mut Shared) -> c_int;
    ibv_create_qp(*mut Domain, *mut PairWanted) -> *mut Pair;
    ibv_modify_qp(*mut Pair, *mut PairChange, c_int) -> c_int;
    ibv_destroy_qp(*mut Pair) -> c_int;
    ibv_create_ah(*mut Domain, *mut PathWanted) -> *mut Path;
    ibv_destroy_ah(*mut Path) -> c_int;
}

/// The library, which is loaded once and stays, or why it cannot be.
pub(super) fn functions() -> Result<&'static Functions, &'static str> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| Functions::load().map_err(|error| error.to_string()));
    functions.as_ref().map_err(String::as_str)
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// As a C compiler says them of the header of libibverbs 1.14.
    #[test]
    fn offsets_of_the_library() {
        for (is, should_be) in [
            (offset_of!(Context, poll), 96),
            (offset_of!(Context, notify), 104),
            (offset_of!(Context, post_shared), 168),
            (offset_of!(Context, post_send), 208),
            (offset_of!(Context, post_receive), 216),
            (offset_of!(Context, file), 264),
            (offset_of!(Context, vectors), 272),
            (offset_of!(Domain, handle), 8),
            (offset_of!(Region, handle), 32),
            (offset_of!(Region, rkey), 40),
            (offset_of!(Queue, handle), 24),
            (offset_of!(Queue, entries), 28),
            (offset_of!(Shared, handle), 24),
            (offset_of!(Pair, handle), 48),
            (offset_of!(Pair, number), 52),
            (offset_of!(Path, handle), 16),
            (offset_of!(PairWanted, room), 32),
            (offset_of!(PairWanted, kind), 52),
            (size_of::<PairWanted>(), 64),
            (offset_of!(PairChange, room), 36),
            (offset_of!(PairChange, destination), 56),
            (offset_of!(PairChange, alternate), 88),
            (offset_of!(PairChange, pkey_index), 120),
            (offset_of!(PairChange, reads), 126),
            (offset_of!(PairChange, port), 129),
            (offset_of!(PairChange, alternate_timeout), 134),
            (offset_of!(PairChange, rate_limit), 136),
            (size_of::<PairChange>(), 144),
            (offset_of!(PathWanted, traffic_class), 22),
            (offset_of!(PathWanted, lid), 24),
            (offset_of!(PathWanted, port), 30),
            (size_of::<PathWanted>(), 32),
            (size_of::<SharedWanted>(), 24),
            (offset_of!(Send, beside), 36),
            (offset_of!(Send, remote), 40),
            (offset_of!(Receiver, qpn), 8),
            (size_of::<Send>(), 128),
            (offset_of!(Receive, count), 24),
            (size_of::<Receive>(), 32),
            (size_of::<Channel>(), 16),
            (offset_of!(Completion, immediate), 24),
            (offset_of!(Completion, flags), 36),
            (offset_of!(Completion, source_lid), 42),
            (offset_of!(Completion, path_bits), 45),
        ] {
            assert_eq!(is, should_be);
        }
    }
}
