//! The operator: turns custom resources into running servers and accounts.
//!
//! One controller a kind; each reconciles in the same steps: read what the object refers to, validate, build, apply, tell in
//! the status. What is built and what the status says is decided by pure functions; `apply` alone writes.

pub mod cli;
