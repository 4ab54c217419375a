// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-events`: says which RDMA devices there are, and what becomes of them and their ports, a line each, until it is ended.

use std::process::ExitCode;

use rdma_verbs::{DeviceEvent, DeviceEvents};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-events: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<()> {
    let mut events = DeviceEvents::open()?;
    while let Some(event) = events.wait(None)? {
        match event {
            DeviceEvent::Added(device) => println!("{} added: {}", device.index, device.name),
            DeviceEvent::Renamed { index, from, to } => println!("{index} renamed: {from} {to}"),
            DeviceEvent::Port { index, port, state } => {
                let state = state.map_or("unknown".to_owned(), |state| state.to_string());
                println!("{index} port {port}: {state}");
            }
            DeviceEvent::Removed { index, name } => println!("{index} removed: {name}"),
        }
    }
    Ok(())
}
