// SPDX-License-Identifier: MIT OR Apache-2.0
//! Server transports: a list that is named after one is loaded only when the server's own
//! configuration asks for RDMA, so that nobody else gets it.

use std::fs;
use std::path::Path;

use rdma_config::{Root, Warning};
use serde_json::Value;

/// A list and the configuration that must ask for it.
struct Server {
    list: &'static str,
    /// Files that are looked at; `*` stands for every file of the directory with this ending.
    files: &'static [&'static str],
    /// Whether this text asks for RDMA; an error when it cannot be understood.
    asks: fn(&str) -> Result<bool, String>,
}

const SERVERS: [Server; 4] = [
    Server {
        list: "nfs-server",
        files: &["/etc/nfs.conf", "/etc/nfs.conf.d/*.conf"],
        asks: nfs_server,
    },
    Server { list: "iser-target", files: TARGET_FILES, asks: iser_target },
    Server { list: "srp-target", files: TARGET_FILES, asks: srp_target },
    Server { list: "nvmet", files: &["/etc/nvmet/config.json"], asks: nvmet },
];

/// Debian's and the other distributions' place for what targetcli saves.
const TARGET_FILES: &[&str] =
    &["/etc/rtslib-fb-target/saveconfig.json", "/etc/target/saveconfig.json"];

/// Whether a list may be loaded: false when it belongs to a server that does not ask for RDMA.
#[must_use]
pub fn wants(root: &Root, list: &str) -> (bool, Vec<Warning>) {
    let Some(server) = SERVERS.iter().find(|s| s.list == list) else { return (true, Vec::new()) };
    let mut warnings = Vec::new();
    let mut asked = false;
    for (path, text) in server.files.iter().flat_map(|file| read(root, file)) {
        match (server.asks)(&text) {
            Ok(yes) => asked |= yes,
            Err(why) => warnings.push(Warning {
                file: path,
                line: None,
                column: None,
                what: format!("{why}; taking it that it does not ask for RDMA"),
            }),
        }
    }
    (asked, warnings)
}

fn read(root: &Root, file: &str) -> Vec<(std::path::PathBuf, String)> {
    let paths = match file.split_once('*') {
        Some((dir, ending)) => {
            let entries = fs::read_dir(root.path(dir)).into_iter().flatten().flatten();
            entries.map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(ending)).collect()
        }
        None => vec![root.path(file)],
    };
    let text = |path: &Path| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned());
    paths.into_iter().filter_map(|path| Some((path.clone(), text(&path)?))).collect()
}

/// nfs.conf(5): `[nfsd]` with `rdma=y` (also `yes`, `1`, a port number).
fn nfs_server(text: &str) -> Result<bool, String> {
    let mut section = String::new();
    let mut asked = false;
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            section = name.trim().to_ascii_lowercase();
        } else if let Some((key, value)) = line.split_once('=').filter(|_| section == "nfsd") {
            let value = value.trim().to_ascii_lowercase();
            match key.trim().to_ascii_lowercase().as_str() {
                "rdma" => {
                    asked =
                        !matches!(value.as_str(), "" | "n" | "no" | "0" | "f" | "false" | "off");
                }
                "rdma-port" if !value.is_empty() => asked = true,
                _ => {}
            }
        }
    }
    Ok(asked)
}

/// LIO: a portal of an iSCSI target with `"iser": true`.
fn iser_target(text: &str) -> Result<bool, String> {
    let config = json(text)?;
    Ok(objects(&config, "targets")
        .flat_map(|target| objects(target, "tpgs"))
        .flat_map(|tpg| objects(tpg, "portals"))
        .any(|portal| portal["iser"] == true))
}

/// LIO: a target of the fabric `srpt`.
fn srp_target(text: &str) -> Result<bool, String> {
    let config = json(text)?;
    Ok(objects(&config, "targets").any(|target| target["fabric"] == "srpt"))
}

/// nvmetcli: a port with `"trtype": "rdma"`.
fn nvmet(text: &str) -> Result<bool, String> {
    let config = json(text)?;
    Ok(objects(&config, "ports").any(|port| port["addr"]["trtype"] == "rdma"))
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is not JSON ({error})"))
}

fn objects<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants_with(list: &str, path: &str, text: &str) -> (bool, usize) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
        fs::write(root.path(path), text).unwrap();
        let (wanted, warnings) = wants(&root, list);
        (wanted, warnings.len())
    }

    #[test]
    fn lists_without_a_condition_are_wanted_and_servers_without_configuration_are_not() {
        let root = Root::at("/nonexistent");
        assert!(wants(&root, "rdma").0);
        for server in SERVERS {
            assert_eq!(wants(&root, server.list), (false, vec![]), "{}", server.list);
        }
    }

    #[test]
    fn nfs() {
        for (text, asked) in [
            ("[nfsd]\nrdma=y\n", true),
            ("[nfsd]\n rdma = nfsrdma\n", true),
            ("[nfsd]\nrdma-port=20049\n", true),
            ("[NFSD]\nRDMA=1\n", true),
            ("[nfsd]\n# rdma=y\nrdma=n\n", false),
            ("[mountd]\nrdma=y\n", false),
        ] {
            assert_eq!(wants_with("nfs-server", "/etc/nfs.conf", text), (asked, 0), "{text}");
        }
        assert_eq!(
            wants_with("nfs-server", "/etc/nfs.conf.d/x.conf", "[nfsd]\nrdma=y\n"),
            (true, 0)
        );
    }

    #[test]
    fn targets() {
        let saved = "/etc/rtslib-fb-target/saveconfig.json";
        let iser = r#"{"targets": [{"fabric": "iscsi", "tpgs": [{"portals": [{"iser": true}]}]}]}"#;
        let srp = r#"{"targets": [{"fabric": "srpt"}]}"#;
        assert_eq!(wants_with("iser-target", saved, iser), (true, 0));
        assert_eq!(wants_with("srp-target", saved, iser), (false, 0));
        assert_eq!(wants_with("srp-target", "/etc/target/saveconfig.json", srp), (true, 0));
        assert_eq!(wants_with("iser-target", saved, "{\"targets\": 3}"), (false, 0));
        assert_eq!(wants_with("iser-target", saved, "{nonsense"), (false, 1));
        let nvme = r#"{"ports": [{"addr": {"trtype": "tcp"}}, {"addr": {"trtype": "rdma"}}]}"#;
        assert_eq!(wants_with("nvmet", "/etc/nvmet/config.json", nvme), (true, 0));
    }
}
