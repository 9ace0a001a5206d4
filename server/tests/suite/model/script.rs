//! The script of the exhaustive pass: for each operation the situations in which it takes different ways.

use std::collections::BTreeMap;

use leasehold_core::account::AccountState;
use leasehold_core::share::ShareKind;

use super::operation::{Arrival, Operation, Specimen, Vectors, Write};

/// A name, what happens before without faults, and the operation that faults strike.
pub type Case = (&'static str, Vec<Operation>, Operation);

fn allocate(account: usize, numbers: &[u8], size: u64) -> Operation {
    Operation::Allocate { account, index: 0, numbers: numbers.to_vec(), size, secret: 0 }
}

fn write(number: u8, percent: std::ops::Range<u64>) -> Operation {
    Operation::Write { share: (0, number), secret: 0, percent, tag: 0, arrival: Arrival::Whole }
}

fn other(number: u8, percent: std::ops::Range<u64>, tag: u8, arrival: Arrival) -> Operation {
    Operation::Write { share: (0, number), secret: 0, percent, tag, arrival }
}

fn bytes(offset: u64, length: u64, tag: u8) -> Vectors {
    Vectors { writes: vec![Write { offset, length, tag }], ..Vectors::default() }
}

fn slot(account: usize, vectors: &[(u8, Vectors)]) -> Operation {
    let vectors: BTreeMap<u8, Vectors> = vectors.iter().cloned().collect();
    Operation::ReadTestWrite { account, index: 1, enabler: 1, vectors, reads: vec![0..20, 50..500] }
}

fn removal() -> Vectors {
    Vectors { new_length: Some(0), ..Vectors::default() }
}

fn tested(size: u64, mut vectors: Vectors) -> Vectors {
    vectors.tests.push((5, size, Specimen::Actual));
    vectors
}

fn buckets() -> Vec<Case> {
    let begun = || vec![allocate(0, &[0, 1], 100)];
    let half = || vec![allocate(0, &[0, 1], 100), write(0, 20..60)];
    let whole = || vec![allocate(0, &[0, 1], 100), write(0, 0..100)];
    vec![
        ("the first allocation", vec![], allocate(0, &[0, 2], 100)),
        ("an allocation of what is there", whole(), allocate(1, &[0, 1, 2], 100)),
        (
            "an allocation that takes over",
            [half(), vec![Operation::Step { seconds: 1801 }]].concat(),
            allocate(1, &[0], 80),
        ),
        ("a part of a share", begun(), write(0, 20..60)),
        ("a whole share", begun(), write(0, 0..100)),
        ("the last part", [half(), vec![write(0, 0..20)]].concat(), write(0, 60..100)),
        ("the last part before the others", begun(), write(0, 60..100)),
        ("a part that overlaps", half(), write(0, 10..80)),
        ("an overlap that finishes", half(), write(0, 0..100)),
        ("a repeated part", half(), write(0, 20..60)),
        ("a part within a known one", half(), write(0, 30..50)),
        ("a conflict", half(), other(0, 10..80, 1, Arrival::Whole)),
        ("a body that breaks off", half(), other(0, 0..100, 0, Arrival::Broken)),
        ("a body that is too short", half(), other(0, 0..100, 0, Arrival::Short)),
        ("an abort", half(), Operation::Abort { share: (0, 0), secret: 0 }),
        ("an abort of a finished share", whole(), Operation::Abort { share: (0, 0), secret: 0 }),
        ("an abort of nothing", vec![], Operation::Abort { share: (0, 0), secret: 0 }),
        ("a number taken by a slot", cross_kind(), write(0, 0..100)),
        ("a storage index taken by a slot", cross_kind(), write(1, 0..100)),
    ]
}

/// Uploads whose storage index becomes a slot before they end.
fn cross_kind() -> Vec<Operation> {
    let vectors = BTreeMap::from([(0, bytes(0, 30, 0))]);
    let write = Operation::ReadTestWrite { account: 0, index: 0, enabler: 1, vectors, reads: Vec::new() };
    vec![allocate(0, &[0, 1], 60), write]
}

fn slots() -> Vec<Case> {
    let small = || vec![slot(0, &[(0, bytes(0, 90, 0)), (1, bytes(0, 40, 1))])];
    let large = || vec![slot(0, &[(0, bytes(0, 90, 0))]), slot(0, &[(0, bytes(1_200_000, 200, 1))])];
    let leased = || [small(), vec![Operation::Renew { account: 1, index: 1 }]].concat();
    vec![
        ("the first write of a slot", vec![], slot(0, &[(0, bytes(0, 90, 0)), (2, bytes(30, 10, 1))])),
        ("an empty share", vec![], slot(0, &[(0, Vectors::default())])),
        ("a share replaced", leased(), slot(0, &[(0, tested(30, bytes(0, 120, 2)))])),
        ("a part of two shares", leased(), slot(1, &[(0, bytes(30, 10, 2)), (1, tested(9, bytes(10, 9, 3)))])),
        ("a share cut", small(), slot(0, &[(0, Vectors { new_length: Some(20), ..Vectors::default() })])),
        ("a share only named", small(), slot(1, &[(0, Vectors::default())])),
        ("one share removed", leased(), slot(0, &[(0, removal())])),
        ("one share removed and one made", leased(), slot(0, &[(0, removal()), (2, bytes(0, 10, 0))])),
        ("all shares removed", leased(), slot(0, &[(0, removal()), (1, removal())])),
        ("a window of a large share", large(), slot(0, &[(0, bytes(1_150_000, 90, 3))])),
        ("a large share cut", large(), slot(0, &[(0, Vectors { new_length: Some(290_000), ..bytes(5, 5, 2) })])),
        ("a test that fails", small(), slot(0, &[(0, Vectors { tests: vec![(0, 9, Specimen::Wrong)], ..removal() })])),
        ("a write over quota", poor(small()), slot(0, &[(0, bytes(0, 200, 2)), (2, bytes(0, 9, 2))])),
        ("a write of a suspended account", suspended(small()), slot(0, &[(0, bytes(0, 200, 2))])),
        ("a read", small(), slot(0, &[])),
    ]
}

fn poor(before: Vec<Operation>) -> Vec<Operation> {
    [before, vec![Operation::SetQuota { account: 0, quota: Some(1100) }]].concat()
}

fn suspended(before: Vec<Operation>) -> Vec<Operation> {
    [before, vec![Operation::SetState { account: 0, state: AccountState::Suspended }]].concat()
}

fn rest() -> Vec<Case> {
    let shares = || {
        let slots = slot(0, &[(0, bytes(0, 90, 0)), (1, bytes(0, 40, 1))]);
        vec![allocate(0, &[0, 1], 100), write(0, 0..40), write(0, 40..100), write(1, 3..60), slots]
    };
    let with = |more: Vec<Operation>| [shares(), more].concat();
    let garbage = || {
        let again = slot(0, &[(0, bytes(0, 90, 2)), (1, removal())]);
        with(vec![again, Operation::Step { seconds: 8 * 86_400 }])
    };
    let refused = || with(vec![other(1, 0..80, 1, Arrival::Whole), Operation::Step { seconds: 1801 }]);
    let immutable = ShareKind::Immutable;
    let day = || Operation::Step { seconds: 86_400 };
    let scattered = |size, more: Vec<Operation>| {
        let pieces = [allocate(0, &[0], size), write(0, 0..30), write(0, 30..80), write(0, 80..100)];
        [&pieces[..], &more].concat()
    };
    let merged = || [scattered(100, vec![day(), Operation::Sweep]), vec![Operation::Step { seconds: 1000 }]].concat();
    let beaten = || vec![Operation::Claim, Operation::Tick, Operation::Step { seconds: 10 }];
    vec![
        ("a sweep that merges", scattered(100, vec![day()]), Operation::Sweep),
        ("a sweep that merges into two", scattered(150, vec![day()]), Operation::Sweep),
        ("a sweep of merged pieces", merged(), Operation::Sweep),
        ("a read of a merged share", merged(), Operation::Read { kind: immutable, share: (0, 0), range: 10..90 }),
        ("the first beat", vec![], Operation::Tick),
        ("another beat", beaten(), Operation::Tick),
        ("a beat that is not due", vec![Operation::Tick], Operation::Tick),
        ("a claim", beaten(), Operation::Claim),
        ("a listing", shares(), Operation::List { kind: immutable, index: 0 }),
        ("a read of two pieces", shares(), Operation::Read { kind: immutable, share: (0, 0), range: 10..90 }),
        ("a first lease", shares(), Operation::Renew { account: 1, index: 0 }),
        ("a renewal", with(vec![Operation::Step { seconds: 4 * 86_400 }]), Operation::Renew { account: 0, index: 1 }),
        ("a renewal of nothing", vec![], Operation::Renew { account: 0, index: 1 }),
        ("an advisory", shares(), Operation::Advise { account: 1, kind: immutable, share: (0, 0) }),
        ("a sweep of an upload and of garbage", garbage(), Operation::Sweep),
        ("a sweep of an upload of which bytes were refused", refused(), Operation::Sweep),
        ("a sweep of nothing", vec![], Operation::Sweep),
        ("a look at the room", vec![], Operation::RefreshSpace),
    ]
}

/// All cases.
pub fn script() -> Vec<Case> {
    [buckets(), slots(), rest()].concat()
}
