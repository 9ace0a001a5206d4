//! Negotiation: whatever the lines, they are read or refused in one line of our own.

#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use leasehold_foolscap::negotiation::{
    Decision, Hello, Standing, judge_hello, judge_request, judge_upgrade, replaces, take_block,
};
use leasehold_foolscap::{Furl, Incarnation, TubId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let ours: TubId = "icxmug7l5ore6tbmnsftvssyep4fizhb".parse().expect("well formed");
    let peer: TubId = "43ean5k2lzjlkejv3gdbht2lkwn35har".parse().expect("well formed");
    let run: Incarnation = "5e5e5e5e5e5e5e5e".parse().expect("well formed");
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(block)) = take_block(&mut input) {
        assert!(block.len() <= 4096);
        if let Err(refusal) = judge_request(&block, &ours) {
            assert!(refusal.to_plaintext().len() < 400 && refusal.to_plaintext().lines().count() == 2);
        }
        let _ = judge_upgrade(&block);
        if let Ok(decision) = Decision::parse(&block) {
            assert_eq!(Decision::parse(&decision.to_block()), Ok(decision));
        }
        let Ok(hello) = Hello::parse(&block) else { continue };
        if let Err(Some(refusal)) = judge_hello(&hello, Some(&peer), &ours) {
            assert_eq!(refusal.to_block().matches('\n').count(), 3);
        }
        let standing =
            Standing { incarnation: hello.incarnation.clone(), number: 1, has_called: true, silent_for: Duration::ZERO };
        let _ = replaces(&hello, &standing, &run, Duration::from_secs(10));
    }
    if let Ok(furl) = std::str::from_utf8(bytes).unwrap_or_default().parse::<Furl>() {
        assert_eq!(furl.to_string().parse(), Ok(furl));
    }
});
