// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets of a port mapper: ports that it reserves, where it is asked, and where it asks.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rdma_iwpm::mappings::Host;
use rdma_verbs::iwpm::PORT;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// This host.
#[derive(Debug)]
pub(crate) struct ThisHost;

impl Host for ThisHost {
    type Port = OwnedFd;

    /// A TCP socket that is bound and never listens. Of the one address: others have all their ports still. It need not
    /// be an address of this network namespace.
    fn reserve(&mut self, address: SocketAddr) -> io::Result<(OwnedFd, u16)> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )?;
        if address.is_ipv4() {
            sockopt::set_ip_freebind(&socket, true)?;
        } else {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok((socket, bound.port()))
    }

    fn handle(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        // Of a whole number of so few bytes the kernel gives all, or there is no safe way to go on.
        assert_eq!(read, Ok(bytes.len()), "the kernel has no random numbers");
        u64::from_ne_bytes(bytes)
    }
}

/// Where a port mapper is asked: the port of all addresses of one family.
#[derive(Debug)]
pub(crate) struct Asked {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// A datagram: from whom, to which address, and what it says.
pub(crate) type Datagram = (SocketAddr, Option<IpAddr>, Vec<u8>);

impl Asked {
    /// None where the host has no such family.
    pub(crate) fn open(is_v4: bool) -> io::Result<Option<Self>> {
        let (family, ip) = family(is_v4);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::socket_with(family, SocketType::DGRAM, flags, None) {
            Err(Errno::AFNOSUPPORT) => return Ok(None),
            socket => socket?,
        };
        if !is_v4 {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        match rustix::net::bind(&socket, &SocketAddr::from((ip, PORT))) {
            // IPv6 that is switched off, not left out.
            Err(Errno::ADDRNOTAVAIL) if !is_v4 => return Ok(None),
            bound => bound?,
        }
        let socket = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Some(Self { socket, state }))
    }

    /// The next datagrams.
    pub(crate) async fn receive(&self) -> io::Result<Vec<Datagram>> {
        let mut meta = [RecvMeta::default()];
        let buffer = loop {
            self.socket.readable().await?;
            let mut buffer = vec![0; 1 << 16];
            let read = self.socket.try_io(Interest::READABLE, || {
                let mut buffers = [IoSliceMut::new(&mut buffer)];
                self.state.recv((&self.socket).into(), &mut buffers, &mut meta)
            });
            match read {
                Ok(_) => break buffer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        let [RecvMeta { addr, len, stride, dst_ip, .. }] = meta;
        let all = buffer.get(..len).unwrap_or_default();
        // The kernel may have put several of one sender together.
        Ok(all.chunks(stride.max(1)).map(|bytes| (addr, dst_ip, bytes.to_vec())).collect())
    }

    /// Answers from the address that was asked. What cannot be sent now is asked for again.
    pub(crate) fn answer(&self, from: Option<IpAddr>, to: SocketAddr, datagram: &[u8]) {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: from,
        };
        self.state.try_send((&self.socket).into(), &transmit).ok();
    }
}

/// What has come to a socket that asks: from whom, and what.
pub(crate) type Answer = (SocketAddr, io::Result<Vec<u8>>);

/// The mappers of other hosts. All are asked from one port for each family of addresses, by a socket for each that is
/// connected to it, so that its host can say that nobody is there. A host with several addresses may answer from another
/// than was asked: that comes to one that is connected to nobody.
#[derive(Debug)]
pub(crate) struct Peers {
    sockets: HashMap<SocketAddr, Task>,
    /// Of IPv4 and IPv6.
    others: [Option<Task>; 2],
    answers: mpsc::Sender<Answer>,
}

/// A socket, and what reads from it until this is dropped.
#[derive(Debug)]
struct Task(Rc<UdpSocket>, AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Peers {
    /// Their answers come to `answers`.
    pub(crate) fn new(answers: mpsc::Sender<Answer>) -> Self {
        Self { sockets: HashMap::new(), others: [None, None], answers }
    }

    /// Sends to one.
    pub(crate) fn ask(&mut self, peer: SocketAddr, datagram: &[u8]) {
        let socket = match self.sockets.get(&peer) {
            Some(Task(socket, _)) => Ok(Rc::clone(socket)),
            None => self.open(peer),
        };
        // Tokio's own would say of a new socket that it cannot be sent from yet.
        let sent = socket.and_then(|socket| {
            rustix::net::send(&*socket, datagram, SendFlags::empty()).map_err(io::Error::from)
        });
        if let Err(error) = sent
            && error.kind() != io::ErrorKind::WouldBlock
        {
            // Where there are too many answers to be read this is asked again.
            self.answers.try_send((peer, Err(error))).ok();
        }
    }

    /// That one is not asked any more.
    pub(crate) fn leave(&mut self, peer: SocketAddr) {
        self.sockets.remove(&peer);
    }

    fn open(&mut self, peer: SocketAddr) -> io::Result<Rc<UdpSocket>> {
        let family = usize::from(peer.is_ipv6());
        let port = match &self.others[family] {
            Some(Task(socket, _)) => socket.local_addr()?.port(),
            None => {
                let socket = Rc::new(asking(peer, 0)?);
                self.others[family] = Some(self.answers_of(&socket, None));
                socket.local_addr()?.port()
            }
        };
        let socket = asking(peer, port)?;
        rustix::net::connect(&socket, &peer)?;
        let socket = Rc::new(socket);
        let task = self.answers_of(&socket, Some(peer));
        self.sockets.insert(peer, task);
        Ok(socket)
    }

    /// Hands on what comes, of one that is connected or of all others.
    fn answers_of(&self, socket: &Rc<UdpSocket>, peer: Option<SocketAddr>) -> Task {
        let (of_task, answers) = (Rc::clone(socket), self.answers.clone());
        let task = tokio::task::spawn_local(async move {
            let mut buffer = [0; 128];
            loop {
                let read = of_task.recv_from(&mut buffer).await;
                let answer = match (read, peer) {
                    (Ok((length, from)), _) => (from, Ok(buffer[..length].to_vec())),
                    (Err(error), Some(peer)) => (peer, Err(error)),
                    (Err(_), None) => continue,
                };
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Task(Rc::clone(socket), task.abort_handle())
    }
}

/// A socket to ask from, at a port that several of this user's can have.
fn asking(like: SocketAddr, port: u16) -> io::Result<UdpSocket> {
    let (family, ip) = family(like.is_ipv4());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if like.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::from((ip, port)))?;
    UdpSocket::from_std(socket.into())
}

/// All addresses of a family.
fn family(is_v4: bool) -> (AddressFamily, IpAddr) {
    if is_v4 {
        (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into())
    } else {
        (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into())
    }
}
