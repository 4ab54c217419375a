// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that ask. Each has a task of its own: one that does not read holds up nobody.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use rdma_acm::resolver::ClientId;
use rdma_acm::wire::{LONGEST, Messages, Status};
use rdma_udev_helper::log;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::shared::Shared;

/// How many questions of one program are open at a time; more wait in its socket.
const OPEN: usize = 64;

/// The answers to one program.
#[derive(Default)]
pub(crate) struct Outbox {
    answers: RefCell<VecDeque<Vec<u8>>>,
    /// Questions of which not every byte of the answer is sent.
    open: Cell<usize>,
    news: Notify,
}

impl Outbox {
    pub(crate) fn put(&self, answer: Vec<u8>) {
        self.answers.borrow_mut().push_back(answer);
        self.news.notify_one();
    }
}

/// Serves all who come.
pub(crate) async fn accept(shared: Rc<Shared>, listener: UnixListener, is_librdmacm: bool) {
    let mut last = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                last += 1;
                // Even numbers are those of one listener, odd ones of the other.
                let id = ClientId(last * 2 + u64::from(is_librdmacm));
                tokio::task::spawn_local(serve(Rc::clone(&shared), id, stream, is_librdmacm));
            }
            Err(error) => {
                log::warning(format!("cannot be asked by one more program: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(shared: Rc<Shared>, id: ClientId, stream: UnixStream, is_librdmacm: bool) {
    let outbox = Rc::new(Outbox::default());
    shared.clients.borrow_mut().insert(id, Rc::clone(&outbox));
    // However it ends, it has gone.
    if let Err(error) = talk(&shared, id, &stream, &outbox, is_librdmacm).await {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        log::note(format!(
            "the connection with process {} ends: {error}",
            pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        ));
    }
    shared.clients.borrow_mut().remove(&id);
}

async fn talk(
    shared: &Shared,
    id: ClientId,
    stream: &UnixStream,
    outbox: &Outbox,
    is_librdmacm: bool,
) -> io::Result<()> {
    let mut messages = Messages::default();
    let mut buffer = [0; LONGEST];
    loop {
        send(stream, outbox)?;
        while outbox.open.get() < OPEN {
            let request = messages.take().map_err(io::Error::other)?;
            let Some(request) = request else { break };
            outbox.open.set(outbox.open.get() + 1);
            if is_librdmacm && shared.only_acme_and_kernel.get() {
                outbox.put(request.refused(Status::NoData));
            } else {
                shared.request(id, &request);
            }
        }
        send(stream, outbox)?;
        let is_full = !outbox.answers.borrow().is_empty();
        tokio::select! {
            ready = stream.readable(), if outbox.open.get() < OPEN => {
                ready?;
                match stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => messages.push(buffer.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            ready = stream.writable(), if is_full => ready?,
            () = outbox.news.notified() => {}
        }
    }
}

/// Sends what goes without waiting: each answer by itself.
fn send(stream: &UnixStream, outbox: &Outbox) -> io::Result<()> {
    let mut answers = outbox.answers.borrow_mut();
    while let Some(answer) = answers.front_mut() {
        match stream.try_write(answer) {
            Ok(length) if length == answer.len() => {
                answers.pop_front();
                outbox.open.set(outbox.open.get().saturating_sub(1));
            }
            Ok(length) => drop(answer.drain(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
