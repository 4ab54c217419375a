// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library makes, and changes.

use std::ffi::c_void;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{self, PairChange, PathWanted, Room};
use super::work::Polled;
use super::{Library, QueueObject, done, its, made, signed, view};
use crate::uverbs::Open;
use crate::uverbs::channel::CompletionChannel;
use crate::uverbs::objects::Handle;
use crate::uverbs::path::PathAttributes;
use crate::uverbs::provider::{Completions, Limits, Made, Maker, Receives};
use crate::uverbs::qp::{Capacity, Destination, Modify, Queues, Receiving};

/// `IBV_SRQ_LIMIT`
const LIMIT: i32 = 2;

impl Maker for Library {
    fn domain(&self) -> io::Result<Made> {
        #[expect(unsafe_code, reason = "ibv_alloc_pd")]
        // SAFETY: the context is open.
        let domain = made(unsafe { (self.functions.ibv_alloc_pd)(self.context.as_ptr()) })?;
        Ok(Self::object(domain, self.functions.ibv_dealloc_pd, view(&domain).handle))
    }

    fn region(
        &self,
        domain: *mut c_void,
        address: u64,
        length: usize,
        access: u32,
    ) -> io::Result<(Made, [u32; 2])> {
        let domain = its(domain)?;
        let start = usize::try_from(address).map_err(|_| Errno::INVAL)?;
        let start = std::ptr::with_exposed_provenance_mut(start);
        #[expect(unsafe_code, reason = "ibv_reg_mr_iova2")]
        // SAFETY: the domain is there. What is at the address is left alone here, and checked by the kernel.
        let region =
            unsafe { (self.functions.ibv_reg_mr_iova2)(domain, start, length, address, access) };
        let region = made(region)?;
        let abi::Region { handle, lkey, rkey, .. } = *view(&region);
        Ok((Self::object(region, self.functions.ibv_dereg_mr, handle), [lkey, rkey]))
    }

