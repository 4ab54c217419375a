// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rdma_cm gives to connections of a port that ask for nothing else: configfs `rdma_cm/<device>/ports/<port>`.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::PortNum;

/// A default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmDefault {
    /// `default_roce_mode`: `IB/RoCE v1` or `RoCE v2`.
    RoceMode,
    /// `default_roce_tos`: type of service of RoCE v2 packets, 0 to 255.
    RoceTos,
}

/// The defaults of one device. They stay with the device when this is gone.
#[derive(Debug)]
pub struct CmDefaults {
    dir: PathBuf,
    made: Cell<bool>,
}

impl CmDefaults {
    /// Opens those of a device, by its name, below the mount point of configfs. None while rdma_cm is not loaded.
    ///
    /// # Errors
    /// What mkdir(2) says: there is no such device.
    pub fn open(configfs: &Path, device: &str) -> io::Result<Option<Self>> {
        let all = configfs.join("rdma_cm");
        if !all.exists() {
            return Ok(None);
        }
        let dir = all.join(device);
        // The directory is how the kernel is asked for a device, not where it keeps anything.
        match fs::create_dir(&dir) {
            Ok(()) => Ok(Some(Self { dir, made: Cell::new(true) })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Some(Self { dir, made: Cell::new(false) }))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a default.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn get(&self, port: PortNum, what: CmDefault) -> io::Result<String> {
        let text = self.again(|| fs::read_to_string(self.file(port, what)))?;
        Ok(text.trim().to_owned())
    }

    /// Sets a default.
    ///
    /// # Errors
    /// What write(2) says: `EINVAL` for a mode that the port does not have.
    pub fn set(&self, port: PortNum, what: CmDefault, value: &str) -> io::Result<()> {
        self.again(|| fs::write(self.file(port, what), value))
    }

    /// Once more when the directory was another program's, which has removed it meanwhile.
    fn again<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && fs::create_dir(&self.dir).is_ok() =>
            {
                self.made.set(true);
                work()
            }
            outcome => outcome,
        }
    }

    fn file(&self, port: PortNum, what: CmDefault) -> PathBuf {
        let name = match what {
            CmDefault::RoceMode => "default_roce_mode",
            CmDefault::RoceTos => "default_roce_tos",
        };
        self.dir.join("ports").join(port.to_string()).join(name)
    }
}

impl Drop for CmDefaults {
    fn drop(&mut self) {
        if self.made.get() {
            // The device may have gone meanwhile; then it is not worth a word.
            fs::remove_dir(&self.dir).ok();
        }
    }
}
