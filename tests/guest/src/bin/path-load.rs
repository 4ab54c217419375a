// SPDX-License-Identifier: MIT OR Apache-2.0
//! `path-load SOCKET CLIENTS QUESTIONS`: so many programs ask an ibacm that many questions in all, each its next one when it
//! has the answer to the last. The question is the path from 10.7.0.1 to 10.7.0.2; `path-load SOCKET CLIENTS QUESTIONS cold`
//! asks for the paths to as many GIDs that there are not. It says how many questions a second were answered with a path,
//! how many microseconds 99 of 100 took at most, and how many got none.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::event::epoll;

const LIMIT: usize = 1024;

/// The question for the path to a GID of the default subnet.
fn by_gid(number: u64) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 0, 0, 0];
    bytes.extend(88_u16.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(0x10_u16.to_ne_bytes());
    bytes.extend([0; 2 + 8]);
    bytes.extend((0xfe80_u64 << 48).to_be_bytes());
    bytes.extend((0x0e00_7a00_0000_0000 + number).to_be_bytes());
    bytes.resize(88, 0);
    bytes
}

struct Client {
    stream: UnixStream,
    asked: Instant,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "path-load SOCKET CLIENTS QUESTIONS [cold]";
    let socket = arguments.next().context(usage)?;
    let clients: usize = arguments.next().context(usage)?.parse()?;
    let questions: usize = arguments.next().context(usage)?.parse()?;
    let is_cold = arguments.next().is_some();
    ensure!(clients <= questions, "fewer questions than clients");
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut asked = 0_u64;
    let mut ask = |stream: &mut UnixStream| {
        asked += 1;
        stream.write_all(&if is_cold { by_gid(asked) } else { guest::path_question([0; 8]) })
    };
    let began = Instant::now();
    let mut all = Vec::new();
    for number in (0_u64..).take(clients) {
        let mut stream = UnixStream::connect(&socket)?;
        let data = epoll::EventData::new_u64(number);
        epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
        let asked = Instant::now();
        ask(&mut stream)?;
        all.push(Client { stream, asked });
    }
    let (mut open, mut left, mut none) = (clients, questions - clients, 0_u32);
    let mut took = Vec::with_capacity(questions);
    while open > 0 {
        let mut ready = Vec::with_capacity(LIMIT);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None)?;
        for event in &ready {
            let number = usize::try_from(event.data.u64())?;
            let client = all.get_mut(number).context("an unknown client")?;
            let mut answer = [0; 592];
            let length = client.stream.read(&mut answer)?;
            ensure!(length >= 16, "an answer of {length} bytes");
            took.push(client.asked.elapsed());
            none += u32::from(length < 88 || answer[2] != 0);
            open -= 1;
            if left > 0 {
                left -= 1;
                open += 1;
                client.asked = Instant::now();
                ask(&mut client.stream)?;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let most = took.get(took.len() * 99 / 100).context("nothing was asked")?;
    let rate = f64::from(u32::try_from(questions)?) / seconds;
    println!("{rate:.0} {} {none}", most.as_micros());
    Ok(())
}
