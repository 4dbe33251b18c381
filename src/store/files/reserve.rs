//! The disk space that files leave free: databases need room to write, even to delete rows.

use std::fs::File;
use std::io;

use crate::base::error::{Error, Result};

/// Bytes written to a file between two checks of the free space.
pub const CHECK_INTERVAL_BYTES: u64 = 1 << 20;

/// Disk space that files must leave free.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reserve {
    bytes: u64,
}

impl Reserve {
    pub fn new(bytes: u64) -> Reserve {
        Reserve { bytes }
    }

    /// Refuses a file that needs `missing` bytes more if they would leave less than the reserve.
    pub fn check(self, file: &File, missing: u64) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(file).map_err(io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match missing.saturating_add(self.bytes) <= free {
            true => Ok(()),
            false => {
                let refusal = Error::unavailable(
                    "Not enough disk space for files: less than RESERVE_MB would be left free for \
                     databases; nothing was saved.",
                );
                // Clients must not see the numbers.
                Err(refusal.context(format!(
                    "{} MiB are free on the disk, RESERVE_MB is {}",
                    free >> 20,
                    self.bytes >> 20
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_stays_free() {
        let file = File::open(std::env::temp_dir()).unwrap();
        let disk = rustix::fs::fstatvfs(&file).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        assert!(Reserve::new(free / 2).check(&file, free / 4).is_ok());
        assert!(Reserve::new(free / 2).check(&file, free).is_err());
        assert!(Reserve::new(u64::MAX).check(&file, u64::MAX).is_err());
        assert!(Reserve::default().check(&file, u64::MAX).is_ok());
    }
}
