use leasehold_core::account::{Account as Ledger, AccountState};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::id::AccountId;
use serde_json::json;

use super::super::fixtures::{account, owner, validated};
use super::*;

fn swissnums(seed: u64, generation: i64) -> Swissnums {
    Swissnums { newest: Swissnum::generate(&Entropy::from_seed(seed)), retiring: None, generation }
}

fn credential(swissnum: &Swissnum, not_after: Option<i64>) -> Credential {
    let account = Ledger {
        id: AccountId::FIRST_DECLARED,
        name: "n".to_owned(),
        state: AccountState::Active,
        quota_bytes: None,
        lease_days: 31,
        message: String::new(),
        created_at: Timestamp::from_seconds(0),
        keep_alive: KeepAlive::None,
    };
    Credential {
        account,
        hash: swissnum.credential_hash(),
        not_after: not_after.map(Timestamp::from_seconds),
        last_used_at: None,
        created_at: Timestamp::from_seconds(0),
    }
}

#[test]
fn each_state_of_secret_and_database_leads_to_one_step() {
    let held = swissnums(1, 1);
    let valid = [credential(&held.newest, None)];
    let lapsing = [credential(&held.newest, Some(99))];
    let other = [credential(&swissnums(2, 1).newest, None)];
    for (case, held, wanted, exists, known, step) in [
        ("a new account", None, 1, false, &[][..], Step::Begin),
        ("all is well", Some(&held), 1, true, &valid[..], Step::Keep),
        ("the spec asks for another", Some(&held), 2, true, &valid[..], Step::Rotate),
        ("the Secret was deleted", None, 1, true, &valid[..], Step::Replace),
        ("an older Secret was put back", Some(&held), 1, true, &lapsing[..], Step::Replace),
        ("died between Secret and database", Some(&held), 2, true, &other[..], Step::Rotate),
        ("died after a rotation's Secret", Some(&held), 1, true, &other[..], Step::Keep),
        ("the database was lost", Some(&held), 1, false, &[][..], Step::Keep),
    ] {
        assert_eq!(next(held, wanted, exists, known), step, "{case}");
    }
}

#[test]
fn a_rotation_keeps_the_old_swissnum_until_it_lapses() {
    let old = swissnums(1, 1);
    let rotated = carry_out(&Step::Rotate, Some(old.clone()), None, 2, &Entropy::from_seed(9));
    assert_eq!(rotated.generation, 2);
    assert_ne!(rotated.newest.reveal(), old.newest.reveal());
    let retiring = rotated.retiring.as_ref().expect("the old one lapses");
    assert_eq!(retiring.reveal(), old.newest.reveal());
    let both = [credential(&rotated.newest, None), credential(&old.newest, Some(99))];
    assert!(rotated.clone().without_lapsed(&both).retiring.is_some());
    assert!(rotated.without_lapsed(&both[..1]).retiring.is_none());
}

#[test]
fn a_secret_is_read_back_and_one_that_was_tampered_with_is_not() {
    let account = account(&json!({}));
    let written = swissnums(1, 3);
    let secret = super::super::build::secret(&account, &validated(&account), &written, &owner(&account));
    let read = held(&secret).expect("as it was left");
    assert_eq!((read.newest.reveal(), read.generation), (written.newest.reveal(), 3));
    let mut tampered = secret.clone();
    let own = k8s_openapi::ByteString(b"guessme".to_vec());
    tampered.data.as_mut().expect("data").insert(SWISSNUM.to_owned(), own);
    assert!(held(&tampered).is_none());
}

#[test]
fn a_foreign_secret_is_a_conflict() {
    let account = account(&json!({}));
    let secret = super::super::build::secret(&account, &validated(&account), &swissnums(1, 1), &owner(&account));
    assert_eq!(conflict(None, &owner(&account)), None);
    assert_eq!(conflict(Some(&secret), &owner(&account)), None);
    let mut foreign = secret;
    foreign.metadata.owner_references = None;
    let Some(Obstacle::Lasting(reason, text)) = conflict(Some(&foreign), &owner(&account)) else {
        panic!("it would be overwritten");
    };
    assert_eq!(reason, "SecretConflict");
    assert!(text.contains("alice-tahoe") && text.contains("remove it"), "{text}");
}

#[test]
fn only_long_plain_swissnums_are_imported_and_only_at_the_beginning() {
    let account = account(&json!({ "credentials": { "importFrom": { "name": "old", "key": "swissnum" } } }));
    let with = |text: &str| {
        let data = std::collections::BTreeMap::from([("swissnum".to_owned(), k8s_openapi::ByteString(text.into()))]);
        let import = Secret { data: Some(data), ..Secret::default() };
        let server = super::super::fixtures::server(&json!({}));
        References { import: Some(import), ..super::super::fixtures::references(server) }
    };
    let long = "a".repeat(52);
    let found = imported(&account, &with(&format!("{long}\n")), &Step::Begin).expect("good").expect("one");
    assert_eq!(found.reveal(), long);
    assert!(imported(&account, &with(&long), &Step::Rotate).expect("good").is_none());
    for bad in ["short", "with/slashes/with/slashes/with/slashes"] {
        assert!(imported(&account, &with(bad), &Step::Begin).is_err(), "{bad}");
    }
}
