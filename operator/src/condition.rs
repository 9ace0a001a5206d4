//! Conditions: what was found of an object, in the shape that Kubernetes and people know. Pure.
//!
//! `Ready` sums up. `Reconciling` is there while something is under way, `Stalled` while only a person can help; where
//! both are absent the object is settled, as kstatus has it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use leasehold_core::clock::Timestamp;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Truth {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A condition as it was found now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub type_: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// Why, in a word for programs.
    pub reason: &'static str,
    /// Why, in a sentence for people.
    pub message: String,
}

impl Finding {
    /// A condition that was found.
    pub fn new(type_: &'static str, truth: impl Into<Truth>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, truth: truth.into(), reason, message: message.into() }
    }
}

/// What keeps an object from being ready, and who can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It goes away by itself.
    Passing(&'static str, String),
    /// Only a person can remove it.
    Lasting(&'static str, String),
}

/// `Ready`, and `Reconciling` or `Stalled` where they apply.
pub fn summary(obstacle: Option<Obstacle>, reason: &'static str, message: impl Into<String>) -> Vec<Finding> {
    match obstacle {
        None => vec![Finding::new("Ready", true, reason, message)],
        Some(Obstacle::Passing(reason, message)) => vec![
            Finding::new("Ready", false, reason, message.clone()),
            Finding::new("Reconciling", true, reason, message),
        ],
        Some(Obstacle::Lasting(reason, message)) => {
            vec![Finding::new("Ready", false, reason, message.clone()), Finding::new("Stalled", true, reason, message)]
        }
    }
}

/// The conditions of a paused object.
pub fn paused() -> Vec<Finding> {
    let message = "the annotation leasehold.dev/paused is \"true\": nothing is written until it is removed";
    vec![Finding::new("Ready", Truth::Unknown, "Paused", message)]
}

/// The new list of conditions; the time of a condition changes with its truth only.
pub fn merge(old: &[Condition], found: Vec<Finding>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let now = time(now);
    let merged = found.into_iter().map(|finding| {
        let status = finding.truth.as_str();
        let before = old.iter().find(|old| old.type_ == finding.type_ && old.status == status);
        Condition {
            type_: finding.type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: clipped(finding.message),
            observed_generation: generation,
            last_transition_time: before.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
        }
    });
    merged.collect()
}

/// Kubernetes refuses longer ones.
fn clipped(message: String) -> String {
    const MESSAGE_MAX: usize = 4096;
    if message.len() <= MESSAGE_MAX { message } else { message.chars().take(MESSAGE_MAX / 4).collect() }
}

/// A moment as the API writes it.
pub fn time(at: Timestamp) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(at.seconds()).unwrap_or_default())
}

/// The status of a condition, if it is there.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition holds.
pub fn holds(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_changes_with_its_truth_only() {
        let at = Timestamp::from_seconds;
        let first = merge(&[], vec![Finding::new("Ready", false, "Pending", "wait")], Some(1), at(10));
        let second = merge(&first, vec![Finding::new("Ready", false, "Other", "still")], Some(2), at(20));
        assert_eq!(second[0].last_transition_time, time(at(10)));
        assert_eq!((second[0].reason.as_str(), second[0].observed_generation), ("Other", Some(2)));
        let third = merge(&second, vec![Finding::new("Ready", true, "Done", "")], Some(2), at(30));
        assert_eq!(third[0].last_transition_time, time(at(30)));
        assert!(holds(&third, "Ready") && !holds(&third, "Stalled"));
    }

    #[test]
    fn a_settled_object_is_neither_reconciling_nor_stalled() {
        let types = |found: Vec<Finding>| found.iter().map(|finding| finding.type_).collect::<Vec<_>>();
        assert_eq!(types(summary(None, "Ready", "")), ["Ready"]);
        assert_eq!(types(summary(Some(Obstacle::Passing("A", String::new())), "", "")), ["Ready", "Reconciling"]);
        assert_eq!(types(summary(Some(Obstacle::Lasting("A", String::new())), "", "")), ["Ready", "Stalled"]);
    }
}
