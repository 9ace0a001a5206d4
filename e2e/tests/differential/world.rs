//! What the requests are about: a handful of storage indexes, and what is known to be stored there, so that the random
//! requests collide and often succeed.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::answer::Answer;
use crate::{immutable, mutable, odd};
use leasehold_e2e::gbs::cbor::{self, ReadTestWrite};
use leasehold_e2e::gbs::{Request, storage_index_text};

/// Share numbers that are used.
pub const SHARES: u64 = 5;
const BUCKETS: usize = 4;
const SLOTS: usize = 4;

/// Oddities after which the two servers may hold different things although they gave the same answer.
const RETIRING: [&str; 4] = ["Accept", "beyond the size", "body shorter than its range", "other kind"];

/// Which storage index a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A bucket of the world.
    Bucket(usize),
    /// A slot of the world.
    Slot(usize),
    /// Another, or none.
    None,
}

/// Which endpoint a request is for, as far as comparing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// A share is read: the type of every answer matters.
    Read,
    /// The version document: its numbers differ.
    Version,
    /// All others.
    Other,
}

/// What a request does if it succeeds.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Nothing that later requests need to know.
    None,
    /// Begins uploads of this size under the secret of this number.
    Allocate(u64, usize),
    /// Writes a piece of this share; the number of bytes decides what Python keeps of a refused one.
    Write(u64),
    /// Ends the upload of this share.
    Abort(u64),
    /// Changes a slot under the write enabler of this number.
    ReadTestWrite(ReadTestWrite, usize),
}

/// One request of a sequence.
#[derive(Debug, Clone)]
pub struct Step {
    /// The request.
    pub request: Request,
    /// What is odd about it; accepted differences refer to this.
    pub tag: &'static str,
    /// What it is about.
    pub place: Place,
    /// Which endpoint it is for.
    pub endpoint: Endpoint,
    /// What it does.
    pub effect: Effect,
}

impl Step {
    /// A step without effect and oddity.
    pub fn new(request: Request, place: Place) -> Self {
        Self { request, tag: "", place, endpoint: Endpoint::Other, effect: Effect::None }
    }

    /// Says what is odd about it.
    #[must_use]
    pub fn tagged(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    /// Says what it does.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Says which endpoint it is for.
    #[must_use]
    pub fn at_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = endpoint;
        self
    }
}

/// An upload in progress.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The allocated size.
    pub size: u64,
    /// The number of its secret.
    pub secret: usize,
}

/// An immutable storage index.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its text form.
    pub index: String,
    /// What the bytes of its shares are made from.
    pub salt: u64,
    /// Uploads in progress by share number.
    pub uploads: BTreeMap<u64, Upload>,
    /// Sizes of finished shares by share number.
    pub finished: BTreeMap<u64, u64>,
}

impl Bucket {
    /// The bytes `offset..offset + length` of a share; another `version` differs in every byte.
    pub fn content(&self, share: u64, version: u64, offset: u64, length: u64) -> Vec<u8> {
        let seed = self.salt.wrapping_add(share * 7 + version * 101);
        (offset..offset + length)
            .map(|at| (at.wrapping_mul(31) ^ (at >> 8).wrapping_mul(17)).wrapping_add(seed) as u8)
            .collect()
    }
}

/// A mutable storage index.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its text form.
    pub index: String,
    /// The number of its write enabler, as long as it has shares.
    pub enabler: Option<usize>,
    /// Shares by number.
    pub shares: BTreeMap<u64, Vec<u8>>,
}

/// All of it, with the source of randomness.
pub struct World {
    /// Decides everything.
    pub random: StdRng,
    /// Immutable storage indexes.
    pub buckets: Vec<Bucket>,
    /// Mutable storage indexes.
    pub slots: Vec<Slot>,
    /// Upload secrets, and by the way write enablers.
    pub secrets: Vec<[u8; 32]>,
    /// Pairs of lease secrets.
    pub leases: Vec<[[u8; 32]; 2]>,
}

