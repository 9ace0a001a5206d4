//! Objects that are known across a connection, and how often each side has told the other of them.
//!
//! Source: `foolscap.md` 8.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::call::Referenceable;
use crate::connection::Link;
use crate::failure::Violation;
use crate::slicer::Announcement;
use crate::value::LocalReference;

/// An object of the other side. When the last clone is dropped, the other side is told that it may forget it.
#[derive(Clone)]
pub struct RemoteReference(Arc<Remote>);

struct Remote {
    clid: u64,
    interface: Option<Bytes>,
    /// How often the other side has told us of it.
    received: AtomicU64,
    link: Link,
}

impl RemoteReference {
    /// The other side's number for it.
    pub fn clid(&self) -> u64 {
        self.0.clid
    }

    /// The name of its interface, if the other side told one.
    pub fn interface(&self) -> Option<&str> {
        self.0.interface.as_deref().and_then(|name| std::str::from_utf8(name).ok())
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0.link
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.link.release(self.clid, self.received.load(Ordering::Relaxed));
    }
}

impl PartialEq for RemoteReference {
    fn eq(&self, other: &Self) -> bool {
        self.0.clid == other.0.clid && self.0.link.is_same(&other.0.link)
    }
}

impl fmt::Debug for RemoteReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteReference").field("clid", &self.0.clid).field("interface", &self.interface()).finish()
    }
}

/// Both sides' objects of one connection.
pub(crate) struct References {
    count_max: usize,
    next_clid: u64,
    ours: HashMap<u64, Ours>,
    /// By where the object is in memory; it is there as long as `ours` holds it.
    clids: HashMap<usize, u64>,
    theirs: HashMap<u64, Weak<Remote>>,
}

struct Ours {
    object: Arc<dyn Referenceable>,
    /// How often we have told the other side of it, less what it gave back.
    count: u64,
}

impl References {
    pub(crate) fn new(count_max: usize) -> Self {
        Self { count_max, next_clid: 1, ours: HashMap::new(), clids: HashMap::new(), theirs: HashMap::new() }
    }

    /// Whether so many more objects of ours can be told of.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.ours.len().saturating_add(count) <= self.count_max
    }

    /// Tells the other side of an object: with its interface and address if it does not know it yet.
    pub(crate) fn announce(&mut self, object: &LocalReference, furl: Option<String>) -> Announcement {
        let place = Arc::as_ptr(&object.0).cast::<()>() as usize;
        if let Some(clid) = self.clids.get(&place)
            && let Some(ours) = self.ours.get_mut(clid)
        {
            ours.count += 1;
            return Announcement { clid: *clid, introduction: None };
        }
        let clid = self.next_clid;
        self.next_clid += 1;
        self.ours.insert(clid, Ours { object: object.0.clone(), count: 1 });
        self.clids.insert(place, clid);
        Announcement { clid, introduction: Some((object.0.interface().name, furl)) }
    }

    pub(crate) fn local(&self, clid: u64) -> Option<Arc<dyn Referenceable>> {
        self.ours.get(&clid).map(|ours| ours.object.clone())
    }

    /// The other side gives back what it was told so often. The object comes back when that was all, to be dropped
    /// without a lock.
    pub(crate) fn give_back(&mut self, clid: u64, count: u64) -> Option<Arc<dyn Referenceable>> {
        let ours = self.ours.get_mut(&clid)?;
        ours.count = ours.count.saturating_sub(count);
        if ours.count > 0 {
            return None;
        }
        let ours = self.ours.remove(&clid)?;
        self.clids.remove(&(Arc::as_ptr(&ours.object).cast::<()>() as usize));
        Some(ours.object)
    }

    /// Takes note of an object of the other side.
    pub(crate) fn receive(
        &mut self,
        clid: u64,
        interface: Option<Bytes>,
        link: &Link,
    ) -> Result<RemoteReference, Violation> {
        if let Some(remote) = self.theirs.get(&clid).and_then(Weak::upgrade) {
            remote.received.fetch_add(1, Ordering::Relaxed);
            return Ok(RemoteReference(remote));
        }
        if self.theirs.len() >= self.count_max {
            self.theirs.retain(|_, remote| remote.strong_count() > 0);
            if self.theirs.len() >= self.count_max {
                return Err(Violation::new("too many references on this connection"));
            }
        }
        let remote = Arc::new(Remote { clid, interface, received: AtomicU64::new(1), link: link.clone() });
        self.theirs.insert(clid, Arc::downgrade(&remote));
        Ok(RemoteReference(remote))
    }

    /// Forgets all objects; they come back to be dropped without a lock.
    pub(crate) fn clear(&mut self) -> Vec<Arc<dyn Referenceable>> {
        self.clids.clear();
        self.theirs.clear();
        self.ours.drain().map(|(_, ours)| ours.object).collect()
    }
}
