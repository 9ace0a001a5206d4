//! Makes written files durable and gives them their names, many at a time.
//!
//! One thread does all of it, as the lease database's writer does for transactions: what waits while it syncs is taken
//! into the next sync together. A file passes through two syncs, its bytes in the first and its name in the second; each
//! sync serves the second step of the files before and the first step of those that follow. Where the file system is known
//! to honour `syncfs`, one call serves any number of files; elsewhere, and for few files, each is synced by itself.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use leasehold_core::clock::Entropy;
use rustix::fs::OFlags;
use tokio::sync::oneshot;

use super::aligned::ALIGNMENT;

/// Files taken into one sync.
const BATCH_MAX: usize = 1024;
/// Up to this many files are synced one by one: cheaper, and undisturbed by what else the disk has to write.
const SINGLY_MAX: usize = 2;
/// Types of file system on which `syncfs` waits for the disk: ext4, XFS, Btrfs, and tmpfs, which has none.
const SYNCFS_TYPES: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// Makes files under temporary names. No two processes make the same name, even if they have the same process id in
/// containers of their own.
#[derive(Clone, Debug)]
pub(super) struct Temporaries {
    folder: PathBuf,
    owner: String,
    next: Arc<AtomicU64>,
}

impl Temporaries {
    pub(super) fn new(folder: PathBuf) -> Self {
        let owner = data_encoding::HEXLOWER.encode(&Entropy::from_os().bytes::<8>());
        Self { folder, owner, next: Arc::default() }
    }

    pub(super) fn create(&self) -> io::Result<Temporary> {
        self.create_with(OFlags::empty())
    }

    /// Makes a file that is written past the system's cache, where the file system can do that.
    pub(super) fn create_direct(&self) -> io::Result<Temporary> {
        match self.create_with(OFlags::DIRECT) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.create(),
            created => created,
        }
    }

    fn create_with(&self, flags: OFlags) -> io::Result<Temporary> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", self.owner));
        let flags = flags.bits().cast_signed();
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&path)?;
        Ok(Temporary { path, file, renamed: false })
    }
}

/// A file under its temporary name; removed unless it was renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) renamed: bool,
}

impl Temporary {
    /// Writes a block behind what was written before.
    pub(super) fn append(&mut self, block: &[Bytes]) -> io::Result<()> {
        block.iter().try_for_each(|bytes| self.file.write_all(bytes))
    }

