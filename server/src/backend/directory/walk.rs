//! Listing: a walk through folders in the order of names, of which one page is taken.
//!
//! Folders are opened one from the other and files looked at from theirs, so that the system resolves one name at a time
//! and not the whole path for each of a million shares.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use leasehold_core::backend::{ListPage, ListedObject};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;

/// Room for the entries that the system tells of at once: all of the usual folder of a storage index.
const ENTRIES_BYTES: usize = 8 << 10;

/// A walk under way.
pub(super) struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    max: usize,
    /// The name of the folder that is looked at, with a slash at its end.
    path: String,
    page: ListPage,
}

impl<'a> Walk<'a> {
    /// Takes at most `max` objects whose names begin with `prefix` and are greater than `after`.
    pub(super) fn new(prefix: &'a str, after: Option<&'a str>, max: usize) -> Self {
        Self { prefix, after, max, path: String::new(), page: ListPage::default() }
    }

    /// What was found.
    pub(super) fn into_page(self) -> ListPage {
        self.page
    }

    /// Walks a folder of the root; false when the page is full.
    pub(super) fn below(&mut self, root: &Path, folder: &str) -> io::Result<bool> {
        self.path = format!("{folder}/");
        if !self.wants_folder() {
            return Ok(true);
        }
        match open(CWD, &root.join(folder))? {
            Some(opened) => self.folder(&opened),
            None => Ok(true),
        }
    }

    /// Whether the folder of this path can hold something that is asked for.
    fn wants_folder(&self) -> bool {
        let name = self.path.as_str();
        let on_path = name.starts_with(self.prefix) || self.prefix.starts_with(name);
        on_path && self.after.is_none_or(|after| after.starts_with(name) || name > after)
    }

    /// Walks the folder of this path.
    fn folder(&mut self, folder: &OwnedFd) -> io::Result<bool> {
        let length = self.path.len();
        for Entry { name, is_folder } in entries(folder)? {
            self.path.truncate(length);
            self.path.push_str(&name);
            if is_folder {
                if self.wants_folder()
                    && let Some(inner) = open(folder.as_fd(), Path::new(&name))?
                    && !self.folder(&inner)?
                {
                    return Ok(false);
                }
            } else if !self.file(folder, &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the file of this path on the page, if it is asked for; false if the page is full.
    fn file(&mut self, folder: &OwnedFd, name: &str) -> io::Result<bool> {
        let is_after = self.after.is_none_or(|after| self.path.as_str() > after);
        if !is_after || !self.path.starts_with(self.prefix) {
            return Ok(true);
        }
        if self.page.objects.len() == self.max {
            self.page.next = self.page.objects.last().map(|object| object.name.clone());
            return Ok(false);
        }
        match statat(folder, name, AtFlags::empty()) {
            // Deleted meanwhile.
            Err(Errno::NOENT) => {}
            found => {
                let length_bytes = found?.st_size.unsigned_abs();
                self.page.objects.push(ListedObject { name: self.path.clone(), length_bytes });
            }
        }
        Ok(true)
    }
}

/// Opens a folder; `None` if it was emptied by a delete meanwhile, or is no folder at all.
fn open(within: BorrowedFd<'_>, name: &Path) -> io::Result<Option<OwnedFd>> {
    match openat(within, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// What is in a folder: a folder's name ends with a slash, so that names are in the order of whole paths.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: String,
    is_folder: bool,
}

fn entries(folder: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = Vec::new();
    let mut raw = RawDir::new(folder, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = match entry {
            // Removed since it was opened, which only an empty folder can be.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let Ok(name) = entry.file_name().to_str() else { continue };
        if [".", ".."].contains(&name) {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system tells it along.
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => FileType::from_raw_mode(found?.st_mode),
            },
            kind => kind,
        };
        let is_folder = kind == FileType::Directory;
        let name = if is_folder { format!("{name}/") } else { name.to_owned() };
        entries.push(Entry { name, is_folder });
    }
    entries.sort_unstable();
    Ok(entries)
}
