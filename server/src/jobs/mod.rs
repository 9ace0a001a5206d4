//! Long work beside requests: loops, progress and schedules. What is done to shares and leases, core decides.

pub mod progress;
pub mod reconcile;