    fn change_region(
        &self,
        region: *mut c_void,
        flags: u32,
        domain: *mut c_void,
        access: u32,
    ) -> io::Result<[u32; 2]> {
        let (region, domain, none) = (its::<abi::Region>(region)?, its(domain)?, null_mut());
        let again = self.functions.ibv_rereg_mr;
        #[expect(unsafe_code, reason = "ibv_rereg_mr")]
        // SAFETY: both are there, and the address is not changed.
        let outcome = unsafe { again(region, signed(flags), domain, none, 0, signed(access)) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let region = made(region)?;
        let abi::Region { lkey, rkey, .. } = *view(&region);
        Ok([lkey, rkey])
    }

    fn completion_queue(
        &self,
        entries: u32,
        channel: Option<(&CompletionChannel, u64)>,
    ) -> io::Result<(Made, u32, Box<dyn Completions>)> {
        let context = self.context.as_ptr();
        let of_library = channel.map(|(channel, _)| {
            let file = channel.as_raw();
            NonNull::from(Box::leak(Box::new(abi::Channel { context, file, users: 0 })))
        });
        let lent = of_library.map_or(null_mut(), NonNull::as_ptr);
        #[expect(unsafe_code, reason = "ibv_create_cq")]
        // SAFETY: the context is open; what it is lent as a channel stays until the queue is given back.
        let queue = made(unsafe {
            (self.functions.ibv_create_cq)(context, signed(entries), null_mut(), lent, 0)
        });
        if let (Err(_), Some(lent)) = (&queue, of_library) {
            #[expect(unsafe_code, reason = "what the library was lent")]
            // SAFETY: it was a box, and nothing was made that uses it.
            drop(unsafe { Box::from_raw(lent.as_ptr()) });
        }
        let queue = queue?;
        let number = view(&queue).handle;
        let made = match channel.zip(of_library) {
            None => Self::object(queue, self.functions.ibv_destroy_cq, number),
            Some(((channel, of_user), of_library)) => {
                channel.begin(queue.as_ptr().expose_provenance() as u64, of_user);
                let (functions, channel) = (self.functions, channel.clone());
                let object = QueueObject { queue, functions, channel, of_library };
                Made { object: Box::new(object), number }
            }
        };
        let context = view(&self.context);
        let (poll, notify) = context.poll.zip(context.notify).ok_or(Errno::OPNOTSUPP)?;
        let entries = u32::try_from(view(&queue).entries).unwrap_or(0);
        Ok((made, entries, Box::new(Polled { queue, poll, notify })))
    }

    fn resize(&self, queue: *mut c_void, entries: u32) -> io::Result<u32> {
        let queue = its::<abi::Queue>(queue)?;
        #[expect(unsafe_code, reason = "ibv_resize_cq")]
        // SAFETY: the queue is there.
        done(unsafe { (self.functions.ibv_resize_cq)(queue, signed(entries)) })?;
        Ok(u32::try_from(view(&made(queue)?).entries).unwrap_or(0))
    }

    fn shared_queue(
        &self,
        open: &Arc<Open>,
        domain: *mut c_void,
        requests: u32,
        sge: u32,
    ) -> io::Result<(Made, Box<dyn Receives>)> {
        let domain = its(domain)?;
        let room = abi::SharedChange { requests, sge, limit: 0 };
        let mut wanted = abi::SharedWanted { of_user: null_mut(), room };
        #[expect(unsafe_code, reason = "ibv_create_srq")]
        // SAFETY: the domain is there, and the library writes what it gives in place of what is wanted.
        let queue = unsafe { (self.functions.ibv_create_srq)(domain, &raw mut wanted) };
        let queue = made(queue)?;
        let made = Self::object(queue, self.functions.ibv_destroy_srq, view(&queue).handle);
        let limits = Limits::new(wanted.room.requests, wanted.room.sge, 0);
        let post = view(&self.context).post_shared;
        Ok((made, Self::posted(open, queue.cast(), post, limits)?))
    }

    fn set_limit(&self, queue: *mut c_void, limit: u32) -> io::Result<()> {
        let queue = its(queue)?;
        let mut change = abi::SharedChange { limit, ..Default::default() };
        #[expect(unsafe_code, reason = "ibv_modify_srq")]
        // SAFETY: the queue is there, and what it becomes stays until the call ends.
        done(unsafe { (self.functions.ibv_modify_srq)(queue, &raw mut change, LIMIT) })
    }

    fn pair(
        &self,
        open: &Arc<Open>,
        kind: u8,
        domain: *mut c_void,
        [send_to, receive_to]: [*mut c_void; 2],
        capacity: &Capacity<'_>,
    ) -> io::Result<Queues> {
        let (domain, send_to, receive_to) = (its(domain)?, its(send_to)?, its(receive_to)?);
        let (receive_requests, shared) = match capacity.receive {
            Receiving::Own(requests) => (requests, None),
            Receiving::Shared(queue) => (0, Some(its(queue.handle.pointer())?)),
        };
        let room = Room {
            send_requests: capacity.send_requests,
            receive_requests,
            send_sge: capacity.sge,
            receive_sge: if shared.is_some() { 0 } else { capacity.sge },
            inline: capacity.inline,
        };
        let mut wanted = abi::PairWanted {
            of_user: null_mut(),
            send_to,
            receive_to,
            shared: shared.unwrap_or(null_mut()),
            room,
            kind: kind.into(),
            all_signaled: 0,
        };
        #[expect(unsafe_code, reason = "ibv_create_qp")]
        // SAFETY: all that it is made of is there, and the library writes what it gives in place of what is wanted.
        let pair = made(unsafe { (self.functions.ibv_create_qp)(domain, &raw mut wanted) })?;
        let abi::Pair { handle, number, .. } = *view(&pair);
        let made = Self::object(pair, self.functions.ibv_destroy_qp, handle);
        let (room, context) = (wanted.room, view(&self.context));
        let limits = Limits::new(room.send_requests, room.send_sge, room.inline);
        let send = Self::posted(open, pair.cast(), context.post_send, limits)?;
        let limits = Limits::new(room.receive_requests, room.receive_sge, 0);
        let receive = match shared {
            Some(_) => None,
            None => Some(Self::posted(open, pair.cast(), context.post_receive, limits)? as _),
        };
        Ok((Handle::made(open, made), number, send, receive))
    }

    fn change_pair(&self, pair: *mut c_void, change: &Modify) -> io::Result<()> {
        let (pair, mut wanted) = (its(pair)?, PairChange::of(change));
        let modify = self.functions.ibv_modify_qp;
        #[expect(unsafe_code, reason = "ibv_modify_qp")]
        // SAFETY: the queue pair is there, and what it becomes stays until the call ends.
        done(unsafe { modify(pair, &raw mut wanted, signed(change.mask)) })
    }

    fn path(&self, domain: *mut c_void, path: &PathAttributes) -> io::Result<Made> {
        let (domain, mut wanted) = (its(domain)?, PathWanted::of(path));
        #[expect(unsafe_code, reason = "ibv_create_ah")]
        // SAFETY: the domain is there, and the way stays until the call ends.
        let path = made(unsafe { (self.functions.ibv_create_ah)(domain, &raw mut wanted) })?;
        Ok(Self::object(path, self.functions.ibv_destroy_ah, view(&path).handle))
    }
}

impl PairChange {
    /// The same bits of the mask say what changes.
    fn of(change: &Modify) -> Self {
        Self {
            state: change.state.into(),
            current_state: change.current_state.into(),
            mtu: change.mtu.into(),
            migration: change.migration.into(),
            qkey: change.qkey,
            receive_psn: change.receive_psn,
            send_psn: change.send_psn,
            destination_qpn: change.destination_qpn,
            access: change.access,
            destination: PathWanted::to(&change.destination),
            alternate: PathWanted::to(&change.alternate),
            pkey_index: change.pkey_index,
            alternate_pkey_index: change.alternate_pkey_index,
            notify_drained: change.notify_drained,
            reads: change.reads,
            destination_reads: change.destination_reads,
            rnr_timer: change.rnr_timer,
            port: change.port,
            timeout: change.timeout,
            retries: change.retries,
            rnr_retries: change.rnr_retries,
            alternate_port: change.alternate_port,
            alternate_timeout: change.alternate_timeout,
            ..Self::default()
        }
    }
}

impl PathWanted {
    fn of(path: &PathAttributes) -> Self {
        Self::to(&Destination::of(path))
    }

    fn to(to: &Destination) -> Self {
        Self {
            gid: to.gid,
            flow_label: to.flow_label,
            sgid_index: to.sgid_index,
            hop_limit: to.hop_limit,
            traffic_class: to.traffic_class,
            padding: 0,
            lid: to.lid,
            sl: to.sl,
            path_bits: to.path_bits,
            static_rate: to.static_rate,
            is_global: to.is_global,
            port: to.port,
        }
    }
}
