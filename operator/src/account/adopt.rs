//! Taking over what a deleted Account has left: shares, leases and usage, under the same number.

use kube::ResourceExt;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{LeaseDb, Result};
use leasehold_crds::Account;

use super::ledger::Known;
use crate::condition::Obstacle;
use crate::names::is_account_of;

/// The closed account that is to be opened again: `None` if none is asked for, or it is this Account's already.
///
/// Numbers can be guessed, so only what an Account of the same namespace has left can be taken.
///
/// # Errors
/// The lease database does not answer; within, why it cannot be taken.
pub async fn find<L: LeaseDb>(
    account: &Account,
    known: Option<&Known>,
    db: &L,
) -> Result<std::result::Result<Option<AccountId>, Obstacle>> {
    let Some(adopt) = account.spec.adopt.as_ref().filter(|_| known.is_none()) else { return Ok(Ok(None)) };
    let closed = match adopt.account_id.parse() {
        Ok(number) => db.find_closed_account(AccountId::new(number)).await?,
        Err(_) => None,
    };
    let namespace = account.namespace().unwrap_or_default();
    let own = closed.filter(|closed| is_account_of(&closed.name, &namespace));
    Ok(own.map(|closed| Some(closed.id)).ok_or_else(|| {
        // Whether it is another namespace's is nobody's business.
        let text = format!(
            "no deleted Account of the namespace {namespace} had the accountID {}; an Event of the deletion names it, and so \
             does the operator's log",
            adopt.account_id
        );
        Obstacle::Lasting("AdoptionRefused", text)
    }))
}
