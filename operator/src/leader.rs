//! Which of several operators acts: the one that holds a Lease. Whoever loses it ends at once, and starts again as one who waits.
//!
//! A leader that slept and wakes may write once more before it notices; what matters (swissnums, identities) is written
//! only on the very state that was read, so that does no harm.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::api::PostParams;
use kube::{Api, Client};
use leasehold_core::clock::{Clock, Timestamp};

use crate::names::{LEASEHOLD, MANAGED_BY, OPERATOR};

/// Who wants to lead, and how fast a dead leader is replaced.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The namespace of the Lease.
    pub namespace: String,
    /// This process.
    pub identity: String,
    /// How long a leader may be silent.
    pub lease: Duration,
    /// How often a leader renews, and how often others look.
    pub renew: Duration,
}

/// What a look at the Lease came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This process leads.
    Leads,
    /// Another one does.
    Waits,
}

/// The Lease as it shall be after a look, or `None` while another process leads. Pure.
fn claim(candidate: &Candidate, seen: Option<&Lease>, now: Timestamp) -> Option<Lease> {
    let spec = seen.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let is_mine = holder == candidate.identity;
    let renewed = spec.renew_time.as_ref().map_or(0, |at| at.0.as_millisecond());
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or_default()) * 1000;
    if !is_mine && !holder.is_empty() && now.millis() - renewed < lasts {
        return None;
    }
    let time = MicroTime(jiff::Timestamp::from_millisecond(now.millis()).unwrap_or_default());
    let transitions = spec.lease_transitions.unwrap_or_default();
    Some(Lease {
        metadata: seen.map_or_else(
            || ObjectMeta {
                name: Some(OPERATOR.to_owned()),
                namespace: Some(candidate.namespace.clone()),
                labels: Some([(MANAGED_BY.to_owned(), LEASEHOLD.to_owned())].into()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(candidate.identity.clone()),
            lease_duration_seconds: i32::try_from(candidate.lease.as_secs()).ok(),
            acquire_time: if is_mine { spec.acquire_time } else { Some(time.clone()) },
            renew_time: Some(time),
            lease_transitions: Some(if is_mine { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }),
    })
}

/// Looks at the Lease and claims or renews it if that is possible.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn look(client: &Client, candidate: &Candidate, clock: &dyn Clock) -> kube::Result<Outcome> {
    let api: Api<Lease> = Api::namespaced(client.clone(), &candidate.namespace);
    let seen = api.get_opt(OPERATOR).await?;
    let Some(wanted) = claim(candidate, seen.as_ref(), clock.now()) else { return Ok(Outcome::Waits) };
    let parameters = PostParams { field_manager: Some(OPERATOR.to_owned()), ..PostParams::default() };
    let written = match seen {
        Some(_) => api.replace(OPERATOR, &parameters, &wanted).await,
        None => api.create(&parameters, &wanted).await,
    };
    match written {
        Ok(_) => Ok(Outcome::Leads),
        // Somebody was first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Waits),
        Err(error) => Err(error),
    }
}

/// Waits until this process leads.
pub async fn wait(client: &Client, candidate: &Candidate, clock: &dyn Clock) {
    loop {
        match look(client, candidate, clock).await {
            Ok(Outcome::Leads) => return,
            Ok(Outcome::Waits) => {}
            Err(error) => tracing::warn!(%error, "cannot look who leads"),
        }
        tokio::time::sleep(candidate.renew).await;
    }
}

/// Renews the Lease; returns when it is lost, or could not be renewed in time.
pub async fn keep(client: &Client, candidate: &Candidate, clock: &dyn Clock) {
    let mut renewed = clock.now();
    loop {
        tokio::time::sleep(candidate.renew).await;
        let asked = tokio::time::timeout(candidate.renew, look(client, candidate, clock)).await;
        match asked {
            Ok(Ok(Outcome::Leads)) => renewed = clock.now(),
            Ok(Ok(Outcome::Waits)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lead"),
            Err(_) => tracing::warn!("cannot renew the lead in time"),
        }
        let lasts = i64::try_from(candidate.lease.as_millis()).unwrap_or(i64::MAX);
        // Ended before others may begin.
        if clock.now().millis() - renewed.millis() > lasts * 2 / 3 {
            return;
        }
    }
}

/// Gives the lead up, so that nobody has to wait until it lapses.
pub async fn release(client: &Client, candidate: &Candidate) {
    let api: Api<Lease> = Api::namespaced(client.clone(), &candidate.namespace);
    let released = async {
        let Some(mut lease) = api.get_opt(OPERATOR).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&candidate.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        let parameters = PostParams { field_manager: Some(OPERATOR.to_owned()), ..PostParams::default() };
        api.replace(OPERATOR, &parameters, &lease).await.map(drop)
    };
    if let Err(error) = released.await {
        let error: kube::Error = error;
        tracing::warn!(%error, "cannot give up the lead; it lapses");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate {
            namespace: "leasehold".to_owned(),
            identity: identity.to_owned(),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(5),
        }
    }

    #[test]
    fn one_leads_until_it_has_been_silent_for_too_long() {
        let at = Timestamp::from_seconds;
        let (a, b) = (candidate("a"), candidate("b"));
        let held = claim(&a, None, at(100)).expect("nobody leads");
        assert!(claim(&b, Some(&held), at(110)).is_none(), "a lives");
        let renewed = claim(&a, Some(&held), at(110)).expect("it leads");
        let spec = renewed.spec.clone().expect("a spec");
        assert_eq!(spec.lease_transitions, Some(1), "renewing is no transition");
        assert!(claim(&b, Some(&renewed), at(120)).is_none());
        let taken = claim(&b, Some(&renewed), at(126)).expect("a is silent");
        let spec = taken.spec.clone().expect("a spec");
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(2)));
        assert!(claim(&a, Some(&taken), at(127)).is_none(), "a wakes and sees that b leads");
    }

    #[test]
    fn a_lead_that_was_given_up_is_free_at_once() {
        let at = Timestamp::from_seconds;
        let mut held = claim(&candidate("a"), None, at(100)).expect("nobody leads");
        held.spec.as_mut().expect("a spec").holder_identity = Some(String::new());
        assert!(claim(&candidate("b"), Some(&held), at(101)).is_some());
    }
}
