//! The operations of a run as plain values, so that a failing run can be shortened, and how they are drawn.

use std::collections::BTreeMap;
use std::ops::Range;

use leasehold_core::account::AccountState;
use leasehold_core::share::ShareKind;
use leasehold_core::testing::faulty::Fault;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::plain::{Key, Plain};

/// How many storage indexes, share numbers and accounts a run uses.
pub const INDEXES: u8 = 4;
pub const NUMBERS: u8 = 3;
pub const ACCOUNTS: usize = 3;

/// How a body arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Whole,
    Short,
    Long,
    Broken,
}

/// What a test vector compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specimen {
    /// What is there.
    Actual,
    /// Something else.
    Wrong,
}

/// A write of `length` bytes of the content `tag`.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub offset: u64,
    pub length: u64,
    pub tag: u8,
}

/// What a read-test-write asks of one share.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// Offset, size, specimen.
    pub tests: Vec<(u64, u64, Specimen)>,
    pub writes: Vec<Write>,
    pub new_length: Option<u64>,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Operation {
    Allocate {
        account: usize,
        index: u8,
        numbers: Vec<u8>,
        size: u64,
        secret: u8,
    },
    /// The range is in per cent of the upload's size.
    Write {
        share: Key,
        secret: u8,
        percent: Range<u64>,
        tag: u8,
        arrival: Arrival,
    },
    Abort {
        share: Key,
        secret: u8,
    },
    List {
        kind: ShareKind,
        index: u8,
    },
    Read {
        kind: ShareKind,
        share: Key,
        range: Range<u64>,
    },
    Renew {
        account: usize,
        index: u8,
    },
    ReadTestWrite {
        account: usize,
        index: u8,
        enabler: u8,
        vectors: BTreeMap<u8, Vectors>,
        reads: Vec<Range<u64>>,
    },
    Advise {
        account: usize,
        kind: ShareKind,
        share: Key,
    },
    Sweep,
    RefreshSpace,
    /// Makes sure that the backend is the deployment's own.
    Claim,
    /// Lets the heart beat if it is time.
    Tick,
    Step {
        seconds: i64,
    },
    SetQuota {
        account: usize,
        quota: Option<u64>,
    },
    SetState {
        account: usize,
        state: AccountState,
    },
}

/// An operation with what strikes it: the number of the call, and the fault.
pub type Struck = (Operation, Option<(usize, Fault)>);

impl Operation {
    /// A name for the ledger.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allocate { .. } => "allocate_bucket",
            Self::Write { .. } => "write_bucket",
            Self::Abort { .. } => "abort_bucket",
            Self::List { .. } => "list_shares",
            Self::Read { .. } => "read_slice",
            Self::Renew { .. } => "renew_leases",
            Self::ReadTestWrite { .. } => "read_test_write",
            Self::Advise { .. } => "advise",
            Self::Sweep => "sweep",
            Self::RefreshSpace => "refresh_space",
            Self::Claim => "claim_backend",
            Self::Tick => "tick",
            Self::Step { .. } => "(clock)",
            Self::SetQuota { .. } | Self::SetState { .. } => "(account)",
        }
    }

    /// Leaves out megabytes of holes, for backends that take their time with them.
    pub fn bring_near(&mut self) {
        let Self::ReadTestWrite { vectors, .. } = self else { return };
        let far = vectors.values_mut().flat_map(|vectors| &mut vectors.writes).filter(|write| write.offset > 400_000);
        far.for_each(|write| write.offset = 300_000 + write.offset % 80);
    }

    /// The range of a write, which depends on the size of the upload.
    pub fn range(&self, plain: &Plain) -> Range<u64> {
        let Self::Write { share, percent, .. } = self else { return 0..0 };
        let size = plain.uploads.get(share).map_or(100, |upload| upload.bytes.len() as u64).max(1);
        let start = percent.start * size / 100;
        start..(percent.end * size).div_ceil(100).max(start + 1)
    }
}

/// The bytes of a range under a tag.
pub fn content(tag: u8, range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8 ^ tag.wrapping_mul(85)).collect()
}

fn key(random: &mut StdRng) -> Key {
    (random.random_range(0..INDEXES), random.random_range(0..NUMBERS))
}

fn kind(random: &mut StdRng) -> ShareKind {
    if random.random_bool(0.5) { ShareKind::Immutable } else { ShareKind::Mutable }
}

/// Buckets live under even storage indexes and slots under odd ones, nearly always.
fn index_for(random: &mut StdRng, kind: ShareKind) -> u8 {
    let parity = u8::from(kind == ShareKind::Mutable) ^ u8::from(random.random_bool(0.06));
    random.random_range(0..INDEXES / 2) * 2 + parity
}

