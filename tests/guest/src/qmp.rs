// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's monitor, spoken from the host or, through a virtio-serial port, from inside the guest.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to the monitor.
#[derive(Debug)]
pub struct Qmp<R, W> {
    from: BufReader<R>,
    to: W,
}

impl Qmp<std::fs::File, std::fs::File> {
    /// Opens the monitor of the QEMU that this guest runs in.
    ///
    /// # Errors
    /// When this is not the lab's guest, or another program has the port open.
    pub fn in_guest() -> Result<Self> {
        let port = crate::open_port("qmp").context("cannot open the port to QEMU's monitor")?;
        Self::new(port.try_clone()?, port)
    }
}

impl<R: Read, W: Write> Qmp<R, W> {
    /// Takes over a connection.
    ///
    /// # Errors
    /// When the other end is not a monitor.
    pub fn new(from: R, to: W) -> Result<Self> {
        let mut qmp = Self { from: BufReader::new(from), to };
        // Refused when the connection has been used before, which is just as well.
        qmp.execute("qmp_capabilities", &json!({})).ok();
        Ok(qmp)
    }

    /// Runs a command and waits for its answer; events are passed over.
    ///
    /// # Errors
    /// When the connection is lost or QEMU refuses.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments, "id": command });
        writeln!(self.to, "{request}")?;
        self.to.flush()?;
        loop {
            let message = self.next()?;
            if message["id"] != command {
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {}", error["desc"]);
            }
            return Ok(message["return"].clone());
        }
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn wait_event(&mut self, event: &str) -> Result<Value> {
        loop {
            let message = self.next()?;
            if message["event"] == event {
                return Ok(message);
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said: {line}"))
    }
}
