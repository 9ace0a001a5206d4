//! What the core tells of requests, as counters.

use std::ops::Deref;

use leasehold_core::observe::{
    ConflictingState, Denial, Event, LeaseOperation, LeaseResult, QuotaKind, SlotWrite, UploadEnd,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{ReasonLabel, StateLabel};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LeaseLabels {
    op: &'static str,
    result: &'static str,
}

/// One counter for each kind of event.
#[derive(Debug)]
pub(super) struct Events {
    uploads: Family<ResultLabel, Counter>,
    slots: Family<ResultLabel, Counter>,
    leases: Family<LeaseLabels, Counter>,
    over_quota: Family<KindLabel, Counter>,
    conflicts: Family<StateLabel, Counter>,
    denials: Family<ReasonLabel, Counter>,
}

impl Events {
    /// Registers the counters, all at zero.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let events = Self {
            uploads: Family::default(),
            slots: Family::default(),
            leases: Family::default(),
            over_quota: Family::default(),
            conflicts: Family::default(),
            denials: Family::default(),
        };
        registry.register("uploads_finished", "Uploads of immutable shares that ended", events.uploads.clone());
        registry.register("mutable_writes", "Read-test-writes that wanted to write", events.slots.clone());
        let help = "Leases taken on a storage index: with an allocation (add) or because a client asked (renew)";
        registry.register("lease_operations", help, events.leases.clone());
        registry.register("quota_rejections", "Requests of which something did not fit", events.over_quota.clone());
        let help = "Requests that a share's state did not allow";
        registry.register("share_state_conflicts", help, events.conflicts.clone());
        registry.register("auth_failures", "Credentials that opened nothing", events.denials.clone());
        events.begin_at_zero();
        events
    }

    fn begin_at_zero(&self) {
        let uploads = UploadEnd::ALL.iter().map(|end| Event::UploadEnded(*end));
        let slots = SlotWrite::ALL.iter().map(|write| Event::SlotWrite(*write));
        let leases =
            LeaseOperation::ALL.iter().flat_map(|op| LeaseResult::ALL.iter().map(|result| Event::Lease(*op, *result)));
        let over_quota = QuotaKind::ALL.iter().map(|kind| Event::OverQuota(*kind));
        let conflicts = ConflictingState::ALL.iter().map(|state| Event::Conflict(*state));
        let denials = Denial::ALL.iter().map(|denial| Event::Denied(*denial));
        for event in uploads.chain(slots).chain(leases).chain(over_quota).chain(conflicts).chain(denials) {
            drop(self.counter(event));
        }
    }

    pub(super) fn count(&self, event: Event) {
        self.counter(event).inc();
    }

    fn counter(&self, event: Event) -> impl Deref<Target = Counter> {
        match event {
            Event::UploadEnded(end) => self.uploads.get_or_create(&ResultLabel { result: end.as_str() }),
            Event::SlotWrite(write) => self.slots.get_or_create(&ResultLabel { result: write.as_str() }),
            Event::Lease(op, result) => {
                self.leases.get_or_create(&LeaseLabels { op: op.as_str(), result: result.as_str() })
            }
            Event::OverQuota(kind) => self.over_quota.get_or_create(&KindLabel { kind: kind.as_str() }),
            Event::Conflict(state) => self.conflicts.get_or_create(&StateLabel { state: state.as_str() }),
            Event::Denied(denial) => self.denials.get_or_create(&ReasonLabel { reason: denial.as_str() }),
        }
    }
}
