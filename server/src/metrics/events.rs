//! What the core tells of requests, as counters.

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
        for end in UploadEnd::ALL {
            drop(self.uploads.get_or_create(&ResultLabel { result: end.as_str() }));
        }
        for write in SlotWrite::ALL {
            drop(self.slots.get_or_create(&ResultLabel { result: write.as_str() }));
        }
        for op in LeaseOperation::ALL {
            for result in LeaseResult::ALL {
                drop(self.leases.get_or_create(&LeaseLabels { op: op.as_str(), result: result.as_str() }));
            }
        }
        for kind in QuotaKind::ALL {
            drop(self.over_quota.get_or_create(&KindLabel { kind: kind.as_str() }));
        }
        for state in ConflictingState::ALL {
            drop(self.conflicts.get_or_create(&StateLabel { state: state.as_str() }));
        }
        for denial in Denial::ALL {
            drop(self.denials.get_or_create(&ReasonLabel { reason: denial.as_str() }));
        }
    }

    pub(super) fn count(&self, event: Event) {
        match event {
            Event::UploadEnded(end) => self.uploads.get_or_create(&ResultLabel { result: end.as_str() }).inc(),
            Event::SlotWrite(write) => self.slots.get_or_create(&ResultLabel { result: write.as_str() }).inc(),
            Event::Lease(op, result) => {
                self.leases.get_or_create(&LeaseLabels { op: op.as_str(), result: result.as_str() }).inc()
            }
            Event::OverQuota(kind) => self.over_quota.get_or_create(&KindLabel { kind: kind.as_str() }).inc(),
            Event::Conflict(state) => self.conflicts.get_or_create(&StateLabel { state: state.as_str() }).inc(),
            Event::Denied(denial) => self.denials.get_or_create(&ReasonLabel { reason: denial.as_str() }).inc(),
        };
    }
}
