// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets that systemd has opened.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use rdma_acm::SOCKET;
use rdma_varlink::ListenFd;
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::net::UnixListener;

/// Where librdmacm asks.
const LIBRDMACM: &str = "/run/ibacm.sock";

/// What systemd has opened.
pub(crate) struct Passed {
    /// Where programs ask, librdmacm apart.
    pub(crate) clients: UnixListener,
    pub(crate) librdmacm: Option<UnixListener>,
    pub(crate) control: Option<UnixListener>,
    pub(crate) netlink: Option<OwnedFd>,
    /// Programs that were connected before it was started anew, and whether each is librdmacm.
    pub(crate) kept: Vec<(UnixStream, bool)>,
}

/// Whatever the order, and whatever the names: each socket is what it is.
pub(crate) fn passed() -> Result<Passed> {
    let mut listen = ListenFd::from_env();
    let (mut clients, mut librdmacm, mut control, mut netlink) = (None, None, None, None);
    let kind = |kind: SocketType| i32::try_from(kind.as_raw());
    let (raw, stream) = (kind(SocketType::RAW)?, kind(SocketType::STREAM)?);
    let mut kept = Vec::new();
    for index in 0..listen.len() {
        let family = AddressFamily::NETLINK.as_raw().into();
        if let Ok(Some(socket)) = listen.take_custom(index, family, raw, "netlink socket") {
            netlink = Some(socket);
            continue;
        }
        let unix = AddressFamily::UNIX.as_raw().into();
        let socket: Option<OwnedFd> = listen
            .take_custom(index, unix, stream, "stream socket")
            .context("it is neither a stream nor a netlink socket")?;
        let Some(socket) = socket else { continue };
        if sockopt::socket_acceptconn(&socket) != Ok(true) {
            let stream = UnixStream::from(socket);
            // It has the address of where it was accepted.
            let address = stream.local_addr()?;
            let is_librdmacm =
                address.as_pathname().is_some_and(|path| path == Path::new(LIBRDMACM));
            kept.push((stream, is_librdmacm));
            continue;
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = Some(UnixListener::from_std(listener)?);
        match address.as_pathname().and_then(Path::to_str) {
            Some(SOCKET) => control = listener,
            Some(LIBRDMACM) => librdmacm = listener,
            _ => clients = listener,
        }
    }
    let clients =
        clients.context("nobody can ask: /run/ibacm-unix.sock is opened by ibacm.socket")?;
    Ok(Passed { clients, librdmacm, control, netlink, kept })
}
