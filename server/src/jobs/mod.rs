//! Long work beside requests: loops, progress and schedules. What is done to shares and leases, core decides.

pub mod audit;
pub mod backup;
pub mod expire;
pub mod export;
pub mod import;
pub mod progress;
pub mod reconcile;
pub mod schedule;
pub mod tree;
