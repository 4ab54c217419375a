// SPDX-License-Identifier: MIT OR Apache-2.0
//! `listeners COUNT ADDRESS...`: so many RDMA listeners, at those addresses in turn, until its standard input ends. It says
//! how many milliseconds that took, and their end.
#![forbid(unsafe_code)]

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result};
use rdma_verbs::cm::Channel;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().context("listeners COUNT ADDRESS...")?.parse()?;
    let addresses: Vec<IpAddr> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    let channel = Channel::open()?;
    let began = Instant::now();
    let mut listeners = Vec::new();
    for (number, ip) in (0..count).zip(addresses.iter().cycle()) {
        let port = 1024 + number / u32::try_from(addresses.len())?;
        let listener = channel.id()?;
        listener.bind(SocketAddr::from((*ip, u16::try_from(port)?)))?;
        listener.listen(1)?;
        listeners.push(listener);
    }
    println!("{}", began.elapsed().as_millis());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let began = Instant::now();
    drop(listeners);
    println!("{}", began.elapsed().as_millis());
    Ok(())
}
