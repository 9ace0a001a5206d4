//! What happens to pods, to their database and to their object store while clients are at work. Every fault is over
//! when its function returns, and nothing of it is left.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::pods::Services;
use leasehold_e2e_services::s3_proxy::{Fault, Operation, Rule, When};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// How long a pod lives between two ends of it.
const LIFE_MILLISECONDS: std::ops::Range<u64> = 300..2_500;
/// How long things go well between two faults of a service.
const PEACE_MILLISECONDS: std::ops::Range<u64> = 200..1_200;
/// How long a service does badly.
const FAULT_TIME: Duration = Duration::from_millis(1_500);
/// How often a fault that strikes once is set up again.
const STRIKE_TIME: Duration = Duration::from_millis(60);

/// Draws times and faults.
pub fn random(seed: u64, purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(purpose))
}

fn pause(random: &mut StdRng, milliseconds: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.random_range(milliseconds)));
}

/// Kills one process after another (`kill -9`) and starts it again, until the deadline.
///
/// # Errors
/// If one does not start.
pub fn kill_again_and_again(servers: &mut [Server], random: &mut StdRng, deadline: Instant) -> Result<()> {
    while Instant::now() < deadline {
        pause(random, LIFE_MILLISECONDS);
        let chosen = random.random_range(0..servers.len());
        servers[chosen].expect_running()?;
        println!("now {} is killed", servers[chosen].name());
        servers[chosen].kill()?;
        // The others do without it for a moment.
        pause(random, 0..500);
        servers[chosen].restart()?;
    }
    Ok(())
}

/// Stops one process in the middle of whatever it does (SIGSTOP), and lets it go on after `time`, until the deadline.
///
/// # Errors
/// If it cannot be stopped, or has ended.
pub fn freeze_again_and_again(
    server: &mut Server,
    random: &mut StdRng,
    time: Duration,
    deadline: Instant,
) -> Result<()> {
    while Instant::now() < deadline {
        pause(random, LIFE_MILLISECONDS);
        println!("now {} stands still", server.name());
        server.freeze()?;
        thread::sleep(time);
        server.thaw()?;
    }
    server.expect_running()
}

/// One way in which a service fails.
type Misfortune = (&'static str, fn(&mut Services, &mut StdRng) -> Result<()>);

/// What happens to PostgreSQL and on the way to it.
pub const OF_DATABASE: &[Misfortune] = &[
    ("connections are cut", |services, _| {
        services.database.cut_all();
        Ok(())
    }),
    ("connections are cut behind their COMMIT", |services, random| {
        again_and_again(|| services.database.cut_after_commit_sent(random.random_range(1..4)));
        Ok(())
    }),
    ("connections are cut before their COMMIT", |services, random| {
        again_and_again(|| services.database.cut_before_commit(random.random_range(1..4)));
        Ok(())
    }),
    ("nothing gets through", |services, _| {
        services.database.stall();
        thread::sleep(FAULT_TIME);
        services.database.resume();
        Ok(())
    }),
    ("connections are refused", |services, _| {
        services.database.refuse(true);
        services.database.cut_all();
        thread::sleep(FAULT_TIME);
        services.database.refuse(false);
        Ok(())
    }),
    ("the database is restarted at once", |services, _| services.primary.restart()),
    ("the database is killed", |services, _| {
        services.primary.kill()?;
        services.primary.start_again()
    }),
    ("the database is frozen", |services, _| {
        services.primary.freeze()?;
        thread::sleep(FAULT_TIME);
        services.primary.thaw()
    }),
    ("the standby takes over", |services, _| services.fail_over()),
];

/// What happens to the object store and on the way to it.
pub const OF_STORE: &[Misfortune] = &[
    ("the store fails now and then", |services, _| {
        spell(services, &[Rule::any(When::Every(3), Fault::INTERNAL_ERROR)])
    }),
    ("the store is too busy", |services, _| spell(services, &[Rule::any(When::Every(2), Fault::SLOW_DOWN)])),
    ("the store is down", |services, _| spell(services, &[Rule::any(When::Always, Fault::SLOW_DOWN)])),
    ("requests are lost", |services, _| spell(services, &[Rule::any(When::Every(3), Fault::ResetBefore)])),
    ("answers are lost", |services, _| spell(services, &[Rule::any(When::Every(3), Fault::ResetAfter)])),
    ("answers break off", |services, _| {
        let rule = |every, fault| Rule::new(Operation::Get, When::Every(every), fault);
        let cut = rule(2, Fault::CutResponse { bytes: 40 });
        spell(services, &[cut, rule(3, Fault::ShortenResponse { bytes: 30 })])
    }),
    ("objects break off on their way", |services, _| {
        spell(services, &[Rule::new(Operation::Put, When::Every(2), Fault::CutRequest { bytes: 100 })])
    }),
    ("answers take their time", |services, _| {
        let slow = Rule::any(When::Every(4), Fault::Delay(Duration::from_millis(400)));
        spell(services, &[slow, Rule::any(When::Every(5), Fault::Stall(Duration::from_millis(300)))])
    }),
    ("connections to the store are cut", |services, _| {
        services.s3.cut_all();
        Ok(())
    }),
];

/// Lets misfortunes happen one after another, each at least once, until the deadline.
///
/// # Errors
/// If a service cannot be mended.
pub fn befall(
    services: &mut Services,
    misfortunes: &[Misfortune],
    random: &mut StdRng,
    deadline: Instant,
) -> Result<()> {
    loop {
        let mut order = misfortunes.to_vec();
        order.shuffle(random);
        for (name, happen) in order {
            pause(random, PEACE_MILLISECONDS);
            println!("now {name}");
            happen(services, random).with_context(|| format!("while {name}"))?;
        }
        if Instant::now() >= deadline {
            return Ok(());
        }
    }
}

fn spell(services: &Services, rules: &[Rule]) -> Result<()> {
    for rule in rules {
        services.s3.add_rule(rule.clone());
    }
    thread::sleep(FAULT_TIME);
    services.s3.clear_rules();
    Ok(())
}

fn again_and_again(mut strike: impl FnMut()) {
    let end = Instant::now() + FAULT_TIME;
    while Instant::now() < end {
        strike();
        thread::sleep(STRIKE_TIME);
    }
}
