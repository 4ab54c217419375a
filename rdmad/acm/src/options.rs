// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/etc/rdma/ibacm_opts.cfg`: lines of a name and a value, as rdma-core's ibacm has them.

use std::time::Duration;

/// What is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `timeout`: how long an answer of the fabric is waited for, each time.
    pub timeout: Duration,
    /// `retries`: how often it is asked for again.
    pub retries: u32,
    /// `sa_depth`: how many questions to subnet administration are under way at a time through one port.
    pub depth: usize,
    /// `route_timeout`: how long a path is kept; None for ever.
    pub path_timeout: Option<Duration>,
    /// `acme_plus_kernel_only`: librdmacm is told nothing.
    pub acme_and_kernel_only: bool,
    /// `support_ips_in_addr_cfg`
    pub ips_in_names: bool,
    /// `addr_preload acm_hosts`, and `addr_data_file`
    pub hosts: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            retries: 2,
            depth: 64,
            path_timeout: None,
            acme_and_kernel_only: false,
            ips_in_names: false,
            hosts: None,
        }
    }
}

/// Nobody waits longer for an answer, whatever it is: the kernel, which asks for itself after two seconds, and programs,
/// which have no deadline of their own.
pub const DEADLINE: Duration = Duration::from_millis(1800);

const HOSTS: &str = "/etc/rdma/ibacm_hosts.data";
/// What this ibacm does in its own way, or has no use for. It is no mistake to set it.
const NOT_USED: &[&str] = &[
    "log_file",
    "log_level",
    "umad_debug_level",
    "lock_file",
    "server_port",
    "provider_lib_path",
    "addr_prot",
    "addr_timeout",
    "loopback_prot",
    "resolve_depth",
    "send_depth",
    "recv_depth",
    "min_mtu",
    "min_rate",
    "route_data_file",
];

impl Options {
    /// Reads them; with what could not be read, a line each.
    #[must_use]
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut options, mut problems) = (Self::default(), Vec::new());
        let mut hosts = HOSTS.to_owned();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next().filter(|name| !name.starts_with('#')) else { continue };
            let value = words.next().unwrap_or_default();
            let name = name.to_ascii_lowercase();
            let problem = if name == "addr_data_file" {
                hosts = value.to_owned();
                None
            } else {
                options.set(&name, value, words.next())
            };
            problems.extend(problem.map(|problem| format!("line {number}: {problem}")));
        }
        options.hosts = options.hosts.map(|_| hosts);
        (options, problems)
    }

    fn set(&mut self, name: &str, value: &str, more: Option<&str>) -> Option<String> {
        let bad = || Some(format!("'{value}' cannot be the value of {name}"));
        match name {
            "timeout" => match value.parse() {
                Ok(milliseconds @ 1..) => self.timeout = Duration::from_millis(milliseconds),
                _ => return bad(),
            },
            "retries" => match value.parse() {
                Ok(retries) => self.retries = retries,
                Err(_) => return bad(),
            },
            // rdma-core's file has its default of 1 in it.
            "sa_depth" => match value.parse() {
                Ok(0) | Err(_) => return bad(),
                Ok(1) => {}
                Ok(depth) => self.depth = depth,
            },
            "route_timeout" => match value.parse::<i64>() {
                Ok(-1) => self.path_timeout = None,
                Ok(minutes) => match u64::try_from(minutes) {
                    Ok(minutes) => {
                        self.path_timeout = Some(Duration::from_secs(minutes.saturating_mul(60)));
                    }
                    Err(_) => return bad(),
                },
                Err(_) => return bad(),
            },
            "acme_plus_kernel_only" => self.acme_and_kernel_only = is_set(value),
            "support_ips_in_addr_cfg" => self.ips_in_names = is_set(value),
            "addr_preload" => match value {
                "acm_hosts" => self.hosts = Some(String::new()),
                "none" | "no" => self.hosts = None,
                _ => return bad(),
            },
            "provider" if value == "ibacmp" => {}
            "provider" => {
                let of = more.unwrap_or_default();
                return Some(format!(
                    "provider {value} {of}: plug-ins written in C are not loaded; paths are resolved without it"
                ));
            }
            "server_mode" if value == "unix" => {}
            "server_mode" => {
                return Some(format!(
                    "server_mode {value}: there is a unix socket only, whose access the file system says"
                ));
            }
            "route_prot" if value == "sa" => {}
            "route_preload" if matches!(value, "none" | "no") => {}
            "route_prot" | "route_preload" => {
                return Some(format!("{name} {value}: paths come from subnet administration only"));
            }
            _ if NOT_USED.contains(&name) => {}
            _ => return Some(format!("there is no option '{name}'")),
        }
        None
    }

    /// How long a question is asked in all.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.timeout.saturating_mul(self.retries.saturating_add(1)).min(DEADLINE)
    }
}

fn is_set(value: &str) -> bool {
    let is = |word| value.eq_ignore_ascii_case(word);
    is("true") || is("yes") || value.parse::<i64>().is_ok_and(|number| number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rdma_core_has_them() {
        let text = "# a comment\nlog_file stdout\n\nTIMEOUT 200\nretries 3\nsa_depth 1\nroute_timeout 2\n\
            acme_plus_kernel_only yes\naddr_preload acm_hosts\naddr_data_file /x\nprovider ibacmp default\n";
        let (options, problems) = Options::parse(text);
        assert_eq!(problems, [""; 0]);
        assert_eq!((options.timeout, options.retries), (Duration::from_millis(200), 3));
        assert_eq!(options.deadline(), Duration::from_millis(800));
        assert_eq!(options.path_timeout, Some(Duration::from_secs(120)));
        assert!(options.acme_and_kernel_only && !options.ips_in_names);
        assert_eq!(options.hosts.as_deref(), Some("/x"));
        assert_eq!(options.depth, 64);
        let (options, problems) = Options::parse("");
        assert_eq!((options.deadline(), problems.len()), (DEADLINE, 0));
        assert_eq!(options, Options::default());
    }

    #[test]
    fn what_cannot_be_is_said() {
        let text = "timeout x\nprovider sa_cache 0xfe80000000000000\nserver_mode open\nroute_prot acm\n\
            colour red\nroute_timeout -2\nsa_depth 0\naddr_preload full\ntimeout 0\nretries";
        let (options, problems) = Options::parse(text);
        assert_eq!(options, Options::default());
        assert_eq!(problems.len(), 10);
        for (problem, word) in
            problems.iter().zip(["'x'", "plug-ins", "unix", "subnet", "'colour'"])
        {
            assert!(problem.contains(word), "{problem}");
        }
    }
}
