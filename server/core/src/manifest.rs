//! The manifest of a slot commit: which shares the slot has after it, and where their bytes are.
//!
//! Every slot commit writes its manifest behind the bytes of the whole shares it stores, or into an object of its own
//! where it stores none, so that slots can be rebuilt from the backend alone (`review.md` C1). The row of a share knows
//! the size of its data, so the manifest is never read as data.

use crate::id::{ObjectId, ShareNumber};
use crate::leasedb::SlotToken;
use crate::locator::{Input, Locator, LocatorError, put_varint};
use crate::secret::SecretHash;

const MAGIC: &[u8; 8] = b"LhSlotM2";
/// Bytes of the BLAKE3 hash that guards a manifest: against rot, not against forgers, who could write a whole object.
const CHECKSUM_BYTES: usize = 16;
/// What is behind the manifest itself: checksum, length, magic.
const TAIL_BYTES: usize = CHECKSUM_BYTES + 4 + MAGIC.len();
/// The longest trailer that is read back. The largest slot that can be written stays far below it.
pub const TRAILER_MAX_BYTES: u64 = 64 << 20;

/// What a slot is after one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The commit.
    pub generation: ObjectId,
    /// The token the commit set.
    pub token: SlotToken,
    /// The token it was built on; `None` for a slot that did not exist.
    pub base: Option<SlotToken>,
    /// The slot's write enabler.
    pub write_enabler: SecretHash,
    /// Its shares, ascending, with the size of their data in bytes.
    pub shares: Vec<(ShareNumber, u64, Locator)>,
}

impl Manifest {
    /// The bytes to write behind share data: the manifest, a checksum, the manifest's length in four bytes, and a magic.
    pub fn encode_trailer(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(self.generation.as_bytes());
        out.extend_from_slice(&self.token.0);
        out.push(u8::from(self.base.is_some()));
        out.extend_from_slice(&self.base.map_or([0; 16], |token| token.0));
        out.extend_from_slice(self.write_enabler.as_bytes());
        put_varint(&mut out, self.shares.len() as u64);
        for (number, size_bytes, locator) in &self.shares {
            let locator = locator.encode();
            out.push(number.get());
            put_varint(&mut out, *size_bytes);
            put_varint(&mut out, locator.len() as u64);
            out.extend_from_slice(&locator);
        }
        let length = u32::try_from(out.len()).expect("a manifest of 256 shares is far below 4 GiB");
        let checksum = checksum(&out);
        out.extend_from_slice(&checksum);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(MAGIC);
        out
    }

    /// How long the trailer is of which an object's last bytes are `end`.
    ///
    /// # Errors
    /// [`LocatorError`] if they do not end a trailer, or one that is longer than any we write.
    pub fn trailer_length(end: &[u8]) -> Result<u64, LocatorError> {
        let rest = end.strip_suffix(MAGIC).ok_or(LocatorError)?;
        let length = rest.last_chunk::<4>().ok_or(LocatorError)?;
        let length = u64::from(u32::from_be_bytes(*length)) + TAIL_BYTES as u64;
        if length <= TRAILER_MAX_BYTES { Ok(length) } else { Err(LocatorError) }
    }

    /// Reads the manifest at the end of an object.
    ///
    /// # Errors
    /// [`LocatorError`] for anything that [`encode_trailer`](Self::encode_trailer) does not write.
    pub fn decode_trailer(object: &[u8]) -> Result<Self, LocatorError> {
        let rest = object.strip_suffix(MAGIC).ok_or(LocatorError)?;
        let (rest, length) = rest.split_last_chunk::<4>().ok_or(LocatorError)?;
        let (rest, sum) = rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or(LocatorError)?;
        let start = rest.len().checked_sub(u32::from_be_bytes(*length) as usize).ok_or(LocatorError)?;
        if checksum(&rest[start..]) != *sum {
            return Err(LocatorError);
        }
        let mut input = Input(&rest[start..]);
        let generation = ObjectId::new(input.array()?);
        let token = SlotToken(input.array()?);
        let has_base = input.byte()?;
        let base = SlotToken(input.array()?);
        let write_enabler = SecretHash::new(input.array()?);
        let mut shares = Vec::new();
        for _ in 0..input.varint()?.min(257) {
            let number = ShareNumber::new(input.byte()?);
            let size_bytes = input.varint()?;
            let length = usize::try_from(input.varint()?).map_err(|_| LocatorError)?;
            shares.push((number, size_bytes, Locator::decode(input.take(length)?)?));
        }
        if !input.0.is_empty() {
            return Err(LocatorError);
        }
        Ok(Self { generation, token, base: (has_base == 1).then_some(base), write_enabler, shares })
    }
}

fn checksum(manifest: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&blake3::hash(manifest).as_bytes()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::StoreObject;
    use crate::id::AccountId;
    use crate::locator::Extent;
    use proptest::prelude::*;

    #[test]
    fn a_manifest_is_read_back_from_behind_the_data() {
        let generation = ObjectId::new([3; 16]);
        let object = StoreObject::Generation { generation, account: AccountId::new(16) };
        let locator = Locator::new(vec![Extent { range: 0..5, object }]).expect("one extent");
        let manifest = Manifest {
            generation,
            token: SlotToken([4; 16]),
            base: Some(SlotToken([5; 16])),
            write_enabler: SecretHash::new([6; 32]),
            shares: vec![(ShareNumber::new(0), 5, locator), (ShareNumber::new(9), 0, Locator::default())],
        };
        let mut bytes = b"share".to_vec();
        bytes.extend(manifest.encode_trailer());
        let length = Manifest::trailer_length(&bytes).expect("a trailer");
        assert_eq!(length as usize, bytes.len() - b"share".len());
        assert_eq!(Manifest::decode_trailer(&bytes), Ok(manifest));
        for at in b"share".len()..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(Manifest::decode_trailer(&bytes).is_err(), "bit {bit} of byte {at} is another");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), length: u32) {
            let sum = checksum(&bytes[bytes.len() - bytes.len().min(length as usize % 256)..]);
            bytes.extend_from_slice(&sum);
            bytes.extend_from_slice(&(length % 256).to_be_bytes());
            bytes.extend_from_slice(MAGIC);
            let _ = Manifest::trailer_length(&bytes);
            let _ = Manifest::decode_trailer(&bytes);
        }
    }
}
