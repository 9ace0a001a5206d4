//! When a reconcile run must stop and ask: what it found says rather that something is wrong with the backend, the
//! database or the credentials than with so many shares (`design.md` 8).

use crate::leasedb::Mode;
use crate::run::Totals;

/// So many are never too many: small stores must be able to lose a few.
const ALWAYS_ALLOWED: u64 = 100;
const DISAPPEARED_MAX_PERCENT: u64 = 1;
const ORPHANS_MAX_PERCENT: u64 = 5;
const ADOPTED_MAX_PERCENT: u64 = 10;

fn exceeds(count: u64, percent: u64, of: u64) -> bool {
    count > ALWAYS_ALLOWED && u128::from(count) * 100 > u128::from(of) * u128::from(percent)
}

/// Why a run must stop that would come to these totals; asked before anything is done.
pub fn brake(totals: &Totals, mode: Mode) -> Option<String> {
    let (shares, objects) = (totals.of("shares"), totals.of("objects"));
    let lost = totals.of("shares_lost");
    if exceeds(lost, DISAPPEARED_MAX_PERCENT, shares) {
        return Some(format!(
            "{lost} of {shares} shares have disappeared from the backend, more than {DISAPPEARED_MAX_PERCENT} %: is all of \
             it there, and is it the right one? If they are gone indeed, allow the run to go on; they will be hidden from \
             clients, and their leases kept"
        ));
    }
    let orphans = totals.of("orphans");
    if exceeds(orphans, ORPHANS_MAX_PERCENT, objects) {
        return Some(format!(
            "{orphans} of {objects} objects are named by nothing in the lease database, more than {ORPHANS_MAX_PERCENT} %: \
             is it the right one, and is it up to date? If they are litter indeed, allow the run to go on; they will be \
             deleted after a week"
        ));
    }
    let adopted = totals.of("shares_adopted");
    // Of what is there once they are adopted.
    if mode == Mode::Normal && exceeds(adopted, ADOPTED_MAX_PERCENT, shares.saturating_add(adopted)) {
        return Some(format!(
            "{adopted} shares without a row beside {shares} that have one, more than {ADOPTED_MAX_PERCENT} %: is the \
             backend somebody else's? If they belong here, allow the run to go on; they will get leases"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(counts: &[(&str, u64)]) -> Totals {
        let mut totals = Totals::default();
        counts.iter().for_each(|(name, count)| totals.set(name, *count));
        totals
    }

    #[test]
    fn each_brake_holds_beyond_its_measure_and_not_at_it() {
        for (name, of, whole, edge) in [
            ("shares_lost", "shares", 50_000, 500),
            ("orphans", "objects", 50_000, 2500),
            ("shares_adopted", "shares", 9000, 1000),
        ] {
            assert_eq!(brake(&totals(&[(of, whole), (name, edge)]), Mode::Normal), None, "{name}");
            assert!(brake(&totals(&[(of, whole), (name, edge + 1)]), Mode::Normal).is_some(), "{name}");
            assert_eq!(brake(&totals(&[(of, 20), (name, 100)]), Mode::Normal), None, "a small store: {name}");
        }
    }

    #[test]
    fn recovery_may_adopt_all_there_is() {
        assert_eq!(brake(&totals(&[("shares", 0), ("shares_adopted", 1_000_000)]), Mode::Recovery), None);
    }
}
