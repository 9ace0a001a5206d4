//! An independent client that works while a story changes the world around it, and forgives nothing: it repeats no request,
//! so every refusal, every broken connection and every answer that does not come is a failure.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::story::bytes;

use super::gbs::{Hand, asked};

/// Workers, each with a connection of its own.
const WORKERS: u64 = 4;
const SHARE_BYTES: usize = 60_000;
const PIECES: usize = 3;
const SLOT_BYTES: usize = 2_000;
/// Between two rounds of a worker, so that the machine is left to others as well.
const REST: Duration = Duration::from_millis(20);
/// No worker has so many rounds.
const NUMBERS: u64 = 1 << 32;

/// Lets workers store, read, renew and change shares without pause while `change` happens. Gives how many requests there
/// were; each of them was answered as it should be.
pub fn beside<T>(nurl: &Nurl, seed: u64, change: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    at_pace(nurl, seed, WORKERS, REST, change)
}

/// As [`beside`], by so many workers with so much rest between their rounds.
pub fn at_pace<T>(
    nurl: &Nurl,
    seed: u64,
    workers: u64,
    rest: Duration,
    change: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let (is_over, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let (is_over, requests) = (&is_over, &requests);
                scope.spawn(move || {
                    let worked = asked(work(nurl, (seed + worker) * NUMBERS, rest, is_over, requests));
                    worked.with_context(|| format!("independent client {worker}"))
                })
            })
            .collect();
        let changed = change();
        is_over.store(true, Ordering::SeqCst);
        let worked: Result<()> =
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
        worked.and(changed)
    })?;
    Ok((outcome, requests.into_inner()))
}

async fn work(nurl: &Nurl, first: u64, rest: Duration, is_over: &AtomicBool, requests: &AtomicU64) -> Result<()> {
    let mut hand = Hand::new(nurl)?;
    // A slot and shares of its own: numbers name storage indexes.
    let (slot, mut number, mut content) = (first, first, Vec::new());
    while !is_over.load(Ordering::SeqCst) {
        number += 1;
        hand.store_slowly(number, SHARE_BYTES, PIECES).await?;
        ensure!(hand.has(number, SHARE_BYTES).await?, "share {number} was acknowledged and cannot be read");
        let renewed = hand.renew(number).await?;
        ensure!(renewed == 204, "a renewal gets {renewed}");
        let next = bytes(number, SLOT_BYTES);
        hand.put(slot, &content, &next).await?;
        content = next;
        requests.fetch_add(PIECES as u64 + 4, Ordering::SeqCst);
        tokio::time::sleep(rest).await;
    }
    for number in first + 1..=number {
        ensure!(hand.has(number, SHARE_BYTES).await?, "share {number} was acknowledged and is gone");
    }
    Ok(())
}
