//! The calls, about a handful of storage indexes so that they collide and often succeed, and what is known of the state.

use std::collections::BTreeMap;

use leasehold_e2e::foolscap::Storage;
use leasehold_foolscap::client::Canary;
use leasehold_foolscap::{RemoteReference, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::answer::{Answer, Plain};

/// Share numbers that are used.
const SHARES: u64 = 4;
/// Buckets are places below this, slots from it on.
const BUCKETS: usize = 3;
const PLACES: usize = 6;
/// More than any share may have.
const TOO_LARGE: u64 = 1 << 62;

/// One call.
#[derive(Clone, Debug)]
pub enum Call {
    Version,
    Allocate {
        place: usize,
        shares: Vec<u64>,
        size: u64,
    },
    Write {
        place: usize,
        share: u64,
        offset: u64,
        length: u64,
        other: bool,
    },
    Close {
        place: usize,
        share: u64,
    },
    Abort {
        place: usize,
        share: u64,
    },
    Buckets(usize),
    Read {
        place: usize,
        share: u64,
        offset: u64,
        length: u64,
    },
    AddLease(usize),
    ReadSlot {
        place: usize,
        shares: Vec<u64>,
        reads: Vec<(u64, u64)>,
    },
    WriteSlot {
        place: usize,
        enabler: u8,
        vectors: Vec<Vectors>,
        reads: Vec<(u64, u64)>,
    },
    Advise {
        place: usize,
        kind: &'static [u8],
        share: u64,
    },
    /// A method that no server has any more, or never had.
    Unknown(&'static str),
    /// A storage index of this length.
    OddIndex(usize),
    /// Allocates a share of this number, of this size.
    OddNumber(i64, i64),
    /// The bucket of a slot, or the slot of a bucket.
    OtherKind(usize),
}

/// What is asked of one share of a slot.
#[derive(Clone, Debug)]
pub struct Vectors {
    share: u64,
    tests: Vec<(u64, u64, Vec<u8>)>,
    writes: Vec<(u64, Vec<u8>)>,
    new_length: Option<u64>,
}

impl Call {
    pub fn name(&self) -> String {
        format!("{self:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    pub fn place(&self) -> Option<usize> {
        match self {
            Self::Allocate { place, .. }
            | Self::Write { place, .. }
            | Self::Close { place, .. }
            | Self::Abort { place, .. }
            | Self::Buckets(place)
            | Self::Read { place, .. }
            | Self::AddLease(place)
            | Self::ReadSlot { place, .. }
            | Self::WriteSlot { place, .. }
            | Self::Advise { place, .. }
            | Self::OtherKind(place) => Some(*place),
            Self::Version | Self::Unknown(_) | Self::OddIndex(_) | Self::OddNumber(..) => None,
        }
    }

    pub fn writes_nothing(&self) -> bool {
        matches!(self, Self::Write { length: 0, .. })
    }

    pub fn is_too_large(&self) -> bool {
        let too_large = |vectors: &Vectors| vectors.writes.iter().any(|(offset, _)| *offset == TOO_LARGE);
        matches!(self, Self::WriteSlot { vectors, .. } if vectors.iter().any(too_large))
    }
}

/// What is at a storage index, and what may be called there: by server, Python's first.
struct Place {
    index: [u8; 16],
    writers: BTreeMap<u64, (u64, [Option<RemoteReference>; 2])>,
    readers: BTreeMap<u64, [Option<RemoteReference>; 2]>,
    sizes: BTreeMap<u64, u64>,
}

pub struct World {
    random: StdRng,
    places: Vec<Place>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self { random: StdRng::seed_from_u64(seed), places: Vec::new() };
        for _ in 0..PLACES {
            let place = world.fresh();
            world.places.push(place);
        }
        world
    }

    fn fresh(&mut self) -> Place {
        let index = self.random.random();
        Place { index, writers: BTreeMap::new(), readers: BTreeMap::new(), sizes: BTreeMap::new() }
    }

    fn share(&mut self) -> u64 {
        self.random.random_range(0..SHARES)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// One of the keys most of the time.
    fn known(&mut self, keys: &[u64]) -> u64 {
        if keys.is_empty() || self.chance(5) { self.share() } else { keys[self.random.random_range(0..keys.len())] }
    }

    /// Draws the next call.
    pub fn next_call(&mut self) -> Call {
        let (bucket, slot) = (self.random.random_range(0..BUCKETS), self.random.random_range(BUCKETS..PLACES));
        let writing: Vec<u64> = self.places[bucket].writers.keys().copied().collect();
        let there: Vec<u64> = self.places[bucket].readers.keys().copied().collect();
        match self.random.random_range(0..100) {
            0..14 => {
                let count = self.random.random_range(0..3);
                let mut shares: Vec<u64> = (0..count).map(|_| self.share()).collect();
                shares.sort_unstable();
                shares.dedup();
                let size = if self.chance(10) { TOO_LARGE } else { self.random.random_range(1..300) };
                Call::Allocate { place: bucket, shares, size }
            }
            14..34 => {
                let share = self.known(&writing);
                let size = self.places[bucket].writers.get(&share).map_or(50, |(size, _)| *size);
                let offset = self.random.random_range(0..=size);
                let length = self.random.random_range(0..=size - offset + 1);
                Call::Write { place: bucket, share, offset, length, other: self.chance(10) }
            }
            34..41 => Call::Close { place: bucket, share: self.known(&writing) },
            41..44 => Call::Abort { place: bucket, share: self.known(&writing) },
            44..52 => Call::Buckets(bucket),
            52..62 => {
                let share = self.known(&there);
                let (offset, length) = (self.random.random_range(0..350), self.random.random_range(0..350));
                Call::Read { place: bucket, share, offset, length: if self.chance(5) { 1 << 40 } else { length } }
            }
            62..64 => Call::AddLease(self.random.random_range(0..PLACES)),
            64..72 => {
                let count = self.random.random_range(0..3);
                let shares = (0..count).map(|_| self.share()).collect();
                Call::ReadSlot { place: slot, shares, reads: self.reads() }
            }
            72..92 => self.write_slot(slot),
            92..94 => {
                let kind: &[u8] = if self.chance(50) { b"immutable" } else { b"mutable" };
                let share = self.share();
                Call::Advise { place: if kind == b"mutable" { slot } else { bucket }, kind, share }
            }
            94 => Call::Version,
            95 => Call::Unknown(if self.chance(50) { "renew_lease" } else { "cancel_lease" }),
            96 => Call::OddIndex([0, 1, 15, 17, 40][self.random.random_range(0..5)]),
            97 => {
                let (number, size) = [(256, 1), (-1, 1), (0, -1), (1000, 1)][self.random.random_range(0..4)];
                Call::OddNumber(number, size)
            }
            _ => Call::OtherKind(self.random.random_range(0..PLACES)),
        }
    }

    fn reads(&mut self) -> Vec<(u64, u64)> {
        let count = self.random.random_range(0..3);
        (0..count).map(|_| (self.random.random_range(0..200), self.random.random_range(0..300))).collect()
    }

    fn write_slot(&mut self, place: usize) -> Call {
        let mut vectors: Vec<Vectors> = Vec::new();
        for share in 0..SHARES {
            if !self.chance(40) {
                continue;
            }
            let size = self.places[place].sizes.get(&share).copied();
            let mut tests = Vec::new();
            if self.chance(40) {
                // Holds where there is nothing, or where the first byte is the one that all first writes begin with.
                tests.push((0, 1, if size.is_some_and(|size| size > 0) { vec![7] } else { Vec::new() }));
            }
            let writes = (0..self.random.random_range(0..3))
                .map(|number| {
                    let offset = if number == 0 && size.is_none() { 0 } else { self.random.random_range(0..150) };
                    let length = self.random.random_range(0..100);
                    let mut bytes: Vec<u8> = (0..length).map(|_| self.random.random()).collect();
                    if let (0, Some(first)) = (offset, bytes.first_mut()) {
                        *first = 7;
                    }
                    (offset, bytes)
                })
                .collect();
            let new_length = match self.random.random_range(0..10) {
                0 => Some(0),
                1 | 2 => Some(self.random.random_range(1..250)),
                _ => None,
            };
            vectors.push(Vectors { share, tests, writes, new_length });
        }
        if let Some(last) = vectors.last_mut()
            && self.random.random_range(0..100) < 2
        {
            last.writes.push((TOO_LARGE, vec![1]));
        }
        let enabler = if self.chance(93) { 1 } else { 2 };
        Call::WriteSlot { place, enabler, vectors, reads: self.reads() }
    }

    /// Sends a call to one of the servers.
    pub async fn send(&mut self, call: &Call, storage: &Storage, server: usize) -> Answer {
        let lease = || [Value::from(&[1; 32]), Value::from(&[2; 32])];
        let index = |place: usize| Value::from(&self.places[place].index);
        let call_storage = |method, arguments| storage.object.call(method, arguments);
        let allocate = |index: Value, shares: Vec<Value>, size: Value| {
            let [renew, cancel] = lease();
            call_storage("allocate_buckets", vec![index, renew, cancel, Value::set(shares), size, Canary::value()])
        };
        let result = match call {
            Call::Version => call_storage("get_version", vec![]).await,
            Call::Allocate { place, shares, size } => {
                let shares = shares.iter().map(|share| Value::from(*share)).collect();
                let (answer, writers) = Answer::of(allocate(index(*place), shares, Value::from(*size)).await);
                for (share, writer) in writers {
                    let known = self.places[*place].writers.entry(share).or_insert((0, [None, None]));
                    known.0 = *size;
                    known.1[server] = Some(writer);
                }
                return answer;
            }
            Call::Write { place, share, offset, length, other } => {
                let Some(writer) = self.writer(*place, *share, server) else { return Answer::Lost };
                let byte = |at: u64| (at % 251) as u8 ^ u8::from(*other);
                let bytes: Vec<u8> = (*offset..offset + length).map(byte).collect();
                writer.call("write", vec![Value::from(*offset), Value::from(bytes)]).await
            }
            Call::Close { place, share } => {
                let Some(writer) = self.writer(*place, *share, server) else { return Answer::Lost };
                writer.call("close", vec![]).await
            }
            Call::Abort { place, share } => {
                let Some(writer) = self.writer(*place, *share, server) else { return Answer::Lost };
                writer.call("abort", vec![]).await
            }
            Call::Buckets(place) => {
                let (answer, readers) = Answer::of(call_storage("get_buckets", vec![index(*place)]).await);
                for (share, reader) in readers {
                    self.places[*place].readers.entry(share).or_default()[server] = Some(reader);
                }
                return answer;
            }
            Call::Read { place, share, offset, length } => {
                let known = self.places[*place].readers.get(share).and_then(|known| known[server].clone());
                let Some(reader) = known else { return Answer::Lost };
                reader.call("read", vec![Value::from(*offset), Value::from(*length)]).await
            }
            Call::AddLease(place) => {
                let [renew, cancel] = lease();
                call_storage("add_lease", vec![index(*place), renew, cancel]).await
            }
            Call::ReadSlot { place, shares, reads } => {
                let shares = Value::list(shares.iter().map(|share| Value::from(*share)));
                call_storage("slot_readv", vec![index(*place), shares, pairs(reads)]).await
            }
            Call::WriteSlot { place, enabler, vectors, reads } => {
                let [renew, cancel] = lease();
                let secrets = Value::tuple([Value::from(&[*enabler; 32]), renew, cancel]);
                let vectors = Value::dict(vectors.iter().map(|one| (Value::from(one.share), one.to_value())));
                let arguments = vec![index(*place), secrets, vectors, pairs(reads)];
                call_storage("slot_testv_and_readv_and_writev", arguments).await
            }
            Call::Advise { place, kind, share } => {
                let arguments = vec![Value::from(*kind), index(*place), Value::from(*share), Value::from(b"odd")];
                call_storage("advise_corrupt_share", arguments).await
            }
            Call::Unknown(method) => call_storage(method, vec![index(0), Value::from(&[1; 32])]).await,
            Call::OddIndex(length) => call_storage("get_buckets", vec![Value::from(vec![1; *length])]).await,
            Call::OddNumber(number, size) => {
                let index = Value::from(&[number.unsigned_abs() as u8; 16]);
                allocate(index, vec![Value::from(*number)], Value::from(*size)).await
            }
            Call::OtherKind(place) if *place < BUCKETS => {
                call_storage("slot_readv", vec![index(*place), Value::list([]), pairs(&[(0, 10)])]).await
            }
            Call::OtherKind(place) => call_storage("get_buckets", vec![index(*place)]).await,
        };
        Answer::of(result).0
    }

    fn writer(&self, place: usize, share: u64, server: usize) -> Option<RemoteReference> {
        self.places[place].writers.get(&share).and_then(|(_, writers)| writers[server].clone())
    }

    /// Takes note of what a call has done, which both servers answered alike.
    pub fn learn(&mut self, call: &Call, answer: &Answer) {
        let Answer::Value(value) = answer else { return };
        // Only slots: a writer that has ended is asked now and then what it says to that; a new one takes its place.
        let (Call::WriteSlot { place, vectors, .. }, Plain::Tuple(parts)) = (call, value) else { return };
        if parts[0] != Plain::Boolean(true) {
            return;
        }
        let sizes = &mut self.places[*place].sizes;
        for one in vectors {
            let ends = one.writes.iter().map(|(offset, bytes)| offset + bytes.len() as u64);
            let size = ends.max().unwrap_or(0).max(sizes.get(&one.share).copied().unwrap_or(0));
            match one.new_length {
                Some(0) => sizes.remove(&one.share),
                Some(length) => sizes.insert(one.share, size.min(length)),
                None => sizes.insert(one.share, size),
            };
        }
    }

    /// Puts a new storage index in the place of one that the two servers may no longer agree on.
    pub fn retire(&mut self, call: &Call) {
        if let Some(place) = call.place() {
            self.places[place] = self.fresh();
        }
    }

    /// Gives up what is still being uploaded.
    pub async fn end(self) {
        for (_, writers) in self.places.into_iter().flat_map(|place| place.writers.into_values()) {
            for writer in writers.into_iter().flatten() {
                // Some have ended; and nobody looks at the answer.
                drop(writer.call("abort", vec![]).await);
            }
        }
    }
}

impl Vectors {
    fn to_value(&self) -> Value {
        let test = |(offset, size, specimen): &(u64, u64, Vec<u8>)| {
            Value::tuple([
                Value::from(*offset),
                Value::from(*size),
                Value::from(b"eq"),
                Value::from(specimen.as_slice()),
            ])
        };
        let write =
            |(offset, bytes): &(u64, Vec<u8>)| Value::tuple([Value::from(*offset), Value::from(bytes.as_slice())]);
        Value::tuple([
            Value::list(self.tests.iter().map(test)),
            Value::list(self.writes.iter().map(write)),
            self.new_length.map_or(Value::None, Value::from),
        ])
    }
}

fn pairs(reads: &[(u64, u64)]) -> Value {
    Value::list(reads.iter().map(|(offset, length)| Value::tuple([Value::from(*offset), Value::from(*length)])))
}