fn numbers(random: &mut StdRng) -> Vec<u8> {
    (0..NUMBERS).filter(|_| random.random_bool(0.6)).collect()
}

fn vectors(random: &mut StdRng) -> Vectors {
    let far = *[0, 0, 0, 0, 0, 0, 0, 300_000, 1_200_000, 2_300_000, 4 << 20].choose(random).expect("not empty");
    let write = |random: &mut StdRng| Write {
        offset: far + random.random_range(0..80),
        length: *[0, 1, 30, 30, 90, 200].choose(random).expect("not empty"),
        tag: random.random_range(0..4),
    };
    let test = |random: &mut StdRng| {
        let specimen = if random.random_bool(0.9) { Specimen::Actual } else { Specimen::Wrong };
        (random.random_range(0..100), random.random_range(0..60), specimen)
    };
    Vectors {
        tests: (0..random.random_range(0..3)).map(|_| test(random)).collect(),
        writes: (0..random.random_range(0..4)).map(|_| write(random)).collect(),
        new_length: match random.random_range(0..10) {
            0 | 1 => Some(0),
            2 => Some(random.random_range(1..150)),
            3 => Some(290_000),
            _ => None,
        },
    }
}

/// Draws one operation.
pub fn draw(random: &mut StdRng) -> Operation {
    let account = random.random_range(0..ACCOUNTS);
    let bucket = index_for(random, ShareKind::Immutable);
    let share = (bucket, random.random_range(0..NUMBERS));
    let secret = u8::from(random.random_bool(0.1));
    match random.random_range(0..100) {
        0..=13 => {
            let size = *[0, 1, 60, 100, 150, 100, 150].choose(random).expect("not empty");
            Operation::Allocate { account, index: bucket, numbers: numbers(random), size, secret: 0 }
        }
        14..=43 => {
            let start = random.random_range(0..100);
            let whole = random.random_bool(0.25);
            let end = random.random_range(start..=104).max(start + 1);
            let arrival = match random.random_range(0..20) {
                0 => Arrival::Short,
                1 => Arrival::Long,
                2 => Arrival::Broken,
                _ => Arrival::Whole,
            };
            let tag = u8::from(random.random_bool(0.08));
            Operation::Write { share, secret, percent: if whole { 0..100 } else { start..end }, tag, arrival }
        }
        44..=48 => Operation::Abort { share, secret },
        49..=50 => Operation::List { kind: kind(random), index: random.random_range(0..INDEXES) },
        51..=54 => {
            let start = random.random_range(0..120);
            let range = start..start + random.random_range(0..400_000);
            Operation::Read { kind: kind(random), share: key(random), range }
        }
        55..=59 => Operation::Renew { account, index: random.random_range(0..INDEXES) },
        60..=84 => {
            let index = index_for(random, ShareKind::Mutable);
            let enabler = 1 + u8::from(random.random_bool(0.06));
            let named = numbers(random).into_iter().map(|number| (number, vectors(random))).collect();
            let reads = (0..random.random_range(0..3)).map(|at| at * 40..at * 40 + 70).collect();
            Operation::ReadTestWrite { account, index, enabler, vectors: named, reads }
        }
        85..=86 => Operation::Advise { account, kind: kind(random), share: key(random) },
        87..=89 => Operation::Sweep,
        90 => {
            if random.random_bool(0.5) {
                Operation::RefreshSpace
            } else {
                Operation::Claim
            }
        }
        91 => Operation::Tick,
        92..=95 => {
            let steps = [1, 700, 1000, 1801, 4000, 86_400 / 2, 86_400, 8 * 86_400, 20 * 86_400];
            Operation::Step { seconds: *steps.choose(random).expect("not empty") }
        }
        96..=97 => {
            let quota = *[None, None, Some(0), Some(1500), Some(6000)].choose(random).expect("not empty");
            Operation::SetQuota { account, quota }
        }
        _ => {
            let active = [AccountState::Active; 3];
            let states = [active.as_slice(), &[AccountState::ReadOnly, AccountState::Suspended]].concat();
            Operation::SetState { account, state: *states.choose(random).expect("not empty") }
        }
    }
}

/// Draws a fault at one of the first calls, for some of the operations.
pub fn draw_fault(random: &mut StdRng, probability: f64) -> Option<(usize, Fault)> {
    use Fault::{
        BrokenStream, CrashAfter, CrashBefore, CrashInStream, ErrorAfter, ErrorBefore, Freeze, TornCrash, TornError,
    };
    let all =
        [ErrorBefore, ErrorAfter, CrashBefore, CrashAfter, TornError, TornCrash, BrokenStream, CrashInStream, Freeze];
    let fault = *all.choose(random).expect("not empty");
    random.random_bool(probability).then(|| (random.random_range(0..7), fault))
}
