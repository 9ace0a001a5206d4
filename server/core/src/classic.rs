//! The classic form of a share: one container file, `shares/PP/SI/SHNUM`, as Tahoe-LAFS servers keep it.
//!
//! ```text
//! immutable   version u32 · size u32, cut to 32 bits · leases u32 | data | leases of 72 bytes
//! mutable     magic 32 · node id 20 · write enabler 32 · size u64 · extra leases at u64 · four leases of 92 bytes
//!             | data, perhaps with room behind it | extra leases u32 | leases of 92 bytes
//! ```
//!
//! Numbers are big-endian. Of either container there are two versions, which differ in what is kept of lease secrets:
//! themselves, or their hashes. Write enablers are kept as they are in both.

use std::fmt;
use std::ops::Range;

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::id::ShareId;
use crate::locator::Input;
use crate::secret::{SecretHash, WriteEnabler};
use crate::share::{IMMUTABLE_OVERHEAD_BYTES, MUTABLE_OVERHEAD_BYTES, ShareKind};

/// The longest header, in bytes: a container is recognized by so many of its first bytes.
pub const HEAD_BYTES_MAX: u64 = MUTABLE_HEAD_BYTES;
/// How much of a container's leases is looked at, in bytes: some thousands of leases.
const LEASES_BYTES_MAX: u64 = 256 << 10;

const IMMUTABLE_HEAD_BYTES: u64 = IMMUTABLE_OVERHEAD_BYTES;
const MUTABLE_HEAD_BYTES: u64 = MUTABLE_OVERHEAD_BYTES - 4;
const IMMUTABLE_LEASE_BYTES: usize = 72;
const MUTABLE_LEASE_BYTES: usize = 92;
/// Leases of a mutable container that have a place in its header.
const HEAD_LEASES: usize = 4;
const MAGIC: [&[u8; 32]; 2] =
    [b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e", b"Tahoe mutable container v2\n\xc3\x55\x21\x99\x25"];

/// How long a classic server's lease lasts from its renewal: the time of the renewal itself is not in the container.
pub const CLASSIC_LEASE_SECONDS: i64 = crate::lease::LEASE_DURATION_SECONDS;

/// Where share data begins in a container.
pub const fn header_bytes(kind: ShareKind) -> u64 {
    match kind {
        ShareKind::Immutable => IMMUTABLE_HEAD_BYTES,
        ShareKind::Mutable => MUTABLE_HEAD_BYTES,
    }
}

/// What a container keeps of lease secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The secrets.
    V1,
    /// Their hashes.
    V2,
}

/// Why a container cannot be served (`accounting.md` 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not even a header.
    #[error("it ends within its header")]
    Short,
    /// Another version, or no container at all.
    #[error("it begins like no container that is known")]
    Unknown,
    /// Bytes are missing at its end.
    #[error("bytes are missing at its end")]
    Truncated,
}

/// What a mutable container knows besides data and leases.
#[derive(Clone, Debug)]
pub struct SlotHead {
    /// Who may write.
    pub write_enabler: WriteEnabler,
    /// The server that the write enabler was made for.
    pub node_id: [u8; 20],
}

/// A lease as a container keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who leases, by a number that no server has ever given a meaning; never 0 in a mutable container.
    pub owner: u32,
    /// When it ends; kept as 32 bits of whole seconds.
    pub expires_at: Timestamp,
    /// Renew and cancel secret, or their hashes.
    pub secrets: Zeroizing<[u8; 64]>,
    /// The server that took the secrets; only mutable containers know it.
    pub node_id: [u8; 20],
}

impl fmt::Debug for LeaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseRecord").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A container, as its header and its length tell.
#[derive(Clone, Debug)]
pub struct Container {
    /// What it holds.
    pub kind: ShareKind,
    /// How it keeps lease secrets.
    pub version: Version,
    /// Size of the share data in bytes.
    pub size_bytes: u64,
    /// Of a mutable container.
    pub slot: Option<SlotHead>,
    head_leases: Vec<LeaseRecord>,
    leases_at: Range<u64>,
}

