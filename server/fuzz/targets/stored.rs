//! Stored forms: a damaged locator or manifest is refused, and what is read is written back as it was.

#![no_main]

use leasehold_core::locator::Locator;
use leasehold_core::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(locator) = Locator::decode(bytes) {
        assert_eq!(Locator::decode(&locator.encode()), Ok(locator));
    }
    let mut object = bytes.to_vec();
    for magic in [&b""[..], b"LhSlotM2"] {
        object.extend_from_slice(magic);
        if let Ok(manifest) = Manifest::decode_trailer(&object) {
            assert_eq!(Manifest::decode_trailer(&manifest.encode_trailer()), Ok(manifest));
        }
    }
});
