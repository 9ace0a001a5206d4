//! An account in the lease database.

use leasehold_core::account::{Account as Ledger, Usage};
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

/// Makes an account what it shall be: there, with these settings, opened by this swissnum.
///
/// # Errors
/// The lease database refused or does not answer.
pub async fn settle<L: LeaseDb>(
    db: &L,
    name: &str,
    known: Option<Known>,
    change: &AccountChange,
    newest: &Swissnum,
    overlap_seconds: i64,
) -> Result<Known> {
    let hash = newest.credential_hash();
    let mut is_changed = false;
    let account = match &known {
        Some(known) => known.account.clone(),
        None => {
            is_changed = true;
            match db.create_account(name.to_owned(), change.clone(), hash).await? {
                CreateOutcome::Created(account) => account,
                // Another operator was first; the next reconcile finds what it made.
                CreateOutcome::NameTaken => {
                    return Err(LeaseDbError::Unavailable("the account was made meanwhile".into()));
                }
            }
        }
    };
    if let Some(known) = &known {
        if !known.credentials.iter().any(|credential| credential.hash == hash) {
            db.rotate_credential(account.id, hash, overlap_seconds).await?;
            is_changed = true;
        }
        if differs(&account, change) {
            db.change_account(account.id, change.clone()).await?;
            is_changed = true;
        }
    }
    match known {
        Some(known) if !is_changed => Ok(known),
        _ => find(db, name).await?.ok_or_else(|| LeaseDbError::Unavailable("the account was closed meanwhile".into())),
    }
}

/// Whether a change would change anything: each one makes all pods look at accounts again.
fn differs(account: &Ledger, change: &AccountChange) -> bool {
    change.state.is_some_and(|state| state != account.state)
        || change.quota_bytes.is_some_and(|quota| quota != account.quota_bytes)
        || change.lease_days.is_some_and(|days| days != account.lease_days)
        || change.message.as_ref().is_some_and(|message| *message != account.message)
        || change.keep_alive.is_some_and(|keep| keep != account.keep_alive)
}
