//! Names: only what we would write ourselves is taken for one of our objects, ids or sizes.

#![no_main]

use leasehold_core::chunk::ObjectName;
use leasehold_core::id::{ObjectId, StorageIndex};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<ObjectName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(index) = text.parse::<StorageIndex>() {
        assert_eq!(index.to_string(), text);
    }
    if let Ok(id) = text.parse::<ObjectId>() {
        assert_eq!(id.to_string(), text);
    }
});
