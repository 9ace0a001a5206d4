//! An account in the lease database.

use leasehold_core::account::{Account as Ledger, Usage};
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{AccountChange, CreateOutcome, Credential, LeaseDb, LeaseDbError, Result};
use leasehold_core::secret::Swissnum;

/// An account as the lease database knows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The account.
    pub account: Ledger,
    /// What it uses.
    pub usage: Usage,
    /// Its credentials that hold, newest first.
    pub credentials: Vec<Credential>,
}

/// Why there is no account yet.
const NOT_BEGUN: &str = "no pod serves from this lease database yet; accounts are made as soon as one does, and after the loss of \
                         a database that is when nobody has written to the backend for five minutes";

/// Looks an account up.
///
/// # Errors
/// The lease database does not answer.
pub async fn find<L: LeaseDb>(db: &L, name: &str) -> Result<Option<Known>> {
    let Some(account) = db.find_account(name.to_owned()).await? else { return Ok(None) };
    let now = db.now().await?;
    let usage = db.usage(account.id).await?;
    let mut credentials = db.list_credentials(account.id).await?;
    credentials.retain(|credential| credential.is_valid(now));
    Ok(Some(Known { account, usage, credentials }))
}

/// What an account shall be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its name in the lease database.
    pub name: &'a str,
    /// Its settings.
    pub change: &'a AccountChange,
    /// What opens it.
    pub newest: &'a Swissnum,
    /// How long what opened it before stays valid.
    pub overlap_seconds: i64,
}

/// Makes an account what it shall be: there, with these settings, opened by this swissnum. One that is not known is made, or is
/// the closed account `adopted` from then on.
///
/// # Errors
/// The lease database refused or does not answer.
pub async fn settle<L: LeaseDb>(
    db: &L,
    known: Option<Known>,
    adopted: Option<AccountId>,
    wanted: &Wanted<'_>,
) -> Result<Known> {
    let Wanted { name, change, newest, overlap_seconds } = wanted;
    let hash = newest.credential_hash();
    let Some(known) = known else {
        // A database that was made anew has yet to skip the numbers of the accounts before (`review.md` C5).
        if !db.deployment().await?.has_begun {
            return Err(LeaseDbError::Invalid(NOT_BEGUN.to_owned()));
        }
        // If another operator was first, the next reconcile finds what it made.
        let is_made = match adopted {
            Some(closed) => db.reopen_account(closed, (*name).to_owned(), (*change).clone(), hash).await?,
            None => {
                let made = db.create_account((*name).to_owned(), (*change).clone(), hash).await?;
                matches!(made, CreateOutcome::Created(_))
            }
        };
        if !is_made {
            return Err(LeaseDbError::Unavailable("the account was made meanwhile".into()));
        }
        return again(db, name).await;
    };
    let account = &known.account;
    let mut is_changed = false;
    if !known.credentials.iter().any(|credential| credential.hash == hash) {
        db.rotate_credential(account.id, hash, *overlap_seconds).await?;
        is_changed = true;
    }
    if differs(account, change) {
        db.change_account(account.id, (*change).clone()).await?;
        is_changed = true;
    }
    if is_changed { again(db, name).await } else { Ok(known) }
}

async fn again<L: LeaseDb>(db: &L, name: &str) -> Result<Known> {
    find(db, name).await?.ok_or_else(|| LeaseDbError::Unavailable("the account was closed meanwhile".into()))
}

/// Whether a change would change anything: each one makes all pods look at accounts again.
fn differs(account: &Ledger, change: &AccountChange) -> bool {
    change.state.is_some_and(|state| state != account.state)
        || change.quota_bytes.is_some_and(|quota| quota != account.quota_bytes)
        || change.lease_days.is_some_and(|days| days != account.lease_days)
        || change.message.as_ref().is_some_and(|message| *message != account.message)
        || change.keep_alive.is_some_and(|keep| keep != account.keep_alive)
}
