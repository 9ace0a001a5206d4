use leasehold_core::account::{Account as Ledger, AccountState, Usage};
use leasehold_core::clock::Entropy;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::Credential;
use serde_json::json;

use super::super::fixtures::{account, validated};
use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

fn seen(used: u64, retiring: Option<(i64, Option<i64>)>) -> Observed {
    let ledger = Ledger {
        id: AccountId::FIRST_DECLARED,
        name: "n".to_owned(),
        state: AccountState::Active,
        quota_bytes: None,
        lease_days: 31,
        message: String::new(),
        created_at: NOW,
        keep_alive: KeepAlive::None,
    };
    let swissnum = |seed| Swissnum::generate(&Entropy::from_seed(seed));
    let credential = |seed, not_after: Option<i64>, used: Option<i64>| Credential {
        account: ledger.clone(),
        hash: swissnum(seed).credential_hash(),
        not_after: not_after.map(Timestamp::from_seconds),
        last_used_at: used.map(Timestamp::from_seconds),
        created_at: NOW,
    };
    let mut credentials = vec![credential(1, None, None)];
    credentials.extend(retiring.map(|(end, used)| credential(2, Some(end), used)));
    let usage = Usage { used_bytes: used, reserved_bytes: 0, shares: 3 };
    let swissnums = Swissnums { newest: swissnum(1), retiring: None, generation: 1 };
    Observed { known: Known { account: ledger.clone(), usage, credentials }, swissnums }
}

fn reason(status: &AccountStatus, type_: &str) -> Option<String> {
    condition::find(&status.conditions, type_).map(|found| found.reason.clone())
}

fn told(spec: &serde_json::Value, seen: &Observed) -> AccountStatus {
    let account = account(spec);
    observed(&account, &validated(&account), seen, NOW)
}

#[test]
fn a_settled_account_is_ready_and_nothing_else() {
    let status = told(&json!({ "quota": { "hard": "100" } }), &seen(41, None));
    assert!(condition::holds(&status.conditions, "Ready"));
    for absent in ["Reconciling", "Stalled", "QuotaExceeded", "Suspended"] {
        assert_eq!(reason(&status, absent), None);
    }
    assert_eq!(reason(&status, "RotationInProgress").as_deref(), Some("Settled"));
    let usage = status.usage.expect("it is counted");
    assert_eq!((usage.percent, usage.storage_bytes), (Some(41), 41));
    assert_eq!(status.account_id.as_deref(), Some("16"));
}

#[test]
fn quota_access_and_rotation_are_explained() {
    let spec = json!({ "quota": { "hard": "100", "soft": "90" }, "administrative": { "access": "ReadOnly" } });
    let status = told(&spec, &seen(100, Some((NOW.seconds() + 60, Some(NOW.seconds() - 60)))));
    assert_eq!(reason(&status, "QuotaExceeded").as_deref(), Some("OverHard"));
    assert_eq!(reason(&status, "QuotaNearLimit").as_deref(), Some("OverSoft"));
    assert_eq!(reason(&status, "Suspended").as_deref(), Some("ByProvider"));
    assert_eq!(reason(&status, "RotationInProgress").as_deref(), Some("OldStillInUse"));
    assert_eq!(next_look(&status, NOW, Duration::from_secs(900)), Duration::from_secs(61));
    let unused = told(&json!({}), &seen(0, Some((NOW.seconds() + 60, None))));
    assert_eq!(reason(&unused, "RotationInProgress").as_deref(), Some("OverlapRunning"));
}

#[test]
fn usage_is_written_when_it_has_moved_and_not_too_often() {
    let old = |used: i64, percent: Option<i64>, age: i64| AccountUsage {
        storage: String::new(),
        storage_bytes: used,
        reserved_bytes: 0,
        shares: 1,
        percent,
        measured_at: time(Timestamp::from_seconds(NOW.seconds() - age)),
    };
    let hard = Some(10_000);
    for (case, old, used, hard, expected) in [
        ("nothing moved", old(5000, Some(50), 900), 5000, hard, false),
        ("less than a percent", old(5000, Some(50), 900), 5050, hard, false),
        ("more than a percent", old(5000, Some(50), 900), 5200, hard, true),
        ("but just now", old(5000, Some(50), 10), 5200, hard, false),
        ("over the quota, at once", old(9000, Some(90), 10), 10_000, hard, true),
        ("another quota, at once", old(5000, Some(50), 10), 5000, Some(20_000), true),
        ("no quota", old(5000, None, 900), 6000, None, true),
        ("the first byte", old(0, None, 900), 1, None, true),
    ] {
        assert_eq!(is_worth_writing(&old, used, 0, hard, NOW), expected, "{case}");
    }
}

#[test]
fn an_account_that_is_refused_waits_for_a_person() {
    let obstacle = Obstacle::Passing("NamespaceNotAllowed", "ask".to_owned());
    let status = refused(&account(&json!({})), obstacle, NOW);
    assert_eq!(reason(&status, "Accepted").as_deref(), Some("NamespaceNotAllowed"));
    assert!(condition::holds(&status.conditions, "Stalled"));
}
