//! Reads that never wait for the disk: what the system has in memory is read at once, on the caller's own thread.
//!
//! Everything here answers "not so" where it would have to wait, or where the system cannot tell; the caller then reads
//! where it may block.

use std::fs::File;
use std::io::IoSliceMut;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Opens a file whose path the system has in memory.
pub(super) fn open(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok().map(File::from)
}

/// Fills `buffer` from `offset` on; false if not all of it is in memory, or in the file.
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    let mut filled = 0;
    while filled < buffer.len() {
        let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
        match rustix::io::preadv2(file, &mut slices, offset + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(count) if count > 0 => filled += count,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
