// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is called.

use std::io;
use std::sync::Arc;

use listenfd::ListenFd;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{Error, LONGEST};

/// How many may be connected; others wait until one goes.
const CLIENTS: usize = 64;
const SERVICE: &str = "org.varlink.service";

/// What a daemon offers.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// `org.rdmad.ndd`
    pub name: &'static str,
    /// In Varlink's own language.
    pub description: &'static str,
    /// The daemon.
    pub product: &'static str,
}

/// One call, to be answered.
#[derive(Debug)]
pub struct Call {
    /// Without the interface: `List`
    pub method: String,
    /// By name.
    pub parameters: Map<String, Value>,
    /// Who has called may have gone.
    pub answer: oneshot::Sender<Reply>,
}

/// An answer.
pub type Reply = Result<Value, Error>;

#[derive(Deserialize)]
struct Message {
    method: String,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    #[serde(default)]
    oneway: bool,
}

/// The socket that systemd has opened; None when it has not.
///
/// # Errors
/// What it has opened is no such socket.
pub fn listener() -> io::Result<Option<UnixListener>> {
    listener_of(&mut ListenFd::from_env())
}

/// The same where systemd has opened others, too: the first that is one.
///
/// # Errors
/// It cannot be used.
pub fn listener_of(passed: &mut ListenFd) -> io::Result<Option<UnixListener>> {
    let found = (0..passed.len()).find_map(|index| passed.take_unix_listener(index).ok().flatten());
    let Some(listener) = found else { return Ok(None) };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener).map(Some)
}

/// Answers for ever. Each client has a task of its own, so that one who does not read holds up nobody; must be called
/// within a [`tokio::task::LocalSet`].
///
/// # Errors
/// What accept(2) says.
pub async fn serve(
    listener: UnixListener,
    interface: Interface,
    calls: mpsc::Sender<Call>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let place = Arc::clone(&room).acquire_owned().await;
        let (stream, _) = listener.accept().await?;
        let calls = calls.clone();
        tokio::task::spawn_local(async move {
            // One who goes in the middle, or talks nonsense, is not worth a word.
            client(stream, interface, &calls).await.ok();
            drop(place);
        });
    }
}

async fn client(
    stream: UnixStream,
    interface: Interface,
    calls: &mpsc::Sender<Call>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut message = Vec::new();
        (&mut read).take(LONGEST).read_until(0, &mut message).await?;
        if message.pop() != Some(0) {
            return Ok(());
        }
        let Message { method, parameters, oneway } = serde_json::from_slice(&message)?;
        let parameters = parameters.unwrap_or_default();
        let reply = reply(interface, &method, parameters, calls).await;
        if oneway {
            continue;
        }
        let answer = match reply {
            Ok(parameters) => json!({ "parameters": parameters }),
            Err(Error { name, parameters }) => json!({ "error": name, "parameters": parameters }),
        };
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(0);
        write.write_all(&answer).await?;
    }
}

