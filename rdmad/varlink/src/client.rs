// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who calls.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::{Error, LONGEST};

/// Calls a method and waits for the answer.
///
/// # Errors
/// Nobody listens there; [`Error`]: what the method says.
pub fn call(socket: &Path, method: &str, parameters: &Value) -> Result<Map<String, Value>> {
    let about = || format!("cannot ask {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(about)?;
    let mut message = serde_json::to_vec(&json!({ "method": method, "parameters": parameters }))?;
    message.push(0);
    stream.write_all(&message).with_context(about)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(LONGEST).read_until(0, &mut answer).with_context(about)?;
    ensure!(answer.pop() == Some(0), "{}: the answer has no end", about());
    let mut answer: Map<String, Value> = serde_json::from_slice(&answer).with_context(about)?;
    let parameters = match answer.remove("parameters") {
        Some(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    match answer.get("error").and_then(Value::as_str) {
        Some(name) => Err(Error { name: name.to_owned(), parameters }.into()),
        None => Ok(parameters),
    }
}
