//! Requests that change slots, and what they do to them.

use rand::Rng;

use crate::world::{Effect, Place, SHARES, Slot, Step, World};
use leasehold_e2e::gbs::cbor::{self, ReadTestWrite, TestWrite};
use leasehold_e2e::gbs::{Request, SecretKind};

/// A read-test-write of some shares: tests that hold or not, writes with holes and overlaps, cuts, removals.
pub fn read_test_write(world: &mut World) -> Step {
    let number = world.random.random_range(0..world.slots.len());
    let mut shares: Vec<(u64, TestWrite)> = Vec::new();
    for _ in 0..world.one_of(&[0, 1, 1, 1, 2, 3]) {
        let share = world.random.random_range(0..SHARES);
        if !shares.iter().any(|(other, _)| *other == share) {
            let vectors = test_write(world, number, share);
            shares.push((share, vectors));
        }
    }
    let mut tag = "";
    if let Some((_, last)) = shares.last_mut()
        && world.chance(2)
    {
        tag = "write beyond the largest slot";
        last.writes.push((world.one_of(&[1 << 62, u64::MAX, u64::MAX - 2]), vec![1; 5]));
        last.new_length = None;
    }
    let reads = (0..world.one_of(&[0, 1, 2])).map(|_| some_range(world)).collect();
    let vectors = ReadTestWrite { shares, reads };
    let right = world.slots[number].enabler;
    let enabler = match right {
        Some(right) if world.chance(93) => right,
        _ => world.random.random_range(0..world.secrets.len()),
    };
    let request = Request::new("POST", format!("/storage/v1/mutable/{}/read-test-write", world.slots[number].index))
        .secret(SecretKind::WriteEnabler, &world.secrets[enabler])
        .lease_secrets(&world.some_leases())
        .accept_cbor()
        .cbor(cbor::read_test_write(&vectors));
    Step::new(request, Place::Slot(number)).with_effect(Effect::ReadTestWrite(vectors, enabler)).tagged(tag)
}

fn some_range(world: &mut World) -> (u64, u64) {
    let offset = match world.random.random_range(0..20) {
        0 => world.one_of(&[u64::MAX, 1 << 40, 5000]),
        1..8 => 0,
        _ => world.random.random_range(0..300),
    };
    let size = match world.random.random_range(0..20) {
        0 => world.one_of(&[u64::MAX, 1 << 40]),
        1 => 0,
        _ => world.random.random_range(1..200),
    };
    (offset, size)
}

fn test_write(world: &mut World, number: usize, share: u64) -> TestWrite {
    let data = world.slots[number].shares.get(&share).cloned().unwrap_or_default();
    let mut tests = Vec::new();
    for _ in 0..world.one_of(&[0, 0, 1, 1, 2]) {
        let (offset, size) = some_range(world);
        let mut specimen = cut(&data, offset, size).to_vec();
        if world.chance(6) {
            // A test that fails: another byte, one too few, one too many.
            match world.random.random_range(0..3) {
                0 if !specimen.is_empty() => specimen[0] ^= 1,
                1 if !specimen.is_empty() => drop(specimen.pop()),
                _ => specimen.push(0),
            }
        }
        tests.push((offset, size, specimen));
    }
    let mut writes = Vec::new();
    for _ in 0..world.one_of(&[0, 1, 1, 2, 3]) {
        let offset = match world.random.random_range(0..10) {
            0..4 => 0,
            4 => world.random.random_range(0..100_000),
            5 => data.len() as u64,
            _ => world.random.random_range(0..400),
        };
        let length = if world.chance(10) { 0 } else { world.random.random_range(1..300) };
        let fill = world.random.random();
        writes.push((offset, vec![fill; length]));
    }
    let new_length = match world.random.random_range(0..20) {
        0..12 => None,
        12..14 => Some(0),
        14 => Some(u64::MAX),
        15 => Some(data.len() as u64),
        _ => Some(world.random.random_range(1..400)),
    };
    TestWrite { tests, writes, new_length }
}

/// The part of `data` that is in the range.
fn cut(data: &[u8], offset: u64, size: u64) -> &[u8] {
    let length = data.len() as u64;
    let (start, end) = (offset.min(length), offset.saturating_add(size).min(length));
    &data[start as usize..end as usize]
}

/// Does to the known slot what a read-test-write has done to the real ones.
pub fn apply(slot: &mut Slot, vectors: &ReadTestWrite, enabler: usize) {
    for (number, share) in &vectors.shares {
        if share.new_length == Some(0) {
            slot.shares.remove(number);
            continue;
        }
        let data = slot.shares.entry(*number).or_default();
        for (offset, bytes) in &share.writes {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            if data.len() < end {
                data.resize(end, 0);
            }
            data[start..end].copy_from_slice(bytes);
        }
        if let Some(length) = share.new_length
            && length < data.len() as u64
        {
            data.truncate(length as usize);
        }
    }
    slot.enabler = (!slot.shares.is_empty()).then(|| slot.enabler.unwrap_or(enabler));
}
