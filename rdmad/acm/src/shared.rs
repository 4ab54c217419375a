// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tasks of the daemon have in common. There is one thread, and no task keeps any of it while it waits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::time::Instant;

use rdma_acm::endpoints::PortKey;
use rdma_acm::options::Options;
use rdma_acm::resolver::{ClientId, Output, QuestionId, Resolver};
use rdma_acm::wire::{Request, Status};
use rdma_udev_helper::log;
use rdma_verbs::local_service::Socket;
use rdma_verbs::sa::PathRecord;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use crate::clients::Clients;
use crate::fabric::Order;
use crate::host::ThisHost;

pub(crate) struct Shared {
    pub(crate) resolver: RefCell<Resolver<ThisHost>>,
    /// None where the kernel asks nobody.
    pub(crate) kernel: Option<AsyncFd<Socket>>,
    pub(crate) clients: RefCell<Clients>,
    pub(crate) ports: RefCell<HashMap<PortKey, mpsc::UnboundedSender<Order>>>,
    /// librdmacm is told nothing.
    pub(crate) only_acme_and_kernel: Cell<bool>,
    /// There is a deadline where there was none.
    pub(crate) deadline: Notify,
    pub(crate) is_timed: Cell<bool>,
}

impl Shared {
    pub(crate) fn new(kernel: Option<AsyncFd<Socket>>) -> io::Result<Self> {
        Ok(Self {
            resolver: RefCell::new(Resolver::new(ThisHost::new(), Options::default())),
            kernel,
            clients: RefCell::new(Clients::new()?),
            ports: RefCell::default(),
            only_acme_and_kernel: Cell::new(false),
            deadline: Notify::new(),
            is_timed: Cell::new(false),
        })
    }

    /// A program asks.
    pub(crate) fn request(&self, client: ClientId, request: &Request) {
        self.resolver.borrow_mut().client(client, request, Instant::now());
        self.act();
    }

    /// Subnet administration has answered.
    pub(crate) fn answered(&self, question: QuestionId, answer: Result<PathRecord, Status>) {
        self.resolver.borrow_mut().answered(question, answer, Instant::now());
        self.act();
    }

    /// Does what the resolver has said.
    pub(crate) fn act(&self) {
        let mut resolver = self.resolver.borrow_mut();
        while let Some(output) = resolver.output() {
            match output {
                Output::Answer(client, bytes) => {
                    self.clients.borrow_mut().answer(client, bytes);
                }
                Output::Kernel(ticket, reply) => {
                    if let Some(kernel) = &self.kernel
                        && let Err(error) = kernel.get_ref().answer(ticket, &reply)
                    {
                        log::warning(error.to_string());
                    }
                }
                Output::Ask { port, question, path, components } => {
                    let order = Order::Ask { question, path, components };
                    if !self.order(port, order) {
                        resolver.answered(question, Err(Status::NotConnected), Instant::now());
                    }
                }
                Output::Leave(port, question) => {
                    self.order(port, Order::Leave(question));
                }
            }
        }
        let is_timed = resolver.deadline().is_some();
        if self.is_timed.replace(is_timed) != is_timed && is_timed {
            self.deadline.notify_one();
        }
    }

    /// Whether there is such a port to do it.
    fn order(&self, port: PortKey, order: Order) -> bool {
        self.ports.borrow().get(&port).is_some_and(|orders| orders.send(order).is_ok())
    }
}
