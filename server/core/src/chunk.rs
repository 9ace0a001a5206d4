//! Names of store objects. Nobody else builds or takes apart an object name.
//!
//! A name of ours is never used twice: each carries an id drawn for that very PUT. A listing of names alone tells kind, uploader,
//! total size and completeness, so the lease database can be rebuilt from it (`design.md` 4, `review.md` A11).
//!
//! ```text
//! shares/PP/SI/SHNUM.iUPLOAD.ACCT.PUT                  whole immutable share
//! shares/PP/SI/SHNUM.cUPLOAD.ACCT.SIZE.OFFSET.CHUNK    piece of an immutable upload
//! shares/PP/SI/SHNUM.mGEN.ACCT                         whole mutable share (then its manifest)
//! shares/PP/SI/SHNUM.dGEN.ACCT.SIZE.OFFSET.CHUNK       piece of a mutable share
//! shares/PP/SI/SHNUM.tGEN.ACCT                         a slot commit without share data (its manifest alone)
//! shares/PP/SI/SHNUM                                   a container that another server has left: read, never written
//! ```
//!
//! PP is the first two characters of SI; ids are base32; ACCT, SIZE and OFFSET are base 36.

use std::fmt;
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::id::{AccountId, ObjectId, ParseIdError, ShareId, ShareNumber, StorageIndex};

/// What a store object holds of its share. Every object holds share bytes at their natural place: byte `n` of an object
/// is byte `base_offset() + n` of the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreObject {
    /// All bytes of an immutable share.
    Whole {
        /// The upload it was written by.
        upload: ObjectId,
        /// The uploader.
        account: AccountId,
        /// The PUT that made it.
        put: ObjectId,
    },
    /// Some bytes of an immutable share.
    Piece(Piece),
    /// All bytes of a mutable share, followed by the slot's manifest.
    Generation {
        /// The slot commit, and the PUT, it was made for.
        generation: ObjectId,
        /// The writer.
        account: AccountId,
    },
    /// Some bytes of a mutable share.
    GenerationPiece(Piece),
    /// The manifest of a slot commit that has no whole share to carry it.
    SlotMarker {
        /// The slot commit it was made for.
        generation: ObjectId,
        /// The writer.
        account: AccountId,
    },
    /// A share in the classic form, behind the header of its container ([`crate::classic`]). Its name tells nothing, and
    /// people may use it again.
    Classic,
}

/// The parts of a piece's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The upload, or the generation of the slot, that the piece belongs to.
    pub group: ObjectId,
    /// Who wrote it.
    pub account: AccountId,
    /// Size of the whole share in bytes.
    pub size_bytes: u64,
    /// Where in the share the piece begins, in bytes.
    pub offset: u64,
    /// The PUT that made it.
    pub chunk: ObjectId,
}

impl StoreObject {
    /// The share offset of the object's first byte of share data.
    pub const fn base_offset(&self) -> u64 {
        match self {
            Self::Piece(piece) | Self::GenerationPiece(piece) => piece.offset,
            Self::Whole { .. } | Self::Generation { .. } | Self::SlotMarker { .. } | Self::Classic => 0,
        }
    }

    /// The id of the PUT that made the object, if it is one of ours; its time is the object's age.
    pub const fn put_id(&self) -> Option<ObjectId> {
        match self {
            Self::Whole { put, .. } => Some(*put),
            Self::Piece(piece) | Self::GenerationPiece(piece) => Some(piece.chunk),
            Self::Generation { generation, .. } | Self::SlotMarker { generation, .. } => Some(*generation),
            Self::Classic => None,
        }
    }

    /// The upload or generation the object belongs to, if it is one of ours.
    pub const fn group(&self) -> Option<ObjectId> {
        match self {
            Self::Whole { upload, .. } => Some(*upload),
            Self::Piece(piece) | Self::GenerationPiece(piece) => Some(piece.group),
            Self::Generation { generation, .. } | Self::SlotMarker { generation, .. } => Some(*generation),
            Self::Classic => None,
        }
    }

    /// Who wrote the object, if it is one of ours.
    pub const fn account(&self) -> Option<AccountId> {
        match self {
            Self::Piece(piece) | Self::GenerationPiece(piece) => Some(piece.account),
            Self::Whole { account, .. } | Self::Generation { account, .. } | Self::SlotMarker { account, .. } => {
                Some(*account)
            }
            Self::Classic => None,
        }
    }

    /// When the object was made, by the lease database's clock, if it is one of ours.
    pub fn made_at(&self) -> Option<Timestamp> {
        self.put_id().map(|put| put.made_at())
    }
}

/// The full name of a store object, below the backend's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// The share it belongs to.
    pub share: ShareId,
    /// What it holds.
    pub object: StoreObject,
}

impl ObjectName {
    /// Puts the parts together.
    pub const fn new(share: ShareId, object: StoreObject) -> Self {
        Self { share, object }
    }

    /// The name as a backend wants it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey(self.to_string())
    }
}

/// Where a backend keeps an object: a relative path of plain characters. Made from names by this crate alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// For the modules of this crate that define names.
    pub(crate) const fn new(path: String) -> Self {
        Self(path)
    }

    /// The path, below the backend's root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is never used again, so that what was read under it once holds for ever. People may remove a container
    /// and put another one under its name.
    pub fn is_used_once(&self) -> bool {
        self.0.rsplit('/').next().is_some_and(|file| file.contains('.'))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder, with its final slash, in which all objects of a storage index are.
pub fn folder(storage_index: StorageIndex) -> String {
    let text = storage_index.to_string();
    format!("shares/{}/{text}/", &text[..2])
}

struct Base36(u64);

impl fmt::Display for Base36 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 13];
        let (mut at, mut rest) = (digits.len(), self.0);
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
            if rest == 0 {
                return f.write_str(std::str::from_utf8(&digits[at..]).expect("digits are ASCII"));
            }
        }
    }
}

