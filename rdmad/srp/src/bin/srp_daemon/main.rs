// SPDX-License-Identifier: MIT OR Apache-2.0
//! `srp_daemon`: finds the SRP targets that a port can reach, and logs in to them or says how: once, or as they come.
#![forbid(unsafe_code)]

mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};
use rdma_config::Root;
use rdma_srp::connected::{add_target, is_connected, log_in, why};
use rdma_srp::rules::Rules;
use rdma_srp::scan::Scan;
use rdma_srp::unit::Extras;
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_verbs::PortNum;
use rdma_verbs::sa::Patience;

const USAGE: &str = "\
srp_daemon [-o] [-c] [-e] [-a] [-n] [-v] [-f FILE] [-l N] [-r N] [-t MS] [-R S] [-T S]
           [-d UMAD | -i DEVICE [-p PORT] | -j DEVICE:PORT]

Finds the SRP targets that a port can reach, those that come later, too.
  -o       once: look, and end
  -c       print the lines for /sys/class/infiniband_srp/.../add_target
  -e       have ib_srp log in
  -a       also those that there is a connection to
  -n       tell initiators apart by the target's port (initiator_ext)
  -v       also say who has not answered
  -f FILE  which targets are allowed, and their options; without it /etc/srp_daemon.conf
  -l N     from 2 to 7: how often the HCA sends again; with -e
  -r N     how often is asked again, at least once; 3
  -t MS    how long an answer is waited for, in all; 5000
  -R S     about how often all are asked, in seconds; without it when something has happened to the port
  -T S     when a target that has come back is looked at again, in seconds; 20, 0 for never
Without a port it is the first InfiniBand port that is ACTIVE.
Exit status: 0 done, 1 failed, also a login, 2 wrong usage, 77 no permission, 78 FILE is not understood.";

struct Arguments {
    once: bool,
    print: bool,
    log_in: bool,
    all: bool,
    verbose: bool,
    extras: Extras,
    rules: PathBuf,
    patience: Patience,
    umad: Option<PathBuf>,
    device: Option<String>,
    number: PortNum,
    period: Option<Duration>,
    recheck: Option<Duration>,
}

impl Arguments {
    /// The port that was asked for.
    fn port(&self, root: &Root) -> Result<LocalPort> {
        let device = self.device.as_deref().map(|name| (name, self.number));
        LocalPort::find(root, self.umad.as_deref(), device)
    }
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("srp_daemon: {error}");
            return ExitCode::from(2);
        }
    };
    let rules = match Rules::read(&arguments.rules) {
        Ok(rules) => rules,
        Err(error) => {
            log::error(format!("{error:#}"));
            return ExitCode::from(78);
        }
    };
    let done = match arguments.once {
        true => once(&arguments, &rules),
        false => watch::run(arguments, rules).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(log::exit_status(&error))
        }
    }
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments {
        once: false,
        print: false,
        log_in: false,
        all: false,
        verbose: false,
        extras: Extras::default(),
        rules: "/etc/srp_daemon.conf".into(),
        patience: Patience { timeout: Duration::from_secs(5), retries: 3 },
        umad: None,
        device: None,
        number: PortNum(1),
        period: None,
        recheck: Some(Duration::from_secs(20)),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => {
                println!("{USAGE}");
                return Ok(None);
            }
            Long("version") => {
                println!("srp_daemon {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Short('o') => arguments.once = true,
            Short('c') => arguments.print = true,
            Short('e') => arguments.log_in = true,
            Short('a') => arguments.all = true,
            Short('n') => arguments.extras.initiator_ext = true,
            Short('v') => arguments.verbose = true,
            Short('f') => arguments.rules = parser.value()?.parse()?,
            Short('R') => {
                let period = within(parser.value()?.parse()?, 1, u64::from(u32::MAX))?;
                arguments.period = Some(Duration::from_secs(period));
            }
            Short('T') => {
                let seconds = within(parser.value()?.parse()?, 0, u64::from(u32::MAX))?;
                arguments.recheck = (seconds > 0).then_some(Duration::from_secs(seconds));
            }
            // It logs to the journal in any case.
            Long("systemd") => {}
            Short('l') => {
                arguments.extras.tl_retry_count = Some(within(parser.value()?.parse()?, 2, 7)?);
            }
            Short('r') => arguments.patience.retries = within(parser.value()?.parse()?, 1, 100)?,
            Short('t') => {
                let milliseconds = within(parser.value()?.parse()?, 1, 3_600_000)?;
                arguments.patience.timeout = Duration::from_millis(milliseconds);
            }
            Short('d') => arguments.umad = Some(parser.value()?.parse()?),
            Short('i') => arguments.device = Some(parser.value()?.string()?),
            Short('p') => arguments.number = PortNum(within(parser.value()?.parse()?, 1, 255)?),
            Short('j') => {
                let value = parser.value()?.string()?;
                let (device, port) = value.rsplit_once(':').ok_or("-j DEVICE:PORT")?;
                arguments.device = Some(device.to_owned());
                arguments.number =
                    PortNum(within(port.parse().map_err(|_| "-j DEVICE:PORT")?, 1, 255)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if arguments.extras.tl_retry_count.is_some() && !arguments.log_in {
        return Err("-l is for -e".into());
    }
    Ok(Some(arguments))
}

fn within<T: PartialOrd + std::fmt::Display>(value: T, least: T, most: T) -> Result<T, String> {
    if value >= least && value <= most {
        Ok(value)
    } else {
        Err(format!("{value} is not from {least} to {most}"))
    }
}

fn once(arguments: &Arguments, rules: &Rules) -> Result<ExitCode> {
    let root = Root::system();
    let port = arguments.port(&root)?;
    port.ready()?;
    let extras = Extras { max_imm_data: Extras::of_module(&root).max_imm_data, ..arguments.extras };
    if arguments.log_in {
        let path = add_target(&root, &port);
        let there = path.try_exists().unwrap_or(false);
        anyhow::ensure!(there, "there is no {}: is ib_srp loaded?", path.display());
    }
    let found = Scan::run(port.clone(), arguments.patience)?;
    if arguments.verbose {
        found.problems.iter().for_each(log::warning);
        log::note(format!("subnet administration was asked {} questions", found.questions));
    }
    let mut code = ExitCode::SUCCESS;
    for target in found.units.iter().flat_map(|unit| unit.targets()) {
        let Some(options) = rules.options(&target) else { continue };
        // Over whatever P_Key: one login is enough.
        if !arguments.all && is_connected(&root, &port, &target, arguments.log_in) {
            continue;
        }
        let line = target.line(options, extras);
        let line = line.with_context(|| format!("there is no room for all of '{options}'"))?;
        if arguments.print {
            println!("{line}");
        }
        if arguments.log_in
            && let Err(error) = log_in(&root, &port, &line)
        {
            log::error(format!("cannot log in to {line}: {}: {error}", why(&error)));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