    /// Writes a block of aligned memory at an aligned place. Only the last one may be shorter than others.
    pub(super) fn write_aligned(&self, block: &[u8], offset: u64) -> io::Result<()> {
        if block.len().is_multiple_of(ALIGNMENT) {
            match self.file.write_all_at(block, offset) {
                // The device wants more alignment than any that we know.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                written => return written,
            }
        }
        rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?;
        self.file.write_all_at(block, offset)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// The bytes of a file to publish.
#[derive(Debug)]
pub(super) enum Content {
    /// Written to a temporary file already.
    Written(Temporary),
    /// So few that the publishing thread writes them itself, which spares waking another.
    Small(Vec<Bytes>),
}

struct Job {
    content: Content,
    name: String,
    reply: oneshot::Sender<io::Result<()>>,
}

/// Hands files to the publishing thread.
#[derive(Debug)]
pub(super) struct Publisher(Sender<Job>);

impl Publisher {
    /// Starts the thread for the files below `root`.
    pub(super) fn start(root: &Path, temporaries: Temporaries) -> io::Result<Self> {
        let folder = File::open(root)?;
        // Folders that an earlier process made and did not live to sync count as durable from here on.
        rustix::fs::syncfs(&folder)?;
        let kind = u64::try_from(rustix::fs::fstatfs(&folder)?.f_type).unwrap_or_default();
        let whole = SYNCFS_TYPES.contains(&kind).then_some(folder);
        let (sender, jobs) = crossbeam_channel::unbounded();
        let thread = Thread { root: root.to_owned(), temporaries, whole };
        std::thread::Builder::new().name("publish".to_owned()).spawn(move || thread.run(&jobs))?;
        Ok(Self(sender))
    }

    /// Makes the file durable under `name`, which no file has.
    pub(super) async fn publish(&self, content: Content, name: String) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let stopped = || io::Error::other("the publishing thread has stopped");
        self.0.send(Job { content, name, reply }).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A file whose bytes are on their way to the disk.
struct Arrived {
    temporary: Temporary,
    name: String,
    reply: oneshot::Sender<io::Result<()>>,
}

struct Thread {
    root: PathBuf,
    temporaries: Temporaries,
    /// The root folder, where one `syncfs` serves all.
    whole: Option<File>,
}

impl Thread {
    fn run(&self, jobs: &Receiver<Job>) {
        // Who waits for the folder of a file that has its name, and all folders that are not synced since they changed.
        // A folder stays among them until a sync succeeds, whoever's file it was changed for.
        let mut named: Vec<oneshot::Sender<io::Result<()>>> = Vec::new();
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        loop {
            let mut arrived = Vec::new();
            if named.is_empty() {
                match jobs.recv() {
                    Ok(job) => arrived.extend(self.arrive(job)),
                    Err(_) => return,
                }
            }
            arrived.extend(jobs.try_iter().take(BATCH_MAX).filter_map(|job| self.arrive(job)));
            let synced = self.sync(&arrived, named.len(), &folders);
            if synced.is_ok() {
                folders.clear();
            }
            for reply in named.drain(..) {
                // Whoever has gone needs no answer; the object stays and is nobody's.
                drop(reply.send(copy(&synced)));
            }
            for Arrived { temporary, name, reply } in arrived {
                match copy(&synced).and_then(|()| self.rename(temporary, &name, &mut folders)) {
                    Ok(()) => named.push(reply),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
    }

    /// Sees to it that the bytes are in a file; tells the caller if they cannot be.
    fn arrive(&self, job: Job) -> Option<Arrived> {
        let Job { content, name, reply } = job;
        let written = match content {
            Content::Written(temporary) => Ok(temporary),
            Content::Small(bytes) => self.temporaries.create().and_then(|mut temporary| {
                temporary.append(&bytes)?;
                Ok(temporary)
            }),
        };
        match written {
            Ok(temporary) => Some(Arrived { temporary, name, reply }),
            Err(error) => {
                drop(reply.send(Err(error)));
                None
            }
        }
    }

    fn sync(&self, arrived: &[Arrived], named: usize, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
        if let Some(whole) = &self.whole
            && arrived.len() + named > SINGLY_MAX
        {
            return Ok(rustix::fs::syncfs(whole)?);
        }
        for file in arrived {
            file.temporary.file.sync_data()?;
        }
        for folder in folders {
            match File::open(folder) {
                // Emptied by a delete, so the file it got its name for is gone as well.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                folder => folder?.sync_all()?,
            }
        }
        Ok(())
    }

    /// Gives the file its name; `folders` gains those that must be synced for the name to stay.
    fn rename(&self, mut temporary: Temporary, name: &str, folders: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        folders.insert(folder.to_owned());
        // A folder may be emptied and vanish at any moment: it is made again (`review.md` D1).
        for _ in 0..16 {
            match rename_new(&temporary.path, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_folder(folder, folders)?,
                Err(error) => return Err(error),
                Ok(()) => {
                    temporary.renamed = true;
                    return Ok(());
                }
            }
        }
        Err(io::Error::other("the object's folder keeps vanishing"))
    }

    fn make_folder(&self, folder: &Path, folders: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let Some(parent) = folder.parent().filter(|_| folder != self.root) else { return Ok(()) };
        folders.insert(parent.to_owned());
        let made = match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folder(parent, folders)?;
                fs::create_dir(folder)
            }
            made => made,
        };
        match made {
            // Another process was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(error
            .raw_os_error()
            .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)),
    }
}

/// Renames without replacing: names are never reused, so a taken one is a bug that must not destroy bytes.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without that flag: a hard link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}
