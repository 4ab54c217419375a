// SPDX-License-Identifier: MIT OR Apache-2.0
//! The IP addresses of this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rdma_acm::address::Address;
use rdma_acm::endpoints::Assigned;
use rdma_acm::resolver::Host;
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::sysfs::Sysfs;
use rustix::net::sockopt;

/// `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`
const GROUPS: [u32; 2] = [5, 9];
/// The kernel answers before send(2) returns.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest datagram of a dump is 32 KiB.
const DATAGRAM: usize = 1 << 16;

/// With a socket for questions.
pub(crate) struct ThisHost(Option<Socket>);

impl ThisHost {
    pub(crate) fn new() -> Self {
        Self(requests().ok())
    }
}

impl Host for ThisHost {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        let any: IpAddr = match destination {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // Nothing is sent; the port does not matter.
        socket.connect((destination, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }

    fn neighbour(&self, interface: u32, address: IpAddr) -> Option<u128> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = interface;
        let (family, destination) = match address {
            IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        let socket = self.0.as_ref()?;
        send(socket, NLM_F_REQUEST, RouteNetlinkMessage::GetNeighbour(message)).ok()?;
        // One of an interface that is not known, or of nobody, is an error: there is none.
        receive(socket).ok()?.into_iter().find_map(|payload| match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                gid(&message.attributes)
            }
            _ => None,
        })
    }
}

/// The last 16 bytes of an address of IPoIB (RFC 4391, 9.1.1).
fn gid(attributes: &[NeighbourAttribute]) -> Option<u128> {
    attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) if bytes.len() == 20 => {
            bytes.last_chunk().map(|gid| u128::from_be_bytes(*gid))
        }
        _ => None,
    })
}

/// A socket for requests.
fn requests() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(DEADLINE))?;
    Ok(socket)
}

fn send(socket: &Socket, flags: u16, message: RouteNetlinkMessage) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(())
}

/// The messages of one datagram.
fn receive(socket: &Socket) -> Result<Vec<NetlinkPayload<RouteNetlinkMessage>>> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut datagram, 0)?;
    let mut payloads = Vec::new();
    let mut rest = datagram.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
        let length = usize::try_from(message.header.length)?.next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        payloads.push(message.payload);
    }
    Ok(payloads)
}

/// Says when an address comes or goes.
#[derive(Debug)]
pub(crate) struct AddressChanges(Socket);

impl AsRawFd for AddressChanges {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AddressChanges {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self(socket))
    }

    /// Reads all there is: what it is does not matter, nor whether some of it was lost.
    pub(crate) fn take(&self) {
        let mut datagram = Vec::with_capacity(1);
        loop {
            datagram.clear();
            match self.0.recv_from(&mut datagram, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// The addresses of the IPoIB interfaces of these ports.
pub(crate) fn addresses(sysfs: &Sysfs, ports: &[LocalPort]) -> Result<Vec<Assigned>> {
    let all = dump().context("cannot ask for the addresses of this host")?;
    let mut assigned = Vec::new();
    for port in ports {
        for interface in sysfs.ipoib_interfaces_of(&port.device, port.number) {
            let Some((_, pkey)) = sysfs.ipoib(&interface)? else { continue };
            let index = sysfs.netdev_index(&interface);
            for (_, address) in all.iter().filter(|(of, _)| Some(*of) == index) {
                assigned.push(Assigned {
                    text: address.to_string(),
                    address: Address::Ip(*address),
                    device: port.device.clone(),
                    port: port.number,
                    pkey: Some(pkey),
                    interface: index,
                });
            }
        }
    }
    Ok(assigned)
}

/// All addresses, with the index of their interface.
fn dump() -> Result<Vec<(u32, IpAddr)>> {
    let socket = requests()?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    send(&socket, NLM_F_DUMP | NLM_F_REQUEST, request)?;
    let mut addresses = Vec::new();
    loop {
        for payload in receive(&socket)? {
            match payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                    addresses.extend(own(&message).map(|own| (message.header.index, own)));
                }
                NetlinkPayload::Done(_) => return Ok(addresses),
                NetlinkPayload::Error(error) => bail!("{error}"),
                _ => {}
            }
        }
    }
}

/// The interface's own address: of a tunnel the other is that of the other end.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