impl Container {
    /// Reads the header: the first [`HEAD_BYTES_MAX`] bytes of a container, or all of a shorter one.
    ///
    /// # Errors
    /// It is damaged.
    pub fn decode(head: &[u8], length_bytes: u64) -> Result<Self, Damage> {
        let magic = |known: &&[u8; 32]| head.starts_with(*known);
        match MAGIC.iter().position(magic) {
            Some(0) => Self::decode_mutable(Version::V1, head, length_bytes),
            Some(_) => Self::decode_mutable(Version::V2, head, length_bytes),
            None => Self::decode_immutable(head, length_bytes),
        }
    }

    fn decode_immutable(head: &[u8], length_bytes: u64) -> Result<Self, Damage> {
        let mut input = Input(head);
        let mut number = || input.array().map(u32::from_be_bytes).map_err(|_| Damage::Short);
        let version = match number()? {
            1 => Version::V1,
            2 => Version::V2,
            _ => return Err(Damage::Unknown),
        };
        // Servers go by the length of the file. The size tells whether that can be true; some have left it 0.
        let (announced, leases) = (u64::from(number()?), u64::from(number()?));
        let leases_bytes = leases * IMMUTABLE_LEASE_BYTES as u64;
        let around = IMMUTABLE_HEAD_BYTES + leases_bytes;
        let size_bytes = length_bytes.checked_sub(around).ok_or(Damage::Truncated)?;
        if size_bytes < announced {
            return Err(Damage::Truncated);
        }
        let leases_from = IMMUTABLE_HEAD_BYTES + size_bytes;
        let leases_at = leases_from..leases_from + leases_bytes.min(LEASES_BYTES_MAX);
        let (kind, head_leases) = (ShareKind::Immutable, Vec::new());
        Ok(Self { kind, version, size_bytes, slot: None, head_leases, leases_at })
    }

    fn decode_mutable(version: Version, head: &[u8], length_bytes: u64) -> Result<Self, Damage> {
        let mut input = Input(head.get(MAGIC[0].len()..).ok_or(Damage::Short)?);
        let short = |_| Damage::Short;
        let node_id = input.array().map_err(short)?;
        let write_enabler = WriteEnabler::new(input.take(32).map_err(short)?.to_vec()).map_err(|_| Damage::Short)?;
        let size_bytes = input.array().map(u64::from_be_bytes).map_err(short)?;
        let extra_at = input.array().map(u64::from_be_bytes).map_err(short)?;
        let mut head_leases = Vec::new();
        for _ in 0..HEAD_LEASES {
            head_leases.extend(mutable_lease(input.take(MUTABLE_LEASE_BYTES).map_err(short)?));
        }
        if size_bytes.checked_add(MUTABLE_OVERHEAD_BYTES).is_none_or(|least| least > length_bytes) {
            return Err(Damage::Truncated);
        }
        // Where there is no room for extra leases there are none: it is the data that matters.
        let is_room = extra_at >= MUTABLE_HEAD_BYTES + size_bytes && extra_at < length_bytes;
        let leases_at =
            if is_room { extra_at..length_bytes.min(extra_at.saturating_add(LEASES_BYTES_MAX)) } else { 0..0 };
        let slot = Some(SlotHead { write_enabler, node_id });
        Ok(Self { kind: ShareKind::Mutable, version, size_bytes, slot, head_leases, leases_at })
    }

    /// Where share data is in the container.
    pub fn data_at(&self) -> Range<u64> {
        let start = header_bytes(self.kind);
        start..start + self.size_bytes
    }

    /// What to read of the container for [`leases`](Self::leases), in bytes; may be empty.
    pub fn leases_at(&self) -> Range<u64> {
        self.leases_at.clone()
    }

    /// Its leases, from the bytes at [`leases_at`](Self::leases_at). Half a lease is none.
    pub fn leases(&self, bytes: &[u8]) -> Vec<LeaseRecord> {
        let mut leases = self.head_leases.clone();
        match self.kind {
            ShareKind::Immutable => {
                leases.extend(bytes.chunks_exact(IMMUTABLE_LEASE_BYTES).filter_map(immutable_lease))
            }
            ShareKind::Mutable => {
                let Some((count, bytes)) = bytes.split_first_chunk() else { return leases };
                let count = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
                leases.extend(bytes.chunks_exact(MUTABLE_LEASE_BYTES).take(count).filter_map(mutable_lease));
            }
        }
        leases
    }
}

