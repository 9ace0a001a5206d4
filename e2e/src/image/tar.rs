//! Tar archives that are the same whenever and wherever they are made: no times, no owners, no order but the caller's.

use anyhow::{Context, Result, ensure};

const BLOCK: usize = 512;

/// What an entry of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    File,
    /// A folder.
    Folder,
}

/// An archive that is written.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Adds a file.
    pub fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.bytes.extend(header(path, mode, content.len(), Kind::File)?);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    /// Adds a folder; the path ends in a slash.
    pub fn add_folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.bytes.extend(header(path, mode, 0, Kind::Folder)?);
        Ok(())
    }

    /// The archive with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }
}

/// A header in the format `ustar` of POSIX, of an entry that belongs to root and was never changed.
fn header(path: &str, mode: u32, size: usize, kind: Kind) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, text: &str| block[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    ensure!(path.len() <= 100, "{path} is too long a path for an image");
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", u64::try_from(size).context("a file of that size")?));
    put(136, "00000000000");
    // While the sum is taken its own field holds spaces.
    put(148, "        ");
    put(156, if kind == Kind::Folder { "5" } else { "0" });
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn archive_is_read_by_tar() -> Result<()> {
        let mut tar = Tar::default();
        tar.add_folder("etc/", 0o755)?;
        tar.add("etc/hello", 0o640, b"content")?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("archive.tar");
        std::fs::write(&path, tar.finish())?;
        let list = |options| {
            let mut command = Command::new("tar");
            crate::process::run_ok(command.arg(options).arg(&path), Duration::from_secs(20))
        };
        assert_eq!(list("-tf")?, "etc/\netc/hello\n");
        let mut command = Command::new("tar");
        command.arg("-xOf").arg(&path).arg("etc/hello");
        assert_eq!(crate::process::run_ok(&mut command, Duration::from_secs(20))?, "content");
        Ok(())
    }
}
