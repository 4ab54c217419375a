// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-cost DEVICE poll|receive|send COUNT`: does that so often, for who counts instructions.

use std::error::Error;

use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Capacity, Completion, Context, Data, Datagram, Global, Operation, Path, ReceiveRequest,
    Receiving, SendRequest,
};
use rdma_verbs::{Gid, PortNum};

const PORT: PortNum = PortNum(1);
const QKEY: u32 = 0x1111_1111;
/// How many send requests are posted at a time.
const AT_ONCE: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, what, count] = &arguments[..] else {
        return Err("usage: rdma-cost DEVICE poll|receive|send COUNT".into());
    };
    let count: u32 = count.parse()?;
    let mut socket = Socket::open()?;
    let device = socket.devices()?.into_iter().find(|device| device.name == *name);
    let context = Context::of(&mut socket, &device.ok_or("there is no such device")?)?;
    let domain = context.protection_domain()?;
    let memory = domain.memory_region(4096, Access::LOCAL_WRITE)?;
    let mut queue = context.completion_queue(16, None)?;
    let capacity =
        Capacity { send_requests: 8192, receive: Receiving::Own(8192), sge: 1, inline: 64 };
    let pair = context.queue_pair::<Datagram>(&domain, (&queue, &queue), capacity)?;
    let mut pair = pair.init(PORT, 0, QKEY)?.ready_to_receive()?.ready_to_send(0)?;
    let own = context.gids_of(PORT)?.into_iter().next().ok_or("it has no GID")?;
    let gid = Gid(u128::from_be_bytes(own.gid));
    let global = Some(Global { gid, sgid_index: u8::try_from(own.index)?, hop_limit: 1 });
    let path = &domain.address_handle(PORT, &Path { lid: 0, sl: 0, global })?;
    let to = [memory.sge(0, 64)];
    // To nobody, and nothing is completed.
    let operation = Operation::SendTo { path, qpn: 0xff_fffe, qkey: QKEY, immediate: None };
    let request = SendRequest::new(1, operation, Data::Regions(&to));
    let list = [SendRequest { signaled: false, ..request }; AT_ONCE];
    let mut room = [Completion::default(); 1];
    match what.as_str() {
        "poll" => (0..count).try_for_each(|_| queue.poll(&mut room).map(drop))?,
        "receive" => (0..count.into())
            .try_for_each(|id| pair.post_receive(&[ReceiveRequest { id, to: &to }]))?,
        "send" => (0..count).try_for_each(|_| pair.post_send(&list))?,
        other => return Err(format!("there is no {other}").into()),
    }
    Ok(())
}