async fn reply(
    interface: Interface,
    full_method: &str,
    parameters: Map<String, Value>,
    calls: &mpsc::Sender<Call>,
) -> Reply {
    let (of, method) = full_method.rsplit_once('.').unwrap_or(("", full_method));
    if of == interface.name {
        let (answer, answered) = oneshot::channel();
        let call = Call { method: method.to_owned(), parameters, answer };
        // A daemon that is about to end answers nobody.
        calls.send(call).await.ok();
        let unknown = || Error::new(&format!("{SERVICE}.MethodNotFound"), "method", full_method);
        return answered.await.unwrap_or_else(|_| Err(unknown()));
    }
    match (of, method) {
        (SERVICE, "GetInfo") => Ok(json!({
            "vendor": "rdmad",
            "product": interface.product,
            "version": env!("CARGO_PKG_VERSION"),
            "url": env!("CARGO_PKG_REPOSITORY"),
            "interfaces": [SERVICE, interface.name],
        })),
        (SERVICE, "GetInterfaceDescription") => {
            match parameters.get("interface").and_then(Value::as_str) {
                Some(name) if name == interface.name => {
                    Ok(json!({ "description": interface.description }))
                }
                Some(_) => {
                    Err(Error::new(&format!("{SERVICE}.InterfaceNotFound"), "interface", of))
                }
                None => Err(Error::invalid("interface")),
            }
        }
        (SERVICE, _) => {
            Err(Error::new(&format!("{SERVICE}.MethodNotFound"), "method", full_method))
        }
        _ => Err(Error::new(&format!("{SERVICE}.InterfaceNotFound"), "interface", of)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::Path;

    use super::*;
    use crate::call;

    const TEST: Interface = Interface {
        name: "org.rdmad.test",
        description: "interface org.rdmad.test",
        product: "test",
    };

    /// Runs a client beside a server that has one method.
    fn with_server(client: impl FnOnce(&Path) + Send + 'static) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let set = tokio::task::LocalSet::new();
        set.block_on(&runtime, async {
            let listener = UnixListener::bind(&path).unwrap();
            let (sender, mut calls) = mpsc::channel(1);
            let client = tokio::task::spawn_blocking(move || client(&path));
            tokio::select! {
                ended = serve(listener, TEST, sender) => panic!("it ends: {ended:?}"),
                () = async {
                    while let Some(call) = calls.recv().await {
                        let reply = match call.method.as_str() {
                            "Echo" => Ok(Value::Object(call.parameters)),
                            "Fail" => Err(Error::new("org.rdmad.test.Bad", "why", "x")),
                            // Not known: the call is dropped.
                            _ => continue,
                        };
                        call.answer.send(reply).ok();
                    }
                } => {}
                ended = client => ended.unwrap(),
            }
        });
    }

    #[test]
    fn calls_and_their_answers() {
        with_server(|path| {
            let ask = |method: &str, parameters| call(path, method, &parameters);
            let echo = ask("org.rdmad.test.Echo", json!({ "a": "\u{fc}" })).unwrap();
            assert_eq!(Value::Object(echo), json!({ "a": "\u{fc}" }));
            let info = ask("org.varlink.service.GetInfo", json!({})).unwrap();
            assert_eq!(info["product"], "test");
            let interface = json!({ "interface": "org.rdmad.test" });
            let description = ask("org.varlink.service.GetInterfaceDescription", interface);
            assert_eq!(description.unwrap()["description"], TEST.description);
            for (method, error) in [
                ("org.rdmad.test.Fail", "org.rdmad.test.Bad why=\"x\""),
                (
                    "org.rdmad.test.None",
                    "org.varlink.service.MethodNotFound method=\"org.rdmad.test.None\"",
                ),
                ("none", "org.varlink.service.InterfaceNotFound interface=\"\""),
                (
                    "org.varlink.service.GetInterfaceDescription",
                    "org.varlink.service.InvalidParameter parameter=\"interface\"",
                ),
            ] {
                assert_eq!(ask(method, json!({})).unwrap_err().to_string(), error);
            }
        });
    }

    /// Nonsense ends its connection, and those who do not read hold up nobody.
    #[test]
    fn bad_clients() {
        with_server(|path| {
            let mut connections = Vec::new();
            for bytes in [&b"{}\0"[..], b"\0", b"[1]\0", b"{\"method\":1}\0", b"\xff\0"] {
                let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
                client.write_all(bytes).unwrap();
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "{bytes:?}");
            }
            let echo = format!(
                "{{\"method\":\"org.rdmad.test.Echo\",\"parameters\":{{\"x\":\"{}\"}}}}\0",
                "x".repeat(1 << 19)
            );
            for _ in 0..8 {
                let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
                client.write_all(echo.as_bytes()).unwrap();
                connections.push(client);
            }
            call(path, "org.rdmad.test.Echo", &json!({})).unwrap();
        });
    }
}
