// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port mapper that is started anew finds of the one before: each change of a mapping, a line.
//!
//! The kernel tells of some 230 mappings only; with more, the ports of the others would be anybody's after a crash.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A mapping as it was after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// As the application has it.
    pub local: SocketAddr,
    /// In TCP.
    pub mapped: SocketAddr,
    /// None: it is gone.
    pub users: u32,
    /// Whether a port is reserved for it.
    pub is_reserved: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, mapped, users, is_reserved } = self;
        write!(f, "{local} {mapped} {users} {}", u8::from(*is_reserved))
    }
}

impl FromStr for Line {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [local, mapped, users, is_reserved] = words[..] else { return Err(()) };
        Ok(Self {
            local: local.parse().map_err(drop)?,
            mapped: mapped.parse().map_err(drop)?,
            users: users.parse().map_err(drop)?,
            is_reserved: is_reserved == "1",
        })
    }
}

/// Fewer lines than that are not worth a new file.
const FEW: usize = 1000;

/// The file of those lines.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Kept {
    /// Opens it; what it says, without what is gone. A last line that was cut off is none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Line>)> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut mappings = BTreeMap::new();
        for line in whole.lines().filter_map(|line| line.parse::<Line>().ok()) {
            mappings.insert(line.local, line);
        }
        mappings.retain(|_, line| line.users > 0);
        let lines: Vec<Line> = mappings.into_values().collect();
        Ok((Self::write_anew(path, lines.iter().copied())?, lines))
    }

    /// One more.
    ///
    /// # Errors
    /// What the file system says.
    pub fn push(&mut self, line: &Line) -> io::Result<()> {
        self.lines += 1;
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// Whether it has many lines for so many mappings.
    pub fn is_long(&self, mappings: usize) -> bool {
        self.lines > 2 * mappings + FEW
    }

    /// Writes what there is, and nothing else.
    ///
    /// # Errors
    /// What the file system says.
    pub fn shorten(&mut self, lines: impl Iterator<Item = Line>) -> io::Result<()> {
        *self = Self::write_anew(&self.path, lines)?;
        Ok(())
    }

    /// Keeps nothing any more: half of it would be worse.
    pub fn discard(self) {
        // Where that fails, too, there is nothing to be done.
        std::fs::remove_file(&self.path).ok();
    }

    fn write_anew(path: &Path, lines: impl Iterator<Item = Line>) -> io::Result<Self> {
        let mut text = String::new();
        let mut count = 0;
        for line in lines {
            text += &format!("{line}\n");
            count += 1;
        }
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, lines: count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(port: u16, users: u32) -> Line {
        let (local, mapped) = (([10, 0, 0, 1], port).into(), ([10, 0, 0, 1], 40000).into());
        Line { local, mapped, users, is_reserved: port % 2 == 1 }
    }

    #[test]
    fn what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mappings");
        let (mut kept, lines) = Kept::open(&path).unwrap();
        assert_eq!(lines, []);
        for line in [line(1, 1), line(2, 1), line(3, 1), line(2, 2), line(3, 0)] {
            kept.push(&line).unwrap();
        }
        kept.file.write_all(b"nonsense\n10.0.0.1:4 10.0.0.1:4").unwrap();
        drop(kept);
        let (mut kept, lines) = Kept::open(&path).unwrap();
        assert_eq!((lines, kept.lines), (vec![line(1, 1), line(2, 2)], 2));
        for _ in 0..FEW + 10 {
            kept.push(&line(1, 1)).unwrap();
        }
        assert!(kept.is_long(2) && !kept.is_long(20));
        kept.shorten([line(5, 1)].into_iter()).unwrap();
        kept.push(&line(6, 1)).unwrap();
        let (kept, lines) = Kept::open(&path).unwrap();
        assert_eq!(lines, [line(5, 1), line(6, 1)]);
        kept.discard();
        assert_eq!(Kept::open(&path).unwrap().1, []);
    }

    proptest::proptest! {
        #[test]
        fn any_line(text: String, local: SocketAddr, mapped: SocketAddr, users: u32) {
            text.parse::<Line>().ok();
            let line = Line { local, mapped, users, is_reserved: users % 2 == 1 };
            // The flow label of an address is not part of its text.
            if let (SocketAddr::V4(_), SocketAddr::V4(_)) = (local, mapped) {
                proptest::prop_assert_eq!(line.to_string().parse(), Ok(line));
            }
        }
    }
}
