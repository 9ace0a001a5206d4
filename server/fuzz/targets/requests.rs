//! CBOR bodies of requests: whatever the bytes, they are read or refused; what is read lies within the body.

#![no_main]

use leasehold_gbs::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = wire::read_allocate(body) {
        assert!(request.share_numbers.len() <= 256);
        assert!(request.share_numbers.windows(2).all(|pair| pair[0] < pair[1]));
    }
    if let Ok(reason) = wire::read_corrupt(body) {
        assert!(!reason.is_empty() && reason.len() <= body.len());
    }
    if let Ok(request) = wire::read_test_write(body) {
        assert!(request.vectors.len() <= 256 && request.reads.len() <= 30);
        for vectors in request.vectors.values() {
            assert!(vectors.tests.len() <= 30);
            for write in &vectors.writes {
                assert!(write.source + write.length <= body.len() as u64);
            }
        }
    }
});
