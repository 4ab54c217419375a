// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that ask. A question costs a recv(2) and a send(2): an epoll of their own says which of them have one.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use rdma_acm::resolver::ClientId;
use rdma_acm::wire::{LONGEST, Messages, Request, Status};
use rdma_udev_helper::log;
use rustix::event::epoll::{self, EventFlags};
use rustix::net::sockopt;
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::service::watched;
use crate::shared::Shared;

/// How many questions of one program are open at a time; more wait in its socket.
const OPEN: usize = 64;
/// How many programs are looked after before something else has its turn.
const TURN: usize = 256;
const READ: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// All of them.
pub(crate) struct Clients {
    epoll: Rc<OwnedFd>,
    all: HashMap<ClientId, Client>,
    last: u64,
    /// Those that may have questions which were read, and not looked at.
    held_up: Vec<ClientId>,
    /// There are some.
    news: Rc<Notify>,
    /// Nothing more is read.
    is_closing: bool,
}

struct Client {
    stream: UnixStream,
    is_librdmacm: bool,
    messages: Messages,
    /// What could not be sent yet.
    answers: VecDeque<Vec<u8>>,
    /// Questions of which not every byte of the answer is sent.
    open: usize,
    /// There is no room for them.
    is_full: bool,
}

impl Clients {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?),
            all: HashMap::new(),
            last: 0,
            held_up: Vec::new(),
            news: Rc::default(),
            is_closing: false,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// One more.
    pub(crate) fn add(&mut self, stream: UnixStream, is_librdmacm: bool) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.last += 1;
        let id = self.last;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), READ)?;
        let (messages, answers) = (Messages::default(), VecDeque::new());
        let client = Client { stream, is_librdmacm, messages, answers, open: 0, is_full: false };
        self.all.insert(ClientId(id), client);
        Ok(())
    }

    /// Nothing more is read of anybody; what was read is still answered.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Whether everybody is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.held_up.is_empty() && self.all.values().all(|client| client.open == 0)
    }

    /// The connections that another ibacm can go on with: of whom nothing was read that was not answered.
    pub(crate) fn idle(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_idle = |client: &&Client| client.open == 0 && client.messages.is_empty();
        self.all.values().filter(is_idle).map(|client| client.stream.as_fd())
    }

    /// Sends an answer: at once, or when there is room for it.
    pub(crate) fn answer(&mut self, id: ClientId, answer: Vec<u8>) {
        // It may have gone.
        let Some(client) = self.all.get_mut(&id) else { return };
        let was_full = client.open >= OPEN;
        client.answers.push_back(answer);
        match client.send() {
            Ok(()) => {
                if was_full && client.open < OPEN {
                    self.hold_up(id);
                }
                self.wait_for(id);
            }
            Err(_) => drop(self.all.remove(&id)),
        }
    }

    /// Reads and sends as it goes.
    fn ready(&mut self, id: ClientId, flags: EventFlags, buffer: &mut [u8]) {
        let Some(client) = self.all.get_mut(&id) else { return };
        let sent = if flags.contains(EventFlags::OUT) { client.send() } else { Ok(()) };
        // Whose questions are not answered is read when they are.
        let is_read = match sent {
            Ok(()) if client.open < OPEN && !self.is_closing => client.read(buffer),
            sent => sent.map(|()| true),
        };
        match is_read {
            Ok(true) => self.wait_for(id),
            Ok(false) => self.hold_up(id),
            Err(_) => drop(self.all.remove(&id)),
        }
    }

    /// It has its next turn when others have had theirs.
    fn hold_up(&mut self, id: ClientId) {
        self.held_up.push(id);
        self.news.notify_one();
    }

    /// The next that a program asks, of what was read; and whether it does so as librdmacm.
    fn take(&mut self, id: ClientId) -> Option<(Request, bool)> {
        let client = self.all.get_mut(&id)?;
        if client.open >= OPEN {
            return None;
        }
        match client.messages.take() {
            Ok(request) => {
                let request = request?;
                client.open += 1;
                Some((request, client.is_librdmacm))
            }
            Err(error) => {
                let peer = sockopt::socket_peercred(&client.stream);
                let pid = peer.map_or_else(|_| "?".to_owned(), |peer| peer.pid.to_string());
                log::note(format!("the connection with process {pid} ends: {error}"));
                self.all.remove(&id);
                None
            }
        }
    }

    /// Has the epoll tell when there is room for answers, where there was none. What is said once (`EPOLLET`) has not to be
    /// asked for again.
    fn wait_for(&mut self, id: ClientId) {
        let Some(client) = self.all.get_mut(&id) else { return };
        let is_full = !client.answers.is_empty();
        if is_full != client.is_full {
            let mut interest = READ;
            interest.set(EventFlags::OUT, is_full);
            let data = epoll::EventData::new_u64(id.0);
            if epoll::modify(&self.epoll, &client.stream, data, interest).is_ok() {
                client.is_full = is_full;
            }
        }
    }
}