fn parse_base36(text: &str) -> Option<u64> {
    let value = u64::from_str_radix(text, 36).ok()?;
    (Base36(value).to_string() == text).then_some(value)
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", folder(self.share.storage_index), self.share.number)?;
        let account = |a: &AccountId| Base36(a.get().into());
        match &self.object {
            StoreObject::Whole { upload, account: a, put } => write!(f, ".i{upload}.{}.{put}", account(a)),
            StoreObject::Piece(p) => write!(f, ".c{p}"),
            StoreObject::Generation { generation, account: a } => write!(f, ".m{generation}.{}", account(a)),
            StoreObject::GenerationPiece(p) => write!(f, ".d{p}"),
            StoreObject::SlotMarker { generation, account: a } => write!(f, ".t{generation}.{}", account(a)),
            StoreObject::Classic => Ok(()),
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = Base36(self.account.get().into());
        write!(f, "{}.{account}.{}.{}.{}", self.group, Base36(self.size_bytes), Base36(self.offset), self.chunk)
    }
}

impl FromStr for ObjectName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse(text).ok_or(ParseIdError { what: "object name" })
    }
}

fn parse(text: &str) -> Option<ObjectName> {
    let (directory, file) = text.rsplit_once('/')?;
    let storage_index: StorageIndex = directory.rsplit_once('/')?.1.parse().ok()?;
    if folder(storage_index).strip_suffix('/')? != directory {
        return None;
    }
    let (number, rest) = file.split_once('.').map_or((file, None), |(number, rest)| (number, Some(rest)));
    let share_number: u8 = number.parse().ok()?;
    if share_number.to_string() != number {
        return None;
    }
    let share = ShareId::new(storage_index, ShareNumber::new(share_number));
    let object = rest.map_or(Some(StoreObject::Classic), parse_object)?;
    Some(ObjectName::new(share, object))
}

/// The part of a name behind the share number and a dot.
fn parse_object(rest: &str) -> Option<StoreObject> {
    if !rest.is_ascii() || rest.is_empty() {
        return None;
    }
    let (letter, rest) = rest.split_at(1);
    let fields: Vec<&str> = rest.splitn(6, '.').collect();
    let account = |text: &str| Some(AccountId::new(parse_base36(text)?.try_into().ok()?));
    let id = |text: &str| text.parse::<ObjectId>().ok();
    Some(match (letter, fields.as_slice()) {
        ("i", [upload, a, put]) => StoreObject::Whole { upload: id(upload)?, account: account(a)?, put: id(put)? },
        ("m", [generation, a]) => StoreObject::Generation { generation: id(generation)?, account: account(a)? },
        ("t", [generation, a]) => StoreObject::SlotMarker { generation: id(generation)?, account: account(a)? },
        ("c" | "d", [group, a, size, offset, chunk]) => {
            let piece = Piece {
                group: id(group)?,
                account: account(a)?,
                size_bytes: parse_base36(size)?,
                offset: parse_base36(offset)?,
                chunk: id(chunk)?,
            };
            if letter == "c" { StoreObject::Piece(piece) } else { StoreObject::GenerationPiece(piece) }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_object() -> impl Strategy<Value = StoreObject> {
        let piece = (any::<[u8; 16]>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(group, account, size_bytes, offset, chunk)| Piece {
                group: ObjectId::new(group),
                account: AccountId::new(account),
                size_bytes,
                offset,
                chunk: ObjectId::new(chunk),
            },
        );
        (piece, 0..6).prop_map(|(p, kind)| match kind {
            0 => StoreObject::Whole { upload: p.group, account: p.account, put: p.chunk },
            1 => StoreObject::Piece(p),
            2 => StoreObject::Generation { generation: p.group, account: p.account },
            3 => StoreObject::GenerationPiece(p),
            4 => StoreObject::SlotMarker { generation: p.group, account: p.account },
            _ => StoreObject::Classic,
        })
    }

    proptest! {
        #[test]
        fn names_round_trip(si: [u8; 16], number: u8, object in any_object()) {
            let name = ObjectName::new(ShareId::new(StorageIndex::new(si), ShareNumber::new(number)), object);
            let text = name.to_string();
            prop_assert_eq!(text.parse::<ObjectName>(), Ok(name));
            prop_assert!(text.starts_with(&folder(name.share.storage_index)));
        }

        #[test]
        fn strange_names_are_refused(text in "(shares/aa/)?[a-z2-7/]{0,30}[0-9]{0,4}(\\.[a-z0-9.]{0,80})?") {
            if let Ok(name) = text.parse::<ObjectName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn only_the_exact_name_of_a_container_is_one() {
        let si = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let name: ObjectName = format!("shares/aa/{si}/10").parse().expect("a container");
        assert_eq!((name.share.number.get(), name.object), (10, StoreObject::Classic));
        for file in ["", "01", "256", "-1", "+1", "1.", "1.1", "1.tmp", "one", "1/"] {
            assert!(format!("shares/aa/{si}/{file}").parse::<ObjectName>().is_err(), "{file}");
        }
        // Uploads that a classic server was taking in, and its other files.
        for text in [format!("shares/incoming/aa/{si}/1"), format!("shares/ab/{si}/1"), "x".into(), String::new()] {
            assert!(text.parse::<ObjectName>().is_err(), "{text}");
        }
    }
}
