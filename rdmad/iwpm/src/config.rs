// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/etc/iwpmd.conf`, as rdma-core has it.

/// What it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `nl_sock_rbuf_size`: the receive buffer of the socket that the kernel asks at, in bytes.
    pub receive_buffer: Option<usize>,
}

impl Config {
    /// Reads it: lines of `name = value`, and comments. What is not understood is said, and does not matter.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut config, mut problems) = (Self::default(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            match (name.trim(), value.trim().parse()) {
                ("", _) if line.is_empty() => {}
                ("nl_sock_rbuf_size", Ok(bytes)) if bytes > 0 => {
                    config.receive_buffer = Some(bytes);
                }
                ("nl_sock_rbuf_size", _) => {
                    problems.push(format!("line {number}: nl_sock_rbuf_size is a number of bytes"));
                }
                _ => problems.push(format!("line {number}: '{line}' is not understood")),
            }
        }
        (config, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rdma_core_ships_it() {
        let of = |text| Config::parse(text);
        let large = Config { receive_buffer: Some(419_430_400) };
        for text in [
            "# receive buffer\n\nnl_sock_rbuf_size=419430400\n",
            " nl_sock_rbuf_size = 419430400 # much",
        ] {
            assert_eq!(of(text), (large, vec![]));
        }
        assert_eq!(of(""), (Config::default(), vec![]));
    }

    #[test]
    fn what_is_not_understood() {
        for (text, problem) in [
            ("nl_sock_rbuf_size=0", "line 1: nl_sock_rbuf_size is a number of bytes"),
            ("#\nnl_sock_rbuf_size=-1", "line 2: nl_sock_rbuf_size is a number of bytes"),
            ("port=1", "line 1: 'port=1' is not understood"),
            ("=", "line 1: '=' is not understood"),
        ] {
            assert_eq!(Config::parse(text), (Config::default(), vec![problem.to_owned()]));
        }
    }
}
