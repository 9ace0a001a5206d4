//! What is wrong with shares, for people to look at. Nothing of it is ever deleted by itself.

use crate::chunk::ObjectName;
use crate::clock::Timestamp;
use crate::id::ShareId;

/// An object that no row names and that cannot be made a share of, though it looks like one (`accounting.md` 8.5: a share
/// of type *corrupted*). It is never served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    /// The object.
    pub name: ObjectName,
    /// What is wrong with it.
    pub reason: String,
}

/// What is wrong at present, as far as was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Shares whose bytes are gone, with the time at which that was noticed; by storage index.
    pub lost: Vec<(ShareId, Timestamp)>,
    /// Objects that cannot be read or used, with the time at which they were last seen; by storage index.
    pub damaged: Vec<(DamagedObject, Timestamp)>,
    /// Shares that clients have reported as damaged, with what they say, the newest first.
    pub reported: Vec<(ShareId, String, Timestamp)>,
}