fn immutable_lease(bytes: &[u8]) -> Option<LeaseRecord> {
    let mut input = Input(bytes);
    let owner = u32::from_be_bytes(input.array().ok()?);
    let secrets = Zeroizing::new(input.array().ok()?);
    let expires_at = Timestamp::from_seconds(u32::from_be_bytes(input.array().ok()?).into());
    Some(LeaseRecord { owner, expires_at, secrets, node_id: [0; 20] })
}

/// `None` also for a place that no lease has taken.
fn mutable_lease(bytes: &[u8]) -> Option<LeaseRecord> {
    let mut input = Input(bytes);
    let owner = u32::from_be_bytes(input.array().ok()?);
    let expires_at = Timestamp::from_seconds(u32::from_be_bytes(input.array().ok()?).into());
    let secrets = Zeroizing::new(input.array().ok()?);
    let node_id = input.array().ok()?;
    (owner != 0).then_some(LeaseRecord { owner, expires_at, secrets, node_id })
}

/// The bytes around the data of a container.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What comes before the data.
    pub head: Vec<u8>,
    /// What comes behind it.
    pub tail: Vec<u8>,
}

/// Makes the frame of a container with `size_bytes` of data; with a `slot` it is a mutable one.
pub fn frame(version: Version, slot: Option<&SlotHead>, size_bytes: u64, leases: &[LeaseRecord]) -> Frame {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let Some(slot) = slot else {
        let version: u32 = match version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        let cut = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        head.extend([version.to_be_bytes(), cut.to_be_bytes(), count(leases.len())].concat());
        for lease in leases {
            tail.extend_from_slice(&lease.owner.to_be_bytes());
            tail.extend_from_slice(&*lease.secrets);
            tail.extend_from_slice(&end_of(lease));
        }
        return Frame { head, tail };
    };
    head.extend_from_slice(match version {
        Version::V1 => MAGIC[0],
        Version::V2 => MAGIC[1],
    });
    head.extend_from_slice(&slot.node_id);
    head.extend_from_slice(slot.write_enabler.expose());
    head.extend_from_slice(&size_bytes.to_be_bytes());
    head.extend_from_slice(&(MUTABLE_HEAD_BYTES + size_bytes).to_be_bytes());
    let (first, extra) = leases.split_at(leases.len().min(HEAD_LEASES));
    first.iter().for_each(|lease| put_mutable_lease(&mut head, lease));
    head.resize(MUTABLE_HEAD_BYTES as usize, 0);
    tail.extend(count(extra.len()));
    extra.iter().for_each(|lease| put_mutable_lease(&mut tail, lease));
    Frame { head, tail }
}

fn put_mutable_lease(out: &mut Vec<u8>, lease: &LeaseRecord) {
    out.extend_from_slice(&lease.owner.to_be_bytes());
    out.extend_from_slice(&end_of(lease));
    out.extend_from_slice(&*lease.secrets);
    out.extend_from_slice(&lease.node_id);
}

/// Leases that outlive 32 bits end with them.
fn end_of(lease: &LeaseRecord) -> [u8; 4] {
    u32::try_from(lease.expires_at.seconds().max(0)).unwrap_or(u32::MAX).to_be_bytes()
}

/// A share in the classic form, as far as a row needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicShare {
    /// Which share.
    pub share: ShareId,
    /// What it is.
    pub kind: ShareKind,
    /// Size of the share data in bytes.
    pub size_bytes: u64,
    /// Who may write, if it is mutable.
    pub write_enabler: Option<SecretHash>,
    /// When its last lease ends; `None`: it has none.
    pub lease_expires_at: Option<Timestamp>,
}

