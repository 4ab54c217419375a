// SPDX-License-Identifier: MIT OR Apache-2.0
//! Subnet administration, as it is asked through one port.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use rdma_acm::options::Options;
use rdma_acm::resolver::QuestionId;
use rdma_acm::wire::Status;
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::mad::class;
use rdma_verbs::requests::{Failure, Requests};
use rdma_verbs::sa::{self, Client, PathRecord, Patience, Query, record};
use rdma_verbs::umad::{Address, AgentRequest, Carrier as _, Umad};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::service::watched;
use crate::shared::Shared;

/// What is to be done through a port.
#[derive(Debug)]
pub(crate) enum Order {
    Ask {
        question: QuestionId,
        path: PathRecord,
        components: u64,
    },
    Leave(QuestionId),
    /// Where the subnet manager is.
    Manager(Option<Address>),
}

/// Opens a port; it is closed when nobody has the end of its orders any more.
pub(crate) fn open(
    shared: &Rc<Shared>,
    port: &LocalPort,
    options: &Options,
) -> Result<mpsc::UnboundedSender<Order>> {
    let context = || format!("cannot use {}", port.umad.display());
    let mut umad = Umad::open(&port.umad).with_context(context)?;
    let agent = AgentRequest { class: class::SUBN_ADM, version: 2, methods: &[], rmpp: true };
    let agent = umad.register(&agent).with_context(context)?;
    let patience = Patience { timeout: options.deadline(), retries: options.retries };
    let client = Client::new(Requests::new(umad, options.depth), agent, patience);
    let client = watched(client.with_window(options.depth))?;
    let (orders, to_do) = mpsc::unbounded_channel();
    let about = format!("port {} of RDMA device '{}'", port.number, port.device);
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        if let Err(error) = run(&shared, client, to_do).await {
            rdma_udev_helper::log::warning(format!("{about} is asked no more: {error}"));
        }
    });
    Ok(orders)
}

async fn run(
    shared: &Shared,
    mut client: AsyncFd<Client>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> io::Result<()> {
    let mut questions: BTreeMap<sa::Id, QuestionId> = BTreeMap::new();
    let mut ids: BTreeMap<QuestionId, sa::Id> = BTreeMap::new();
    loop {
        while let Some((id, outcome)) = client.get_mut().advance(Instant::now()) {
            if let Some(question) = questions.remove(&id) {
                ids.remove(&question);
                shared.answered(question, answer(outcome));
            }
        }
        // The device has gone; what is asked of it from now on is answered without it.
        if client.get_mut().requests().is_gone() {
            return Ok(());
        }
        let wake = client.get_ref().next();
        tokio::select! {
            ready = client.readable() => ready?.clear_ready(),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            order = orders.recv() => {
                let Some(mut order) = order else { return Ok(()) };
                loop {
                    match order {
                        Order::Ask { question, path, components } => {
                            let id = client.get_mut().ask(Query::get(&path, components));
                            questions.insert(id, question);
                            ids.insert(question, id);
                        }
                        Order::Leave(question) => {
                            if let Some(id) = ids.remove(&question) {
                                questions.remove(&id);
                                client.get_mut().cancel(id);
                            }
                        }
                        Order::Manager(manager) => client.get_mut().set_manager(manager),
                    }
                    let Ok(next) = orders.try_recv() else { break };
                    order = next;
                }
            }
        }
    }
}

/// IBTA 15.2.2: the class-specific status of subnet administration.
fn answer(outcome: Result<Vec<u8>, Failure>) -> Result<PathRecord, Status> {
    match outcome {
        Ok(mad) => record(&mad).ok_or(Status::NoData),
        Err(Failure::TimedOut) => Err(Status::TimedOut),
        Err(Failure::Refused(status)) => Err(match status.0 >> 8 {
            _ if status.is_busy() => Status::TimedOut,
            // The common part of it: a kernel says for somebody who has gone that it does not know what is asked.
            0 => Status::NotConnected,
            1 => Status::NoMemory,
            // No records; access denied.
            3 | 7 => Status::NoData,
            5 => Status::DestinationAddress,
            _ => Status::Invalid,
        }),
        Err(Failure::Gone | Failure::NoManager | Failure::Send(_)) => Err(Status::NotConnected),
        Err(Failure::Garbage) => Err(Status::NoData),
    }
}
