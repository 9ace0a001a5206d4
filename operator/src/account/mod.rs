//! Account: one customer. His account in the lease database, and the Secret with all that his client needs.
//!
//! The Secret is written before the database learns a swissnum's hash: an operator that dies in between finds the swissnum in
//! the Secret and goes on; the other way round there could be a credential that nobody knows (`api.md` 10.6).

mod adopt;
mod build;
mod credentials;
mod delete;
mod dereference;
#[cfg(test)]
mod fixtures;
mod ledger;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use leasehold_core::leasedb::LeaseDb;
use leasehold_crds::Account;

use self::credentials::{Step, Swissnums};
use self::status::Observed;
use crate::condition::Obstacle;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::{Key, Owner, account_name};

pub use status::is_worth_writing;

/// Waits until the account's credentials are revoked in the lease database.
pub const FINALIZER: &str = "leasehold.dev/account-revoke";

/// How soon an account is looked at again that waits for what is not watched: a namespace's labels, a Secret of somebody else.
const UNWATCHED: Duration = Duration::from_secs(10);

/// The server that an account refers to.
pub fn target(account: &Account) -> Key {
    let reference = &account.spec.server_ref;
    let namespace = reference.namespace.clone().or_else(|| account.namespace()).unwrap_or_default();
    Key { namespace, name: reference.name.clone() }
}

/// The name of an account in its server's lease database.
///
/// # Errors
/// The object does not come from an API server.
pub fn ledger_name(account: &Account) -> Result<String> {
    let key = Key::of(account);
    Ok(account_name(&key.namespace, &key.name, &account.uid().ok_or(Error::Incomplete("uid"))?))
}

/// The name of the Secret for the customer.
pub fn secret_name(account: &Account) -> String {
    account.spec.credentials.secret_name.clone().unwrap_or_else(|| format!("{}-tahoe", account.name_any()))
}

/// Brings an account, its Secret and its status up to date.
///
/// # Errors
/// The API server or the lease database refused or does not answer.
pub async fn reconcile(account: Arc<Account>, context: Arc<Context>) -> Result<Action> {
    context.stores.ready().await;
    let key = Key::of(&*account);
    if account.metadata.deletion_timestamp.is_some() {
        return delete::delete(&account, &context).await;
    }
    if crate::controller::is_paused(&*account) {
        status::write(&account, &context, status::paused(&account, context.now())).await?;
        return Ok(Action::requeue(context.resync_account(&key)));
    }
    let references = dereference::dereference(&account, &context).await?;
    let validated = match validate::validate(&account, &references) {
        Ok(validated) => validated,
        Err(obstacle) => {
            let new = status::refused(&account, obstacle, context.now());
            status::tell(&account, &new, &context).await;
            status::write(&account, &context, new).await?;
            return Ok(Action::requeue(UNWATCHED));
        }
    };
    context.writer.finalizer(&*account, FINALIZER, true).await?;
    let db = match dereference::lease_db(&validated.database, &context).await? {
        Ok(db) => db,
        Err(why) => {
            let new = status::without_database(&account, &validated, why, context.now());
            status::write(&account, &context, new).await?;
            return Ok(Action::requeue(Duration::from_secs(5)));
        }
    };
    let resync = context.resync_account(&key);
    let (new, next) = match settle(&account, &validated, &references, &db, &context).await {
        Ok(Ok(observed)) => {
            let new = status::observed(&account, &validated, &observed, context.now());
            let next = status::next_look(&new, context.now(), resync);
            (new, next)
        }
        Ok(Err(Refusal::Secret(obstacle))) => {
            (status::without_secret(&account, &validated, obstacle, context.now()), UNWATCHED)
        }
        Ok(Err(Refusal::Account(obstacle))) => (status::refused(&account, obstacle, context.now()), resync),
        Err(Error::LeaseDb(error)) => {
            let why = crate::database::sentence(&error);
            let new = status::without_database(&account, &validated, why, context.now());
            status::write(&account, &context, new).await?;
            return Err(error.into());
        }
        Err(error) => return Err(error),
    };
    status::tell(&account, &new, &context).await;
    status::write(&account, &context, new).await?;
    Ok(Action::requeue(next))
}

/// Why an account that its server accepts cannot be made.
enum Refusal {
    /// Nobody can have what the spec asks for.
    Account(Obstacle),
    /// The Secret cannot be written.
    Secret(Obstacle),
}

/// Makes Secret and lease database agree with the spec, the Secret first.
async fn settle<L: LeaseDb>(
    account: &Account,
    validated: &validate::Validated,
    references: &dereference::References,
    db: &L,
    context: &Context,
) -> Result<std::result::Result<Observed, Refusal>> {
    let owner = Owner::of(account)?;
    if let Some(obstacle) = credentials::conflict(references.secret.as_ref(), &owner) {
        return Ok(Err(Refusal::Secret(obstacle)));
    }
    let name = ledger_name(account)?;
    let known = ledger::find(db, &name).await?;
    let adopted = match adopt::find(account, known.as_ref(), db).await? {
        Ok(adopted) => adopted,
        Err(obstacle) => return Ok(Err(Refusal::Account(obstacle))),
    };
    let held = references.secret.as_ref().and_then(credentials::held);
    let valid = known.as_ref().map(|known| known.credentials.as_slice()).unwrap_or_default();
    let wanted = account.spec.credentials.generation;
    let step = credentials::next(held.as_ref(), wanted, known.is_some(), valid);
    let imported = match credentials::imported(account, references, &step) {
        Ok(imported) => imported,
        Err(obstacle) => return Ok(Err(Refusal::Secret(obstacle))),
    };
    let swissnums = credentials::carry_out(&step, held, imported, wanted, &context.entropy);
    let secret =
        write_secret(account, validated, references.secret.as_ref(), &swissnums, &step, &owner, context).await?;
    let overlap_seconds = i64::from(account.spec.credentials.overlap_hours) * 3600;
    let wanted = ledger::Wanted { name: &name, change: &validated.change, newest: &swissnums.newest, overlap_seconds };
    let known = ledger::settle(db, known, adopted, &wanted).await?;
    // A swissnum that has lapsed by now is not handed out for longer.
    let swissnums = swissnums.without_lapsed(&known.credentials);
    if swissnums.retiring.is_none() {
        write_secret(account, validated, Some(&secret), &swissnums, &Step::Keep, &owner, context).await?;
    }
    credentials::tell(account, &step, context).await;
    if let Some(number) = adopted {
        let note = format!("the shares and leases of account {number} are this Account's now");
        context.writer.event(account, false, "Adopted", note).await;
    }
    Ok(Ok(Observed { known, swissnums }))
}

async fn write_secret(
    account: &Account,
    validated: &validate::Validated,
    seen: Option<&Secret>,
    swissnums: &Swissnums,
    step: &Step,
    owner: &Owner,
    context: &Context,
) -> Result<Secret> {
    let wanted = build::secret(account, validated, swissnums, owner);
    match seen {
        Some(seen) if *step == Step::Keep && build::is_as_wanted(seen, &wanted) => Ok(seen.clone()),
        seen => context.writer.swap_secret(wanted, seen).await,
    }
}