impl ClassicShare {
    /// What a container and its leases say of a share.
    pub fn new(share: ShareId, container: &Container, leases: &[LeaseRecord]) -> Self {
        Self {
            share,
            kind: container.kind,
            size_bytes: container.size_bytes,
            write_enabler: container.slot.as_ref().map(|slot| slot.write_enabler.hash()),
            lease_expires_at: leases.iter().map(|lease| lease.expires_at).max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_lease() -> impl Strategy<Value = LeaseRecord> {
        (1..u32::MAX, any::<u32>(), any::<[u8; 32]>(), any::<[u8; 20]>()).prop_map(|(owner, end, secret, node_id)| {
            let mut secrets = Zeroizing::new([7; 64]);
            secrets[..32].copy_from_slice(&secret);
            LeaseRecord { owner, expires_at: Timestamp::from_seconds(end.into()), secrets, node_id }
        })
    }

    fn slot_head() -> SlotHead {
        SlotHead { write_enabler: WriteEnabler::new(vec![9; 32]).expect("32 bytes"), node_id: [4; 20] }
    }

    /// Decodes a container as a reader of ranges does.
    fn decode(bytes: &[u8]) -> Result<(Container, Vec<LeaseRecord>), Damage> {
        let head = &bytes[..bytes.len().min(HEAD_BYTES_MAX as usize)];
        let container = Container::decode(head, bytes.len() as u64)?;
        let at = container.leases_at();
        let leases = container.leases(&bytes[at.start as usize..at.end as usize]);
        Ok((container, leases))
    }

    proptest! {
        #[test]
        fn containers_round_trip(
            mutable: bool,
            first: bool,
            data in proptest::collection::vec(any::<u8>(), 0..900),
            mut leases in proptest::collection::vec(any_lease(), 0..9),
        ) {
            let version = if first { Version::V1 } else { Version::V2 };
            let slot = mutable.then(slot_head);
            if !mutable {
                leases.iter_mut().for_each(|lease| lease.node_id = [0; 20]);
            }
            let Frame { head, tail } = frame(version, slot.as_ref(), data.len() as u64, &leases);
            let bytes = [head, data.clone(), tail].concat();
            let (container, decoded) = decode(&bytes).expect("whole");
            let at = container.data_at();
            prop_assert_eq!(&bytes[at.start as usize..at.end as usize], &data);
            prop_assert_eq!(container.version, version);
            prop_assert_eq!(container.slot.map(|slot| slot.write_enabler.hash()), slot.map(|slot| slot.write_enabler.hash()));
            prop_assert_eq!(decoded, leases);
        }

        #[test]
        fn a_container_cut_short_is_never_served(mutable: bool, size in 1usize..600, cut in 1usize..600) {
            let slot = mutable.then(slot_head);
            let Frame { head, tail } = frame(Version::V2, slot.as_ref(), size as u64, &[]);
            let mut bytes = [head, vec![5; size], tail].concat();
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic_and_data_stays_within(
            start in 0usize..4,
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let starts: [&[u8]; 4] = [b"", &[0, 0, 0, 1], MAGIC[0], MAGIC[1]];
            let bytes = [starts[start], &bytes].concat();
            if let Ok((container, _)) = decode(&bytes) {
                prop_assert!(container.data_at().end <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn what_is_no_container_says_why() {
        let why = |bytes: &[u8]| decode(bytes).map(drop);
        assert_eq!(why(b""), Err(Damage::Short));
        assert_eq!(why(&[0, 0, 0, 2, 0, 0]), Err(Damage::Short));
        assert_eq!(why(&[0; 12]), Err(Damage::Unknown));
        assert_eq!(why(b"Tahoe mutable container v3\n....."), Err(Damage::Unknown));
        assert_eq!(why(&MAGIC[1][..]), Err(Damage::Short));
        let leases_missing = [2u32, 0, 1].map(u32::to_be_bytes).concat();
        assert_eq!(why(&leases_missing), Err(Damage::Truncated));
        // The size was left open, as some servers have done.
        assert_eq!(why(&[1u32, 0, 0].map(u32::to_be_bytes).concat()), Ok(()));
    }

    #[test]
    fn secrets_do_not_print() {
        let lease = immutable_lease(&[0x41; IMMUTABLE_LEASE_BYTES]).expect("a lease");
        let printed = format!("{lease:?} {:?}", slot_head());
        assert!(!printed.contains("65") && !printed.contains("AAAA") && !printed.contains("[9, 9"), "{printed}");
    }
}
