//! The bytes of a call's write vectors, where they lie.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::ByteStream;
use leasehold_core::store::Payload;

/// Byte strings one behind the other, without copying them.
#[derive(Debug, Default)]
pub(super) struct Strings {
    strings: Vec<(u64, Bytes)>,
    length: u64,
}

impl Strings {
    /// Appends a string; gives where it begins.
    pub(super) fn push(&mut self, string: Bytes) -> u64 {
        let start = self.length;
        self.length += string.len() as u64;
        if !string.is_empty() {
            self.strings.push((start, string));
        }
        start
    }
}

impl Payload for Strings {
    fn read(&self, range: Range<u64>) -> ByteStream {
        let first = self.strings.partition_point(|(start, string)| start + string.len() as u64 <= range.start);
        let within = self.strings[first..].iter().take_while(|(start, _)| *start < range.end);
        let parts = within.map(|(start, string)| {
            let from = range.start.saturating_sub(*start);
            let to = (range.end - start).min(string.len() as u64);
            Ok(string.slice(from as usize..to as usize))
        });
        stream::iter(parts.collect::<Vec<_>>()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_as_one_string(
            strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..8),
            ends in (0u64..40, 0u64..40),
        ) {
            let mut payload = Strings::default();
            for string in &strings {
                payload.push(string.clone().into());
            }
            let whole = strings.concat();
            let (a, b) = (ends.0.min(whole.len() as u64), ends.1.min(whole.len() as u64));
            let range = a.min(b)..a.max(b);
            let read: Vec<Bytes> = futures_util::FutureExt::now_or_never(payload.read(range.clone()).try_collect())
                .expect("nothing to wait for")
                .expect("nothing fails");
            prop_assert_eq!(read.concat(), &whole[range.start as usize..range.end as usize]);
        }
    }
}
