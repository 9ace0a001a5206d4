//! The end of an account: its credentials are revoked in the lease database before the object goes.

use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use leasehold_core::leasedb::LeaseDb;
use leasehold_crds::{Account, DeletionPolicy, FORCE_FINALIZE};

use super::{FINALIZER, dereference, ledger_name, status, target};
use crate::context::{Context, find};
use crate::error::Result;

/// Days until released leases end, where the spec does not say.
const GRACE_DAYS: i32 = 7;

/// Revokes the account, or says what it waits for.
pub(super) async fn delete(account: &Account, context: &Context) -> Result<Action> {
    if !account.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(Action::await_change());
    }
    if crate::controller::is_protected(account) {
        let message = "remove the annotation leasehold.dev/deletion-protection first";
        return blocked(account, context, "DeletionProtected", message.to_owned()).await;
    }
    let target = target(account);
    // Without its server or database there is nothing that the credentials open.
    let server = find(&context.stores.servers, &target);
    let database =
        server.and_then(|server| find(&context.stores.databases, &target.beside(&server.spec.lease_database_ref.name)));
    let Some(database) = database else { return end(account, context).await };
    let number = account.status.as_ref().and_then(|status| status.account_id.clone());
    let forced = account.annotations().get(FORCE_FINALIZE);
    if forced.is_some() && forced == number.as_ref() {
        let note = "the account's credentials may still be valid: the lease database was not asked";
        context.writer.event(account, true, "ForcedFinalize", note).await;
        return end(account, context).await;
    }
    let closed = match dereference::lease_db(&database, context).await? {
        Ok(db) => close(account, &db).await.map_err(|error| crate::database::sentence(&error)),
        Err(why) => Err(why),
    };
    match closed {
        Ok(None) => end(account, context).await,
        Ok(Some(number)) => {
            let (reason, note) = match account.spec.deletion.policy {
                DeletionPolicy::Retain => ("Detached", format!("account {number} is closed; its leases stay and age")),
                DeletionPolicy::Release => (
                    "LeasesReleased",
                    format!("account {number} is closed; its leases end in {} days", grace_days(account)),
                ),
            };
            tracing::info!(account = number, reason, "account closed");
            context.writer.event(account, false, reason, note).await;
            end(account, context).await
        }
        // The database goes as well, as it does with a whole namespace: it would wait for its server, that for this account.
        Err(why) if database.metadata.deletion_timestamp.is_some() => {
            let note =
                format!("the account's credentials may still be valid: its LeaseDatabase is being deleted, and {why}");
            context.writer.event(account, true, "ForcedFinalize", note).await;
            end(account, context).await
        }
        Err(why) => {
            let message = format!(
                "{why}; the account's addresses must be revoked first. To go without: annotate the Account with {FORCE_FINALIZE}={}",
                number.as_deref().unwrap_or_default()
            );
            blocked(account, context, "DatabaseUnavailable", message).await
        }
    }
}

/// Closes the account; its number if it was open.
async fn close<L: LeaseDb>(
    account: &Account,
    db: &L,
) -> std::result::Result<Option<String>, leasehold_core::leasedb::LeaseDbError> {
    let invalid = |error: crate::error::Error| leasehold_core::leasedb::LeaseDbError::Invalid(error.to_string());
    let name = ledger_name(account).map_err(invalid)?;
    let Some(found) = db.find_account(name).await? else { return Ok(None) };
    let release = account.spec.deletion.policy == DeletionPolicy::Release;
    let seconds = release.then(|| i64::from(grace_days(account)) * 86_400);
    db.close_account(found.id, seconds).await?;
    Ok(Some(found.id.to_string()))
}

fn grace_days(account: &Account) -> i32 {
    account.spec.deletion.grace_days.unwrap_or(GRACE_DAYS)
}

async fn end(account: &Account, context: &Context) -> Result<Action> {
    context.writer.finalizer(account, FINALIZER, false).await?;
    Ok(Action::await_change())
}

async fn blocked(account: &Account, context: &Context, reason: &'static str, message: String) -> Result<Action> {
    let new = status::blocked(account, reason, message, context.now());
    status::tell(account, &new, context).await;
    status::write(account, context, new).await?;
    Ok(Action::requeue(Duration::from_secs(10)))
}