impl World {
    /// A world of which nothing is stored yet.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let secrets = (0..3).map(|_| random.random()).collect();
        let leases = (0..2).map(|_| [random.random(), random.random()]).collect();
        let mut world = Self { random, buckets: Vec::new(), slots: Vec::new(), secrets, leases };
        for _ in 0..BUCKETS {
            let bucket = world.fresh_bucket();
            world.buckets.push(bucket);
        }
        for _ in 0..SLOTS {
            let slot = world.fresh_slot();
            world.slots.push(slot);
        }
        world
    }

    /// A storage index nobody knows.
    pub fn fresh_index(&mut self) -> String {
        storage_index_text(&self.random.random())
    }

    fn fresh_bucket(&mut self) -> Bucket {
        let (index, salt) = (self.fresh_index(), self.random.random());
        Bucket { index, salt, uploads: BTreeMap::new(), finished: BTreeMap::new() }
    }

    fn fresh_slot(&mut self) -> Slot {
        Slot { index: self.fresh_index(), enabler: None, shares: BTreeMap::new() }
    }

    /// True with this chance in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        *choices.choose(&mut self.random).expect("lists of choices are constant and not empty")
    }

    /// A pair of lease secrets.
    pub fn some_leases(&mut self) -> [[u8; 32]; 2] {
        self.leases[self.random.random_range(0..self.leases.len())]
    }

    /// A storage index of either kind: the path segment for its kind, its text, where it is.
    pub fn some_place(&mut self) -> (&'static str, String, Place) {
        if self.chance(50) {
            let number = self.random.random_range(0..BUCKETS);
            ("immutable", self.buckets[number].index.clone(), Place::Bucket(number))
        } else {
            let number = self.random.random_range(0..SLOTS);
            ("mutable", self.slots[number].index.clone(), Place::Slot(number))
        }
    }

    /// A share number, most of the time of a share that is there.
    pub fn some_share(&mut self, place: Place) -> u64 {
        let there: Vec<u64> = match place {
            Place::Bucket(number) => self.buckets[number].finished.keys().copied().collect(),
            Place::Slot(number) => self.slots[number].shares.keys().copied().collect(),
            Place::None => Vec::new(),
        };
        if there.is_empty() || self.chance(10) { self.random.random_range(0..SHARES) } else { self.one_of(&there) }
    }

    /// The length of a share that is there, or something like it.
    pub fn some_length(&mut self, place: Place, share: u64) -> u64 {
        let known = match place {
            Place::Bucket(number) => self.buckets[number].finished.get(&share).copied(),
            Place::Slot(number) => self.slots[number].shares.get(&share).map(|data| data.len() as u64),
            Place::None => None,
        };
        known.unwrap_or(100)
    }

    /// Draws the next request.
    pub fn next_step(&mut self) -> Step {
        match self.random.random_range(0..100) {
            0..22 => immutable::allocate(self),
            22..40 => immutable::write(self),
            40..44 => immutable::abort(self),
            44..64 => mutable::read_test_write(self),
            64..76 => odd::read(self),
            76..81 => odd::list(self),
            81..84 => odd::lease(self),
            84..87 => odd::corrupt(self),
            _ => odd::spoiled(self),
        }
    }

    /// Takes note of what a request has done, by the answer of the Python server.
    pub fn learn(&mut self, step: &Step, answer: &Answer) {
        if RETIRING.contains(&step.tag) {
            return self.retire(step.place);
        }
        match (&step.effect, step.place) {
            (Effect::Allocate(size, secret), Place::Bucket(number)) if answer.status == 200 => {
                let granted = cbor::decode(&answer.body).and_then(|v| cbor::number_set(cbor::field(&v, "allocated")?));
                for share in granted.unwrap_or_default() {
                    self.buckets[number].uploads.insert(share, Upload { size: *size, secret: *secret });
                }
            }
            (Effect::Write(share), Place::Bucket(number)) => match answer.status {
                201 => {
                    let bucket = &mut self.buckets[number];
                    if let Some(upload) = bucket.uploads.remove(share) {
                        bucket.finished.insert(*share, upload.size);
                    }
                }
                // Python has perhaps kept the first of several pieces of 64 KiB, ours keeps none [W].
                409 if step.request.body.len() > 65536 => self.retire(step.place),
                _ => {}
            },
            (Effect::Abort(share), Place::Bucket(number)) if answer.status == 200 => {
                self.buckets[number].uploads.remove(share);
            }
            (Effect::ReadTestWrite(vectors, enabler), Place::Slot(number)) if answer.status == 200 => {
                let held = cbor::read_test_write_result(&answer.body).is_ok_and(|(success, _)| success);
                if held {
                    mutable::apply(&mut self.slots[number], vectors, *enabler);
                }
            }
            _ => {}
        }
    }

    /// Puts a new storage index in the place of one that the two servers no longer agree on.
    pub fn retire(&mut self, place: Place) {
        match place {
            Place::Bucket(number) => self.buckets[number] = self.fresh_bucket(),
            Place::Slot(number) => self.slots[number] = self.fresh_slot(),
            Place::None => {}
        }
    }
}
