//! A classic server's folder of shares, `shares/PP/SI/SHNUM`, as files.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::ByteStream;
use leasehold_core::chunk::{ObjectName, StoreObject, folder};
use leasehold_core::classic::{Container, Damage, HEAD_BYTES_MAX};
use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::store::{Incoming, Payload};

/// What is read of a file at once, in bytes.
const BLOCK_BYTES: usize = 128 << 10;

/// A storage folder: the one that has `shares` in it.
#[derive(Clone, Debug)]
pub struct Tree(PathBuf);

/// A container that cannot be copied.
#[derive(Debug)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Tree {
    /// Stands for a storage folder.
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Whether there are shares.
    pub fn has_shares(&self) -> bool {
        self.0.join("shares").is_dir()
    }

    /// The folders between `shares` and the storage indexes, sorted; what else is there is not shares.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn prefixes(&self) -> io::Result<Vec<String>> {
        let mut names = names_in(&self.0.join("shares"))?;
        names.retain(|name| name.len() == 2);
        Ok(names)
    }

    /// The storage indexes below a prefix, sorted.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn storage_indexes(&self, prefix: &str) -> io::Result<Vec<StorageIndex>> {
        let names = names_in(&self.0.join("shares").join(prefix))?;
        let indexes = names.iter().filter_map(|name| name.parse().ok());
        Ok(indexes.filter(|index: &StorageIndex| index.to_string().starts_with(prefix)).collect())
    }

    /// The containers of a storage index, ascending, and those that are none.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn containers(&self, index: StorageIndex) -> io::Result<(Vec<Incoming>, Vec<Unreadable>)> {
        let (mut whole, mut unreadable) = (Vec::new(), Vec::new());
        let folder = folder(index);
        for file in names_in(&self.0.join(&folder))? {
            let path = self.0.join(&folder).join(&file);
            let name = format!("{folder}{file}").parse::<ObjectName>().ok();
            let Some(name) = name.filter(|name| name.object == StoreObject::Classic) else {
                unreadable.push(Unreadable { path, reason: "its name is no share number".to_owned() });
                continue;
            };
            match open(name.share, &path)? {
                Ok(incoming) => whole.push(incoming),
                Err(damage) => unreadable.push(Unreadable { path, reason: damage.to_string() }),
            }
        }
        whole.sort_by_key(|incoming| incoming.number);
        Ok((whole, unreadable))
    }

    /// Where a share's file is.
    pub fn path(&self, share: ShareId) -> PathBuf {
        self.0.join(ObjectName::new(share, StoreObject::Classic).to_string())
    }

    /// Where a share's file is while it is written. Classic servers empty this folder when they start.
    pub fn incoming_path(&self, share: ShareId) -> PathBuf {
        let name = ObjectName::new(share, StoreObject::Classic).to_string();
        self.0.join("shares/incoming").join(name.trim_start_matches("shares/"))
    }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Opens a container: header and leases are read, its data is left for later.
///
/// # Errors
/// It cannot be read. That it is damaged is an answer.
pub fn open(share: ShareId, path: &Path) -> io::Result<Result<Incoming, Damage>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(Damage::Unknown));
    }
    let read = |range: Range<u64>| {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
    };
    let container = match Container::decode(&read(0..metadata.len().min(HEAD_BYTES_MAX))?, metadata.len()) {
        Ok(container) => container,
        Err(damage) => return Ok(Err(damage)),
    };
    let leases = container.leases(&read(container.leases_at())?);
    Ok(Ok(Incoming { number: share.number, container, leases, bytes: Arc::new(FileBytes(Arc::new(file))) }))
}

/// The bytes of a file, read when they are wanted.
struct FileBytes(Arc<File>);

impl Payload for FileBytes {
    fn read(&self, range: Range<u64>) -> ByteStream {
        let blocks = stream::try_unfold((self.0.clone(), range), |(file, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start + BLOCK_BYTES as u64);
            let rest = end..range.end;
            let block = tokio::task::spawn_blocking(move || {
                let mut block = vec![0; (end - range.start) as usize];
                file.read_exact_at(&mut block, range.start).map(|()| (block.into(), file))
            });
            let (block, file) = block.await.map_err(io::Error::other)??;
            Ok(Some((block, (file, rest))))
        });
        blocks.boxed()
    }
}
