//! Stored forms: a damaged locator, manifest, container or row of a backup is refused, and what is read is written back as it was.

#![no_main]

use leasehold_core::backup::row;
use leasehold_core::classic::{Container, HEAD_BYTES_MAX, frame};
use leasehold_core::locator::Locator;
use leasehold_core::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(locator) = Locator::decode(bytes) {
        assert_eq!(Locator::decode(&locator.encode()), Ok(locator));
    }
    check_container(bytes);
    check_rows(bytes);
    let mut object = bytes.to_vec();
    for magic in [&b""[..], b"LhSlotM2"] {
        object.extend_from_slice(magic);
        if let Ok(manifest) = Manifest::decode_trailer(&object) {
            assert_eq!(Manifest::decode_trailer(&manifest.encode_trailer()), Ok(manifest));
        }
    }
});

/// Rows of a backup have exactly one form.
fn check_rows(bytes: &[u8]) {
    let mut rest = bytes;
    let mut again = Vec::new();
    while let Ok(Some(values)) = row::take(&mut rest) {
        row::put(&mut again, &values);
        assert_eq!(again.len() + rest.len(), bytes.len());
    }
    assert!(bytes.starts_with(&again));
}

fn check_container(bytes: &[u8]) {
    let decode = |bytes: &[u8]| {
        let head = &bytes[..bytes.len().min(HEAD_BYTES_MAX as usize)];
        let container = Container::decode(head, bytes.len() as u64).ok()?;
        let at = container.leases_at();
        let leases = container.leases(&bytes[at.start as usize..at.end as usize]);
        Some((container, leases))
    };
    let Some((container, leases)) = decode(bytes) else { return };
    let at = container.data_at();
    let data = &bytes[at.start as usize..at.end as usize];
    let around = frame(container.version, container.slot.as_ref(), container.size_bytes, &leases);
    let (again, same) = decode(&[&around.head, data, &around.tail].concat()).expect("what we write is whole");
    assert!(again.size_bytes == container.size_bytes && again.kind == container.kind && same == leases);
}