impl Client {
    /// Reads what there is; whether that is all.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.messages.push(buffer.get(..length).unwrap_or_default());
                Ok(length < buffer.len())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Sends what goes without waiting: each answer by itself.
    fn send(&mut self) -> io::Result<()> {
        while let Some(answer) = self.answers.front_mut() {
            match self.stream.write(answer) {
                Ok(length) if length == answer.len() => {
                    self.answers.pop_front();
                    self.open = self.open.saturating_sub(1);
                }
                Ok(length) => drop(answer.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Takes all who come.
pub(crate) async fn accept(shared: Rc<Shared>, listener: UnixListener, is_librdmacm: bool) {
    loop {
        let taken = match listener.accept().await {
            Ok((stream, _)) => stream
                .into_std()
                .and_then(|stream| shared.clients.borrow_mut().add(stream, is_librdmacm)),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            log::warning(format!("one more program cannot ask: {error}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The epoll, to be waited for.
struct Ready(Rc<OwnedFd>);

impl AsRawFd for Ready {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Answers them.
pub(crate) async fn serve(shared: Rc<Shared>) -> io::Result<()> {
    let (epoll, news) = {
        let clients = shared.clients.borrow();
        (Rc::clone(&clients.epoll), Rc::clone(&clients.news))
    };
    let ready = watched(Ready(Rc::clone(&epoll)))?;
    let mut buffer = [0; LONGEST];
    let mut events = Vec::with_capacity(TURN);
    loop {
        tokio::select! {
            is_ready = ready.readable() => {
                let mut is_ready = is_ready?;
                events.clear();
                let now = rustix::event::Timespec::default();
                let room = rustix::buffer::spare_capacity(&mut events);
                if epoll::wait(&*epoll, room, Some(&now))? == 0 {
                    is_ready.clear_ready();
                }
                for event in &events {
                    let (id, flags) = (ClientId(event.data.u64()), event.flags);
                    shared.clients.borrow_mut().ready(id, flags, &mut buffer);
                    questions(&shared, id);
                }
            }
            () = news.notified() => {
                let held_up = std::mem::take(&mut shared.clients.borrow_mut().held_up);
                for id in held_up {
                    // What was read of it, and then what was not.
                    questions(&shared, id);
                    shared.clients.borrow_mut().ready(id, READ, &mut buffer);
                    questions(&shared, id);
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Asks what a program has asked.
fn questions(shared: &Shared, id: ClientId) {
    loop {
        let asked = shared.clients.borrow_mut().take(id);
        match asked {
            Some((request, true)) if shared.only_acme_and_kernel.get() => {
                shared.clients.borrow_mut().answer(id, request.refused(Status::NoData));
            }
            Some((request, _)) => shared.request(id, &request),
            None => return,
        }
    }
}
